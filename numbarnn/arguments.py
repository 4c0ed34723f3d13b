"""Checks of arguments: each returns the checked value or raises an error that names the argument."""

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
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


def array(name: str, value: Any) -> np.ndarray:
    """`value` as an array of real numbers, if it is one."""
    return _array_of(name, value, "fiub", "real numbers")


def integers(name: str, value: Any, what: str = "integers") -> np.ndarray:
    """`value` as an array of integers, if it is one."""
    return _array_of(name, value, "iu", what)


def regular_array(name: str, value: Any) -> np.ndarray:
    """`value` as an array of whatever it holds, if its rows are of equal length."""
    try:
        return np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{name} is not a regular array: {error}") from None


def _array_of(name: str, value: Any, kinds: str, what: str) -> np.ndarray:
    result = regular_array(name, value)
    if result.dtype.kind not in kinds:
        raise TypeError(f"{name} must hold {what}, not {result.dtype}")
    return result


def finite_array(name: str, value: Any, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """`value` as an array of this shape and dtype, if all its numbers are finite in that dtype."""
    result = array(name, value)
    if result.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, not {result.shape}")
    result = rounded(result, dtype)
    if not np.isfinite(result).all():
        raise not_finite(name, dtype)
    return result


def not_finite(name: str, dtype: Any) -> ValueError:
    """The error for an array with numbers that are not finite."""
    return ValueError(
        f"{name} must be finite as {np.dtype(dtype)}; it holds NaN, infinity or too large a number"
    )


def rounded(numbers: np.ndarray, dtype: Any) -> np.ndarray:
    """`numbers` in another dtype; what is too large for it becomes infinite."""
    with np.errstate(over="ignore"):
        return numbers.astype(dtype, copy=False)


def one_of(name: str, value: Any, allowed: Sequence[str]) -> str:
    """`value`, if it is among the `allowed` names."""
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"{name} must be one of {_listed(allowed)}, got {value!r}")
    return value


def from_registry(name: str, given: Any, registry: Mapping[str, Callable[[], Base]], base: type[Any]) -> Base:
    """`given` itself if it is a `base`; for a name, the registry's object with its defaults."""
    if isinstance(given, base):
        made: Base = given
        return made
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


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names))
