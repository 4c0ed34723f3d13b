"""The time loops of the CPU, written once for every cell: forward, backward, weight gradients.

Notation: T steps, B rows, I inputs, H hidden units, G sums a unit (see
``cells/contract.py``), N valid steps of all rows together. A gradient has its array's name with d in front.

Rows are sorted by falling length. Step t touches the first ``active[t]`` rows; inputs and outputs of row b
stand at ``offset[t] + b`` in their arrays of N rows, so that padding exists nowhere. Gates and states are
kept in bands, one for each part of the rows (see ``layers/bands.py``): of part p, the gates of step t begin
at row ``gate_offset[p, t]`` of N, and the states number s at row ``state_offset[p, s]`` of B + N. Forward in
time, step t reads states t and writes states t + 1, and states 0 are the initial ones. In reverse, step t
reads states t + 1 and writes states t, and the initial state of a row is number ``length`` of that row.

Hidden units are padded to whole vectors, ``groups`` of them; padded lanes stay 0. Each part works on a
range of rows (or, for weight gradients, of panels) that no other thread touches.
"""

from typing import NamedTuple

import numpy as np

from numbarnn.cells import (
    cell_backward,
    cell_forward,
    load_sums,
    panel_vectors,
    product_width_of,
    sum_count_of,
)
from numbarnn.engine.barrier import arrive, leave, next_round
from numbarnn.engine.fork import fork
from numbarnn.engine.matmul import multiply, multiply_row
from numbarnn.engine.packing import unpack_recurrent
from numbarnn.engine.program import INPUT, OUTPUT, array_at
from numbarnn.engine.tile import WEIGHT_CHUNK_ROWS
from numbarnn.jit.compile_cache import inlined, kernel, noinline
from numbarnn.jit.cpu import PANEL_VECTORS
from numbarnn.jit.vectors import (
    lane_count,
    load,
    load_each,
    load_part,
    prefetch,
    prefetch_each,
    store,
    store_each,
    store_part,
    store_run,
)

SMALL_WEIGHTS_BYTES = 24 * 1024  # stay in the first-level cache from step to step, beside the other data
# The gradients of a batch of one row are summed by halves of a panel, so that more threads have a part.
HALF_PANEL = PANEL_VECTORS // 2
GATE_CHUNK_BYTES = 192 * 1024  # sums projected ahead of the steps that use them: they wait in the L2 cache
# Where threads share hidden units: enough for whole tiles, and the first of them is not shared.
ROWS_PROJECTED_AT_ONCE = 24


@inlined
def groups_at_once(weights):
    """Groups of hidden units whose sums fill one panel."""
    return max(1, panel_vectors(weights) // sum_count_of(weights))


@noinline
def project(weights, x, gates, x_row, gate_row, rows, first, stop):
    """sums = bias + W_i x for some rows and the groups of units from `first` to `stop`; the recurrent sums of
    split gates start at their bias."""
    width = lane_count(gates)
    sum_count, product_width = sum_count_of(weights), product_width_of(weights)
    gate_stride, x_stride = gates.shape[1], x.shape[1]
    inputs, panel = weights.input.shape[1], panel_vectors(weights) * width
    split = sum_count - product_width
    panel_step = sum_count * width if split else panel
    multiply(
        gates, gate_row * gate_stride, gate_stride, weights.bias, 0, 0, panel_step, rows,
        x, x_row * x_stride, x_stride, 1, 1, inputs, 0,
        weights.input, 0, inputs * panel, panel, panel // width, first * product_width, stop * product_width,
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
    panel_step = sum_count * width if split else panel
    corner = gate_row * gate_stride + split * width
    for i in range(first_panel, stop_panel):
        first = (i if upward else first_panel + stop_panel - 1 - i) * block
        stop = min(first + block, groups)
        if rows == 1:
            multiply_row(
                gates, corner, gates, corner, panel_step, states[0], previous_row * units, 1, 1, hidden, 0,
                weights.recurrent, 0, hidden * panel, panel, panel // width, first * product_width, stop *
                product_width,
            )  # fmt: skip
        else:
            multiply(
                gates, corner, gate_stride, gates, corner, gate_stride, panel_step, rows,
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
                saved, new = cell_forward(weights, sums, previous)
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
def _outputs(bindings, y_rows, y_starts, weights, like):
    """The caller's matrix of outputs, or one without rows where none is asked for."""
    return array_at(bindings[OUTPUT], y_rows if y_starts.size > 0 else 0, weights.recurrent.shape[1], like)


@inlined
def _forward_rows(part, arguments):
    (cuts, prefetches, weights, x, x_offset, x_in_bands, states, saved_gates, save, active, gate_offset,
     state_offset, reverse, bindings, y_rows, y_starts) = arguments  # fmt: skip
    row_start, row_stop = cuts[part], cuts[part + 1]
    row_count = row_stop - row_start
    if row_count == 0:
        return
    steps, gate_stride = active.size, saved_gates.shape[1]
    chunk = max(1, GATE_CHUNK_BYTES // (row_count * gate_stride * saved_gates.itemsize))
    gates = saved_gates if save else np.empty((chunk * row_count, gate_stride), saved_gates.dtype)
    y = _outputs(bindings, y_rows, y_starts, weights, saved_gates)
    groups = states[0].shape[1] // lane_count(gates)
    panels = -(-groups // groups_at_once(weights))
    for done in range(0, steps, chunk):
        count = min(chunk, steps - done)
        low = steps - done - count if reverse else done
        # Where a step's sums stand: in its band where they are saved, from 0 on in scratch.
        first_sum = 0 if save else gate_offset[part, low]
        if x_in_bands:
            first = gate_offset[part, low]
            rows = gate_offset[part, low + count] - first
            project(weights, x, gates, x_offset[part, low], first - first_sum, rows, 0, groups)
        else:
            for t in range(low, low + count):
                rows = min(row_stop, active[t]) - row_start
                if rows > 0:
                    gate_row = gate_offset[part, t] - first_sum
                    project(weights, x, gates, x_offset[part, t], gate_row, rows, 0, groups)
        for i in range(count):
            t = low + count - 1 - i if reverse else low + i
            rows = min(row_stop, active[t]) - row_start
            if rows > 0:
                gate_row = gate_offset[part, t] - first_sum
                previous_row, new_row = state_offset[part, t + reverse], state_offset[part, t + 1 - reverse]
                ahead = new_row - previous_row if prefetches else 0
                step_forward(
                    weights, states, gates, save, gate_row, previous_row, new_row, rows, 0, panels, t, y,
                    y_starts, row_start, ahead, chunk * ahead,
                )  # fmt: skip


@kernel
def forward(team, cuts, prefetches, weights, x, x_offset, x_in_bands, states, gates, save, active,
            gate_offset, state_offset, reverse, bindings, y_rows, y_starts):  # fmt: skip
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
    x : array (at least N, at least I)
        Inputs.
    x_offset : int64 array (parts, at least T)
        Where the inputs of part p at step t begin.
    x_in_bands : bool
        Whether a part's inputs of one step follow those of the step before.
    states : tuple of arrays (B + N, H padded)
        h first; initial states in, all states out.
    gates : array (N, G * H padded)
        What backward needs, out. With ``save=False`` it may have no rows: only its width is read.
    save : bool
        Whether `gates` is saved for backward.
    active : int64 array (T,)
        The layout, see the module's docstring.
    gate_offset, state_offset : int64 arrays (parts, T + 1)
        The bands of gates and states.
    reverse : bool
        Whether time runs backwards.
    bindings, y_rows, y_starts
        The outputs go to the caller's matrix (y_rows, H) of the binding OUTPUT as well, in which the
        sequence at position b begins at row ``y_starts[b]``; nowhere if that is empty.
    """
    arguments = (cuts, prefetches, weights, x, x_offset, x_in_bands, states, gates, save, active, gate_offset,
                 state_offset, reverse, bindings, y_rows, y_starts)  # fmt: skip
    fork(team, cuts.size - 1, _forward_rows, arguments)


@inlined
def _forward_units(part, arguments):
    (barrier, cuts, weights, x, x_offset, _, states, gates, save, active, gate_offset, state_offset, reverse,
     bindings, y_rows, y_starts) = arguments  # fmt: skip
    steps, block = active.size, groups_at_once(weights)
    y = _outputs(bindings, y_rows, y_starts, weights, gates)
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
                weights, x, gates, x_offset[0, low], gate_row - first_sum, rows, first_panel * block,
                min(stop_panel * block, groups),
            )  # fmt: skip
        t = steps - 1 - done if reverse else done
        if active[t] > 0:
            step_forward(
                weights, states, gates, save, gate_offset[0, t] - first_sum, state_offset[0, t + reverse],
                state_offset[0, t + 1 - reverse], active[t], first_panel, stop_panel, t, y, y_starts, 0, 0, 0,
            )  # fmt: skip
        done += 1
    leave(barrier, done)


@kernel
def forward_by_units(team, barrier, cuts, weights, x, x_offset, x_in_bands, states, gates, save, active,
                     gate_offset, state_offset, reverse, bindings, y_rows, y_starts):  # fmt: skip
    """`forward`, with hidden units divided among threads: `cuts` are between panels, with a barrier at every
    step.

    Each thread reads its part of the weights alone, which matters where they do not fit its cache, and has
    work where there are fewer rows than threads. There is one band, in which inputs stand too. With
    ``save=False`` `gates` needs `ROWS_PROJECTED_AT_ONCE` rows, or B if that is more.
    """
    arguments = (barrier, cuts, weights, x, x_offset, x_in_bands, states, gates, save, active, gate_offset,
                 state_offset, reverse, bindings, y_rows, y_starts)  # fmt: skip
    fork(team, cuts.size - 1, _forward_units, arguments)


class OutputGradient(NamedTuple):
    """Where backward finds the gradient of the outputs of one direction."""

    matrix: np.ndarray  # (N, at least column + H)
    column: int  # its first one of this direction
    offset: np.ndarray  # int64 (parts, at least T): where that of part p at step t begins
    is_given: bool  # False: only the final states have a gradient, and nothing is read here
    # Unless `starts` is empty, the gradient is not in `matrix` but in the caller's one, of `caller_rows` rows
    # and as wide, of the binding INPUT: the sequence at position b begins at its row starts[b].
    caller_rows: int
    starts: np.ndarray


@inlined
def _matrix_of(given, bindings):
    """The matrix that an `OutputGradient` is in."""
    matrix = given.matrix
    if given.starts.size == 0:
        return matrix
    return array_at(bindings[INPUT], given.caller_rows, matrix.shape[1], matrix)


@inlined
def _cell_backward_rows(weights, states, gates, dy, given, part, first_position, t, dstates, rows, gate_row,
                        previous_row, new_row, dstate_row, first_group, stop_group, backwards,
                        ahead):  # fmt: skip
    """Through the cell of one step for some rows and groups of units: the sums become their gradients.

    If `ahead` is not 0, what is read is prefetched, that number of rows ahead.
    """
    width = lane_count(gates)
    sum_count = sum_count_of(weights)
    gate_stride, units = gates.shape[1], states[0].shape[1]
    hidden = weights.recurrent.shape[1]
    whole_groups = hidden // width
    for b in range(rows):
        dy_row = given.starts[first_position + b] + t if given.starts.size > 0 else given.offset[part, t] + b
        for i in range(first_group, stop_group):
            group = first_group + stop_group - 1 - i if backwards else i
            here = (gate_row + b) * gate_stride + group * sum_count * width
            unit = group * width
            dstate_index = (dstate_row + b) * units + unit
            dnew = load_each(dstates, dstate_index)
            if given.is_given:
                index = dy_row * dy.shape[1] + given.column + unit
                if group < whole_groups:
                    dh = dnew[0] + load(dy, index)
                else:
                    dh = dnew[0] + load_part(dy, index, hidden - unit)
                dnew = (dh,) + dnew[1:]  # noqa: RUF005 (Numba does not unpack here)
                if ahead != 0:
                    prefetch(dy, index + (dy.shape[1] if ahead > 0 else -dy.shape[1]))
            if ahead != 0:
                prefetch_each(states, (previous_row + b + ahead) * units + unit)
                for s in range(sum_count):
                    prefetch(gates, here + ahead * gate_stride + s * width)
            saved = load_sums(weights, gates, here)
            previous = load_each(states, (previous_row + b) * units + unit)
            new = load_each(states, (new_row + b) * units + unit)
            dsums, dprevious = cell_backward(weights, saved, previous, new, dnew)
            store_run(gates, here, dsums)
            store_each(dstates, dstate_index, dprevious)


@inlined
def _recurrent_backward_rows(weights, recurrent_transposed, gates, dstates, rows, gate_row, dstate_row,
                             first_group, stop_group, backwards, one_row):  # fmt: skip
    """dh += dsums @ W_h for some rows and the units of some groups, the first of which begins a panel.

    `one_row` says that this is the whole batch; then half a panel will do.
    """
    width = lane_count(gates)
    sum_count, product_width = sum_count_of(weights), product_width_of(weights)
    gate_stride, units = gates.shape[1], dstates[0].shape[1]
    groups, corner = units // width, (sum_count - product_width) * width
    k_run, panel = product_width * width, PANEL_VECTORS * width
    first_k, sign = (groups * k_run - 1, -1) if backwards else (0, 1)
    first_gate = (groups - 1) * sum_count * width + k_run - 1 if backwards else 0
    gate = gate_row * gate_stride + corner + first_gate
    if rows == 1 and (one_row or not backwards):
        at_once = HALF_PANEL if one_row else PANEL_VECTORS
        for first in range(first_group, stop_group, at_once):
            panel_begin = first - first % PANEL_VECTORS
            index = dstate_row * units + first * width
            here = panel_begin // PANEL_VECTORS * groups * k_run * panel + (first - panel_begin) * width
            vectors = min(at_once, stop_group - first)
            if backwards:
                multiply_row(
                    dstates[0], index, dstates[0], index, 0, gates, gate, -1, groups, k_run,
                    -sum_count * width, recurrent_transposed, here + first_k * panel, 0, -panel, HALF_PANEL,
                    0, vectors,
                )  # fmt: skip
            else:
                multiply_row(
                    dstates[0], index, dstates[0], index, 0, gates, gate, 1, groups, k_run,
                    sum_count * width, recurrent_transposed, here, 0, panel, at_once, 0, vectors,
                )  # fmt: skip
    else:
        multiply(
            dstates[0], dstate_row * units, units, dstates[0], dstate_row * units, units, panel, rows,
            gates, gate, gate_stride, sign, groups, k_run, sign * sum_count * width,
            recurrent_transposed, first_k * panel, groups * k_run * panel, sign * panel, panel // width,
            first_group, stop_group,
        )  # fmt: skip


@inlined
def _sweeps_back(weights, gates, t):
    """Whether the backward product of step t runs through k from its end.

    Weights that the first-level cache cannot hold are read so at every other step: what the step before read
    last is still in the cache. The gradients of the sums are then made in the same order, for a number is
    slow to read just after it was written.
    """
    hidden = weights.recurrent.shape[1]
    return t % 2 == 1 and gates.shape[1] * hidden * gates.itemsize > SMALL_WEIGHTS_BYTES


@inlined
def _backward_rows(part, arguments):
    (cuts, prefetches, weights, recurrent_transposed, states, gates, given, bindings, dstates, active,
     gate_offset, state_offset, dstate_offset, reverse) = arguments  # fmt: skip
    row_start, row_stop = cuts[part], cuts[part + 1]
    dy = _matrix_of(given, bindings)
    groups = states[0].shape[1] // lane_count(gates)
    for done in range(active.size):
        t = done if reverse else active.size - 1 - done
        rows = min(row_stop, active[t]) - row_start
        if rows <= 0:
            continue
        backwards, gate_row = _sweeps_back(weights, gates, t), gate_offset[part, t]
        previous_row, new_row = state_offset[part, t + reverse], state_offset[part, t + 1 - reverse]
        ahead = previous_row - new_row if prefetches else 0
        _cell_backward_rows(
            weights, states, gates, dy, given, part, row_start, t, dstates, rows, gate_row, previous_row,
            new_row, dstate_offset[part], 0, groups, backwards, ahead,
        )  # fmt: skip
        _recurrent_backward_rows(
            weights, recurrent_transposed, gates, dstates, rows, gate_row, dstate_offset[part], 0, groups,
            backwards, active[0] == 1,
        )  # fmt: skip


@kernel
def backward(team, cuts, prefetches, weights, recurrent_transposed, states, gates, given, bindings, dstates,
             active, gate_offset, state_offset, dstate_offset, reverse):  # fmt: skip
    """Backward of `forward`.

    Parameters
    ----------
    team, cuts, weights, states, gates, active, gate_offset, state_offset, reverse
        As `forward` left them; `gates` becomes the gradient of the sums.
    prefetches : bool
        Whether what one step reads is prefetched while the step before runs.
    recurrent_transposed : array (panels, groups * product_width * lanes, panel width)
        W_h, packed for the product ``dsums @ W_h``.
    given : OutputGradient
        The gradient of the outputs.
    bindings
        The caller's arrays.
    dstates : tuple of arrays (at least B, H padded)
        Gradients of the final states in, of the initial states out; part p's begin at row
        ``dstate_offset[p]``. A row that is not active keeps its value, so one that has not begun waits with
        its final state's and one that has left is done.
    """
    arguments = (cuts, prefetches, weights, recurrent_transposed, states, gates, given, bindings, dstates,
                 active, gate_offset, state_offset, dstate_offset, reverse)  # fmt: skip
    fork(team, cuts.size - 1, _backward_rows, arguments)


@inlined
def _backward_units(part, arguments):
    (barrier, cuts, weights, recurrent_transposed, states, gates, given, bindings, dstates, active,
     gate_offset, state_offset, dstate_offset, reverse) = arguments  # fmt: skip
    steps, groups = active.size, states[0].shape[1] // lane_count(gates)
    dy = _matrix_of(given, bindings)
    done = arrive(barrier, part)
    while done <= steps:
        first_part, stop_part = next_round(barrier, part, done)
        first, stop = cuts[first_part], min(cuts[stop_part], groups)
        # A round is the product of one step, which needs all gradients of its sums, and the cell of the next.
        if done > 0:
            t = done - 1 if reverse else steps - done
            if active[t] > 0:
                _recurrent_backward_rows(
                    weights, recurrent_transposed, gates, dstates, active[t], gate_offset[0, t],
                    dstate_offset[0], first, stop, _sweeps_back(weights, gates, t), active[0] == 1,
                )  # fmt: skip
        if done < steps:
            t = done if reverse else steps - 1 - done
            _cell_backward_rows(
                weights, states, gates, dy, given, 0, 0, t, dstates, active[t], gate_offset[0, t],
                state_offset[0, t + reverse], state_offset[0, t + 1 - reverse], dstate_offset[0], first, stop,
                _sweeps_back(weights, gates, t), 0,
            )  # fmt: skip
        done += 1
    leave(barrier, done)


@kernel
def backward_by_units(team, barrier, cuts, weights, recurrent_transposed, states, gates, given, bindings,
                      dstates, active, gate_offset, state_offset, dstate_offset, reverse):  # fmt: skip
    """`backward`, with hidden units divided among threads: `cuts` are between vectors of them, each at the
    beginning of a panel of `recurrent_transposed`, or of half a panel where the batch is one row."""
    arguments = (barrier, cuts, weights, recurrent_transposed, states, gates, given, bindings, dstates,
                 active, gate_offset, state_offset, dstate_offset, reverse)  # fmt: skip
    fork(team, cuts.size - 1, _backward_units, arguments)


@inlined
def _input_gradient_rows(part, arguments):
    (cuts, weights, input_transposed, dgates, start, start_stride, dx, dx_offset, dx_in_bands, active,
     gate_offset) = arguments  # fmt: skip
    parts = cuts.size - 1
    width = lane_count(dgates)
    sum_count, product_width = sum_count_of(weights), product_width_of(weights)
    gate_stride, dx_stride = dgates.shape[1], dx.shape[1]
    groups, panel = gate_stride // (sum_count * width), PANEL_VECTORS * width
    k_run = product_width * width
    for t in range(1 if dx_in_bands else active.size):
        if dx_in_bands:
            # Row by row alike: any part of all rows will do.
            total = gate_offset[-1, -1]
            first = gate_row = total * part // parts
            rows = total * (part + 1) // parts - first
        else:
            first, gate_row = dx_offset[part, t], gate_offset[part, t]
            rows = min(cuts[part + 1], active[t]) - cuts[part]
        if rows <= 0:
            continue
        multiply(
            dx, first * dx_stride, dx_stride, start, first * start_stride, start_stride, panel, rows,
            dgates, gate_row * gate_stride, gate_stride, 1, groups, k_run, sum_count * width,
            input_transposed, 0, groups * k_run * panel, panel, panel // width, 0, dx_stride // width,
        )  # fmt: skip


@kernel
def input_gradients(team, cuts, weights, input_transposed, dgates, start, start_stride, dx, dx_offset,
                    dx_in_bands, active, gate_offset):  # fmt: skip
    """dx = start + dsums @ W_i.

    Parameters
    ----------
    input_transposed : array (panels, groups * product_width * lanes, panel width)
        W_i, packed for this product.
    dgates : array (N, G * H padded)
        The gradient of the sums, from `backward`.
    start, start_stride
        dx itself and its row stride to add to it, or a row of zeros and 0.
    dx : array (N, I padded)
        Out.
    dx_offset, dx_in_bands
        Where that of part p at step t begins; or each row of dx stands where its row of `dgates` does, and
        of `cuts` only the number counts.
    """
    arguments = (cuts, weights, input_transposed, dgates, start, start_stride, dx, dx_offset, dx_in_bands,
                 active, gate_offset)  # fmt: skip
    fork(team, cuts.size - 1, _input_gradient_rows, arguments)


@inlined
def _weight_gradient_jobs(part, arguments):
    (job_cuts, panel_cuts, weights, x, x_rows, h, dgates, partial_offset, previous_rows, gate_rows,
     packed) = arguments  # fmt: skip
    dinput, drecurrent, dbias = packed
    width, block, ranges = lane_count(dgates), groups_at_once(weights), panel_cuts.size - 1
    sum_count, product_width = sum_count_of(weights), product_width_of(weights)
    columns, x_stride, units = dgates.shape[1], x.shape[1], h.shape[1]
    inputs, hidden, panel = dinput.shape[1], drecurrent.shape[1], dinput.shape[2]
    split = sum_count - product_width
    dsums = np.empty((WEIGHT_CHUNK_ROWS, block * sum_count * width), dgates.dtype)
    # Rows one vector split from whole pages: columns are read from it, and rows a power of two split would
    # fall into the same few sets of the cache.
    h_before = np.empty((WEIGHT_CHUNK_ROWS, units + width), h.dtype)
    h_stride = units + width
    x_chunk = np.empty((WEIGHT_CHUNK_ROWS, x_stride + width), x.dtype)
    x_chunk_stride = x_stride + width
    k_stride = dsums.shape[1]
    panel_step = sum_count * width if split else panel
    for job in range(job_cuts[part], job_cuts[part + 1]):
        partial, i = job // ranges, job % ranges
        first_group = panel_cuts[i] * block
        stop_group = min(panel_cuts[i + 1] * block, columns // (sum_count * width))
        partial_panel, partial_column = partial * weights.input.shape[0], partial * columns
        _clear(
            dinput, drecurrent, dbias, partial_panel + first_group * product_width * width // panel,
            partial_panel + (stop_group * product_width * width + panel - 1) // panel,
            partial_column + first_group * sum_count * width, partial_column + stop_group * sum_count * width,
        )  # fmt: skip
        for begin in range(partial_offset[partial], partial_offset[partial + 1], WEIGHT_CHUNK_ROWS):
            rows = min(WEIGHT_CHUNK_ROWS, partial_offset[partial + 1] - begin)
            for k in range(rows):
                source, target = previous_rows[begin + k] * units, k * h_stride
                for unit in range(0, units, width):
                    store(h_before, target + unit, load(h, source + unit))
                source, target = x_rows[begin + k] * x_stride, k * x_chunk_stride
                for column in range(0, x_stride, width):
                    store(x_chunk, target + column, load(x, source + column))
            for first in range(first_group, stop_group, block):
                stop = min(first + block, stop_group)
                _copy_and_sum(
                    dgates, gate_rows[begin : begin + rows], first * sum_count * width,
                    stop * sum_count * width, dsums, dbias, partial_column,
                )  # fmt: skip
                vectors = (stop - first) * product_width
                target = partial_panel + first * product_width * width // panel
                multiply(
                    dinput, target * inputs * panel, panel, dinput, target * inputs * panel, panel,
                    inputs * panel, inputs, x_chunk, 0, 1, x_chunk_stride, 1, rows, 0,
                    dsums, 0, panel_step, k_stride, panel // width, 0, vectors,
                )  # fmt: skip
                multiply(
                    drecurrent, target * hidden * panel, panel, drecurrent, target * hidden * panel, panel,
                    hidden * panel, hidden, h_before, 0, 1, h_stride, 1, rows, 0,
                    dsums, split * width, panel_step, k_stride, panel // width, 0, vectors,
                )  # fmt: skip


@kernel
def weight_gradients(team, job_cuts, panel_cuts, weights, x, x_rows, h, dgates, partial_offset, previous_rows,
                     gate_rows, packed):  # fmt: skip
    """Gradients of the parameters of one layer and direction, still packed and as partial sums.

    The steps are divided among partial sums: a thread that went through the rows of one has them in its
    cache. Within a partial sum, steps are added in the order given. Neither depends on the number of threads.

    Parameters
    ----------
    team, job_cuts, panel_cuts
        The threads, the cuts between their jobs, and those between ranges of panels. A job is one partial
        sum and one range of panels; those of a partial sum follow one another.
    x, h, dgates : arrays (at least N, at least I), (B + N, H padded), (N, G * H padded)
        Inputs, all states and the gradient of the sums.
    partial_offset : int64 array (partials + 1,)
        Partial sum s has the steps from number ``partial_offset[s]`` to ``partial_offset[s + 1]``.
    x_rows, previous_rows, gate_rows : int64 arrays (at least N,)
        The row of `x` and the one of `h` that each step read, and its row in `dgates`.
    packed : tuple of arrays
        Out: the gradients in the form of the packed weights (input, recurrent, bias), one partial sum after
        the other.
    """
    arguments = (job_cuts, panel_cuts, weights, x, x_rows, h, dgates, partial_offset, previous_rows,
                 gate_rows, packed)  # fmt: skip
    fork(team, job_cuts.size - 1, _weight_gradient_jobs, arguments)


@inlined
def _add_partials(values, size, first, stop):
    """The elements from `first` to `stop` of the first `size` get the sum of themselves and of what is
    `size`, 2 `size` ... elements behind them."""
    for partial_begin in range(size, values.size, size):
        for i in range(first, stop, lane_count(values)):
            store(values, i, load(values, i) + load(values, partial_begin + i))


@inlined
def _collect_groups(part, arguments):
    cuts, weights, packed, input_map, recurrent_map, gradients = arguments
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
        From `weight_gradients`.
    input_map, recurrent_map : int64 arrays
        The column maps of the packed weights.
    gradients : tuple of arrays
        weight_ih, weight_hh, bias_ih and bias_hh, out.
    """
    arguments = (cuts, weights, packed, input_map, recurrent_map, gradients)
    fork(team, cuts.size - 1, _collect_groups, arguments)


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
def _copy_and_sum(dgates, rows, first_column, stop_column, dsums, dbias, bias_index):
    """Columns of some rows of dgates side by side in `dsums`, their sums added to `dbias` from an index
    on."""
    width = lane_count(dgates)
    for column in range(first_column, stop_column, width):
        total = load(dbias, bias_index + column)
        for k in range(rows.size):
            values = load(dgates, rows[k] * dgates.shape[1] + column)
            store(dsums, k * dsums.shape[1] + column - first_column, values)
            total = total + values
        store(dbias, bias_index + column, total)


@inlined
def _copy_output_rows(part, arguments):
    cuts, band_cuts, h, y, column, hidden, active, offset, state_offset, reverse = arguments
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
def copy_outputs(team, cuts, band_cuts, h, y, column, hidden, active, offset, state_offset, reverse):
    """The outputs of one direction, kept in bands, into columns of y (N, at least column + H)."""
    arguments = (cuts, band_cuts, h, y, column, hidden, active, offset, state_offset, reverse)
    fork(team, cuts.size - 1, _copy_output_rows, arguments)
