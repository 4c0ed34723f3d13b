"""Weights from PyTorch's layout into the panels that `multiply` reads, and gradients back.

A panel holds a few vectors of columns side by side, k by k, so that a tile reads it front to back. The
columns of a recurrent layer are grouped by hidden unit: a vector of units, then the same units' next gate. A
column map says which row of the parameter a column is, -1 for padding.
"""

import math

import numpy as np

from numbarnn.engine.fork import fork
from numbarnn.jit.compile_cache import inlined, kernel, noinline
from numbarnn.jit.cpu import lanes, padded, registers
from numbarnn.jit.vector_memory import load, load_part, load_rows, store, store_rows
from numbarnn.jit.vectors import lane_count, transposed

ALIGNMENT = registers().width
ALIGNED_FROM_BYTES = 2 * 1024 * 1024


def aligned_zeros(shape, dtype) -> np.ndarray:
    """Zeros that begin at the boundary of a vector register."""
    return _aligned(np.zeros, shape, np.dtype(dtype))


def empty_matrix(rows: int, columns: int, dtype: np.dtype) -> np.ndarray:
    """A matrix whose numbers are still to be written; a large one begins at the boundary of a register.

    NumPy's large arrays begin 16 bytes behind one, so that each vector is in two lines of the cache: the
    forward pass of 64,100,64,128 took 1 to 2 % longer. A small one is not worth the two microseconds.
    """
    if rows * columns * dtype.itemsize < ALIGNED_FROM_BYTES:
        return np.empty((rows, columns), dtype)
    return _aligned(np.empty, (rows, columns), dtype)


def _aligned(make, shape, dtype):
    count = math.prod(shape) if isinstance(shape, tuple) else shape
    raw = make(count * dtype.itemsize + ALIGNMENT, np.uint8)
    first = -raw.ctypes.data % ALIGNMENT
    return raw[first : first + count * dtype.itemsize].view(dtype).reshape(shape)


def identity_map(size: int, dtype) -> np.ndarray:
    """Column map of a plain matrix: column j is row j, then padding to a whole vector."""
    columns = np.full(padded(size, dtype), -1, np.int64)
    columns[:size] = np.arange(size)
    return columns


def gate_map(gates: tuple[int, ...], hidden_size: int, dtype) -> np.ndarray:
    """Column map of a recurrent layer: for each vector of hidden units, its row in every gate's block."""
    units = identity_map(hidden_size, dtype).reshape(-1, 1, lanes(dtype))
    blocks = np.array(gates, np.int64)[:, None] * hidden_size
    return np.where(units < 0, -1, units + blocks).reshape(-1)


def panels_for(columns: int, rows: int, panel_vectors: int, dtype) -> np.ndarray:
    """Zeros for a packed matrix: (panels, rows, columns of a panel)."""
    width = panel_vectors * lanes(dtype)
    return aligned_zeros((-(-columns // width), rows, width), dtype)


@inlined
def _whole_rows(column_map, column, width):
    """How many of the vector's columns are rows of the parameter; they are consecutive ones."""
    count = 0
    while count < width and column_map[column + count] >= 0:
        count += 1
    return count


@noinline
def _pack_transposed(parameter, column_map, first_column, stop_column, panels):
    """Panels of ``parameter.T``: column c is row ``column_map[c]`` of the parameter, k runs along it."""
    width, lane = panels.shape[2], lane_count(panels)
    length = parameter.shape[1]
    for column in range(first_column, stop_column, lane):
        rows = _whole_rows(column_map, column, lane)
        source = column_map[column] * length
        target = column // width * length * width + column % width
        for k in range(0, length, lane):
            count = min(lane, length - k)
            block = transposed(load_rows(parameter, source + k, length, rows, count))
            store_rows(panels, target + k * width, width, block, count, lane)


@noinline
def unpack_transposed(panels, column_map, first_column, stop_column, gradient):
    """The inverse of `_pack_transposed`."""
    width, lane = panels.shape[2], lane_count(panels)
    length = gradient.shape[1]
    for column in range(first_column, stop_column, lane):
        rows = _whole_rows(column_map, column, lane)
        target = column_map[column] * length
        source = column // width * length * width + column % width
        for k in range(0, length, lane):
            count = min(lane, length - k)
            block = transposed(load_rows(panels, source + k * width, width, count, lane))
            store_rows(gradient, target + k, length, block, rows, count)


@noinline
def _pack(parameter, row_map, first_k, stop_k, panels):
    """Panels of `parameter` itself: k runs down the rows in the order of `row_map`."""
    width, lane = panels.shape[2], lane_count(panels)
    columns = parameter.shape[1]
    for panel in range(panels.shape[0]):
        for k in range(first_k, stop_k):
            row = row_map[k]
            if row >= 0:
                for place in range(0, width, lane):
                    left = columns - panel * width - place
                    source = row * columns + panel * width + place
                    target = (panel * panels.shape[1] + k) * width + place
                    if left >= lane:
                        store(panels, target, load(parameter, source))
                    elif left > 0:
                        store(panels, target, load_part(parameter, source, left))


@inlined
def _pack_matrix(part, weight, bias, column_map, panels, panels_transposed, packed_bias):
    _pack_transposed(weight, column_map, 0, column_map.size, panels)
    _pack(weight, column_map, 0, column_map.size, panels_transposed)
    for unit in range(bias.size):
        packed_bias[unit] = bias[unit]


@kernel
def pack_matrix(team, weight, bias, column_map, panels, panels_transposed, packed_bias):
    """Pack a plain matrix (units, inputs) for ``x @ weight.T`` and for ``dy @ weight``, and a bias."""
    fork(team, 1, _pack_matrix, weight, bias, column_map, panels, panels_transposed, packed_bias)


@inlined
def _pack_recurrent_groups(part, cuts, parameters, input_map, recurrent_map, sum_count, input_panels,
                           recurrent_panels, bias):  # fmt: skip
    weight_ih, weight_hh, bias_ih, bias_hh = parameters
    width = lane_count(bias)
    groups = bias.size // (sum_count * width)
    product = input_map.size // (groups * width)
    first_group, stop_group = cuts[part], cuts[part + 1]
    first, stop = first_group * product * width, stop_group * product * width
    _pack_transposed(weight_ih, input_map, first, stop, input_panels)
    _pack_transposed(weight_hh, recurrent_map, first, stop, recurrent_panels)
    if bias_ih.size > 0:
        for group in range(first_group, stop_group):
            here = group * sum_count * width
            bias[here : here + sum_count * width] = 0.0
            for place in range(product * width):
                packed = group * product * width + place
                if input_map[packed] >= 0:
                    bias[here + place] += bias_ih[input_map[packed]]
                if recurrent_map[packed] >= 0:
                    bias[here + place + (sum_count - product) * width] += bias_hh[recurrent_map[packed]]


@kernel
def pack_recurrent(team, cuts, parameters, input_map, recurrent_map, sum_count, input_panels,
                   recurrent_panels, bias):  # fmt: skip
    """Pack one layer and direction for forward.

    `parameters` are weight_ih, weight_hh, bias_ih and bias_hh; biases of size 0 stand for none. `bias` holds,
    sum by sum, the total of both biases for fused gates and one of them for split gates. `cuts` are between
    groups of hidden units.
    """
    fork(team, cuts.size - 1, _pack_recurrent_groups, cuts, parameters, input_map, recurrent_map, sum_count,
         input_panels, recurrent_panels, bias)  # fmt: skip


@inlined
def _pack_recurrent_transposed_groups(part, cuts, parameters, input_map, recurrent_map, input_transposed,
                                      recurrent_transposed):  # fmt: skip
    weight_ih, weight_hh, _, _ = parameters
    first, stop = cuts[part], cuts[part + 1]
    _pack(weight_ih, input_map, first, stop, input_transposed)
    _pack(weight_hh, recurrent_map, first, stop, recurrent_transposed)


@kernel
def pack_recurrent_transposed(
    team, cuts, parameters, input_map, recurrent_map, input_transposed, recurrent_transposed
):
    """Pack one layer and direction for backward; `cuts` are between packed rows."""
    fork(team, cuts.size - 1, _pack_recurrent_transposed_groups, cuts, parameters, input_map, recurrent_map,
         input_transposed, recurrent_transposed)  # fmt: skip


@inlined
def _pack_unit_vectors(part, vectors, packed):
    count, width = len(vectors), lane_count(packed)
    for v in range(count):
        vector = vectors[v]
        for unit in range(vector.size):
            packed[(unit // width * count + v) * width + unit % width] = vector[unit]


@kernel
def pack_unit_vectors(team, vectors, packed):
    """Parameters (H,), one for each of a cell's vectors, for both passes: those of a group of units stand one
    behind the other in `packed`, group by group."""
    fork(team, 1, _pack_unit_vectors, vectors, packed)


@inlined
def unpack_recurrent(input_panels, recurrent_panels, bias, input_map, recurrent_map, sum_count,
                     first_group, stop_group, gradients):  # fmt: skip
    """Gradients of one layer and direction from their packed form, for a range of groups of hidden units."""
    weight_ih, weight_hh, bias_ih, bias_hh = gradients
    width = lane_count(bias)
    groups = bias.size // (sum_count * width)
    product = input_map.size // (groups * width)
    first, stop = first_group * product * width, stop_group * product * width
    unpack_transposed(input_panels, input_map, first, stop, weight_ih)
    unpack_transposed(recurrent_panels, recurrent_map, first, stop, weight_hh)
    if bias_ih.size > 0:
        for group in range(first_group, stop_group):
            for place in range(product * width):
                packed = group * product * width + place
                source = group * sum_count * width + place
                if input_map[packed] >= 0:
                    bias_ih[input_map[packed]] = bias[source]
                    bias_hh[recurrent_map[packed]] = bias[source + (sum_count - product) * width]
