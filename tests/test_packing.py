"""Packed weights against plain indexing, and gradients back."""

import itertools

import numpy as np
import pytest
from conftest import LAYERS, TOLERANCE

from numbarnn.cells import CELLS
from numbarnn.engine.fork import ALONE
from numbarnn.engine.packing import (
    ALIGNMENT,
    empty_matrix,
    pack_recurrent,
    pack_recurrent_transposed,
    unpack_recurrent,
)
from numbarnn.engine.threads import even_cuts
from numbarnn.jit.compile_cache import kernel
from numbarnn.jit.cpu import lanes
from numbarnn.layers.weight_panels import WeightPanels

GUARD = 64  # elements around each parameter that nobody may read or write

each_cell = pytest.mark.parametrize("cell", LAYERS)
each_dtype = pytest.mark.parametrize("dtype", TOLERANCE)
each_hidden_size = pytest.mark.parametrize("hidden_size", [1, 5, 17, 33])
SIZES_AND_PARTS = list(itertools.product([1, 3, 40], [1, 3]))  # input sizes, parts


@kernel
def unpack(input_panels, recurrent_panels, bias, input_map, recurrent_map, sum_count, cuts, gradients):
    for part in range(cuts.size - 1):
        unpack_recurrent(
            input_panels, recurrent_panels, bias, input_map, recurrent_map, sum_count, cuts[part],
            cuts[part + 1], gradients,
        )  # fmt: skip


def guarded_parameters(cell, input_size, hidden_size, dtype, fill=None):
    """weight_ih, weight_hh, bias_ih, bias_hh with NaN around each; every number is another one."""
    rows = len(CELLS[cell].gates) * hidden_size
    parameters, first = [], 1
    for shape in ((rows, input_size), (rows, hidden_size), (rows,), (rows,)):
        size = int(np.prod(shape))
        room = np.full(size + 2 * GUARD, np.nan, dtype)
        inside = room[GUARD : GUARD + size]
        inside[:] = np.arange(first, first + size) if fill is None else fill
        parameters.append(inside.reshape(shape))
        first += size
    return tuple(parameters)


def rows_of_columns(gates, hidden_size, dtype):
    """The parameter's row of each packed column, -1 for padding: vectors of units, gate by gate."""
    width = lanes(dtype)
    return np.array(
        [
            gate * hidden_size + unit if unit < hidden_size else -1
            for first in range(0, hidden_size, width)
            for gate in gates
            for unit in range(first, first + width)
        ]
    )


def in_panels(matrix, width):
    """(K, columns) as panels (panels, K, width), with zeros in the rest of the last one."""
    length, columns = matrix.shape
    panels = -(-columns // width)
    whole = np.zeros((length, panels * width), matrix.dtype)
    whole[:, :columns] = matrix
    return whole.reshape(length, panels, width).transpose(1, 0, 2)


def rows_or_zeros(weight, rows):
    return np.where(rows[:, None] < 0, 0, weight[rows]).astype(weight.dtype)


@each_dtype
@each_hidden_size
@each_cell
def test_forward_weights(cell, hidden_size, dtype):
    for input_size, parts in SIZES_AND_PARTS:
        check_forward_weights(cell, hidden_size, dtype, input_size, parts)


def check_forward_weights(cell, hidden_size, dtype, input_size, parts):
    direction = WeightPanels(CELLS[cell], input_size, hidden_size, dtype)
    parameters = guarded_parameters(cell, input_size, hidden_size, dtype)
    packed, sum_count = direction.weights, CELLS[cell].sum_count
    maps = direction.input_map, direction.recurrent_map
    pack_recurrent(ALONE, even_cuts(direction.groups, parts), parameters, *maps, sum_count, *packed)
    gates = CELLS[cell].input_gates, CELLS[cell].recurrent_gates
    rows = [rows_of_columns(order, hidden_size, dtype) for order in gates]
    for panels, weight, order in zip(packed, parameters, rows, strict=False):
        expected = in_panels(rows_or_zeros(weight, order).T, panels.shape[2])
        np.testing.assert_array_equal(panels, expected)

    # A group's sums: fused gates get both biases; the input's own stand first, the others last.
    width, product = lanes(dtype), len(gates[0])
    expected = np.zeros((direction.groups, sum_count, width), dtype)
    for bias, order, first in zip(parameters[2:], rows, (0, sum_count - product), strict=True):
        in_groups = rows_or_zeros(bias[:, None], order).reshape(direction.groups, product, width)
        expected[:, first : first + product] += in_groups
    np.testing.assert_array_equal(packed.bias, expected.reshape(-1))


@each_dtype
@each_hidden_size
@each_cell
def test_backward_weights(cell, hidden_size, dtype):
    for input_size, parts in SIZES_AND_PARTS:
        check_backward_weights(cell, hidden_size, dtype, input_size, parts)


def check_backward_weights(cell, hidden_size, dtype, input_size, parts):
    direction = WeightPanels(CELLS[cell], input_size, hidden_size, dtype)
    parameters = guarded_parameters(cell, input_size, hidden_size, dtype)
    maps = direction.input_map, direction.recurrent_map
    back = direction.input_transposed, direction.recurrent_transposed
    pack_recurrent_transposed(ALONE, even_cuts(maps[0].size, parts), parameters, *maps, *back)
    gates = CELLS[cell].input_gates, CELLS[cell].recurrent_gates
    for panels, weight, order in zip(back, parameters, gates, strict=False):
        rows = rows_of_columns(order, hidden_size, dtype)
        np.testing.assert_array_equal(panels, in_panels(rows_or_zeros(weight, rows), panels.shape[2]))


@each_dtype
@each_hidden_size
@each_cell
def test_gradients_come_back(cell, hidden_size, dtype):
    for input_size, parts in SIZES_AND_PARTS:
        check_gradients_come_back(cell, hidden_size, dtype, input_size, parts)


def check_gradients_come_back(cell, hidden_size, dtype, input_size, parts):
    direction = WeightPanels(CELLS[cell], input_size, hidden_size, dtype)
    parameters = guarded_parameters(cell, input_size, hidden_size, dtype)
    packed, sum_count = direction.weights, CELLS[cell].sum_count
    maps = direction.input_map, direction.recurrent_map
    pack_recurrent(ALONE, even_cuts(direction.groups, 1), parameters, *maps, sum_count, *packed)
    gradients = guarded_parameters(cell, input_size, hidden_size, dtype, fill=-1.0)
    unpack(*packed, *maps, sum_count, even_cuts(direction.groups, parts), gradients)
    # The gradient of a sum that has both biases is the gradient of both.
    shared = np.repeat([gate in CELLS[cell].fused for gate in CELLS[cell].gates], hidden_size)
    both = parameters[2] + parameters[3]
    biases = (np.where(shared, both, bias) for bias in parameters[2:])
    for gradient, expected in zip(gradients, (*parameters[:2], *biases), strict=True):
        np.testing.assert_array_equal(gradient, expected)
        room = gradient.base
        assert np.isnan(room[:GUARD]).all()
        assert np.isnan(room[-GUARD:]).all()


def test_large_results_begin_at_a_register():
    small, large = empty_matrix(3, 5, np.dtype("float32")), empty_matrix(2048, 512, np.dtype("float32"))
    assert small.shape == (3, 5)
    assert large.shape == (2048, 512)
    assert large.flags.c_contiguous
    assert large.ctypes.data % ALIGNMENT == 0
