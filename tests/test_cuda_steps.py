"""The step functions in a user's own kernels of a GPU, or of Numba's simulator."""

import numpy as np
import pytest
from conftest import LAYERS, TOLERANCE, assert_close, make_layer, on_gpu, random_problem
from numba import cuda

from numbarnn import kernels

pytestmark = on_gpu
# On a GPU Numba warns, numba-cuda with a class of its own, that one block is few and that arrays of the host
# have to travel.
one_block = pytest.mark.filterwarnings("ignore:(Grid size|Host array)")
STEPS = {"rnn_tanh": kernels.rnn_step, "rnn_relu": kernels.rnn_step, "lstm": kernels.lstm_step,
         "gru": kernels.gru_step}  # fmt: skip


@one_block
@pytest.mark.parametrize("threads", [1, 3, 8])  # fewer than the units, and more
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("cell", LAYERS)
def test_a_block_takes_the_steps_of_the_layer(cell, dtype, threads):
    step, state_count = STEPS[cell], 2 if cell == "lstm" else 1
    problem = random_problem(cell, (4, 1, 3, 5), dtype=dtype)
    weights = make_layer(problem, device="cuda").kernel_weights()
    state = problem.initial_state if cell == "lstm" else (problem.initial_state,)
    states = [part[0, 0].copy() for part in state]
    signal = problem.x[0]
    out, unused = np.zeros((len(signal), 5), dtype), np.zeros(0, dtype)

    def run(weights, signal, h, c, out):
        for t in range(signal.shape[0]):
            if state_count == 1:
                step(weights, signal[t], h)
            else:
                step(weights, signal[t], h, c)
            for unit in range(cuda.threadIdx.x, h.size, cuda.blockDim.x):
                out[t, unit] = h[unit]

    cuda.jit(run)[1, threads](weights, signal, *[*states, unused][:2], out)
    y, final = make_layer(problem).forward(problem.x, problem.initial_state)
    assert_close(out, y[0], TOLERANCE[dtype], dtype)
    final = final if cell == "lstm" else (final,)
    assert_close(tuple(states), tuple(part[0, 0] for part in final), TOLERANCE[dtype], dtype)


@one_block
@pytest.mark.parametrize("wrong", ["x", "h", "c", "units"])
def test_what_does_not_fit_becomes_nan(wrong):
    from numbarnn.engine.cuda.step import MOST_UNITS

    hidden = MOST_UNITS + 1 if wrong == "units" else 5
    problem = random_problem("lstm", (1, 1, 3, hidden))
    weights = make_layer(problem, device="cuda").kernel_weights()
    x, h, c = (
        np.zeros(3 - (wrong == "x")),
        np.zeros(hidden + (wrong == "h")),
        np.zeros(hidden - (wrong == "c")),
    )
    cuda.jit(lambda weights, x, h, c: kernels.lstm_step(weights, x, h, c))[1, 5](weights, x, h, c)
    assert np.isnan(h).all()
