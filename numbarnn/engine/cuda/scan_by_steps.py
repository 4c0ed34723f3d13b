"""The time loop of the GPU for layers whose recurrent weights do not fit on the chip: kernels of one step.

A step is a matrix product for all rows that still run, and one of these kernels, in which every thread takes
a hidden unit of a row through the cell. Matrices are those of ``scan.py``; as rows are sorted by falling
length, those that run at step t are the first ones.
"""

import functools

import numpy as np

from numbarnn.cells.contract import Cell
from numbarnn.engine.cuda.device import cuda
from numbarnn.engine.cuda.scan import TUPLES, number_type
from numbarnn.engine.cuda.vectors import unit_vectors

ONLY_LANE = 0  # a hidden unit of a row is that of one thread


@functools.cache
def forward(cell: Cell, dtype: str):
    """The kernel of a step, after its recurrent product.

    Its arguments are

    first, count : int
        Where the step begins among the N rows, and how many rows run.
    column : int
        The first column of this direction's outputs.
    save : bool
        Whether `sums` and `saved_states` are written for backward.
    bias : array (sum_count * H,)
        The biases of each slot.
    vectors : tuple of arrays (H,)
        The cell's.
    states : array (S, B, H)
        The states before the step in, those after it out.
    product : array (at least B, product_width * H)
        The recurrent product of each row.
    sums : array (N, sum_count * H)
        The input products in its first columns, in; what backward needs, out.
    outputs, saved_states
        As in ``scan.forward``.
    """
    number = number_type(dtype)
    zero = np.dtype(dtype).type(0.0)
    sum_count, product_width, state_count = cell.sum_count, cell.product_width, len(cell.states)
    split_count = sum_count - product_width
    of_vectors = unit_vectors(cell, dtype)
    step, read_vectors = of_vectors.forward, of_vectors.read
    sums_tuple, states_tuple = TUPLES[sum_count], TUPLES[state_count]

    @cuda.jit
    def step_forward(first, count, column, save, bias, vectors, states, product, sums, outputs, saved_states):
        total = cuda.local.array(sum_count, number)
        own = cuda.local.array(state_count, number)
        hidden = states.shape[2]
        thread = cuda.grid(1)
        if thread < count * hidden:
            b, unit = thread // hidden, thread % hidden
            here = first + b
            for s in range(sum_count):
                of_inputs = sums[here, s * hidden + unit] if s < product_width else zero
                total[s] = of_inputs + bias[s * hidden + unit]
            for s in range(product_width):
                total[split_count + s] += product[b, s * hidden + unit]
            for s in range(state_count):
                own[s] = states[s, b, unit]
            saved, new = step(sums_tuple(total), states_tuple(own), read_vectors(vectors, unit))
            if save:
                for s in range(sum_count):
                    sums[here, s * hidden + unit] = saved[s]
                saved_states[here, unit] = own[0]
                for s in range(1, state_count):
                    saved_states[here, s * hidden + unit] = new[s]
            for s in range(state_count):
                states[s, b, unit] = new[s]
            outputs[here, column + unit] = new[0]

    return step_forward


@functools.cache
def backward(cell: Cell, dtype: str):
    """The kernel that undoes a step but for its products.

    Its arguments are

    first, count, column
        As in `forward`.
    before, from_before : int
        Where the step before this one begins among the N rows, and how many of its rows went on to this
        step; the others began with their initial state.
    vectors : tuple of arrays (H,)
        The cell's.
    initial, dstates : arrays (S, B, H)
        The initial states; the gradients of the states after the step in, of those before it by the direct
        paths out.
    sums, doutputs, saved_states, outputs
        As in ``scan.backward``.
    dvectors : tuple of arrays (B, H)
        Each row adds to its part of the gradients of the vectors.
    """
    number = number_type(dtype)
    sum_count, state_count = cell.sum_count, len(cell.states)
    of_vectors = unit_vectors(cell, dtype)
    step, read_vectors = of_vectors.backward, of_vectors.read
    add_dvectors, write_dvectors = of_vectors.add, of_vectors.write
    sums_tuple, states_tuple = TUPLES[sum_count], TUPLES[state_count]

    @cuda.jit
    def step_backward(
        first, count, column, before, from_before, vectors, initial, dstates, sums, doutputs, saved_states,
        outputs, dvectors,
    ):  # fmt: skip
        saved = cuda.local.array(sum_count, number)
        previous = cuda.local.array(state_count, number)
        new = cuda.local.array(state_count, number)
        own = cuda.local.array(state_count, number)
        hidden = initial.shape[2]
        thread = cuda.grid(1)
        if thread < count * hidden:
            b, unit = thread // hidden, thread % hidden
            here = first + b
            for s in range(sum_count):
                saved[s] = sums[here, s * hidden + unit]
            previous[0], new[0] = saved_states[here, unit], outputs[here, column + unit]
            for s in range(1, state_count):
                new[s] = saved_states[here, s * hidden + unit]
                if b < from_before:
                    previous[s] = saved_states[before + b, s * hidden + unit]
                else:
                    previous[s] = initial[s, b, unit]
            for s in range(state_count):
                own[s] = dstates[s, b, unit]
            own[0] += doutputs[here, column + unit]
            own_vectors = read_vectors(vectors, unit)
            made, direct, more = step(
                sums_tuple(saved), states_tuple(previous), states_tuple(new), states_tuple(own), own_vectors
            )
            own_dvectors = add_dvectors(read_vectors(dvectors, thread), more, ONLY_LANE)
            write_dvectors(dvectors, thread, own_dvectors, ONLY_LANE)
            for s in range(sum_count):
                sums[here, s * hidden + unit] = made[s]
            for s in range(state_count):
                dstates[s, b, unit] = direct[s]

    return step_backward
