"""One time step of one sequence by a block of threads: what the public step functions call on a GPU.

The counterpart of ``step.py``. Weights are those of the parameters, transposed, with the columns of each sum
side by side (see ``cells/contract.py``), so that neighbouring threads read neighbouring numbers.
"""

import functools

import numpy as np

from numbarnn.cells.contract import Cell
from numbarnn.engine.cuda import scalars  # noqa: F401 (the mathematics of cells, for single numbers)
from numbarnn.engine.cuda.device import cuda, device
from numbarnn.engine.cuda.scan import TUPLES, number_type
from numbarnn.engine.cuda.vectors import unit_vectors

MOST_UNITS = 1024  # whose new h a block can keep until all have read the old one


@functools.cache
def advance(cell: Cell, dtype: str):
    """A function ``advance(weights, x, states)`` for all threads of a block to call together: the states, a
    tuple of arrays (H,), become those after the step.

    Where sizes do not fit one another, or there are more hidden units than `MOST_UNITS`, h becomes NaN: a
    kernel cannot raise an error.
    """
    number = number_type(dtype)
    nan = np.dtype(dtype).type(np.nan)
    sum_count, product_width, state_count = cell.sum_count, cell.product_width, len(cell.states)
    split_count = sum_count - product_width
    of_vectors = unit_vectors(cell, dtype)
    step, read_vectors = of_vectors.forward, of_vectors.read
    vectors_of = device((lambda weights: weights.vectors) if cell.vectors else (lambda weights: ()))
    sums_tuple, states_tuple = TUPLES[sum_count], TUPLES[state_count]

    @device
    def advance_block(weights, x, states):
        new_h = cuda.shared.array(MOST_UNITS, number)
        total = cuda.local.array(sum_count, number)
        own = cuda.local.array(state_count, number)
        inputs, hidden = weights.input.shape[0], weights.recurrent.shape[0]
        h = states[0]
        fits = hidden <= MOST_UNITS and x.size == inputs and h.size == hidden
        if state_count > 1:
            fits = fits and states[1].size == hidden
        if not fits:
            for unit in range(cuda.threadIdx.x, h.size, cuda.blockDim.x):
                h[unit] = nan
            cuda.syncthreads()
            return
        for unit in range(cuda.threadIdx.x, hidden, cuda.blockDim.x):
            for s in range(sum_count):
                total[s] = weights.bias[s * hidden + unit]
            for k in range(inputs):
                x_k = x[k]
                for g in range(product_width):
                    total[g] += weights.input[k, g * hidden + unit] * x_k
            for k in range(hidden):
                h_k = h[k]
                for g in range(product_width):
                    total[split_count + g] += weights.recurrent[k, g * hidden + unit] * h_k
            own[0] = h[unit]
            if state_count > 1:
                own[1] = states[1][unit]
            _, new = step(sums_tuple(total), states_tuple(own), read_vectors(vectors_of(weights), unit))
            new_h[unit] = new[0]
            if state_count > 1:
                states[1][unit] = new[1]
        cuda.syncthreads()
        for unit in range(cuda.threadIdx.x, hidden, cuda.blockDim.x):
            h[unit] = new_h[unit]
        cuda.syncthreads()

    return advance_block
