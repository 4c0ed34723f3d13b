"""The GPU's scan against the oracle, thread by thread in Numba's simulator, and what its kernels compile to.

``NUMBA_ENABLE_CUDASIM=1 pytest tests/test_cuda.py`` runs the kernels; without it they are compiled, where
``pip install ".[ptx]"`` brought the compiler of GPU code.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import reference
from conftest import LAYERS, TOLERANCE, assert_close, assert_same, make_layer, random_problem, run_layer

SIMULATED = os.environ.get("NUMBA_ENABLE_CUDASIM") == "1"
HAS_COMPILER = all(importlib.util.find_spec(name) for name in ("numba_cuda", "nvidia"))

in_simulator = pytest.mark.skipif(not SIMULATED, reason="needs NUMBA_ENABLE_CUDASIM=1")
compiled = pytest.mark.skipif(
    SIMULATED or not HAS_COMPILER, reason='needs pip install ".[ptx]", no simulator'
)
each_cell = pytest.mark.parametrize("cell", LAYERS)

# (T, B, I, H), small: every thread of a block is a thread of Python.
SIZE = (4, 2, 2, 5)
# One step; one input and one unit; one row, whose units share their work evenly.
EDGES = [(1, 2, 3, 3), (2, 2, 1, 1), (2, 1, 2, 4)]

COMPILED_SIZES = (20, 64, 100, 128)
CAPABILITIES = ("7.5", "8.0", "9.0")


@pytest.fixture
def gpu():
    """The module of the recurrent passes on the GPU, without kernels of earlier tests."""
    from numbarnn.engine import scan_cuda
    from numbarnn.layers import cuda_recurrent

    for kernel in (scan_cuda.forward, scan_cuda.backward):
        kernel.cache_clear()
    return cuda_recurrent


def run_on_gpu(problem, **options):
    return run_layer(make_layer(problem, device="cuda", **options), problem)


@in_simulator
@pytest.mark.parametrize("dtype", TOLERANCE)
@each_cell
def test_gpu_is_the_oracle(gpu, cell, dtype):
    problem = random_problem(cell, SIZE, bidirectional=True, ragged=True, dtype=dtype)
    assert_close(run_on_gpu(problem), reference.run(*problem), TOLERANCE[dtype], dtype)


@in_simulator
@pytest.mark.parametrize("sizes", EDGES, ids=str)
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_gpu_is_the_oracle_at_edges(gpu, cell, sizes):
    problem = random_problem(cell, sizes, bias=False)
    assert_close(run_on_gpu(problem), reference.run(*problem), TOLERANCE["float64"])


@in_simulator
def test_layers_above_one_another(gpu):
    problem = random_problem("gru", (3, 2, 2, 3), num_layers=2, bidirectional=True, ragged=True)
    assert_close(run_on_gpu(problem), reference.run(*problem), TOLERANCE["float64"])


@in_simulator
@pytest.mark.parametrize("in_registers", [0, 1])
def test_weights_in_shared_memory(gpu, monkeypatch, in_registers):
    """What does not fit the registers gives the same numbers."""
    from numbarnn.engine import scan_cuda

    problem = random_problem("lstm", SIZE, ragged=True)
    before = run_on_gpu(problem)
    plan = scan_cuda.plan_for

    def with_few_registers(cell, hidden, dtype, weight_dtype=None):
        planned = plan(cell, hidden, dtype, weight_dtype)
        size = np.dtype(dtype).itemsize
        far = (planned.share - in_registers) * cell.window * planned.threads * size
        return planned._replace(in_registers=in_registers, shared_bytes=far)

    monkeypatch.setattr(scan_cuda, "plan_for", with_few_registers)
    for kernel in (scan_cuda.forward, scan_cuda.backward):
        kernel.cache_clear()
    assert_same(run_on_gpu(problem), before)


@in_simulator
@pytest.mark.parametrize("bidirectional", [False, True], ids=["one-way", "two-way"])
@each_cell
def test_layers_that_do_not_fit_go_step_by_step(gpu, monkeypatch, cell, bidirectional):
    monkeypatch.setattr(gpu, "shared_memory", lambda: 0)
    problem = random_problem(cell, SIZE, bidirectional=bidirectional, ragged=True)
    assert_close(run_on_gpu(problem), reference.run(*problem), TOLERANCE["float64"])


@in_simulator
def test_what_fits():
    """More threads than a block can have do not fit, nor more weights than its memory holds."""
    from numbarnn.cells import CELLS
    from numbarnn.engine import scan_cuda

    plans = [scan_cuda.plan_for(CELLS["rnn_tanh"], hidden, "float32") for hidden in (64, 257)]
    assert [plan.fits(1 << 30) for plan in plans] == [True, False]
    far = scan_cuda.Plan(threads=256, share=16, in_registers=8, shared_bytes=32 * 1024)
    assert far.fits(48 * 1024)
    assert not far.fits(48 * 1024 - 1)


@in_simulator
def test_forward_alone_is_the_one_of_training(gpu):
    problem = random_problem("lstm", SIZE, ragged=True)
    trained = run_on_gpu(problem)
    layer = make_layer(problem, device="cuda")
    assert_same(layer.forward(problem.x, problem.initial_state), (trained.outputs, trained.state))


def kernels_of(*arguments):
    """What the compiler says about kernels: see ptx.py."""
    script = str(Path(__file__).with_name("ptx.py"))
    done = subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return list(map(json.loads, done.stdout.splitlines()))


@compiled
@pytest.mark.parametrize("capability", CAPABILITIES)
@each_cell
def test_kernels_stay_in_registers(cell, capability):
    """No spilled register, no array in memory, and no double precision in a kernel of single precision."""
    sizes = COMPILED_SIZES if capability == CAPABILITIES[-1] else COMPILED_SIZES[1:2]
    kernels = kernels_of(cell, capability, *map(str, sizes))
    # Those of a step and of a user for each dtype; those of a scan with weights in 16 bits besides.
    assert len(kernels) == 3 * len(TOLERANCE) + 2 * len(sizes) * (len(TOLERANCE) + 1)
    for kernel in kernels:
        assert kernel["spilled"] == kernel["stack"] == 0, kernel
        if kernel["dtype"] == "float32":
            assert kernel["float64"] == 0, kernel


@compiled
@pytest.mark.parametrize("capability", CAPABILITIES)
def test_other_kernels_stay_in_registers(capability):
    """Those of the layers without a state, the losses and the optimisers."""
    for kernel in kernels_of("others", capability):
        assert kernel["spilled"] == kernel["stack"] == 0, kernel
        if kernel["dtype"] == "float32":
            assert kernel["float64"] == 0, kernel
