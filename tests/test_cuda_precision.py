"""Recurrent weights in 16 bits on the GPU, in Numba's simulator, and what `precision` may be."""

import numpy as np
import pytest
from conftest import (
    TOLERANCE,
    arrays_of,
    assert_close,
    make_layer,
    on_emulated_gpu,
    random_problem,
    run_layer,
)

import numbarnn
from numbarnn.cells import CELLS


@on_emulated_gpu
@pytest.mark.parametrize("in_registers", [False, True])
@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn_tanh"])
def test_float16_rounds_the_recurrent_weights_alone(monkeypatch, cell, in_registers):
    from numbarnn.engine.cuda import scan as scan_cuda
    from numbarnn.engine.cuda import weights as cuda_weights

    if not in_registers:
        monkeypatch.setattr(cuda_weights, "registers_of", lambda threads: 0)
        monkeypatch.setattr(cuda_weights, "plan_for", cuda_weights.plan_for.__wrapped__)
    for kernel in (scan_cuda.forward, scan_cuda.backward):
        kernel.cache_clear()
    problem = random_problem(cell, (3, 2, 2, 5), bidirectional=True, ragged=True, dtype="float32")
    rounded = {
        name: values.astype(np.float16).astype(np.float32) if "weight_hh" in name else values
        for name, values in problem.parameters.items()
    }
    full = run_layer(make_layer(problem, device="cuda"), problem)
    half = run_layer(make_layer(problem, device="cuda", precision="float16"), problem)
    wanted = run_layer(make_layer(problem._replace(parameters=rounded), device="cuda"), problem)
    assert_close(half, wanted, TOLERANCE["float32"], "float32")
    difference = dict(arrays_of(full))[" outputs"] - dict(arrays_of(half))[" outputs"]
    assert 1e-5 < np.max(np.abs(difference)) < 1e-2


@on_emulated_gpu
def test_16_bits_take_half_the_memory():
    from numbarnn.engine.cuda.weights import plan_for

    full, half = (plan_for(CELLS["lstm"], 128, "float32", dtype) for dtype in (None, "float16"))
    assert full.shared_bytes == 2 * half.shared_bytes > 0
    assert full._replace(shared_bytes=0) == half._replace(shared_bytes=0)


@pytest.mark.parametrize("layer", [numbarnn.RNN, numbarnn.LSTM, numbarnn.GRU])
def test_what_precision_may_be(layer):
    assert repr(layer(3, precision="tf32")) == f"{layer.__name__}(3, precision='tf32')"
    with pytest.raises(ValueError, match=r"precision must be one of .*'float32', 'tf32', 'float16'.*'half'"):
        layer(3, precision="half")
    with pytest.raises(ValueError, match='precision=\'tf32\' needs dtype="float32", not dtype="float64"'):
        layer(3, precision="tf32", dtype="float64")


def test_the_cpu_rounds_nothing():
    x = np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)
    outputs = []
    for precision in ("float32", "float16"):
        layer = numbarnn.GRU(5, precision=precision)
        layer.build(4, seed=0)
        outputs.append(layer.forward(x)[0])
    np.testing.assert_array_equal(*outputs)
