"""All time steps of one layer and direction, forward; ``scan/__init__.py`` explains the notation."""

import numpy as np

from numbarnn.cells import (
    cell_forward,
    groups_at_once,
    load_sums,
    panel_vectors,
    product_width_of,
    sum_count_of,
)
from numbarnn.engine.barrier import arrive, leave, next_round
from numbarnn.engine.fork import fork
from numbarnn.engine.matmul import multiply, multiply_row
from numbarnn.engine.rows import output_matrix
from numbarnn.jit.compile_cache import inlined, kernel, noinline
from numbarnn.jit.vector_memory import (
    load,
    load_each,
    prefetch,
    prefetch_each,
    store,
    store_each,
    store_part,
    store_run,
)
from numbarnn.jit.vectors import lane_count

GATE_CHUNK_BYTES = 192 * 1024  # sums projected ahead of the steps that use them: they wait in the L2 cache
# Where threads share hidden units: enough for whole tiles, and the first of them is not shared.
ROWS_PROJECTED_AT_ONCE = 24


@noinline
def project(weights, x, gates, x_row, gate_row, rows, first, stop):
    """sums = bias + W_i x for some rows and the groups of units from `first` to `stop`; the recurrent sums of
    split gates start at their bias."""
    width = lane_count(gates)
    sum_count, product_width = sum_count_of(weights), product_width_of(weights)
    gate_stride, x_stride = gates.shape[1], x.shape[1]
    inputs, panel = weights.input.shape[1], panel_vectors(weights) * width
    split = sum_count - product_width
    one_panel = product_width == panel_vectors(weights)  # for each group of units
    panel_step = sum_count * width if one_panel else panel
    # Where sums of split gates lie between groups of several panels, each group is a product of its own.
    between = 0 if one_panel else split * width
    at_once = 1 if between > 0 else max(1, stop - first)
    for group in range(first, stop, at_once):
        skipped = group * between
        multiply(
            gates, gate_row * gate_stride + skipped, gate_stride, weights.bias, skipped, 0, panel_step, rows,
            x, x_row * x_stride, x_stride, 1, 1, inputs, 0,
            weights.input, 0, inputs * panel, panel, panel // width, group * product_width,
            (group + at_once) * product_width,
        )  # fmt: skip
    for row in range(gate_row, gate_row + rows):
        for group in range(first, stop):
            for s in range(product_width, sum_count):
                index = (group * sum_count + s) * width
                store(gates, row * gate_stride + index, load(weights.bias, index))


@inlined
def step_forward(weights, states, gates, save, gate_row, previous_row, new_row, rows, first_panel, stop_panel,
                 t, y, y_starts, first_position, states_ahead, gates_ahead):  # fmt: skip
    """One time step of some rows: the recurrent product and the cell, one panel of units after the other.

    The order of panels alternates from step to step: the last ones of the step before are still in the cache.
    Outputs of position b go to row ``y_starts[b] + t`` of `y` too, unless `y_starts` is empty. If
    `states_ahead` is not 0, what is written is prefetched, that number of rows ahead (`gates_ahead` for
    gates).
    """
    upward = t % 2 == 0
    width = lane_count(gates)
    sum_count, product_width = sum_count_of(weights), product_width_of(weights)
    gate_stride, units = gates.shape[1], states[0].shape[1]
    hidden, panel = weights.recurrent.shape[1], panel_vectors(weights) * width
    groups, block = units // width, groups_at_once(weights)
    split = sum_count - product_width
    for i in range(first_panel, stop_panel):
        first = (i if upward else first_panel + stop_panel - 1 - i) * block
        stop = min(first + block, groups)
        # The sums of a block fill whole panels; between two blocks are those of split gates.
        corner = gate_row * gate_stride + (first + 1) * split * width
        if rows == 1:
            multiply_row(
                gates, corner, gates, corner, panel, states[0], previous_row * units, 1, 1, hidden, 0,
                weights.recurrent, 0, hidden * panel, panel, panel // width, first * product_width, stop *
                product_width,
            )  # fmt: skip
        else:
            multiply(
                gates, corner, gate_stride, gates, corner, gate_stride, panel, rows,
                states[0], previous_row * units, units, 1, 1, hidden, 0,
                weights.recurrent, 0, hidden * panel, panel, panel // width, first * product_width, stop *
                product_width,
            )  # fmt: skip
        for b in range(rows):
            for group in range(first, stop):
                here = (gate_row + b) * gate_stride + group * sum_count * width
                unit = group * width
                sums = load_sums(weights, gates, here)
                previous = load_each(states, (previous_row + b) * units + unit)
                saved, new = cell_forward(weights, group, sums, previous)
                if save:
                    store_run(gates, here, saved)
                store_each(states, (new_row + b) * units + unit, new)
                if states_ahead != 0:
                    prefetch_each(states, (new_row + b + states_ahead) * units + unit)
                    if save:
                        for s in range(sum_count):
                            prefetch(gates, here + gates_ahead * gate_stride + s * width)
                if y_starts.size > 0:
                    index = (y_starts[first_position + b] + t) * hidden + unit
                    if states_ahead != 0:
                        prefetch(y, index + (hidden if states_ahead > 0 else -hidden))
                    if hidden - unit >= width:
                        store(y, index, new[0])
                    else:
                        store_part(y, index, new[0], hidden - unit)


@inlined
def _forward_rows(part, cuts, prefetches, weights, inputs, states, saved_gates, save, index, reverse, caller):
    active, gate_offset, state_offset = index.active, index.gate_offset, index.state_offset
    row_start, row_stop = cuts[part], cuts[part + 1]
    row_count = row_stop - row_start
    if row_count == 0:
        return
    steps, gate_stride = active.size, saved_gates.shape[1]
    chunk = max(1, GATE_CHUNK_BYTES // (row_count * gate_stride * saved_gates.itemsize))
    gates = saved_gates if save else np.empty((chunk * row_count, gate_stride), saved_gates.dtype)
    y = output_matrix(caller, saved_gates)
    groups = states[0].shape[1] // lane_count(gates)
    panels = -(-groups // groups_at_once(weights))
    for done in range(0, steps, chunk):
        count = min(chunk, steps - done)
        low = steps - done - count if reverse else done
        # Where a step's sums stand: in its band where they are saved, from 0 on in scratch.
        first_sum = 0 if save else gate_offset[part, low]
        if inputs.in_bands:
            first = gate_offset[part, low]
            rows = gate_offset[part, low + count] - first
            x_row = inputs.offset[part, low]
            project(weights, inputs.matrix, gates, x_row, first - first_sum, rows, 0, groups)
        else:
            for t in range(low, low + count):
                rows = min(row_stop, active[t]) - row_start
                if rows > 0:
                    gate_row = gate_offset[part, t] - first_sum
                    project(weights, inputs.matrix, gates, inputs.offset[part, t], gate_row, rows, 0, groups)
        for i in range(count):
            t = low + count - 1 - i if reverse else low + i
            rows = min(row_stop, active[t]) - row_start
            if rows > 0:
                gate_row = gate_offset[part, t] - first_sum
                previous_row, new_row = state_offset[part, t + reverse], state_offset[part, t + 1 - reverse]
                ahead = new_row - previous_row if prefetches else 0
                step_forward(
                    weights, states, gates, save, gate_row, previous_row, new_row, rows, 0, panels, t, y,
                    caller.starts, row_start, ahead, chunk * ahead,
                )  # fmt: skip


@kernel
def forward(team, cuts, prefetches, weights, inputs, states, gates, save, index, reverse, caller):
    """All time steps of all rows.

    Parameters
    ----------
    team, cuts
        The threads, and the cuts between the rows of one part and the next.
    prefetches : bool
        Whether what one step writes is prefetched while the step before runs (gates: while
        those of the chunk before are used). It pays where the arrays are larger than caches.
    weights : NamedTuple
        The cell's packed weights.
    inputs : Inputs
        The inputs, each part a band.
    states : tuple of arrays (B + N, H padded)
        h first; initial states in, all states out.
    gates : array (N, G * H padded)
        What backward needs, out. With ``save=False`` it may have no rows: only its width is read.
    save : bool
        Whether `gates` is saved for backward.
    index : BandIndex
        The layout, and the bands of gates and states.
    reverse : bool
        Whether time runs backwards.
    caller : CallerMatrix
        The outputs go to the caller's matrix of the binding OUTPUT as well, in which the sequence at
        position b begins at row ``starts[b]``; nowhere if it has no rows and no starts.
    """
    fork(team, cuts.size - 1, _forward_rows, cuts, prefetches, weights, inputs, states, gates, save, index,
         reverse, caller)  # fmt: skip


@inlined
def _forward_units(part, barrier, cuts, weights, inputs, states, gates, save, index, reverse, caller):
    active, gate_offset, state_offset = index.active, index.gate_offset, index.state_offset
    steps, block = active.size, groups_at_once(weights)
    y = output_matrix(caller, gates)
    groups = states[0].shape[1] // lane_count(gates)
    chunk = max(1, ROWS_PROJECTED_AT_ONCE // active[0])
    done = arrive(barrier, part)
    while done < steps:
        first_part, stop_part = next_round(barrier, part, done)
        first_panel, stop_panel = cuts[first_part], cuts[stop_part]
        chunk_begin = done - done % chunk
        count = min(chunk, steps - chunk_begin)
        low = steps - chunk_begin - count if reverse else chunk_begin
        # Sums that are not saved stand from 0 on.
        first_sum = 0 if save else gate_offset[0, low]
        if done == chunk_begin:
            gate_row = gate_offset[0, low]
            rows = gate_offset[0, low + count] - gate_row
            project(
                weights, inputs.matrix, gates, inputs.offset[0, low], gate_row - first_sum, rows,
                first_panel * block, min(stop_panel * block, groups),
            )  # fmt: skip
        t = steps - 1 - done if reverse else done
        if active[t] > 0:
            step_forward(
                weights, states, gates, save, gate_offset[0, t] - first_sum, state_offset[0, t + reverse],
                state_offset[0, t + 1 - reverse], active[t], first_panel, stop_panel, t, y, caller.starts, 0,
                0, 0,
            )  # fmt: skip
        done += 1
    leave(barrier, done)


@kernel
def forward_by_units(team, barrier, cuts, weights, inputs, states, gates, save, index, reverse, caller):
    """`forward`, with hidden units divided among threads: `cuts` are between panels, with a barrier at every
    step.

    Each thread reads its part of the weights alone, which matters where they do not fit its cache, and has
    work where there are fewer rows than threads. There is one band, in which inputs stand too. With
    ``save=False`` `gates` needs `ROWS_PROJECTED_AT_ONCE` rows, or B if that is more.
    """
    fork(team, cuts.size - 1, _forward_units, barrier, cuts, weights, inputs, states, gates, save, index,
         reverse, caller)  # fmt: skip


@inlined
def _copy_output_rows(part, cuts, band_cuts, h, y, column, hidden, index, reverse):
    active, offset, state_offset = index.active, index.offset, index.state_offset
    width, units, y_stride = lane_count(y), h.shape[1], y.shape[1]
    for band in range(band_cuts.size - 1):
        first = max(cuts[part], band_cuts[band])
        for t in range(active.size):
            source = state_offset[band, t + 1 - reverse] - band_cuts[band]
            for b in range(first, min(cuts[part + 1], band_cuts[band + 1], active[t])):
                source_index, target_index = (source + b) * units, (offset[t] + b) * y_stride + column
                for unit in range(0, hidden, width):
                    values = load(h, source_index + unit)
                    if hidden - unit >= width:
                        store(y, target_index + unit, values)
                    else:
                        store_part(y, target_index + unit, values, hidden - unit)


@kernel
def copy_outputs(team, cuts, band_cuts, h, y, column, hidden, index, reverse):
    """The outputs of one direction, kept in bands, into columns of y (N, at least column + H)."""
    fork(team, cuts.size - 1, _copy_output_rows, cuts, band_cuts, h, y, column, hidden, index, reverse)
