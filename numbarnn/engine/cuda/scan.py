"""The time loops of the GPU, twins of those in ``engine/scan/``: one launch for a layer and direction.

A block of threads has one sequence from its first step to its last. A few threads that stand side by side,
the *lanes*, share a hidden unit: each multiplies its part of h, for all gates of the unit, by recurrent
weights that stay on the chip from step to step (see ``weights.py``). Then the lanes add up what they
have, and each goes through the cell. Only h goes to other threads, through shared memory in turns of two, so
that a step has one barrier. Backward is the same with W_h transposed: the gradients of the sums go to other
threads, and a lane has its part of them for all units.

Rows are sorted by falling length and stand by time, as on the CPU: step t of the row at place b is row
``offset[t] + b`` of a matrix of N rows, so that padding exists nowhere. Sums stand gate by gate as in the
parameters, slot by slot where a cell keeps more (see ``cells/contract.py``): those of the input product
first, those of the recurrent one last, so that each product is one of matrices without packing.
"""

import functools

import numpy as np

from numbarnn.cells.contract import Cell
from numbarnn.engine.cuda import scalars  # noqa: F401 (the mathematics of cells, for single numbers)
from numbarnn.engine.cuda import weights as chip_weights
from numbarnn.engine.cuda.device import MOST_THREADS, SIMULATED, cuda, device, kernel_for
from numbarnn.engine.cuda.memory import load, pick, store
from numbarnn.engine.cuda.vectors import unit_vectors
from numbarnn.engine.cuda.weights import constant_of, number_type, on_chip

FIRST, LAST = range(2)  # initial and final states


class _Tuples(dict):
    """The first elements of an array as a tuple, by their number: the mathematics of cells takes tuples."""

    def __missing__(self, size):
        last = size - 1
        before = self[last]
        made = self[size] = device(lambda values: before(values) + (values[last],))  # noqa: RUF005
        return made


TUPLES = _Tuples({1: device(lambda values: (values[0],))})

if SIMULATED:

    @device
    def _add_lanes(value, lanes):
        """The sum of a number of every lane of a hidden unit; there are no shuffles in the simulator."""
        meeting_place = cuda.shared.array(MOST_THREADS, value.dtype)
        thread = cuda.threadIdx.x
        first = thread - thread % lanes
        cuda.syncthreads()
        meeting_place[thread] = value
        cuda.syncthreads()
        numbers = list(meeting_place[first : first + lanes])
        while len(numbers) > 1:
            numbers = [a + b for a, b in zip(numbers[::2], numbers[1::2], strict=True)]
        return numbers[0]

else:
    ALL_LANES = 0xFFFFFFFF

    @device
    def _add_lanes(value, lanes):
        """The sum of a number of every lane of a hidden unit; `lanes` is a power of two."""
        distance = 1
        while distance < lanes:
            value += cuda.shfl_xor_sync(ALL_LANES, value, distance)
            distance *= 2
        return value


@device
def _row(begin, place):
    """A row among the N rows; so many fit into 32 bits, and products with them are quicker."""
    return np.int32(begin + place)


@functools.cache
def forward(cell: Cell, hidden: int, dtype: str, weight_dtype: str | None = None):
    """The kernel of all time steps of a cell of so many hidden units.

    Recurrent weights are rounded to `weight_dtype`, and all else is in `dtype`. Its arguments are

    offset, lengths : int64 arrays (T + 1,), (B,)
        Where each step begins among the N rows, and the length of the row at each place.
    direction : int
        1: time runs backwards.
    column, width : int
        The first column of this direction in the rows of `outputs`, and how wide they are.
    save : bool
        Whether `sums` and `saved_states` are written for backward.
    has_bias : bool
        Whether there are biases.
    weight, input_bias, recurrent_bias : arrays (G * H, H), (G * H,), (G * H,)
        W_h and the biases as in the parameters.
    vectors : tuple of arrays (H,)
        The cell's.
    states : array (2, S, B, H)
        Initial states in, final states out.
    sums : array (N, sum_count * H)
        The input products in its first columns, in; what backward needs, out.
    outputs : array (N, width)
        h, out.
    saved_states : array (N, S * H)
        The h before each step, and the other states after it, out.
    """
    plan = chip_weights.plan_for(cell, hidden, dtype, weight_dtype)
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

    @kernel_for(threads)
    def scan_forward(
        offset, lengths, direction, column, width, save, has_bias, weight, input_bias, recurrent_bias,
        vectors, states, sums, outputs, saved_states,
    ):  # fmt: skip
        h = cuda.shared.array(both, number)
        far = cuda.shared.array(0, far_number)
        total = cuda.local.array(sum_count, number)
        own = cuda.local.array(state_count, number)
        coming = cuda.local.array(sums_of_lane, number)
        own_bias = cuda.local.array(sums_of_lane, number)
        thread = cuda.threadIdx.x
        # By bits, so that the compiler knows that a lane is less than `lanes`.
        lane, unit = thread & (lanes - 1), thread >> lane_bits
        # Threads that are left over do what the last unit's do, and write nothing.
        is_unit, unit = unit < hidden, min(unit, hidden - 1)
        place = cuda.blockIdx.x
        length = lengths[place]

        near = take_near(weight, unit, lane)
        put_far(weight, unit, lane, thread, far)
        for k in range(thread, padded, threads):
            h[k] = states[FIRST, 0, place, k] if k < hidden else zero
            h[padded + k] = zero
        for s in range(state_count):
            own[s] = states[FIRST, s, place, unit]
        own_vectors = read_vectors(vectors, unit)
        cuda.syncthreads()

        # A sum is read a step ahead: it takes longer to come than a step does. Where it stands is read two
        # steps ahead, and not touched before the next step: a thread waits where it first uses what it read.
        t, next_t = (length - 1, -1) if direction else (0, 1)
        row = _row(load(offset, t), place)
        begin_ahead = load(offset, t + next_t) if length > 1 else load(offset, t)
        own_column = lane * hidden + unit
        for q in range(sums_of_lane):
            own_bias[q] = coming[q] = zero
            slot = lane + q * lanes
            if slot < product_width:
                coming[q] = load(sums, row * sums_width + own_column + q * lanes * hidden)
                if has_bias:
                    own_bias[q] = load(input_bias, input_gate(slot) * hidden + unit)
            if has_bias and split_count <= slot < sum_count:
                own_bias[q] += load(recurrent_bias, recurrent_gate(slot - split_count) * hidden + unit)
        begin = 0  # of the present h
        for n in range(length):
            for s in range(sum_count):
                total[s] = coming[s // lanes] + own_bias[s // lanes] if s % lanes == lane else zero
            row_ahead = _row(begin_ahead, place)
            if n + 1 < length:
                for q in range(sums_of_lane):
                    if lane + q * lanes < product_width:
                        coming[q] = load(sums, row_ahead * sums_width + own_column + q * lanes * hidden)
                if n + 2 < length:
                    begin_ahead = load(offset, t + 2 * next_t)
            products = multiply(near, far, thread, h, begin + lane * run)
            begin = padded - begin
            for g in range(product_width):
                total[split_count + g] += products[g]
            for s in range(sum_count):
                total[s] = _add_lanes(total[s], lanes)
            saved, new = step(sums_tuple(total), states_tuple(own), own_vectors)
            if is_unit:
                if save:
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
                if lane == 0:
                    store(h, begin + unit, new[0])
                    store(outputs, row * width + column + unit, new[0])
            for s in range(state_count):
                own[s] = new[s]
            t += next_t
            row = row_ahead
            cuda.syncthreads()
        if is_unit and lane == 0:
            for s in range(state_count):
                states[LAST, s, place, unit] = own[s]

    return scan_forward


@functools.cache
def backward(cell: Cell, hidden: int, dtype: str, weight_dtype: str | None = None):
    """The kernel of the backward of `forward`.

    Its arguments are those of `forward`, but for

    sums : array (N, sum_count * H)
        What `forward` saved, in; the gradients of the sums, out.
    doutputs : array (N, width)
        The gradient of the outputs.
    states : array (2, S, B, H)
        The initial states of `forward`; the final ones are not read.
    dstates : array (2, S, B, H)
        Gradients of the final states in, of the initial states out.
    dvectors : tuple of arrays (B, H)
        Each row's part of the gradients of the vectors, out.
    """
    plan = chip_weights.plan_for(cell, hidden, dtype, weight_dtype)
    take_near, put_far, multiply = on_chip(cell, hidden, dtype, weight_dtype, plan, transposed=True)
    number, far_number = number_type(dtype), number_type(weight_dtype or dtype)
    zero = np.dtype(dtype).type(0.0)
    threads, lanes, padded, run = plan.threads, plan.lanes, plan.padded, plan.run
    lane_bits = lanes.bit_length() - 1
    sum_count, product_width, state_count = cell.sum_count, cell.product_width, len(cell.states)
    split_count, sums_of_lane, products_of_lane = (
        sum_count - product_width,
        -(-sum_count // lanes),
        -(-product_width // lanes),
    )
    sums_width, saved_width, both = sum_count * hidden, state_count * hidden, 2 * product_width * padded
    of_vectors = unit_vectors(cell, dtype, lanes)
    step, read_vectors, zero_dvectors = of_vectors.backward, of_vectors.read, of_vectors.zeros
    add_dvectors, write_dvectors = of_vectors.add, of_vectors.write
    sums_tuple, states_tuple = TUPLES[sum_count], TUPLES[state_count]

    @kernel_for(threads)
    def scan_backward(
        offset,
        lengths,
        direction,
        column,
        width,
        weight,
        vectors,
        states,
        sums,
        doutputs,
        saved_states,
        outputs,
        dstates,
        dvectors,
    ):
        dsums = cuda.shared.array(both, number)
        far = cuda.shared.array(0, far_number)
        saved = cuda.local.array(sum_count, number)
        previous = cuda.local.array(state_count, number)
        new = cuda.local.array(state_count, number)
        own = cuda.local.array(state_count, number)
        thread = cuda.threadIdx.x
        # By bits, so that the compiler knows that a lane is less than `lanes`.
        lane, unit = thread & (lanes - 1), thread >> lane_bits
        # Threads that are left over do what the last unit's do, and write nothing.
        is_unit, unit = unit < hidden, min(unit, hidden - 1)
        place = cuda.blockIdx.x
        length = lengths[place]

        near = take_near(weight, unit, lane)
        put_far(weight, unit, lane, thread, far)
        for k in range(thread, both, threads):
            dsums[k] = zero
        cuda.syncthreads()

        # Step by step the way that forward came. What a step needs is read a step ahead, as in forward.
        t, next_t = (0, 1) if direction else (length - 1, -1)
        row = _row(load(offset, t), place)
        row_ahead = row
        if length > 1:
            row_ahead = _row(load(offset, t + next_t), place)
        begin_after = load(offset, t)
        if length > 2:
            begin_after = load(offset, t + 2 * next_t)
        for s in range(sum_count):
            saved[s] = load(sums, row * sums_width + s * hidden + unit)
        new[0] = load(outputs, row * width + column + unit)
        previous[0] = load(saved_states, row * saved_width + unit)
        dh = load(doutputs, row * width + column + unit)
        for s in range(state_count):
            own[s] = dstates[LAST, s, place, unit]
        own_vectors, own_dvectors = read_vectors(vectors, unit), zero_dvectors()
        for s in range(1, state_count):
            new[s] = load(saved_states, row * saved_width + s * hidden + unit)
            previous[s] = states[FIRST, s, place, unit]
            if length > 1:
                previous[s] = load(saved_states, row_ahead * saved_width + s * hidden + unit)
        begin = 0
        for n in range(length):
            own[0] += dh
            made, direct, more = step(
                sums_tuple(saved), states_tuple(previous), states_tuple(new), states_tuple(own), own_vectors
            )
            own_dvectors = add_dvectors(own_dvectors, more, lane)
            if is_unit:
                for q in range(products_of_lane):
                    if lane + q * lanes < product_width:
                        store(
                            dsums, begin + (lane + q * lanes) * padded + unit,
                            pick(made, split_count + lane + q * lanes),
                        )  # fmt: skip
            cuda.syncthreads()
            # Not before all lanes have read what stood there.
            if is_unit:
                for q in range(sums_of_lane):
                    if lane + q * lanes < sum_count:
                        store(
                            sums, row * sums_width + (lane + q * lanes) * hidden + unit,
                            pick(made, lane + q * lanes),
                        )  # fmt: skip
            row_after = _row(begin_after, place)
            if n + 1 < length:
                for s in range(sum_count):
                    saved[s] = load(sums, row_ahead * sums_width + s * hidden + unit)
                new[0] = load(outputs, row_ahead * width + column + unit)
                previous[0] = load(saved_states, row_ahead * saved_width + unit)
                dh = load(doutputs, row_ahead * width + column + unit)
                if n + 3 < length:
                    begin_after = load(offset, t + 3 * next_t)
                for s in range(1, state_count):
                    new[s] = previous[s]
                    previous[s] = states[FIRST, s, place, unit]
                    if n + 2 < length:
                        previous[s] = load(saved_states, row_after * saved_width + s * hidden + unit)
            products = multiply(near, far, thread, dsums, begin + lane * run)
            begin = product_width * padded - begin
            partial = products[0]
            for g in range(1, product_width):
                partial += products[g]
            own[0] = direct[0] + _add_lanes(partial, lanes)
            for s in range(1, state_count):
                own[s] = direct[s]
            t += next_t
            row, row_ahead = row_ahead, row_after
        if is_unit and lane == 0:
            for s in range(state_count):
                dstates[FIRST, s, place, unit] = own[s]
        if is_unit:
            write_dvectors(dvectors, place * hidden + unit, own_dvectors, lane)

    return scan_backward
