"""The time loops of the GPU, the twins of those in ``scan.py``: one launch for a whole layer and direction.

A block of threads has one sequence from its first step to its last. `LANES` threads that stand side by side
share a hidden unit: each multiplies every `LANES`-th number of h, for all gates of the unit, by recurrent
weights that stay on the chip from step to step: in its registers or, what does not fit there, in the block's
shared memory. Then the lanes add up what they have, and each goes through the cell. Only h goes to other
threads, through shared memory in turns of two, so that a step has one barrier. Backward is the same with W_h
transposed: the gradients of the sums go to other threads, and a lane has its share of them for all units.

Rows are sorted by falling length and stand by time, as on the CPU: step t of the row at place b is row
``offset[t] + b`` of a matrix of N rows, so that padding exists nowhere. Sums stand gate by gate as in the
parameters, slot by slot where a cell keeps more (see ``cells/contract.py``): those of the input product
first, those of the recurrent one last, so that each product is one of matrices without packing.
"""

import functools
from typing import NamedTuple

import numpy as np
from numba.core import types

from numbarnn.cells.contract import Cell
from numbarnn.engine.cuda import scalars  # noqa: F401 (the mathematics of cells, for single numbers)
from numbarnn.engine.cuda.device import SIMULATED, WARP, cuda, device, kernel_for, registers_of

LANES = 4  # a power of two
REGISTER_BYTES = 4
OTHER_NUMBERS = {4: 104, 8: 60}  # of a thread, beside the weights, by the bytes of a number
MOST_THREADS = 1024  # of a block
OTHER_SHARED_BYTES = 16 * 1024  # for h, or the gradients of the sums
FIRST, LAST = range(2)  # initial and final states


class Plan(NamedTuple):
    """How a layer's recurrent weights would lie on the chip."""

    threads: int  # of a block
    share: int  # numbers of h, or gradients of each gate, that a lane multiplies
    in_registers: int  # how many of them by weights in registers
    shared_bytes: int  # shared memory for the weights of all others, in the dtype that weights are kept in

    def fits(self, shared_memory: int) -> bool:
        """Whether a block can have so many threads, and its weights so much shared memory."""
        return self.threads <= MOST_THREADS and self.shared_bytes + OTHER_SHARED_BYTES <= shared_memory


def plan_for(cell: Cell, hidden: int, dtype, weight_dtype=None) -> Plan:
    """The plan of a cell of so many hidden units; weights are kept in `dtype`, or in one with fewer bits."""
    size = np.dtype(dtype).itemsize
    threads = -(-hidden * LANES // WARP) * WARP
    share = -(-hidden // LANES)
    room = registers_of(threads) * REGISTER_BYTES // size - OTHER_NUMBERS[size]
    in_registers = min(share, max(0, room) // cell.window)
    far = (share - in_registers) * cell.window * threads
    return Plan(threads, share, in_registers, far * np.dtype(weight_dtype or dtype).itemsize)


# The first elements of an array as a tuple: the mathematics of cells takes tuples.
TUPLES = {
    1: device(lambda values: (values[0],)),
    2: device(lambda values: (values[0], values[1])),
    4: device(lambda values: (values[0], values[1], values[2], values[3])),
}

if SIMULATED:

    @device
    def _add_lanes(value, meeting_place):
        """The sum of a number of every lane of a hidden unit; there are no shuffles in the simulator."""
        thread = cuda.threadIdx.x
        first = thread - thread % LANES
        cuda.syncthreads()
        meeting_place[thread] = value
        cuda.syncthreads()
        a, b, c, d = meeting_place[first : first + LANES]
        return (a + b) + (c + d)

else:
    ALL_LANES = 0xFFFFFFFF

    @device
    def _add_lanes(value, meeting_place):
        """The sum of a number of every lane of a hidden unit."""
        value += cuda.shfl_xor_sync(ALL_LANES, value, 1)
        return value + cuda.shfl_xor_sync(ALL_LANES, value, 2)


NUMBER_TYPES = {"float16": types.float16, "float32": types.float32, "float64": types.float64}


def number_type(dtype):
    """A dtype as the compiler knows it."""
    return NUMBER_TYPES[str(np.dtype(dtype))]


def _weights_taker(cell: Cell, hidden: int, dtype, weight_dtype, transposed: bool):
    """A function that brings a thread's share of the recurrent weights to where they stay.

    Those in registers are rounded as the others are, so that it makes no difference which these are.
    """
    threads, share, in_registers, _ = plan_for(cell, hidden, dtype, weight_dtype)
    window, gates = cell.window, cell.recurrent_gates
    number, rounded = np.dtype(dtype).type, np.dtype(weight_dtype or dtype).type
    zero = number(0.0)
    whole_shares = hidden % LANES == 0
    unit_stride, k_stride = (1, hidden) if transposed else (hidden, 1)

    @device
    def weight_of(weight, unit, k, g):
        place = gates[g] * hidden * hidden + unit * unit_stride + k * k_stride
        return rounded(weight[place] if whole_shares or k < hidden else zero)

    @device
    def take_weights(weight, unit, near_weights, far_weights):
        thread = cuda.threadIdx.x
        for i in range(in_registers):
            for g in range(window):
                near = weight_of(weight, unit, i * LANES + thread % LANES, g)
                near_weights[i * window + g] = number(near)
        for i in range(in_registers, share):
            for g in range(window):
                far = ((i - in_registers) * window + g) * threads + thread
                far_weights[far] = weight_of(weight, unit, i * LANES + thread % LANES, g)

    return take_weights


@functools.cache
def forward(cell: Cell, hidden: int, dtype: str, weight_dtype: str | None = None):
    """The kernel of all time steps of a cell of so many hidden units.

    Recurrent weights are rounded to `weight_dtype`, and all else is in `dtype`. Its arguments are

    offset, lengths : int64 arrays (T + 1,), (B,)
        Where each step begins among the N rows, and the length of the row at each place.
    direction : int
        1: time runs backwards, and the outputs go to the second H columns.
    keep : bool
        Whether `sums` and `kept` are written for backward.
    weight, bias : arrays (G * H * H,), (slots * H,)
        W_h as in the parameters, row after row, and the biases of each slot.
    states : array (2, S, B, H)
        Initial states in, final states out.
    sums : array (N, slots * H)
        The input products in its first columns, in; what backward needs, out.
    outputs : array (N, D * H)
        h, out.
    kept : array (N, S * H)
        The h before each step, and the other states after it, out.
    """
    plan = plan_for(cell, hidden, dtype, weight_dtype)
    number, far_number = number_type(dtype), number_type(weight_dtype or dtype)
    zero = np.dtype(dtype).type(0.0)
    threads, share, in_registers = plan.threads, plan.share, plan.in_registers
    slots, window, state_count = cell.slots, cell.window, len(cell.states)
    apart, padded = slots - window, share * LANES
    meeting_places = threads if SIMULATED else 1
    own_weights = max(1, in_registers * window)
    take_weights = _weights_taker(cell, hidden, dtype, weight_dtype, transposed=False)
    step = device(cell.forward)
    sums_tuple, states_tuple = TUPLES[slots], TUPLES[state_count]

    @kernel_for(threads)
    def scan_forward(offset, lengths, direction, keep, weight, bias, states, sums, outputs, kept):
        h = cuda.shared.array((2, padded), number)
        meeting_place = cuda.shared.array(meeting_places, number)
        far_weights = cuda.shared.array(0, far_number)
        near_weights = cuda.local.array(own_weights, number)
        total = cuda.local.array(slots, number)
        own = cuda.local.array(state_count, number)
        thread = cuda.threadIdx.x
        lane, is_unit = thread % LANES, thread // LANES < hidden
        # Threads that are left over do what the last unit's do, and write nothing.
        unit = min(thread // LANES, hidden - 1)
        place = cuda.blockIdx.x
        length = lengths[place]

        take_weights(weight, unit, near_weights, far_weights)
        for k in range(thread, padded, threads):
            h[0, k] = states[FIRST, 0, place, k] if k < hidden else zero
            h[1, k] = zero
        for s in range(state_count):
            own[s] = states[FIRST, s, place, unit]
        cuda.syncthreads()

        # A sum is read a step ahead: it takes longer to come than a step does.
        coming = zero
        own_bias = zero
        if lane < slots:
            own_bias = bias[lane * hidden + unit]
            if lane < window:
                coming = sums[offset[length - 1 if direction else 0] + place, lane * hidden + unit]
        for n in range(length):
            t = length - 1 - n if direction else n
            here, phase = offset[t] + place, n % 2
            for s in range(slots):
                total[s] = coming + own_bias if s == lane else zero
            if n + 1 < length and lane < window:
                coming = sums[offset[t - 1 if direction else t + 1] + place, lane * hidden + unit]
            for i in range(in_registers):
                h_k = h[phase, i * LANES + lane]
                for g in range(window):
                    total[apart + g] += near_weights[i * window + g] * h_k
            for i in range(in_registers, share):
                h_k = h[phase, i * LANES + lane]
                for g in range(window):
                    far = ((i - in_registers) * window + g) * threads + thread
                    total[apart + g] += far_weights[far] * h_k
            for s in range(slots):
                total[s] = _add_lanes(total[s], meeting_place)
            saved, new = step(sums_tuple(total), states_tuple(own))
            if is_unit:
                if keep:
                    for s in range(slots):
                        if s == lane:
                            sums[here, s * hidden + unit] = saved[s]
                    if lane == 0:
                        kept[here, unit] = own[0]
                    for s in range(1, state_count):
                        if s == lane:
                            kept[here, s * hidden + unit] = new[s]
                if lane == 0:
                    h[1 - phase, unit] = new[0]
                    outputs[here, direction * hidden + unit] = new[0]
            for s in range(state_count):
                own[s] = new[s]
            cuda.syncthreads()
        if is_unit and lane == 0:
            for s in range(state_count):
                states[LAST, s, place, unit] = own[s]

    return scan_forward


@functools.cache
def backward(cell: Cell, hidden: int, dtype: str, weight_dtype: str | None = None):
    """The kernel that undoes `forward`.

    Its arguments are those of `forward`, but for

    sums : array (N, slots * H)
        What `forward` kept, in; the gradients of the sums, out.
    doutputs : array (N, D * H)
        The gradient of the outputs.
    states : array (2, S, B, H)
        The initial states of `forward`; the final ones are not read.
    dstates : array (2, S, B, H)
        Gradients of the final states in, of the initial states out.
    """
    plan = plan_for(cell, hidden, dtype, weight_dtype)
    number, far_number = number_type(dtype), number_type(weight_dtype or dtype)
    zero = np.dtype(dtype).type(0.0)
    threads, share, in_registers = plan.threads, plan.share, plan.in_registers
    slots, window, state_count = cell.slots, cell.window, len(cell.states)
    apart, padded = slots - window, share * LANES
    meeting_places = threads if SIMULATED else 1
    own_weights = max(1, in_registers * window)
    take_weights = _weights_taker(cell, hidden, dtype, weight_dtype, transposed=True)
    step = device(cell.backward)
    sums_tuple, states_tuple = TUPLES[slots], TUPLES[state_count]

    @device
    def read_step(n, length, offset, place, direction, unit, states, sums, doutputs, kept, outputs, saved,
                  previous, new):  # fmt: skip
        """Read what the n-th step needs; its gradient of the output is returned."""
        # Step by step the way that forward came.
        t = n if direction else length - 1 - n
        here = offset[t] + place
        for s in range(slots):
            saved[s] = sums[here, s * hidden + unit]
        new[0] = outputs[here, direction * hidden + unit]
        previous[0] = kept[here, unit]
        for s in range(1, state_count):
            new[s] = previous[s]
            if n + 1 < length:
                previous[s] = kept[offset[t + 1 if direction else t - 1] + place, s * hidden + unit]
            else:
                previous[s] = states[FIRST, s, place, unit]
        return doutputs[here, direction * hidden + unit]

    @kernel_for(threads)
    def scan_backward(offset, lengths, direction, weight, states, sums, doutputs, kept, outputs, dstates):
        dsums = cuda.shared.array((2, window, padded), number)
        meeting_place = cuda.shared.array(meeting_places, number)
        far_weights = cuda.shared.array(0, far_number)
        near_weights = cuda.local.array(own_weights, number)
        saved = cuda.local.array(slots, number)
        previous = cuda.local.array(state_count, number)
        new = cuda.local.array(state_count, number)
        own = cuda.local.array(state_count, number)
        partial = cuda.local.array(window, number)
        thread = cuda.threadIdx.x
        lane, is_unit = thread % LANES, thread // LANES < hidden
        # Threads that are left over do what the last unit's do, and write nothing.
        unit = min(thread // LANES, hidden - 1)
        place = cuda.blockIdx.x
        length = lengths[place]

        take_weights(weight, unit, near_weights, far_weights)
        last = offset[0 if direction else length - 1] + place
        for s in range(state_count):
            own[s] = dstates[LAST, s, place, unit]
            previous[s] = kept[last, s * hidden + unit]
        for k in range(thread, padded, threads):
            for g in range(window):
                dsums[0, g, k] = zero
                dsums[1, g, k] = zero
        cuda.syncthreads()

        dh = read_step(
            0, length, offset, place, direction, unit, states, sums, doutputs, kept, outputs, saved, previous,
            new,
        )  # fmt: skip
        for n in range(length):
            here, phase = offset[n if direction else length - 1 - n] + place, n % 2
            own[0] += dh
            made, direct = step(
                sums_tuple(saved), states_tuple(previous), states_tuple(new), states_tuple(own)
            )
            if is_unit:
                for s in range(apart, slots):
                    if s == lane:
                        dsums[phase, s - apart, unit] = made[s]
            cuda.syncthreads()
            # Not before all lanes have read what stood there.
            if is_unit:
                for s in range(slots):
                    if s == lane:
                        sums[here, s * hidden + unit] = made[s]
            # Read ahead, as in forward.
            if n + 1 < length:
                dh = read_step(
                    n + 1, length, offset, place, direction, unit, states, sums, doutputs, kept, outputs,
                    saved, previous, new,
                )  # fmt: skip
            for g in range(window):
                partial[g] = zero
            for i in range(in_registers):
                for g in range(window):
                    partial[g] += near_weights[i * window + g] * dsums[phase, g, i * LANES + lane]
            for i in range(in_registers, share):
                for g in range(window):
                    far = ((i - in_registers) * window + g) * threads + thread
                    partial[g] += far_weights[far] * dsums[phase, g, i * LANES + lane]
            for g in range(1, window):
                partial[0] += partial[g]
            own[0] = direct[0] + _add_lanes(partial[0], meeting_place)
            for s in range(1, state_count):
                own[s] = direct[s]
        if is_unit and lane == 0:
            for s in range(state_count):
                dstates[FIRST, s, place, unit] = own[s]

    return scan_backward
