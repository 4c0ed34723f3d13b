"""Checks of arguments: each returns the checked value or raises an error that names the argument."""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any, TypeVar

import numpy as np

Base = TypeVar("Base")


def _number(name: str, value: Any, fits: Callable[[float], bool], wanted: str) -> float:
    # A bool is a number to Python; as a rate or a limit it is a slip.
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number, {wanted}, got {value!r}")
    number = float(value)
    if not (math.isfinite(number) and fits(number)):
        raise ValueError(f"{name} must be {wanted}, got {value!r}")
    return number


def nonnegative(name: str, value: Any) -> float:
    """`value` as a float, if it is finite and at least 0."""
    return _number(name, value, lambda number: number >= 0.0, "finite and at least 0")


def positive(name: str, value: Any) -> float:
    """`value` as a float, if it is finite and above 0."""
    return _number(name, value, lambda number: number > 0.0, "finite and above 0")


def fraction(name: str, value: Any) -> float:
    """`value` as a float, if it is at least 0 and below 1."""
    return _number(name, value, lambda number: 0.0 <= number < 1.0, "at least 0 and below 1")


def count(name: str, value: Any) -> int:
    """`value` as an int, if it is a whole number of at least 1."""
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise TypeError(f"{name} must be a whole number of at least 1, got {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value!r}")
    return int(value)


def flag(name: str, value: Any) -> bool:
    """`value` as a bool, if it is one."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return bool(value)


def seed(name: str, value: Any) -> int:
    """`value` as an int, if it is a whole number of at least 0; for None, one drawn anew."""
    if value is None:
        return int.from_bytes(os.urandom(8), "little")
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise TypeError(f"{name} must be a whole number of at least 0 or None, got {value!r}")
    if value < 0:
        raise ValueError(f"{name} must be at least 0, got {value!r}")
    return int(value)


def one_of(name: str, value: Any, allowed: Sequence[str]) -> str:
    """`value`, if it is among the `allowed` names."""
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"{name} must be one of {_listed(allowed)}, got {value!r}")
    return value


def from_registry(name: str, given: Any, registry: Mapping[str, Callable[[], Base]], base: type[Any]) -> Base:
    """`given` itself if it is a `base`; for a name, the registry's object with its defaults."""
    if isinstance(given, base):
        return given
    if isinstance(given, str):
        if given in registry:
            return registry[given]()
        raise ValueError(
            f"{name} must be one of {_listed(registry)} or a {base.__name__} object, got {given!r}"
        )
    hint = f"; call it: {given.__name__}()" if isinstance(given, type) and issubclass(given, base) else ""
    raise TypeError(
        f"{name} must be a name ({_listed(registry)}) or a {base.__name__} object, got {given!r}{hint}"
    )


def _listed(names) -> str:
    return ", ".join(map(repr, names))
