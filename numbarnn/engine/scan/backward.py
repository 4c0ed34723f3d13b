"""All time steps of one layer and direction, backward; ``scan/__init__.py`` explains the notation."""

from typing import NamedTuple

import numpy as np

from numbarnn.cells import cell_backward, load_sums, product_width_of, sum_count_of
from numbarnn.engine.barrier import arrive, leave, next_round
from numbarnn.engine.fork import fork
from numbarnn.engine.matmul import multiply, multiply_row
from numbarnn.engine.rows import input_matrix
from numbarnn.engine.sums import LEVELS, SUMMED_AT_ONCE, move_block
from numbarnn.jit.compile_cache import inlined, kernel
from numbarnn.jit.cpu import PANEL_VECTORS
from numbarnn.jit.vector_memory import (
    load,
    load_each,
    load_part,
    prefetch,
    prefetch_each,
    store_each,
    store_run,
)
from numbarnn.jit.vectors import lane_count

SMALL_WEIGHTS_BYTES = 24 * 1024  # stay in the first-level cache from step to step, beside the other data
# The gradients of a batch of one row are summed by halves of a panel, so that more threads have a part.
HALF_PANEL = PANEL_VECTORS // 2


class OutputGradient(NamedTuple):
    """Where backward finds the gradient of the outputs of one direction."""

    matrix: np.ndarray  # (N, at least column + H)
    column: int  # its first one of this direction
    offset: np.ndarray  # int64 (parts, at least T): where that of part p at step t begins
    is_given: bool  # False: only the final states have a gradient, and nothing is read here


@inlined
def _matrix_of(given, caller):
    """The matrix that an `OutputGradient` is in: the caller's one if that has rows."""
    return given.matrix if caller.starts.size == 0 else input_matrix(caller, given.matrix)


@inlined
def _cell_backward_rows(weights, states, gates, dy, given, starts, part, first_position, t, dstates, rows,
                        gate_row, previous_row, new_row, dstate_row, first_group, stop_group, backwards,
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
        dy_row = starts[first_position + b] + t if starts.size > 0 else given.offset[part, t] + b
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
            dsums, dprevious = cell_backward(weights, group, saved, previous, new, dnew)
            store_run(gates, here, dsums)
            store_each(dstates, dstate_index, dprevious)


@inlined
def _end_vector_blocks(states, dstates, done, rows, dstate_row, first_group, stop_group):
    """At the end of every block of steps: what they gave to the gradients of the cell's vectors is added to
    the levels behind."""
    if (done + 1) % SUMMED_AT_ONCE == 0:
        units, width = states[0].shape[1], lane_count(states[0])
        for v in range(len(states), len(dstates)):
            level_size = dstates[v].size // LEVELS
            for row in range(dstate_row, dstate_row + rows):
                for group in range(first_group, stop_group):
                    move_block(dstates[v], row * units + group * width, level_size)


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
def _backward_rows(part, cuts, prefetches, weights, recurrent_transposed, states, gates, given, caller,
                   dstates, index, reverse):  # fmt: skip
    active, gate_offset, state_offset = index.active, index.gate_offset, index.state_offset
    row_start, row_stop, dstate_row = cuts[part], cuts[part + 1], index.dstate_offset[part]
    dy = _matrix_of(given, caller)
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
            weights, states, gates, dy, given, caller.starts, part, row_start, t, dstates, rows, gate_row,
            previous_row, new_row, dstate_row, 0, groups, backwards, ahead,
        )  # fmt: skip
        _end_vector_blocks(states, dstates, done, rows, dstate_row, 0, groups)
        _recurrent_backward_rows(
            weights, recurrent_transposed, gates, dstates, rows, gate_row, dstate_row, 0, groups, backwards,
            active[0] == 1,
        )  # fmt: skip


@kernel
def backward(team, cuts, prefetches, weights, recurrent_transposed, states, gates, given, caller, dstates,
             index, reverse):  # fmt: skip
    """Backward of `forward`.

    Parameters
    ----------
    team, cuts, weights, states, gates, index, reverse
        As `forward` left them; `gates` becomes the gradient of the sums.
    prefetches : bool
        Whether what one step reads is prefetched while the step before runs.
    recurrent_transposed : array (panels, groups * product_width * lanes, panel width)
        W_h, packed for the product ``dsums @ W_h``.
    given : OutputGradient
        The gradient of the outputs.
    caller : CallerMatrix
        If it has starts, the gradient is not in the matrix of `given` but in the caller's one of the binding
        INPUT, as wide, in which the sequence at position b begins at row ``starts[b]``.
    dstates : tuple of arrays (at least B, H padded)
        Gradients of the final states in, of the initial states out; part p's begin at row
        ``index.dstate_offset[p]``. A row that is not active keeps its value, so one that has not begun
        waits with its final state's and one that has left is done. Where the cell has vectors, an array for
        each of them follows: each row adds up its part of the gradient there, in all levels of a long sum
        (``engine/sums.py``), which are zeros at the start.
    """
    fork(team, cuts.size - 1, _backward_rows, cuts, prefetches, weights, recurrent_transposed, states, gates,
         given, caller, dstates, index, reverse)  # fmt: skip


@inlined
def _backward_units(part, barrier, cuts, weights, recurrent_transposed, states, gates, given, caller, dstates,
                    index, reverse):  # fmt: skip
    active, gate_offset, state_offset = index.active, index.gate_offset, index.state_offset
    steps, groups, dstate_row = active.size, states[0].shape[1] // lane_count(gates), index.dstate_offset[0]
    dy = _matrix_of(given, caller)
    done = arrive(barrier, part)
    while done <= steps:
        first_part, stop_part = next_round(barrier, part, done)
        first, stop = cuts[first_part], min(cuts[stop_part], groups)
        # A round is the product of one step, which needs all gradients of its sums, and the cell of the next.
        if done > 0:
            t = done - 1 if reverse else steps - done
            if active[t] > 0:
                _recurrent_backward_rows(
                    weights, recurrent_transposed, gates, dstates, active[t], gate_offset[0, t], dstate_row,
                    first, stop, _sweeps_back(weights, gates, t), active[0] == 1,
                )  # fmt: skip
        if done < steps:
            t = done if reverse else steps - 1 - done
            _cell_backward_rows(
                weights, states, gates, dy, given, caller.starts, 0, 0, t, dstates, active[t],
                gate_offset[0, t], state_offset[0, t + reverse], state_offset[0, t + 1 - reverse], dstate_row,
                first, stop, _sweeps_back(weights, gates, t), 0,
            )  # fmt: skip
            _end_vector_blocks(states, dstates, done, active[t], dstate_row, first, stop)
        done += 1
    leave(barrier, done)


@kernel
def backward_by_units(team, barrier, cuts, weights, recurrent_transposed, states, gates, given, caller,
                      dstates, index, reverse):  # fmt: skip
    """`backward`, with hidden units divided among threads: `cuts` are between vectors of them, each at the
    beginning of a panel of `recurrent_transposed`, or of half a panel where the batch is one row."""
    fork(team, cuts.size - 1, _backward_units, barrier, cuts, weights, recurrent_transposed, states, gates,
         given, caller, dstates, index, reverse)  # fmt: skip


@inlined
def _input_gradient_rows(part, cuts, weights, input_transposed, dgates, start, start_stride, dx, dx_offset,
                         dx_in_bands, index):  # fmt: skip
    parts, active, gate_offset = cuts.size - 1, index.active, index.gate_offset
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
                    dx_in_bands, index):  # fmt: skip
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
    fork(team, cuts.size - 1, _input_gradient_rows, cuts, weights, input_transposed, dgates, start,
         start_stride, dx, dx_offset, dx_in_bands, index)  # fmt: skip
