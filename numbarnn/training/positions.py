"""Checks of the arrays that a loss reads and writes, position by position: kernels look at none of this."""

from typing import Any, NamedTuple

import numpy as np

from numbarnn import arguments


class Positions(NamedTuple):
    """The arrays that a loss reads, as its kernels take them."""

    outputs: np.ndarray
    targets: np.ndarray
    weights: np.ndarray
    active: np.ndarray
    offset: np.ndarray


def check_positions(
    outputs: Any,
    size: Any,
    targets: Any,
    weights: Any,
    losses: Any,
    scores: Any,
    doutputs: Any,
    active: Any,
    offset: Any,
    row_start: Any,
    row_stop: Any,
) -> Positions:
    """The arguments of `Loss.rows`, or an error that names the one that does not fit the others."""
    _check_array("offset", offset, np.int64, 1)
    _check_array("active", active, np.int64, 1)
    if active.size != offset.size - 1 or offset[0] != 0 or (np.diff(offset) != active).any():
        raise ValueError("offset must be the sums of active, from 0 on, with one number more")
    if (active < 0).any():
        raise ValueError("active must be at least 0")
    rows = int(active[0]) if active.size else 0
    if not 0 <= row_start <= row_stop <= rows:
        raise ValueError(f"row_start and row_stop must be a range in 0..{rows}, not {row_start}, {row_stop}")
    count = int(offset[-1])
    _check_array("outputs", outputs, (np.float32, np.float64), 2, count)
    if not 1 <= size <= outputs.shape[1]:
        raise ValueError(f"size must be from 1 to the {outputs.shape[1]} columns of outputs, not {size}")
    if targets.__class__ is np.ndarray and targets.ndim == 1:
        _check_array("targets", targets, np.int64, 1, count)
        if targets.size and not 0 <= targets.min() <= targets.max() < size:
            raise ValueError(f"targets must be labels in 0..{size - 1}")
    else:
        _check_array("targets", targets, outputs.dtype.type, 2, count)
        if targets.shape[1] != size:
            raise ValueError(f"targets must have {size} columns, not {targets.shape[1]}")
    _check_array("weights", weights, np.float64, 1, count)
    _check_array("losses", losses, np.float64, 1, count, written=True)
    _check_array("scores", scores, np.float64, 1, count, written=True)
    _check_array("doutputs", doutputs, outputs.dtype.type, 2, count, written=True)
    if doutputs.shape[1] != outputs.shape[1]:
        raise ValueError(f"doutputs must have the {outputs.shape[1]} columns of outputs")
    return Positions(*map(arguments.for_kernels, (outputs, targets, weights, active, offset)))


def _check_array(
    name: str, array: Any, dtypes: Any, rank: int, least: int | None = None, written: bool = False
) -> None:
    """Raise an error unless this is a contiguous array of one of these dtypes, of at least so many rows."""
    if array.__class__ is not np.ndarray:
        raise TypeError(f"{name} must be an array, not {type(array).__name__}")
    wanted = dtypes if isinstance(dtypes, tuple) else (dtypes,)
    if array.dtype.type not in wanted or not array.dtype.isnative:
        raise TypeError(
            f"{name} must be of {' or '.join(each.__name__ for each in wanted)}, not {array.dtype}"
        )
    if array.ndim != rank or (rank == 1 and name == "offset" and array.size == 0):
        raise ValueError(f"{name} must have {rank} axes and not be empty, its shape is {array.shape}")
    if least is not None and array.shape[0] < least:
        raise ValueError(f"{name} must have at least {least} rows, not {array.shape[0]}")
    if not (array.flags.c_contiguous and array.flags.aligned):
        raise ValueError(f"{name} must be contiguous")
    if written and not array.flags.writeable:
        raise ValueError(f"{name} must be writable")
