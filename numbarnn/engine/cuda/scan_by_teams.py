"""The time loops of the GPU for layers that fit on a few multiprocessors together: see ``teams.py``.

Threads, lanes and matrices are those of ``scan.py``. Within a time step a team goes through its rows one
after the other. A block reads h of the step before from `outputs`, where the blocks of the team wrote it, or
in backward the gradients of the sums from `sums`; those of the next row come while a row is worked on. States
other than h, and the gradients of states, wait for the next step in the arrays of states.
"""

import functools

import numpy as np
from numba.core import types

from numbarnn.cells.contract import Cell
from numbarnn.engine.cuda.device import cuda, device, kernel_for
from numbarnn.engine.cuda.memory import load, pick, store
from numbarnn.engine.cuda.scan import FIRST, LAST, TUPLES, _add_lanes
from numbarnn.engine.cuda.teams import MOST_ROWS, STEPS_KNOWN, Team, exchange_of, meeting_of
from numbarnn.engine.cuda.vectors import unit_vectors
from numbarnn.engine.cuda.weights import constant_of, number_type, on_chip

KNOWN = STEPS_KNOWN * MOST_ROWS


@device
def _row(offset, length, n, place, falling):
    """The row among the N rows of the n-th step of a loop; `falling`: it runs from the last step on."""
    t = length - 1 - n if falling else n
    return np.int32(load(offset, t) + place)


@device
def _slot_of(n, r):
    """Where a kernel keeps the row of the n-th step of its team's r-th row."""
    return (n & (STEPS_KNOWN - 1)) * MOST_ROWS + r


@functools.cache
def forward(cell: Cell, hidden: int, dtype: str, weight_dtype: str | None, team: Team):
    """The kernel of all time steps, for ``teams * team.blocks`` blocks.

    Its arguments are those of ``scan.forward`` behind

    meetings : int64 array (teams * COUNTER_STRIDE,)
        Zeros; the blocks of each team meet there.
    teams : int
        How many there are.
    """
    plan, blocks, units = team.plan, team.blocks, team.units
    take_near, put_far, multiply = on_chip(cell, hidden, dtype, weight_dtype, plan, transposed=False)
    number, far_number = number_type(dtype), number_type(weight_dtype or dtype)
    zero = np.dtype(dtype).type(0.0)
    threads, lanes, padded, run = plan.threads, plan.lanes, plan.padded, plan.run
    lane_bits = lanes.bit_length() - 1
    sum_count, product_width, state_count = cell.sum_count, cell.product_width, len(cell.states)
    split_count, sums_of_lane = sum_count - product_width, -(-sum_count // lanes)
    sums_width, saved_width, both = sum_count * hidden, state_count * hidden, 2 * padded
    input_gate, recurrent_gate = constant_of(cell.input_gates), constant_of(cell.recurrent_gates)
    of_vectors = unit_vectors(cell, dtype, lanes)
    step, read_vectors = of_vectors.forward, of_vectors.read
    sums_tuple, states_tuple = TUPLES[sum_count], TUPLES[state_count]
    arrive, wait = meeting_of(blocks)
    held_numbers, fetch, put = exchange_of(plan, hidden, dtype, 1)

    @kernel_for(threads)
    def team_forward(
        meetings, teams, offset, lengths, direction, column, width, save, has_bias, weight, input_bias,
        recurrent_bias, vectors, states, sums, outputs, saved_states,
    ):  # fmt: skip
        h = cuda.shared.array(both, number)
        row_of = cuda.shared.array(KNOWN, types.int32)
        length_of = cuda.shared.array(MOST_ROWS, types.int32)
        far = cuda.shared.array(0, far_number)
        held = cuda.local.array(held_numbers, number)
        total = cuda.local.array(sum_count, number)
        own = cuda.local.array(state_count, number)
        coming = cuda.local.array(sums_of_lane, number)
        own_bias = cuda.local.array(sums_of_lane, number)
        thread = cuda.threadIdx.x
        lane, local_unit = thread & (lanes - 1), thread >> lane_bits
        team, member = cuda.blockIdx.x // blocks, cuda.blockIdx.x % blocks
        unit = member * units + local_unit
        # Threads that are left over do what the last unit's do, and write nothing.
        is_unit, unit = local_unit < units and unit < hidden, min(unit, hidden - 1)
        batch = lengths.size
        rows = (batch - team + teams - 1) // teams
        after_state, own_column = batch * hidden, lane * hidden + unit
        initial, present = FIRST * state_count * after_state, LAST * state_count * after_state

        put_far(weight, unit, lane, thread, far)
        # Each of the first threads looks after one row: where it stands is read ahead.
        length_here, row_here = 0, np.int32(0)
        place_here = team + thread * teams
        if thread < rows:
            length_here = lengths[place_here]
            length_of[thread] = length_here
            for n in range(min(2, length_here)):
                row_of[_slot_of(n, thread)] = _row(offset, length_here, n, place_here, direction)
            if length_here > 2:
                row_here = _row(offset, length_here, 2, place_here, direction)
        for q in range(sums_of_lane):
            own_bias[q] = coming[q] = zero
            slot = lane + q * lanes
            if has_bias and slot < product_width:
                own_bias[q] = load(input_bias, input_gate(slot) * hidden + unit)
            if has_bias and split_count <= slot < sum_count:
                own_bias[q] += load(recurrent_bias, recurrent_gate(slot - split_count) * hidden + unit)
        cuda.syncthreads()

        near = take_near(weight, unit, lane)
        own_vectors = read_vectors(vectors, unit)
        n, r, begin = 0, 0, 0  # the step, the row of the team, and where the present h begins
        running, shortest = rows, load(length_of, rows - 1)
        while running > 0:
            meets = r == 0 and n > 0
            if r == 0 and thread < rows:
                if n + 2 < length_here:
                    store(row_of, _slot_of(n + 2, thread), row_here)
                if n + 3 < length_here:
                    row_here = _row(offset, length_here, n + 3, place_here, direction)
            row, of_row = load(row_of, _slot_of(n, r)), (team + r * teams) * hidden
            for q in range(sums_of_lane):
                if lane + q * lanes < product_width:
                    coming[q] = load(sums, row * sums_width + own_column + q * lanes * hidden)
            before = initial if n == 0 else present
            for s in range(1, state_count):
                own[s] = load(states, before + s * after_state + of_row + unit)
            if meets:
                wait(meetings, team, n)
                fetch(outputs, load(row_of, _slot_of(n - 1, 0)) * width + column, thread, held)
            elif r == 0:
                fetch(states, initial + of_row, thread, held)
            put(held, thread, h, begin)
            cuda.syncthreads()
            next_n, next_r = n, r + 1
            if next_r == running:
                next_n, next_r = n + 1, 0
                while running > 0 and shortest <= next_n:
                    running -= 1
                    shortest = load(length_of, max(running - 1, 0))
            elif n == 0:
                fetch(states, initial + of_row + teams * hidden, thread, held)
            else:
                fetch(outputs, load(row_of, _slot_of(n - 1, next_r)) * width + column, thread, held)
            own[0] = load(h, begin + unit)
            products = multiply(near, far, thread, h, begin + lane * run)
            begin = padded - begin
            for s in range(sum_count):
                total[s] = coming[s // lanes] + own_bias[s // lanes] if s % lanes == lane else zero
            for g in range(product_width):
                total[split_count + g] += products[g]
            for s in range(sum_count):
                total[s] = _add_lanes(total[s], lanes)
            saved, new = step(sums_tuple(total), states_tuple(own), own_vectors)
            if is_unit and lane == 0:
                store(outputs, row * width + column + unit, new[0])
                for s in range(state_count):
                    store(states, present + s * after_state + of_row + unit, new[s])
            if next_r == 0 and running > 0:
                arrive(meetings, team)
            if is_unit and save:
                for q in range(sums_of_lane):
                    if lane + q * lanes < sum_count:
                        store(
                            sums, row * sums_width + own_column + q * lanes * hidden,
                            pick(saved, lane + q * lanes),
                        )  # fmt: skip
                if lane == 0:
                    store(saved_states, row * saved_width + unit, own[0])
                for s in range(1, state_count):
                    if s % lanes == lane:
                        store(saved_states, row * saved_width + s * hidden + unit, new[s])
            n, r = next_n, next_r

    return team_forward


@functools.cache
def backward(cell: Cell, hidden: int, dtype: str, weight_dtype: str | None, team: Team):
    """The kernel of the backward of `forward`; its arguments are those of ``scan.backward`` behind `meetings`
    and `teams`, but that a team adds up the parts of its rows, in row `team` of `dvectors`.

    A step begins with the product that the one before it left over, so that each row has one more step than
    in forward, which is this product alone.
    """
    plan, blocks, units = team.plan, team.blocks, team.units
    take_near, put_far, multiply = on_chip(cell, hidden, dtype, weight_dtype, plan, transposed=True)
    number, far_number = number_type(dtype), number_type(weight_dtype or dtype)
    zero = np.dtype(dtype).type(0.0)
    threads, lanes, padded, run = plan.threads, plan.lanes, plan.padded, plan.run
    lane_bits = lanes.bit_length() - 1
    sum_count, product_width, state_count = cell.sum_count, cell.product_width, len(cell.states)
    split_count, sums_of_lane = sum_count - product_width, -(-sum_count // lanes)
    sums_width, saved_width, both = sum_count * hidden, state_count * hidden, 2 * product_width * padded
    of_vectors = unit_vectors(cell, dtype, lanes)
    step, read_vectors, zero_dvectors = of_vectors.backward, of_vectors.read, of_vectors.zeros
    add_dvectors, write_dvectors = of_vectors.add, of_vectors.write
    sums_tuple, states_tuple = TUPLES[sum_count], TUPLES[state_count]
    arrive, wait = meeting_of(blocks)
    held_numbers, fetch, put = exchange_of(plan, hidden, dtype, product_width)

    @kernel_for(threads)
    def team_backward(
        meetings, teams, offset, lengths, direction, column, width, weight, vectors, states, sums, doutputs,
        saved_states, outputs, dstates, dvectors,
    ):  # fmt: skip
        dsums = cuda.shared.array(both, number)
        row_of = cuda.shared.array(KNOWN, types.int32)
        length_of = cuda.shared.array(MOST_ROWS, types.int32)
        far = cuda.shared.array(0, far_number)
        held = cuda.local.array(held_numbers, number)
        saved = cuda.local.array(sum_count, number)
        previous = cuda.local.array(state_count, number)
        new = cuda.local.array(state_count, number)
        own = cuda.local.array(state_count, number)
        thread = cuda.threadIdx.x
        lane, local_unit = thread & (lanes - 1), thread >> lane_bits
        team, member = cuda.blockIdx.x // blocks, cuda.blockIdx.x % blocks
        unit = member * units + local_unit
        # Threads that are left over do what the last unit's do, and write nothing.
        is_unit, unit = local_unit < units and unit < hidden, min(unit, hidden - 1)
        batch = lengths.size
        rows = (batch - team + teams - 1) // teams
        after_state, falling = batch * hidden, not direction
        initial, final = FIRST * state_count * after_state, LAST * state_count * after_state

        put_far(weight, unit, lane, thread, far)
        # Each of the first threads looks after one row: where it stands is read ahead.
        length_here, row_here = 0, np.int32(0)
        place_here = team + thread * teams
        if thread < rows:
            length_here = lengths[place_here]
            length_of[thread] = length_here
            for n in range(min(2, length_here)):
                row_of[_slot_of(n, thread)] = _row(offset, length_here, n, place_here, falling)
            if length_here > 2:
                row_here = _row(offset, length_here, 2, place_here, falling)
        for i in range(held_numbers):
            held[i] = zero
        cuda.syncthreads()

        near = take_near(weight, unit, lane)
        own_vectors, own_dvectors = read_vectors(vectors, unit), zero_dvectors()
        n, r, begin = 0, 0, 0  # the step, the row of the team, and where the present gradients begin
        running, shortest = rows, load(length_of, rows - 1)
        while running > 0:
            meets = r == 0 and n > 0
            if meets:
                arrive(meetings, team)
            if r == 0 and thread < rows:
                if n + 2 < length_here:
                    store(row_of, _slot_of(n + 2, thread), row_here)
                if n + 3 < length_here:
                    row_here = _row(offset, length_here, n + 3, place_here, falling)
            length, of_row = load(length_of, r), (team + r * teams) * hidden
            row, dh = np.int32(0), zero
            if n < length:
                row = load(row_of, _slot_of(n, r))
                for s in range(sum_count):
                    saved[s] = load(sums, row * sums_width + s * hidden + unit)
                new[0] = load(outputs, row * width + column + unit)
                previous[0] = load(saved_states, row * saved_width + unit)
                dh = load(doutputs, row * width + column + unit)
                for s in range(1, state_count):
                    new[s] = load(saved_states, row * saved_width + s * hidden + unit)
                    if n + 1 < length:
                        row_before = load(row_of, _slot_of(n + 1, r))
                        previous[s] = load(saved_states, row_before * saved_width + s * hidden + unit)
                    else:
                        previous[s] = load(states, initial + s * after_state + of_row + unit)
            after = final if n == 0 else initial
            for s in range(state_count):
                own[s] = load(dstates, after + s * after_state + of_row + unit)
            if meets:
                wait(meetings, team, n)
                fetch(
                    sums, load(row_of, _slot_of(n - 1, 0)) * sums_width + split_count * hidden, thread, held
                )
            put(held, thread, dsums, begin)
            cuda.syncthreads()
            next_n, next_r = n, r + 1
            if next_r == running:
                next_n, next_r = n + 1, 0
                # Each row has one more step, for its last product.
                while running > 0 and shortest < next_n:
                    running -= 1
                    shortest = load(length_of, max(running - 1, 0))
            elif n > 0:
                first = load(row_of, _slot_of(n - 1, next_r)) * sums_width + split_count * hidden
                fetch(sums, first, thread, held)
            products = multiply(near, far, thread, dsums, begin + lane * run)
            begin = product_width * padded - begin
            partial = products[0]
            for g in range(1, product_width):
                partial += products[g]
            own[0] += _add_lanes(partial, lanes)
            if n < length:
                own[0] += dh
                made, direct, more = step(
                    sums_tuple(saved), states_tuple(previous), states_tuple(new), states_tuple(own),
                    own_vectors,
                )  # fmt: skip
                own_dvectors = add_dvectors(own_dvectors, more, lane)
                if is_unit:
                    for q in range(sums_of_lane):
                        if lane + q * lanes < sum_count:
                            store(
                                sums, row * sums_width + (lane + q * lanes) * hidden + unit,
                                pick(made, lane + q * lanes),
                            )  # fmt: skip
                    if lane == 0:
                        for s in range(state_count):
                            store(dstates, initial + s * after_state + of_row + unit, direct[s])
            elif is_unit and lane == 0:
                store(dstates, initial + of_row + unit, own[0])
            n, r = next_n, next_r
        if is_unit:
            write_dvectors(dvectors, team * hidden + unit, own_dvectors, lane)

    return team_backward
