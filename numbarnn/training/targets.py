"""Checks of the targets `y`: what the losses make of them, or an error that says what is wrong where."""

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from numbarnn import arguments

# Probabilities of the classes come from a float32 or float16 softmax, or are rounded by hand.
SUM_TOLERANCE = 1e-3


def class_targets(y: ArrayLike, size: int, dtype: DTypeLike) -> np.ndarray:
    """Labels (n,) or (n, 1) as int64 (n,), or probabilities (n, size) as `dtype`, C-contiguous.

    Raises
    ------
    TypeError
        If `y` holds no numbers, or labels that are not whole.
    ValueError
        For a wrong shape, NaN or an infinite number, a label outside of 0 to ``size - 1``, a negative
        probability, or probabilities that do not sum to 1.
    """
    array = _numbers(y)
    if array.ndim == 2 and array.shape[1] == size:
        _refuse(array < 0, array, "probabilities of the classes of at least 0")
        sums = array.sum(axis=1, dtype=np.float64)
        wrong = np.abs(sums - 1.0) > SUM_TOLERANCE
        _refuse(wrong, sums, "probabilities of the classes that sum to 1 in every row", "the sum")
        return arguments.contiguous(array, dtype)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]  # a column of labels, as tables give it
    if array.ndim != 1:
        raise ValueError(
            f"y must have shape (n,), labels, or (n, {size}), probabilities of the {size} classes;"
            f" got {array.shape}"
        )
    if array.dtype.kind == "f" and np.any(array != np.floor(array)):
        place = int(np.argmax(array != np.floor(array)))
        raise TypeError(f"y must hold whole numbers as labels; got {array[place]} at position {place}")
    if array.dtype.kind == "b":
        array = array.astype(np.int64)
    wanted = f"labels from 0 to {size - 1}, one for each of the {size} outputs"
    _refuse((array < 0) | (array >= size), array, wanted)
    return arguments.contiguous(array, np.int64)


def probability_targets(y: ArrayLike, size: int, dtype: DTypeLike) -> np.ndarray:
    """Numbers from 0 to 1 as an array (n, size) of `dtype`, C-contiguous; (n,) will do for one output.

    Raises
    ------
    TypeError
        If `y` holds no numbers.
    ValueError
        For a wrong shape, NaN or a number outside of 0 to 1.
    """
    array = _columns(_numbers(y), size)
    _refuse((array < 0) | (array > 1), array, "0 and 1, or probabilities between")
    return arguments.contiguous(array, dtype)


def real_targets(y: ArrayLike, size: int, dtype: DTypeLike) -> np.ndarray:
    """Finite numbers as an array (n, size) of `dtype`, C-contiguous; (n,) will do for one output.

    Raises
    ------
    TypeError
        If `y` holds no numbers.
    ValueError
        For a wrong shape, NaN, or a number that is infinite or too large for `dtype`.
    """
    array = _columns(_numbers(y), size)
    values = arguments.contiguous(array, dtype)
    _refuse(~np.isfinite(values), array, f"numbers that {values.dtype} can hold")
    return values


def _numbers(y: ArrayLike) -> np.ndarray:
    array = arguments.regular_array("y", y)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"y must hold numbers, got dtype {array.dtype}")
    if array.dtype.kind == "f":
        _refuse(~np.isfinite(array), array, "finite numbers")
    return array


def _columns(array: np.ndarray, size: int) -> np.ndarray:
    if array.ndim == 1 and size == 1:
        return array[:, None]
    if array.ndim != 2 or array.shape[1] != size:
        allowed = "(n,) or (n, 1)" if size == 1 else f"(n, {size})"
        raise ValueError(
            f"y must have shape {allowed}, one number for each output of the model; got {array.shape}"
        )
    return array


def _refuse(wrong: np.ndarray, values: np.ndarray, wanted: str, what: str = "") -> None:
    """Raise an error that names the first place where `wrong` holds, if there is one."""
    if not wrong.any():
        return
    place = np.unravel_index(int(np.argmax(wrong)), wrong.shape)
    where = ", ".join(str(int(i)) for i in place)
    position = f"row {where}" if what else f"position {where if len(place) == 1 else f'({where})'}"
    raise ValueError(f"y must hold {wanted}; got {what} {values[place]} at {position}".replace("  ", " "))
