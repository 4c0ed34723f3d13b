"""The matrix products of a dense layer, over ranges of rows of the packed layout."""

import numpy as np

from numbarnn.engine.fork import fork
from numbarnn.engine.matmul import multiply
from numbarnn.engine.packing import unpack_transposed
from numbarnn.engine.sums import (
    LEVEL_ROWS,
    LEVELS,
    ONE_BLOCK_ROWS,
    add_block,
    clear_block,
    end_level,
    end_sum,
)
from numbarnn.engine.tile import WEIGHT_CHUNK_ROWS
from numbarnn.jit.activations import sigmoid, sigmoid_derivative, tanh, tanh_derivative
from numbarnn.jit.compile_cache import inlined, kernel
from numbarnn.jit.vector_memory import load, store
from numbarnn.jit.vectors import lane_count, select, zero_like

IDENTITY, TANH, RELU, SIGMOID = range(4)
ACTIVATIONS = {None: IDENTITY, "tanh": TANH, "relu": RELU, "sigmoid": SIGMOID}


@inlined
def _segment(t, active, offset, row_start, row_stop):
    """First packed row and number of rows of step t; of all steps at once where the range is all rows."""
    if row_start == 0 and row_stop >= active[0]:
        return offset[0], (offset[active.size] if t == 0 else 0)
    return offset[t] + row_start, max(0, min(row_stop, active[t]) - row_start)


@inlined
def _forward_rows(part, cuts, x, panels, bias, y, activation, active, offset):
    row_start, row_stop = cuts[part], cuts[part + 1]
    width = lane_count(y)
    inputs, panel = panels.shape[1], panels.shape[2]
    x_stride, y_stride = x.shape[1], y.shape[1]
    for t in range(active.size):
        first, rows = _segment(t, active, offset, row_start, row_stop)
        if rows == 0:
            continue
        multiply(
            y, first * y_stride, y_stride, bias, 0, 0, panel, rows,
            x, first * x_stride, x_stride, 1, 1, inputs, 0,
            panels, 0, inputs * panel, panel, panel // width, 0, y_stride // width,
        )  # fmt: skip
        if activation == TANH:
            for i in range(first * y_stride, (first + rows) * y_stride, width):
                store(y, i, tanh(load(y, i)))
        elif activation == RELU:
            for i in range(first * y_stride, (first + rows) * y_stride, width):
                values = load(y, i)
                store(y, i, select(values < 0.0, 0.0, values))
        elif activation == SIGMOID:
            for i in range(first * y_stride, (first + rows) * y_stride, width):
                store(y, i, sigmoid(load(y, i)))


@kernel
def dense_forward(team, cuts, x, panels, bias, y, activation, active, offset):
    """y = activation(x @ W.T + bias)."""
    fork(team, cuts.size - 1, _forward_rows, cuts, x, panels, bias, y, activation, active, offset)


@inlined
def _backward_rows(part, cuts, y, dy, dsums, activation, panels_transposed, zeros, dx, active, offset):
    row_start, row_stop = cuts[part], cuts[part + 1]
    width = lane_count(dy)
    units, panel = panels_transposed.shape[1], panels_transposed.shape[2]
    y_stride, dx_stride = dy.shape[1], dx.shape[1]
    for t in range(active.size):
        first, rows = _segment(t, active, offset, row_start, row_stop)
        if rows == 0:
            continue
        for i in range(first * y_stride, (first + rows) * y_stride, width):
            gradient = load(dy, i)
            if activation == TANH:
                gradient = gradient * tanh_derivative(load(y, i))
            elif activation == RELU:
                gradient = select(load(y, i) > 0.0, gradient, 0.0)
            elif activation == SIGMOID:
                gradient = gradient * sigmoid_derivative(load(y, i))
            store(dsums, i, gradient)
        if dx.shape[0] > 0:
            multiply(
                dx, first * dx_stride, dx_stride, zeros, 0, 0, panel, rows,
                dsums, first * y_stride, y_stride, 1, 1, units, 0,
                panels_transposed, 0, units * panel, panel, panel // width, 0, dx_stride // width,
            )  # fmt: skip


@kernel
def dense_backward(team, cuts, y, dy, dsums, activation, panels_transposed, zeros, dx, active, offset):
    """dsums = dy times the derivative of the activation; dx = dsums @ W, if dx has rows."""
    fork(team, cuts.size - 1, _backward_rows, cuts, y, dy, dsums, activation, panels_transposed, zeros, dx,
         active, offset)  # fmt: skip


def _make_panels(many_rows):
    """The body of `dense_weight_gradients`; with `many_rows` for sums of any length, which takes longer to
    compile (see ``scan/weight_gradients.py``)."""

    def dense_gradient_panels(part, cuts, x, dsums, offset, dpanels, dbias, column_map, dweight, dbias_out):
        width, total, stride = lane_count(dsums), offset[offset.size - 1], dsums.shape[1]
        inputs, panel = dpanels.shape[1], dpanels.shape[2]
        vectors, size = panel // width, inputs * panel
        first_vector, stop_vector = cuts[part] * vectors, min(cuts[part + 1] * vectors, stride // width)
        is_long, has_levels = total > ONE_BLOCK_ROWS, many_rows and total > LEVEL_ROWS
        chunk = np.empty((WEIGHT_CHUNK_ROWS, panel), dsums.dtype)
        if many_rows:
            level_size = dpanels.size // LEVELS
            block = np.empty((1, inputs, panel), dsums.dtype)
            clear_block(block)
        for vector in range(first_vector, stop_vector, vectors):
            count = min(vectors, stop_vector - vector)
            target = vector // vectors
            first_column, stop_column = vector * width, (vector + count) * width
            for k in range(inputs):
                for place in range(panel):
                    dpanels[target, k, place] = 0.0
            for column in range(first_column, stop_column):
                dbias[column] = 0.0
            for begin in range(0, total, WEIGHT_CHUNK_ROWS):
                rows = min(WEIGHT_CHUNK_ROWS, total - begin)
                for v in range(count):
                    column = first_column + v * width
                    so_far = load(dbias, column)
                    # Where there are many rows, those of the chunk by themselves first.
                    rest, column_sum = (so_far, zero_like(so_far)) if is_long else (zero_like(so_far), so_far)
                    for k in range(rows):
                        values = load(dsums, (begin + k) * stride + column)
                        store(chunk, k * panel + v * width, values)
                        column_sum = column_sum + values
                    store(dbias, column, rest + column_sum)
                # One call of the product, into a block or the sums: two would be compiled twice.
                sums, index = dpanels, target * size
                if many_rows:
                    if has_levels:
                        sums, index = block, 0
                multiply(
                    sums, index, panel, sums, index, panel, panel, inputs, x, begin * x.shape[1], 1,
                    x.shape[1], 1, rows, 0, chunk, 0, panel, panel, vectors, 0, count,
                )  # fmt: skip
                if many_rows:
                    if has_levels:
                        add_block(dpanels, target * size, (target + 1) * size, block)
                    done = begin + rows
                    if has_levels and done < total and done % LEVEL_ROWS == 0:
                        is_first = done == LEVEL_ROWS
                        end_level(dpanels, target * size, (target + 1) * size, level_size, is_first)
                        end_level(dbias, first_column, stop_column, stride, is_first)
            if many_rows:
                if has_levels:
                    end_sum(dpanels, target * size, (target + 1) * size, level_size)
                    end_sum(dbias, first_column, stop_column, stride)
        unpack_transposed(dpanels, column_map, first_vector * width, stop_vector * width, dweight)
        for column in range(first_vector * width, min(stop_vector * width, dbias_out.size)):
            dbias_out[column] = dbias[column]

    name = f"dense_gradient_panels_{'many' if many_rows else 'few'}"
    dense_gradient_panels.__name__ = dense_gradient_panels.__qualname__ = name
    return inlined(dense_gradient_panels)


_panels_of_few_rows = _make_panels(many_rows=False)
_panels_of_many_rows = _make_panels(many_rows=True)


@kernel
def dense_weight_gradients(team, cuts, x, dsums, offset, dpanels, padded_dbias, column_map, dweight, dbias):
    """dweight and dbias; `cuts` are between the panels of one part and the next.

    Sums run over the valid steps, of which the last number of `offset` says how many there are, in their
    order in memory, whatever the number of threads.
    """
    fork(team, cuts.size - 1, _panels_of_few_rows, cuts, x, dsums, offset, dpanels, padded_dbias,
         column_map, dweight, dbias)  # fmt: skip


@kernel
def dense_weight_gradients_of_many_rows(team, cuts, x, dsums, offset, dpanels, padded_dbias, column_map,
                                        dweight, dbias):  # fmt: skip
    """`dense_weight_gradients` for batches of more than `LEVEL_ROWS` rows: `dpanels` and `padded_dbias` have
    all levels of the sums (``engine/sums.py``). Of fewer rows the gradients are the same to the last bit."""
    fork(team, cuts.size - 1, _panels_of_many_rows, cuts, x, dsums, offset, dpanels, padded_dbias,
         column_map, dweight, dbias)  # fmt: skip
