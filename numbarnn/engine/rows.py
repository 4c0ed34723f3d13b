"""Rows of steps between the caller's order in memory and the packed order of kernels.

The caller's matrix is *flat*: the steps of one sequence stand one after the other, and sequence i begins at
row ``starts[i]``. In the packed matrix step t of the sequence at position b is row ``offset[t] + b``, for the
``active[t]`` sequences that still run; ``order[b]`` is the caller's sequence at position b. Packed rows are
padded to whole vectors, with zeros. In an array with lengths, zeros follow the steps of sequence i up to row
``ends[i]``.
"""

from typing import NamedTuple

import numpy as np

from numbarnn.engine.fork import fork
from numbarnn.engine.program import FAULT, INPUT, NO_FAULT, OUTPUT, array_at
from numbarnn.jit.atomics import atomic_load, compare_exchange
from numbarnn.jit.compile_cache import inlined, kernel
from numbarnn.jit.vector_memory import load, load_part, store, store_part
from numbarnn.jit.vectors import all_true, fma, lane_count, zero_like


class CallerMatrix(NamedTuple):
    """The caller's matrix of the binding INPUT or OUTPUT, and where its sequences begin."""

    bindings: np.ndarray
    rows: int
    columns: int
    starts: np.ndarray  # int64 (B,): the first row of each sequence


@inlined
def input_matrix(caller, like):
    """The `CallerMatrix` of the binding INPUT as an array of the dtype of `like`."""
    return array_at(caller.bindings[INPUT], caller.rows, caller.columns, like)


@inlined
def output_matrix(caller, like):
    """The `CallerMatrix` of the binding OUTPUT as an array of the dtype of `like`."""
    return array_at(caller.bindings[OUTPUT], caller.rows, caller.columns, like)


@inlined
def _load_up_to(array, index, count):
    """One vector, or what is left of a row."""
    return load(array, index) if count >= lane_count(array) else load_part(array, index, count)


@inlined
def _pack_places(first, stop, flat, starts, order, active, offset, first_of_offset, packed):
    """Pack the positions from `first` to `stop`; the lowest flat row that is not finite, or NO_FAULT.

    `offset` says where the position `first_of_offset` is.
    """
    width = lane_count(packed)
    size, stride = flat.shape[1], packed.shape[1]
    fault = NO_FAULT
    for t in range(active.size):
        for b in range(first, min(stop, active[t])):
            source, target = starts[order[b]] + t, offset[t] + b - first_of_offset
            total = zero_like(load(packed, target * stride))
            for column in range(0, size, width):
                values = _load_up_to(flat, source * size + column, size - column)
                store(packed, target * stride + column, values)
                total = fma(values, 0.0, total)  # 0, or NaN from NaN and infinity
            if not all_true(total >= 0.0) and (fault == NO_FAULT or source < fault):
                fault = source
    return fault


@inlined
def _unpack_places(first, stop, packed, starts, order, active, offset, first_of_offset, flat):
    """Unpack the positions from `first` to `stop`; `offset` says where the position `first_of_offset` is."""
    width = lane_count(packed)
    size, stride = flat.shape[1], packed.shape[1]
    for t in range(active.size):
        for b in range(first, min(stop, active[t])):
            source, target = offset[t] + b - first_of_offset, starts[order[b]] + t
            for column in range(0, size, width):
                values = load(packed, source * stride + column)
                if size - column >= width:
                    store(flat, target * size + column, values)
                else:
                    store_part(flat, target * size + column, values, size - column)


@inlined
def _pack_part(part, cuts, flat, starts, order, active, offset, packed):
    _pack_places(cuts[part], cuts[part + 1], flat, starts, order, active, offset, 0, packed)


@kernel
def pack_rows(team, cuts, flat, starts, order, active, offset, packed):
    """Flat rows into the packed matrix."""
    fork(team, cuts.size - 1, _pack_part, cuts, flat, starts, order, active, offset, packed)


@inlined
def _gather_part(part, cuts, source, starts, order, active, offset, target):
    for t in range(active.size):
        for b in range(cuts[part], min(cuts[part + 1], active[t])):
            for column in range(target.shape[1]):
                target[offset[t] + b, column] = source[starts[order[b]] + t, column]


@kernel
def gather_rows(team, cuts, source, starts, order, active, offset, target):
    """Flat rows of any kind of number into a packed matrix without padding."""
    fork(team, cuts.size - 1, _gather_part, cuts, source, starts, order, active, offset, target)


@kernel
def unpack_rows(packed, starts, order, active, offset, flat):
    """The inverse of `pack_rows`."""
    _unpack_places(0, active[0], packed, starts, order, active, offset, 0, flat)


@inlined
def _note_fault(bindings, fault):
    """The lowest flat row with a fault, of all that threads find, becomes the bindings' FAULT."""
    while fault != NO_FAULT:
        known = atomic_load(bindings, FAULT)
        if known != NO_FAULT and known <= fault:
            break
        if compare_exchange(bindings, FAULT, known, fault):
            break


@inlined
def _read_part(part, cuts, caller, order, active, band_cuts, offsets, packed):
    flat = input_matrix(caller, packed)
    for band in range(band_cuts.size - 1):
        first, stop = max(cuts[part], band_cuts[band]), min(cuts[part + 1], band_cuts[band + 1])
        begin = band_cuts[band]
        fault = _pack_places(first, stop, flat, caller.starts, order, active, offsets[band], begin, packed)
        _note_fault(caller.bindings, fault)


@kernel
def read_rows(team, cuts, caller, order, active, band_cuts, offsets, packed):
    """The caller's matrix of the binding INPUT into the packed one.

    The packed one may be in bands (see ``layers/bands.py``): that of the positions from ``band_cuts[p]`` to
    ``band_cuts[p + 1]`` has step t from row ``offsets[p, t]`` on. The lowest flat row that holds NaN or
    infinity becomes the bindings' FAULT.
    """
    fork(team, cuts.size - 1, _read_part, cuts, caller, order, active, band_cuts, offsets, packed)


@inlined
def _write_part(part, cuts, caller, order, active, band_cuts, offsets, packed):
    flat = output_matrix(caller, packed)
    for band in range(band_cuts.size - 1):
        first, stop = max(cuts[part], band_cuts[band]), min(cuts[part + 1], band_cuts[band + 1])
        begin = band_cuts[band]
        _unpack_places(first, stop, packed, caller.starts, order, active, offsets[band], begin, flat)


@kernel
def write_rows(team, cuts, caller, order, active, band_cuts, offsets, packed):
    """The inverse of `read_rows`, to the caller's matrix of the binding OUTPUT."""
    fork(team, cuts.size - 1, _write_part, cuts, caller, order, active, band_cuts, offsets, packed)


@inlined
def _clear_part(part, cuts, caller, ends, like):
    flat = output_matrix(caller, like)
    for i in range(cuts[part], cuts[part + 1]):
        for row in range(caller.starts[i], ends[i]):
            for column in range(caller.columns):
                flat[row, column] = 0.0


@kernel
def clear_rows(team, cuts, caller, ends, like):
    """Zeros in the caller's matrix of the binding OUTPUT, of the dtype of `like`: from row
    ``caller.starts[i]`` up to row ``ends[i]``. `cuts` are between sequences."""
    fork(team, cuts.size - 1, _clear_part, cuts, caller, ends, like)


@inlined
def _first_fault_between(values, first, stop):
    """The first of some flat rows with NaN or infinity in it, or NO_FAULT."""
    width, size = lane_count(values), values.shape[1]
    for row in range(first, stop):
        total = zero_like(_load_up_to(values, row * size, size))
        for column in range(0, size, width):
            total = fma(_load_up_to(values, row * size + column, size - column), 0.0, total)
        if not all_true(total >= 0.0):
            return row
    return NO_FAULT


@kernel
def first_fault(values, starts, lengths):
    """The first flat row, among the valid ones, with NaN or infinity in it, or NO_FAULT."""
    for b in range(starts.size):
        fault = _first_fault_between(values, starts[b], starts[b] + lengths[b])
        if fault != NO_FAULT:
            return fault
    return NO_FAULT


@inlined
def _check_part(part, cuts, caller, order, lengths, like):
    flat, starts = input_matrix(caller, like), caller.starts
    for b in range(cuts[part], cuts[part + 1]):
        i = order[b]
        _note_fault(caller.bindings, _first_fault_between(flat, starts[i], starts[i] + lengths[i]))


@kernel
def check_rows(team, cuts, caller, order, lengths, like):
    """The lowest valid row that holds NaN or infinity, of the caller's matrix of the binding INPUT, becomes
    the bindings' FAULT; the matrix is of the dtype of `like`."""
    fork(team, cuts.size - 1, _check_part, cuts, caller, order, lengths, like)
