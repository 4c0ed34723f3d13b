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


def test_every_public_class_and_function_has_an_example():
    public = {name: getattr(numbarnn, name) for name in numbarnn.__all__}
    assert [
        name for name, value in public.items() if callable(value) and ">>>" not in (value.__doc__ or "")
    ] == []
