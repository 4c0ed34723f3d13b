"""Checks of arguments: each returns the checked value or raises an error that names the argument."""

import math
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any, TypeVar

import numpy as np

Base = TypeVar("Base")

MOST_CHARACTERS = 200  # of a value that an error quotes
MOST_BITS = 1000  # of an integer that an error quotes: Python refuses to write very long ones
LARGEST_COUNT = sys.maxsize  # of anything that has a place in memory


def shown(value: Any) -> str:
    """`value` as errors quote it."""
    if isinstance(value, int) and value.bit_length() > MOST_BITS:
        return f"an integer of {value.bit_length()} bits"
    text = repr(value)
    return text if len(text) <= MOST_CHARACTERS else f"{text[:MOST_CHARACTERS]}..."


def _number(name: str, value: Any, fits: Callable[[float], bool], wanted: str) -> float:
    # A bool is a number to Python; as a rate or a limit it is a slip.
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number, {wanted}, got {shown(value)}")
    try:
        number = float(value)
    except OverflowError:  # an integer or a fraction that is too large
        number = math.inf
    if not (math.isfinite(number) and fits(number)):
        raise ValueError(f"{name} must be {wanted}, got {shown(value)}")
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
        raise TypeError(f"{name} must be a whole number of at least 1, got {shown(value)}")
    number = int(value)
    if number < 1:
        raise ValueError(f"{name} must be at least 1, got {shown(value)}")
    if number > LARGEST_COUNT:
        raise ValueError(f"{name} must be at most {LARGEST_COUNT}, got {shown(value)}")
    return number


def flag(name: str, value: Any) -> bool:
    """`value` as a bool, if it is one."""
    if value is True or value is False:
        return value
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False, got {shown(value)}")
    return bool(value)


def verbosity(name: str, value: Any) -> bool:
    """Whether to show anything, from a bool or from one of the numbers 0, 1 and 2 that Keras uses."""
    if isinstance(value, Integral) and not isinstance(value, bool) and value in (0, 1, 2):
        return int(value) > 0
    return flag(name, value)


def seed(name: str, value: Any) -> int:
    """`value` as an int, if it is a whole number of at least 0; for None, one drawn anew."""
    if value is None:
        return int.from_bytes(os.urandom(8), "little")
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise TypeError(f"{name} must be a whole number of at least 0 or None, got {shown(value)}")
    if value < 0:
        raise ValueError(f"{name} must be at least 0, got {shown(value)}")
    return int(value)


def array(name: str, value: Any) -> np.ndarray:
    """`value` as an array of real numbers, if it is one."""
    return _array_of(name, value, "fiub", "real numbers")


def integers(name: str, value: Any, what: str = "integers") -> np.ndarray:
    """`value` as an array of integers, if it is one."""
    return _array_of(name, value, "iu", what)


def regular_array(name: str, value: Any) -> np.ndarray:
    """`value` as an array of whatever it holds, if its rows are of equal length and nothing is masked."""
    if has_masked(value):
        raise ValueError(
            f"{name} must not have masked elements: an array has no mask here; fill them or leave them out"
        )
    try:
        return np.asarray(value)
    except ValueError as error:
        said = "got rows of unequal length" if "inhomogeneous" in str(error) else str(error)
        raise ValueError(f"{name} is not a regular array: {said}") from None
    except (TypeError, RuntimeError) as error:  # what arrays of other libraries say of themselves
        raise TypeError(f"{name} cannot be read as an array: {error}") from None


def has_masked(value: Any) -> bool:
    """Whether an array, or one within lists, tuples and arrays of objects, has masked elements."""
    # Who has none need not load the module; another thread may be about to load it.
    masked = getattr(sys.modules.get("numpy.ma"), "MaskedArray", None)
    return masked is not None and _has_masked(value, masked)


def _has_masked(value: Any, masked: type) -> bool:
    if isinstance(value, masked):
        return bool(np.any(np.asarray(value.mask)))  # type: ignore[attr-defined]
    if isinstance(value, np.ndarray):
        return value.dtype == object and any(_has_masked(each, masked) for each in value.flat)
    if not isinstance(value, (list, tuple)):
        return False
    if not any(issubclass(kind, (list, tuple, np.ndarray)) for kind in set(map(type, value))):
        return False  # numbers: there may be very many
    return any(_has_masked(each, masked) for each in value)


class _Lent:
    """The memory of an array, as one that may be written."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array  # keeps the memory
        address, _ = array.__array_interface__["data"]
        self.__array_interface__ = {**array.__array_interface__, "data": (address, False)}


def for_kernels(array: np.ndarray) -> np.ndarray:
    """A contiguous array itself, a read-only one as one that may be written, without a copy.

    Numba compiles a kernel anew for read-only arrays, and kernels write into none that a user passed.
    """
    return array if array.flags.writeable else np.asarray(_Lent(array))


def contiguous(array: np.ndarray, dtype: Any) -> np.ndarray:
    """`array` in this dtype and the byte order of the machine as kernels take it: contiguous and aligned."""
    return for_kernels(np.require(rounded(array, dtype), requirements=["C", "A"]))


def _array_of(name: str, value: Any, kinds: str, what: str) -> np.ndarray:
    result = regular_array(name, value)
    if result.dtype.kind not in kinds:
        raise TypeError(f"{name} must hold {what}, not {result.dtype}")
    return result


def finite_array(name: str, value: Any, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """A copy of `value` with this shape and dtype, if all its numbers are finite in that dtype."""
    result = array(name, value)
    if result.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, not {result.shape}")
    copy = np.array(rounded(result, dtype), order="C")
    if not np.isfinite(copy).all():
        raise not_finite(name, dtype)
    return copy


def not_finite(name: str, dtype: Any) -> ValueError:
    """The error for an array with numbers that are not finite."""
    return ValueError(
        f"{name} must be finite as {np.dtype(dtype)}; it holds NaN, infinity or too large a number"
    )


def rounded(numbers: np.ndarray, dtype: Any) -> np.ndarray:
    """`numbers` in another dtype; what is too large for it becomes infinite, and what is too small 0."""
    with np.errstate(all="ignore"):
        return numbers.astype(dtype, copy=False)


def one_of(name: str, value: Any, allowed: Sequence[str]) -> str:
    """`value`, if it is among the `allowed` names."""
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"{name} must be one of {_listed(allowed)}, got {shown(value)}")
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
            f"{name} must be one of {_listed(registry)} or a {base.__name__} object, got {shown(given)}"
        )
    hint = f"; call it: {given.__name__}()" if isinstance(given, type) and issubclass(given, base) else ""
    raise TypeError(
        f"{name} must be a name ({_listed(registry)}) or a {base.__name__} object, got {shown(given)}{hint}"
    )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names))
