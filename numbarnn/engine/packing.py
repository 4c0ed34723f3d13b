"""Weights from PyTorch's layout into the panels that `multiply` reads, and gradients back.

A panel holds a few vectors of columns side by side, k by k, so that a tile reads it front to back. The
columns of a recurrent layer are grouped by hidden unit: a vector of units, then the same units' next gate. A
column map says which row of the parameter a column is, -1 for padding.
"""

import math

import numpy as np

from numbarnn.engine.compile_cache import inlined, kernel
from numbarnn.engine.host import lanes, padded, registers
from numbarnn.engine.simd import lane_count, load, load_part, store

ALIGNMENT = registers().width


def aligned_zeros(shape, dtype) -> np.ndarray:
    """Zeros that begin at the boundary of a vector register."""
    dtype = np.dtype(dtype)
    count = math.prod(shape) if isinstance(shape, tuple) else shape
    raw = np.zeros(count * dtype.itemsize + ALIGNMENT, np.uint8)
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
    """Room for a packed matrix: (panels, rows, columns of a panel)."""
    width = panel_vectors * lanes(dtype)
    return aligned_zeros((-(-columns // width), rows, width), dtype)


@inlined
def _pack_transposed(parameter, column_map, panels):
    """Panels of ``parameter.T``: column c is row ``column_map[c]`` of the parameter, k runs along it."""
    width = panels.shape[2]
    for column in range(column_map.size):
        row = column_map[column]
        if row >= 0:
            panel, place = column // width, column % width
            for k in range(parameter.shape[1]):
                panels[panel, k, place] = parameter[row, k]


@inlined
def _pack(parameter, row_map, panels):
    """Panels of `parameter` itself: k runs down the rows in the order of `row_map`."""
    width, lane = panels.shape[2], lane_count(panels)
    columns = parameter.shape[1]
    for panel in range(panels.shape[0]):
        for k in range(row_map.size):
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
def unpack_transposed(panels, column_map, first_column, stop_column, gradient):
    """`_pack_transposed` undone, for a range of columns."""
    width = panels.shape[2]
    for column in range(first_column, stop_column):
        row = column_map[column]
        if row >= 0:
            panel, place = column // width, column % width
            for k in range(gradient.shape[1]):
                gradient[row, k] = panels[panel, k, place]


@kernel
def pack_matrix(weight, column_map, panels, panels_back):
    """Pack a plain matrix (units, inputs) for ``x @ weight.T`` and for ``dy @ weight``."""
    _pack_transposed(weight, column_map, panels)
    _pack(weight, column_map, panels_back)


@kernel
def pack_recurrent(weight_ih, weight_hh, bias_ih, bias_hh, input_map, recurrent_map, slot_count,
                   input_panels, recurrent_panels, bias):  # fmt: skip
    """Pack one layer and direction for forward; biases of size 0 stand for none.

    `bias` holds, slot by slot, the sum of both biases for shared gates and one of them for apart gates.
    """
    _pack_transposed(weight_ih, input_map, input_panels)
    _pack_transposed(weight_hh, recurrent_map, recurrent_panels)
    if bias_ih.size > 0:
        width = lane_count(bias)
        groups = bias.size // (slot_count * width)
        product = input_map.size // (groups * width)
        bias[:] = 0.0
        for group in range(groups):
            for place in range(product * width):
                packed = (group * product) * width + place
                target = group * slot_count * width + place
                if input_map[packed] >= 0:
                    bias[target] += bias_ih[input_map[packed]]
                if recurrent_map[packed] >= 0:
                    bias[target + (slot_count - product) * width] += bias_hh[recurrent_map[packed]]


@kernel
def pack_recurrent_back(weight_ih, weight_hh, input_map, recurrent_map, input_back, recurrent_back):
    """Pack one layer and direction for backward."""
    _pack(weight_ih, input_map, input_back)
    _pack(weight_hh, recurrent_map, recurrent_back)


@inlined
def unpack_recurrent(input_panels, recurrent_panels, bias, input_map, recurrent_map, slot_count,
                     first_group, stop_group, gradients):  # fmt: skip
    """Gradients of one layer and direction from their packed form, for a range of groups of hidden units."""
    weight_ih, weight_hh, bias_ih, bias_hh = gradients
    width = lane_count(bias)
    groups = bias.size // (slot_count * width)
    product = input_map.size // (groups * width)
    first, stop = first_group * product * width, stop_group * product * width
    unpack_transposed(input_panels, input_map, first, stop, weight_ih)
    unpack_transposed(recurrent_panels, recurrent_map, first, stop, weight_hh)
    if bias_ih.size > 0:
        for group in range(first_group, stop_group):
            for place in range(product * width):
                packed = group * product * width + place
                source = group * slot_count * width + place
                if input_map[packed] >= 0:
                    bias_ih[input_map[packed]] = bias[source]
                    bias_hh[recurrent_map[packed]] = bias[source + (slot_count - product) * width]
