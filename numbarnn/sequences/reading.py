"""Sequences as users pass them, read into one flat matrix of steps, and results in the same form again.

Users pass ``(B, T, I)`` arrays or lists of ``(T_i, I)`` arrays. What kernels see is in ``layout.py``.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Number
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from numbarnn import arguments
from numbarnn.engine.fork import ALONE
from numbarnn.engine.packing import aligned_zeros
from numbarnn.engine.program import NO_FAULT
from numbarnn.engine.rows import first_fault, pack_rows
from numbarnn.jit.cpu import padded
from numbarnn.sequences.layout import Layout, flat_rows, full_layout, scatter_steps

FORMS_CACHED = 16  # forms of batches that are made once


@dataclass(frozen=True)
class BatchForm:
    """How the caller passed a batch, so that results go back alike."""

    is_list: bool
    has_time: bool
    starts: np.ndarray  # where each row begins in the flat matrix of its steps
    lengths: np.ndarray
    padded_steps: int  # T of an array; rows shorter than this end in zeros
    is_full: bool = False  # known to have no row shorter than that

    @functools.cached_property
    def flat_rows(self) -> int:
        """Rows of the flat matrix."""
        return int(self.lengths.sum()) if self.is_list else self.lengths.size * self.padded_steps

    @functools.cached_property
    def ends(self) -> np.ndarray:
        """Behind which row of the flat matrix each row ends, with the zeros behind its steps."""
        return self.starts + (self.lengths if self.is_list else self.padded_steps)

    @functools.cached_property
    def slices(self) -> list[slice]:
        """The rows of the flat matrix that each row of the batch has its steps in."""
        stops = self.starts + self.lengths
        return [slice(*bounds) for bounds in zip(self.starts.tolist(), stops.tolist(), strict=True)]

    @functools.cached_property
    def layout(self) -> Layout:
        """Where the steps stand in packed order; that of a full array is made once for its shape."""
        if self.is_full:
            return full_layout(self.lengths.size, self.padded_steps)
        return Layout(self.lengths)


class FlatBatch(NamedTuple):
    """A batch as one flat matrix (or, for tokens, a vector) of steps, in the caller's order."""

    values: np.ndarray
    form: BatchForm

    @property
    def lengths(self) -> np.ndarray:
        return self.form.lengths

    @property
    def rows(self) -> int:
        return int(self.form.lengths.size)

    @property
    def on_gpu(self) -> bool:
        """Whether the values are in the GPU's memory."""
        return False

    def width(self) -> int:
        return int(self.values.shape[1]) if self.values.ndim == 2 else 1


def read_steps(
    x: Any, dtype: DTypeLike, name: str, *, lengths: Any = None, time: bool = True, tokens: bool = False
) -> FlatBatch:
    """Check a batch and lay it out flat.

    Parameters
    ----------
    x : array or sequence of arrays
        ``(B, T, I)`` or rows ``(T_i, I)``; of tokens, ``(B, T)`` or rows ``(T_i,)`` of integers; with
        ``time=False`` also ``(B, I)``, or a list of vectors ``(I,)``.
    dtype
        What the flat matrix is made of; tokens are int64.
    name : str
        The argument's name, for errors.
    lengths : array-like of int (B,), optional
        Valid steps of each row of an array; what follows them is ignored.
    time : bool
        False: an array of one dimension less, one vector a row, is taken as well.
    tokens : bool
        True: integers, without the axis of features.

    Returns
    -------
    FlatBatch

    Raises
    ------
    TypeError
        If `x` is not numeric, or tokens are not integers.
    ValueError
        If the rank, the lengths or the number of features do not fit, or there is nothing in `x`.
    """
    rank = 2 if tokens else 3
    if isinstance(x, (list, tuple)) or (isinstance(x, np.ndarray) and x.dtype == object and x.ndim > 0):
        x = x if isinstance(x, list) else list(x)
        if time or tokens or not _holds_vectors(x, name):
            if lengths is not None:
                raise ValueError(f"lengths is for arrays; rows of a list {name} have their own length")
            return _read_rows(x, dtype, name, rank - 1, tokens)
    array = _as_numbers(x, dtype, name, tokens)
    if array.size == 0:
        raise ValueError(f"{name} is empty: its shape is {array.shape}")
    if not time and array.ndim == rank - 1:
        if lengths is not None:
            raise ValueError(f"lengths is for sequences; {name} has one vector a row")
        form = vector_form(len(array))
        return FlatBatch(array, form)
    if array.ndim != rank:
        wanted = "(B, T) array of tokens" if tokens else "(B, T, I) array"
        raise ValueError(f"{name} must be a {wanted} or a list of rows, not an array of shape {array.shape}")
    rows, steps = array.shape[:2]
    flat = array.reshape(rows * steps, *array.shape[2:])
    return FlatBatch(flat, array_form(rows, steps, lengths))


def float_dtype_of(x: Any, name: str) -> np.dtype:
    """float64 for a batch in which NumPy finds numbers of that precision or a higher one, else float32."""
    is_list = isinstance(x, (list, tuple)) or (isinstance(x, np.ndarray) and x.dtype == object and x.ndim > 0)
    for row in x if is_list else [x]:
        dtype = getattr(row, "dtype", None)
        if not isinstance(dtype, np.dtype):
            dtype = arguments.regular_array(name, row).dtype
        if dtype.kind == "f" and dtype.itemsize > np.dtype("float32").itemsize:
            return np.dtype("float64")
    return np.dtype("float32")


def array_form(rows: int, steps: int, lengths: Any) -> "BatchForm":
    """The form of an array (rows, steps, ...); `lengths` are the caller's, or None."""
    if lengths is None:
        return full_form(rows, steps)
    if type(lengths) is not np.ndarray or lengths.dtype != np.int64 or lengths.shape != (rows,):
        lengths = _read_lengths(lengths, rows)
    return _padded_form(lengths.tobytes(), steps)


def _holds_vectors(rows: list[Any], name: str) -> bool:
    """Whether the first item of a list is a vector of numbers, and not a sequence of vectors."""
    first = rows[0] if rows else None
    if isinstance(first, Sequence) and not isinstance(first, (str, bytes)):
        return len(first) > 0 and isinstance(first[0], Number)
    shape = getattr(first, "shape", None)
    if shape is None and hasattr(first, "__array__"):
        shape = arguments.regular_array(f"{name}[0]", first).shape
    return shape is not None and len(shape) == 1 and getattr(first, "dtype", None) != np.dtype(object)


def _read_rows(x: Any, dtype: DTypeLike, name: str, rank: int, tokens: bool) -> FlatBatch:
    if len(x) == 0:
        raise ValueError(f"{name} is empty: at least one row is needed")
    if not tokens and type(x[0]) is np.ndarray and x[0].dtype == dtype:
        joined = _joined(x, dtype, name)
        if joined is not None:
            return joined
    rows = [_as_numbers(row, dtype, f"{name}[{i}]", tokens) for i, row in enumerate(x)]
    for i, row in enumerate(rows):
        if row.ndim != rank:
            wanted = "a 1-D array of tokens" if tokens else "a (T, I) array"
            raise ValueError(f"{name}[{i}] must be {wanted}, not an array of shape {row.shape}")
        if len(row) == 0:
            raise ValueError(f"{name}[{i}] has no steps: every row needs at least one")
        if row.shape[1:] != rows[0].shape[1:]:
            raise ValueError(
                f"{name}[{i}] has {row.shape[1]} features and {name}[0] has {rows[0].shape[1]}:"
                " they must agree"
            )
        if row.size == 0:
            raise ValueError(f"{name}[{i}] has no features: its shape is {row.shape}")
    try:
        return FlatBatch(np.concatenate(rows), _list_form(tuple(map(len, rows))))
    except MemoryError as error:
        raise _too_large(name, error) from None


def _joined(rows: Any, dtype: DTypeLike, name: str) -> FlatBatch | None:
    """Rows that fit one another, as most do, without a look at each; None where something is amiss."""
    if set(map(type, rows)) != {np.ndarray}:
        return None
    try:
        values = np.concatenate(rows)
    except (ValueError, TypeError):
        return None
    except MemoryError as error:
        raise _too_large(name, error) from None
    if type(values) is not np.ndarray or values.dtype != dtype or values.ndim != 2 or values.size == 0:
        return None
    lengths = tuple(map(len, rows))
    # Of rows in Fortran's order NumPy makes a matrix in that order.
    return None if 0 in lengths else FlatBatch(np.ascontiguousarray(values), _list_form(lengths))


@functools.lru_cache(maxsize=FORMS_CACHED)
def _padded_form(lengths: bytes, steps: int) -> "BatchForm":
    """The form of an array whose rows have these lengths (the bytes of int64 numbers)."""
    counts = np.frombuffer(lengths, np.int64).copy()  # read-only arrays are a type of their own to Numba
    if counts.min() < 1 or counts.max() > steps:
        raise ValueError(
            f"lengths must lie in 1..{steps}, the steps of x, not in {counts.min()}..{counts.max()}"
        )
    return BatchForm(False, True, np.arange(counts.size) * steps, counts, steps)


@functools.lru_cache(maxsize=FORMS_CACHED)
def _list_form(lengths: tuple[int, ...]) -> "BatchForm":
    """The form of a list of rows: a loop over the same data finds its layout again."""
    counts = np.array(lengths, np.int64)
    return BatchForm(True, True, np.cumsum(counts) - counts, counts, int(counts.max()))


def _as_numbers(x: Any, dtype: DTypeLike, name: str, tokens: bool) -> np.ndarray:
    """`x` as a contiguous array of `dtype` (int64 for tokens), or an error that names it."""
    if not tokens and type(x) is np.ndarray and x.dtype == dtype and x.flags.carray:
        return x  # nothing to do: a streaming loop calls this every few microseconds
    read = arguments.integers(name, x, "integers (tokens)") if tokens else arguments.array(name, x)
    try:
        return arguments.contiguous(read, np.int64 if tokens else dtype)
    except MemoryError as error:
        raise _too_large(name, error) from None


def _too_large(name: str, error: MemoryError) -> MemoryError:
    return MemoryError(f"{name} is too large to be copied: {error}")


def _read_lengths(lengths: Any, rows: int) -> np.ndarray:
    array = arguments.integers("lengths", lengths)
    if array.shape != (rows,):
        raise ValueError(f"lengths must have shape ({rows},), one a row of x, not {array.shape}")
    # Of unsigned numbers the largest would become negative ones.
    counts: np.ndarray = np.minimum(array, arguments.LARGEST_COUNT).astype(np.int64)
    return counts


def check_finite(steps: FlatBatch, name: str) -> None:
    """Raise a ValueError that says where, if a valid step holds NaN or infinity."""
    fault = first_fault(steps.values, steps.form.starts, steps.form.lengths)
    if fault != NO_FAULT:
        raise fault_error(steps.form, fault, name, steps.values.dtype)


def fault_error(form: "BatchForm", flat_row: int, name: str, dtype: DTypeLike) -> ValueError:
    """The error for a row that holds NaN or infinity."""
    place = describe_place(form, flat_row)
    return ValueError(f"{name} must be finite: {place} holds NaN or infinity (as {dtype})")


def pack_steps(steps: FlatBatch, layout: Layout, out: np.ndarray | None = None) -> np.ndarray:
    """The matrix (N, features padded to whole vectors) that kernels read."""
    if out is None:
        width = padded(steps.values.shape[1], steps.values.dtype)
        out = aligned_zeros((layout.total, width), steps.values.dtype)
    cuts, form = layout.row_cuts(1), steps.form
    pack_rows(ALONE, cuts, steps.values, form.starts, layout.order, layout.active, layout.offset, out)
    return out


def describe_place(form: BatchForm, flat_row: int) -> str:
    """ "row 3, step 7" for a row of the flat matrix."""
    row = int(np.searchsorted(form.starts, flat_row, side="right")) - 1
    step = flat_row - int(form.starts[row])
    return f"row {row}, step {step}" if form.has_time else f"row {row}"


def pack_tokens(steps: FlatBatch, layout: Layout) -> np.ndarray:
    """The tokens (N,) in packed order."""
    return steps.values.take(flat_rows(steps.form.starts, layout))


def unpack_steps(packed: np.ndarray, size: int, form: BatchForm, layout: Layout) -> Any:
    """A packed matrix in the caller's form: an array with zeros behind each row's end, or a list of rows."""
    flat = flat_matrix(form, size, packed.dtype)
    scatter_steps(packed, form.starts, layout, flat)
    return in_form(flat, form)


def flat_matrix(form: BatchForm, size: int, dtype: DTypeLike) -> np.ndarray:
    """A matrix for all steps in the caller's order; rows behind a sequence's end are 0."""
    make = np.empty if form.is_full or form.is_list else np.zeros
    return make((form.flat_rows, size), dtype)


def in_form(flat: Any, form: BatchForm) -> Any:
    """A flat matrix of steps, on the host or on the GPU, as the caller passed them."""
    if form.is_list:
        return [flat[rows] for rows in form.slices]
    if not form.has_time:
        return flat
    return flat.reshape(form.lengths.size, form.padded_steps, flat.shape[1])


def read_like(dy: Any, form: BatchForm, size: int, dtype: DTypeLike, name: str) -> np.ndarray:
    """The flat matrix of a gradient that must have the form and shape of an output.

    Raises
    ------
    ValueError
        If it does not. Whether its numbers are finite is the caller's to check.
    """
    if form.is_list:
        if not isinstance(dy, (list, tuple)) and not (isinstance(dy, np.ndarray) and dy.ndim > 0):
            raise TypeError(f"{name} must be a list of arrays like the output, not {type(dy).__name__}")
        steps = read_steps(list(dy), dtype, name)
        if steps.lengths.shape != form.lengths.shape or (steps.lengths != form.lengths).any():
            raise ValueError(f"{name} must have the rows and lengths of the output")
        flat = steps.values
    else:
        shape = (form.lengths.size, form.padded_steps, size) if form.has_time else (form.lengths.size, size)
        array = _as_numbers(dy, dtype, name, tokens=False)
        if array.shape != shape:
            raise ValueError(f"{name} must have the shape of the output, {shape}, not {array.shape}")
        return array.reshape(-1, size)
    if flat.shape[1] != size:
        raise ValueError(f"{name} must have the output's {size} features, not {flat.shape[1]}")
    return flat


@functools.lru_cache(maxsize=FORMS_CACHED)
def full_form(rows: int, steps: int) -> BatchForm:
    """The form of an array whose rows all have the same length."""
    return BatchForm(False, True, np.arange(rows) * steps, np.full(rows, steps, np.int64), steps, True)


@functools.lru_cache(maxsize=FORMS_CACHED)
def vector_form(rows: int) -> BatchForm:
    """The form of a batch with one vector a row."""
    return BatchForm(False, False, np.arange(rows), np.ones(rows, np.int64), 1, True)
