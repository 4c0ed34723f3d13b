"""The examples in the docstrings of all modules give what they say."""

import doctest
import importlib
import pkgutil

import pytest

import numbarnn

MODULES = [module.name for module in pkgutil.walk_packages(numbarnn.__path__, "numbarnn.")]


@pytest.mark.parametrize("name", ["numbarnn", *MODULES])
def test_examples(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_every_public_name_has_an_example():
    """Modules in place of functions and classes count with their own docstring."""
    without = [
        name
        for name in numbarnn.__all__
        if name != "__version__" and ">>>" not in (getattr(numbarnn, name).__doc__ or "")
    ]
    assert without == []
