"""The gradients of the parameters of one layer and direction; ``scan/__init__.py`` explains the notation."""

import numpy as np

from numbarnn.cells import groups_at_once, product_width_of, sum_count_of
from numbarnn.engine.fork import fork
from numbarnn.engine.matmul import multiply
from numbarnn.engine.packing import unpack_recurrent
from numbarnn.engine.sums import (
    BLOCK_ROWS,
    LEVELS,
    ONE_BLOCK_ROWS,
    SUMMED_AT_ONCE,
    end_block,
    end_sum,
    move_block,
)
from numbarnn.engine.tile import WEIGHT_CHUNK_ROWS
from numbarnn.jit.compile_cache import inlined, kernel, noinline
from numbarnn.jit.vector_memory import load, store
from numbarnn.jit.vectors import lane_count


@inlined
def _weight_gradient_jobs(part, job_cuts, panel_cuts, weights, inputs, h, dgates, partials, packed):
    dinput, drecurrent, dbias = packed
    x, x_rows = inputs.matrix, inputs.rows
    width, block, ranges = lane_count(dgates), groups_at_once(weights), panel_cuts.size - 1
    sum_count, product_width = sum_count_of(weights), product_width_of(weights)
    columns, x_stride, units = dgates.shape[1], x.shape[1], h.shape[1]
    features, hidden, panel = dinput.shape[1], drecurrent.shape[1], dinput.shape[2]
    split = sum_count - product_width
    dsums = np.empty((WEIGHT_CHUNK_ROWS, block * sum_count * width), dgates.dtype)
    # Rows one vector split from whole pages: columns are read from it, and rows a power of two split would
    # fall into the same few sets of the cache.
    h_before = np.empty((WEIGHT_CHUNK_ROWS, units + width), h.dtype)
    h_stride = units + width
    x_chunk = np.empty((WEIGHT_CHUNK_ROWS, x_stride + width), x.dtype)
    x_chunk_stride = x_stride + width
    k_stride = dsums.shape[1]
    # A level has all partial sums.
    partial_count = partials.offset.size - 1
    level_panels, level_columns = partial_count * weights.input.shape[0], partial_count * columns
    for job in range(job_cuts[part], job_cuts[part + 1]):
        partial, i = job // ranges, job % ranges
        first_group = panel_cuts[i] * block
        stop_group = min(panel_cuts[i + 1] * block, columns // (sum_count * width))
        partial_panel, partial_column = partial * weights.input.shape[0], partial * columns
        first_row, stop_row = partials.offset[partial], partials.offset[partial + 1]
        is_long = stop_row - first_row > ONE_BLOCK_ROWS
        _clear(
            dinput, drecurrent, dbias, partial_panel + first_group * product_width * width // panel,
            partial_panel + (stop_group * product_width * width + panel - 1) // panel,
            partial_column + first_group * sum_count * width, partial_column + stop_group * sum_count * width,
            level_columns, LEVELS if is_long else 1,
        )  # fmt: skip
        for begin in range(first_row, stop_row, WEIGHT_CHUNK_ROWS):
            rows = min(WEIGHT_CHUNK_ROWS, stop_row - begin)
            done, is_last = begin + rows - first_row, begin + rows == stop_row
            for k in range(rows):
                source, target = partials.previous_rows[begin + k] * units, k * h_stride
                for unit in range(0, units, width):
                    store(h_before, target + unit, load(h, source + unit))
                source, target = x_rows[begin + k] * x_stride, k * x_chunk_stride
                for column in range(0, x_stride, width):
                    store(x_chunk, target + column, load(x, source + column))
            for first in range(first_group, stop_group, block):
                stop = min(first + block, stop_group)
                _copy_and_sum(
                    dgates, partials.gate_rows[begin : begin + rows], first * sum_count * width,
                    stop * sum_count * width, dsums, dbias, partial_column, is_long, level_columns,
                )  # fmt: skip
                vectors = (stop - first) * product_width
                target = partial_panel + first * product_width * width // panel
                multiply(
                    dinput, target * features * panel, panel, dinput, target * features * panel, panel,
                    features * panel, features, x_chunk, 0, 1, x_chunk_stride, 1, rows, 0,
                    dsums, 0, panel, k_stride, panel // width, 0, vectors,
                )  # fmt: skip
                multiply(
                    drecurrent, target * hidden * panel, panel, drecurrent, target * hidden * panel, panel,
                    hidden * panel, hidden, h_before, 0, 1, h_stride, 1, rows, 0,
                    dsums, split * width, panel, k_stride, panel // width, 0, vectors,
                )  # fmt: skip
                if is_long and (is_last or done % BLOCK_ROWS == 0):
                    stop_target = target + (vectors * width + panel - 1) // panel
                    for sums in (dinput, drecurrent):
                        size = sums.shape[1] * panel
                        start, end, level_size = target * size, stop_target * size, level_panels * size
                        if is_last:
                            end_sum(sums, start, end, level_size)
                        else:
                            end_block(sums, start, end, level_size, done == BLOCK_ROWS)
        if is_long:
            end_sum(
                dbias, partial_column + first_group * sum_count * width,
                partial_column + stop_group * sum_count * width, level_columns,
            )  # fmt: skip


@kernel
def weight_gradients(team, job_cuts, panel_cuts, weights, inputs, h, dgates, partials, packed):
    """Gradients of the parameters of one layer and direction, still packed and as partial sums.

    The steps are divided among partial sums: a thread that went through the rows of one has them in its
    cache. Within a partial sum, steps are added in the order given, in blocks if they are many
    (``engine/sums.py``). Neither depends on the number of threads.

    Parameters
    ----------
    team, job_cuts, panel_cuts
        The threads, the cuts between their jobs, and those between ranges of panels. A job is one partial
        sum and one range of panels; those of a partial sum follow one another.
    inputs : Inputs
        The inputs.
    h, dgates : arrays (B + N, H padded), (N, G * H padded)
        All states and the gradient of the sums.
    partials : Partials
        The steps of each partial sum, and their rows in `h` and `dgates`.
    packed : tuple of arrays
        Out: the gradients in the form of the packed weights (input, recurrent, bias), one partial sum after
        the other; behind them the other levels of the sums, if one may have more than a block.
    """
    fork(team, job_cuts.size - 1, _weight_gradient_jobs, job_cuts, panel_cuts, weights, inputs, h, dgates,
         partials, packed)  # fmt: skip


@inlined
def _add_partials(values, size, first, stop):
    """The elements from `first` to `stop` of the first `size` get the sum of themselves and of what is
    `size`, 2 `size` ... elements behind them."""
    for partial_begin in range(size, values.size, size):
        for i in range(first, stop, lane_count(values)):
            store(values, i, load(values, i) + load(values, partial_begin + i))


@inlined
def _collect_groups(part, cuts, weights, packed, input_map, recurrent_map, gradients):
    dinput, drecurrent, dbias = packed
    width, block = lane_count(dbias), groups_at_once(weights)
    sum_count, product_width = sum_count_of(weights), product_width_of(weights)
    columns, panel = weights.bias.size, dinput.shape[2]
    first, stop = cuts[part] * block, min(cuts[part + 1] * block, columns // (sum_count * width))
    if first >= stop:
        return
    first_panel, stop_panel = (
        first * product_width * width // panel,
        -(-stop * product_width * width // panel),
    )
    for values in (dinput, drecurrent):
        size = values.shape[1] * panel
        _add_partials(values, weights.input.shape[0] * size, first_panel * size, stop_panel * size)
    _add_partials(dbias, columns, first * sum_count * width, stop * sum_count * width)
    unpack_recurrent(
        dinput, drecurrent, dbias[:columns], input_map, recurrent_map, sum_count, first, stop, gradients
    )


@kernel
def collect_gradients(team, cuts, weights, packed, input_map, recurrent_map, gradients):
    """Add up the partial sums of `weight_gradients`, and unpack them.

    Parameters
    ----------
    team, cuts
        The threads, and the cuts between the panels of one part and the next.
    packed : tuple of arrays
        From `weight_gradients`, without the other levels.
    input_map, recurrent_map : int64 arrays
        The column maps of the packed weights.
    gradients : tuple of arrays
        weight_ih, weight_hh, bias_ih and bias_hh, out.
    """
    fork(team, cuts.size - 1, _collect_groups, cuts, weights, packed, input_map, recurrent_map, gradients)


@noinline
def _clear(dinput, drecurrent, dbias, first_panel, stop_panel, first_column, stop_column, level_columns,
           levels):  # fmt: skip
    """Zeros in a range of panels, and of columns of the bias at all levels."""
    for panel in range(first_panel, stop_panel):
        for column in range(dinput.shape[2]):
            for k in range(dinput.shape[1]):
                dinput[panel, k, column] = 0.0
            for k in range(drecurrent.shape[1]):
                drecurrent[panel, k, column] = 0.0
    for level in range(levels):
        for column in range(level * level_columns + first_column, level * level_columns + stop_column):
            dbias[column] = 0.0


@noinline
def _copy_and_sum(dgates, rows, first_column, stop_column, dsums, dbias, bias_index, is_long, level_columns):
    """Columns of some rows of dgates side by side in `dsums`, their sums added to `dbias` from an index
    on."""
    width, stride, target_stride = lane_count(dgates), dgates.shape[1], dsums.shape[1]
    run_rows = SUMMED_AT_ONCE if is_long else WEIGHT_CHUNK_ROWS
    for column in range(first_column, stop_column, width):
        for first_row in range(0, rows.size, run_rows):
            total = load(dbias, bias_index + column)
            for k in range(first_row, min(first_row + run_rows, rows.size)):
                values = load(dgates, rows[k] * stride + column)
                store(dsums, k * target_stride + column - first_column, values)
                total = total + values
            store(dbias, bias_index + column, total)
            if is_long:
                move_block(dbias, bias_index + column, level_columns)
