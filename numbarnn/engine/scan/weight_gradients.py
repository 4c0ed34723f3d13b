"""The gradients of the parameters of one layer and direction; ``scan/__init__.py`` explains the notation."""

import numpy as np

from numbarnn.cells import groups_at_once, product_width_of, sum_count_of
from numbarnn.engine.fork import fork
from numbarnn.engine.matmul import multiply
from numbarnn.engine.packing import unpack_recurrent
from numbarnn.engine.sums import (
    LEVEL_ROWS,
    ONE_BLOCK_ROWS,
    add_block,
    clear_block,
    end_level,
    end_sum,
)
from numbarnn.engine.tile import WEIGHT_CHUNK_ROWS
from numbarnn.jit.compile_cache import inlined, kernel, noinline
from numbarnn.jit.vector_memory import load, store
from numbarnn.jit.vectors import lane_count, zero_like


def _make_jobs(many_rows):
    """The body of `weight_gradients`; with `many_rows` for sums of any length, which takes twice as long to
    compile. Each branch on `many_rows` has it alone in its condition: Numba then leaves out what it skips."""

    def weight_gradient_jobs(part, job_cuts, panel_cuts, weights, inputs, h, dgates, partials, packed):
        dinput, drecurrent, dbias = packed
        x, x_rows = inputs.matrix, inputs.rows
        width, block, ranges = lane_count(dgates), groups_at_once(weights), panel_cuts.size - 1
        sum_count, product_width = sum_count_of(weights), product_width_of(weights)
        columns, x_stride, units = dgates.shape[1], x.shape[1], h.shape[1]
        features, hidden, panel = dinput.shape[1], drecurrent.shape[1], dinput.shape[2]
        split = sum_count - product_width
        dsums = np.empty((WEIGHT_CHUNK_ROWS, block * sum_count * width), dgates.dtype)
        # Rows one vector split from whole pages: columns are read from it, and rows a power of two split
        # would fall into the same few sets of the cache.
        h_before = np.empty((WEIGHT_CHUNK_ROWS, units + width), h.dtype)
        h_stride = units + width
        x_chunk = np.empty((WEIGHT_CHUNK_ROWS, x_stride + width), x.dtype)
        x_chunk_stride = x_stride + width
        group_panels = (block * product_width * width + panel - 1) // panel
        if many_rows:
            input_block = np.empty((group_panels, features, panel), x.dtype)
            recurrent_block = np.empty((group_panels, hidden, panel), x.dtype)
            clear_block(input_block)
            clear_block(recurrent_block)
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
            has_levels = many_rows and stop_row - first_row > LEVEL_ROWS
            first_panel = partial_panel + first_group * product_width * width // panel
            stop_panel = partial_panel + (stop_group * product_width * width + panel - 1) // panel
            first_column = partial_column + first_group * sum_count * width
            stop_column = partial_column + stop_group * sum_count * width
            _clear(dinput, drecurrent, dbias, first_panel, stop_panel, first_column, stop_column)
            for begin in range(first_row, stop_row, WEIGHT_CHUNK_ROWS):
                rows = min(WEIGHT_CHUNK_ROWS, stop_row - begin)
                done = begin + rows - first_row
                ends_level = has_levels and begin + rows < stop_row and done % LEVEL_ROWS == 0
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
                        stop * sum_count * width, dsums, dbias, partial_column, is_long,
                    )  # fmt: skip
                    vectors = (stop - first) * product_width
                    target = partial_panel + first * product_width * width // panel
                    input_begin, recurrent_begin = target * features * panel, target * hidden * panel
                    stop_target = target + (vectors * width + panel - 1) // panel
                    # One call of each product, into a block or the sums: two would be compiled twice.
                    input_sums, input_index = dinput, input_begin
                    recurrent_sums, recurrent_index = drecurrent, recurrent_begin
                    if many_rows:
                        if has_levels:
                            input_sums, input_index = input_block, 0
                            recurrent_sums, recurrent_index = recurrent_block, 0
                    multiply(
                        input_sums, input_index, panel, input_sums, input_index, panel, features * panel,
                        features, x_chunk, 0, 1, x_chunk_stride, 1, rows, 0,
                        dsums, 0, panel, dsums.shape[1], panel // width, 0, vectors,
                    )  # fmt: skip
                    multiply(
                        recurrent_sums, recurrent_index, panel, recurrent_sums, recurrent_index, panel,
                        hidden * panel, hidden, h_before, 0, 1, h_stride, 1, rows, 0,
                        dsums, split * width, panel, dsums.shape[1], panel // width, 0, vectors,
                    )  # fmt: skip
                    if many_rows:
                        if has_levels:
                            add_block(dinput, input_begin, stop_target * features * panel, input_block)
                            add_block(
                                drecurrent, recurrent_begin, stop_target * hidden * panel, recurrent_block
                            )
                        if ends_level:
                            is_first, size = done == LEVEL_ROWS, panel * level_panels
                            input_stop = stop_target * features * panel
                            recurrent_stop = stop_target * hidden * panel
                            end_level(dinput, input_begin, input_stop, features * size, is_first)
                            end_level(drecurrent, recurrent_begin, recurrent_stop, hidden * size, is_first)
                if many_rows:
                    if ends_level:
                        end_level(dbias, first_column, stop_column, level_columns, done == LEVEL_ROWS)
            if many_rows:
                if has_levels:
                    for sums in (dinput, drecurrent):
                        size = sums.shape[1] * panel
                        end_sum(sums, first_panel * size, stop_panel * size, level_panels * size)
                    end_sum(dbias, first_column, stop_column, level_columns)

    name = f"weight_gradient_jobs_{'many' if many_rows else 'few'}"
    weight_gradient_jobs.__name__ = weight_gradient_jobs.__qualname__ = name
    return inlined(weight_gradient_jobs)


_jobs_of_few_rows = _make_jobs(many_rows=False)
_jobs_of_many_rows = _make_jobs(many_rows=True)


@kernel
def weight_gradients(team, job_cuts, panel_cuts, weights, inputs, h, dgates, partials, packed):
    """Gradients of the parameters of one layer and direction, still packed and as partial sums.

    The steps are divided among partial sums: a thread that went through the rows of one has them in its
    cache. Within a partial sum, steps are added in the order given. Neither depends on the number of
    threads.

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
        the other.
    """
    fork(team, job_cuts.size - 1, _jobs_of_few_rows, job_cuts, panel_cuts, weights, inputs, h, dgates,
         partials, packed)  # fmt: skip


@kernel
def weight_gradients_of_many_rows(team, job_cuts, panel_cuts, weights, inputs, h, dgates, partials, packed):
    """`weight_gradients` for batches of more than `LEVEL_ROWS` rows: behind the partial sums `packed` has
    the other levels of the sums (``engine/sums.py``). Of fewer rows the gradients are the same to the last
    bit."""
    fork(team, job_cuts.size - 1, _jobs_of_many_rows, job_cuts, panel_cuts, weights, inputs, h, dgates,
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
def _clear(dinput, drecurrent, dbias, first_panel, stop_panel, first_column, stop_column):
    for panel in range(first_panel, stop_panel):
        for column in range(dinput.shape[2]):
            for k in range(dinput.shape[1]):
                dinput[panel, k, column] = 0.0
            for k in range(drecurrent.shape[1]):
                drecurrent[panel, k, column] = 0.0
    for column in range(first_column, stop_column):
        dbias[column] = 0.0


@noinline
def _copy_and_sum(dgates, rows, first_column, stop_column, dsums, dbias, bias_index, is_long):
    """Columns of some rows of dgates side by side in `dsums`, their sums added to `dbias` from an index on:
    row by row, or where there are many rows those of the chunk by themselves first."""
    width = lane_count(dgates)
    for column in range(first_column, stop_column, width):
        so_far = load(dbias, bias_index + column)
        rest, total = (so_far, zero_like(so_far)) if is_long else (zero_like(so_far), so_far)
        for k in range(rows.size):
            values = load(dgates, rows[k] * dgates.shape[1] + column)
            store(dsums, k * dsums.shape[1] + column - first_column, values)
            total = total + values
        store(dbias, bias_index + column, rest + total)
