"""A cell with vectors of its units on the GPU: the LSTM with peepholes."""

import numpy as np
import pytest
from conftest import TOLERANCE, assert_close, assert_same, on_emulated_gpu, on_gpu
from numba import cuda
from test_cell_contract import HIDDEN, LENGTHS, PEEPHOLE, check, make_layer, plain_forward, problem_for, run

pytestmark = on_gpu
SCANS = ["on the chip", "by steps", "by a team", "by two teams"]
each_scan = pytest.mark.parametrize("scan", [pytest.param(scan, marks=on_emulated_gpu) for scan in SCANS])
one_block = pytest.mark.filterwarnings("ignore:(Grid size|Host array)")  # see test_cuda_steps.py


@pytest.fixture
def take_scan(teams_of_one, monkeypatch):
    """Have layers go by one of `SCANS`."""
    from numbarnn.layers.cuda import recurrent_pass

    def take(scan):
        if scan == "by steps":
            monkeypatch.setattr(recurrent_pass, "shared_memory", lambda: 0)
        elif scan != "on the chip":
            teams_of_one(SCANS.index(scan) - 1)

    return take


def peephole(*arguments, **options):
    return make_layer("lstm_peephole", *arguments, device="cuda", **options)


@each_scan
@pytest.mark.parametrize("num_layers", [1, 2])
def test_each_scan_agrees_with_numpy(take_scan, scan, num_layers):
    take_scan(scan)
    layer = peephole(num_layers, num_layers == 2)
    check(layer, problem_for(layer, LENGTHS))


@each_scan
def test_single_precision(take_scan, scan):
    take_scan(scan)
    single, double = peephole(1, True, dtype="float32"), peephole(1, True)
    problem = problem_for(double, LENGTHS)
    assert_close(run(single, problem), run(double, problem), TOLERANCE["float32"], "float32")


@each_scan
def test_nothing_of_a_batch_is_left_in_the_next_one(take_scan, scan):
    """Shorter or longer; and the same batch gives the same bits, also when its launches are replayed."""
    take_scan(scan)
    layer = peephole(1, False)
    batches = [problem_for(layer, lengths) for lengths in (LENGTHS, (3, 5, 1, 2), LENGTHS, LENGTHS)]
    first, _, *others = (run(layer, problem) for problem in batches)
    for results in others:
        assert_same(results, first)


def test_other_vectors_reach_the_gpu():
    layer = make_layer("lstm_peephole", 1, False)
    problem = problem_for(layer, LENGTHS)
    run(layer.to("cuda"), problem)
    others = {f"{name}_l0": -problem.parameters[f"{name}_l0"] for name in PEEPHOLE.vectors}
    check(layer, problem._replace(parameters={**problem.parameters, **others}))


@one_block
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_a_block_takes_the_steps_of_the_layer(dtype):
    """There is no public step function of such a cell yet."""
    from numbarnn.engine.cuda import step as step_cuda

    layer = peephole(1, False, dtype=dtype)
    problem = problem_for(layer, (4,))
    layer.set_parameters(problem.parameters)
    step = step_cuda.advance(PEEPHOLE, dtype)
    signal, out = problem.x[0].astype(dtype), np.zeros((4, HIDDEN), dtype)
    h, c = (state[0, 0].astype(dtype) for state in problem.initial_state)

    def walk(weights, signal, h, c, out):
        for t in range(signal.shape[0]):
            step(weights, signal[t], (h, c))
            for unit in range(cuda.threadIdx.x, h.size, cuda.blockDim.x):
                out[t, unit] = h[unit]

    cuda.jit(walk)[1, 3](layer.kernel_weights(), signal, h, c, out)
    (y,), finals = plain_forward(layer, problem)
    assert_close((out, h, c), (y, *(final[0, 0] for final in finals)), TOLERANCE[dtype], dtype)
