"""How the GPU's scan lies on the chip, in Numba's simulator, and what all of its kernels compile to.

``NUMBA_ENABLE_CUDASIM=1 pytest tests/test_cuda.py`` runs the kernels; without it they are compiled, where
``pip install --group ptx`` brought the compiler of GPU code. ``test_recurrent.py`` and ``test_layers.py``
test the layers against their oracles on every device.
"""

import functools
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import reference
from conftest import (
    LAYERS,
    SIMULATED,
    TOLERANCE,
    assert_close,
    assert_same,
    make_layer,
    on_emulated_gpu,
    random_problem,
    run_layer,
)

HAS_COMPILER = all(importlib.util.find_spec(name) for name in ("numba_cuda", "nvidia"))

compiled = pytest.mark.skipif(
    SIMULATED or not HAS_COMPILER, reason="needs pip install --group ptx, no simulator"
)
each_cell = pytest.mark.parametrize("cell", LAYERS)

SIZE = (4, 2, 2, 5)  # T, B, I, H

# Bytes that a scan whose weights do not all fit in registers may spill. On an H100, LSTM with H = 128 took
# 1.12 and 1.41 microseconds a step with 47 of 64 pieces in registers and 48 bytes spilled backward, and 1.21
# and 1.60 with 43 and none.
MOST_SPILLED = 128
# Hidden sizes to compile scans for, by compute capability; at 90 registers are fewest for what is in them.
COMPILED_SIZES = {"7.5": (90,), "8.0": (90,), "9.0": (33, 64, 128), "10.0": (90,), "12.0": (128,)}
# The most instructions that a warp may take for a step, float32 on 9.0, by hidden size: forward and backward.
# Lower a number where the code takes fewer; a larger one needs its reason in the commit.
STEP_INSTRUCTIONS = {
    "rnn_tanh": {64: (139, 108), 128: (179, 148)},
    "rnn_relu": {64: (116, 108), 128: (156, 148)},
    "lstm": {64: (337, 321), 128: (501, 512)},
    "gru": {64: (278, 233), 128: (383, 369)},
    "lstm_peephole": {
        64: (342, 314),
        128: (508, 514),
    },
}


@pytest.fixture
def gpu():
    """The module of the recurrent passes on the GPU, without kernels of earlier tests."""
    from numbarnn.engine.cuda import scan as scan_cuda
    from numbarnn.layers.cuda import recurrent_pass as cuda_recurrent

    for kernel in (scan_cuda.forward, scan_cuda.backward):
        kernel.cache_clear()
    return cuda_recurrent


def run_on_gpu(problem, **options):
    return run_layer(make_layer(problem, device="cuda", **options), problem)


@on_emulated_gpu
@pytest.mark.parametrize("near_pieces", [0, 1, 3])
def test_weights_in_shared_memory(gpu, monkeypatch, near_pieces):
    """What does not fit the registers gives the same numbers."""
    from numbarnn.engine.cuda import scan as scan_cuda
    from numbarnn.engine.cuda import weights as cuda_weights

    problem = random_problem("lstm", SIZE, ragged=True)
    before = run_on_gpu(problem)
    plan = cuda_weights.plan_for

    def with_few_registers(cell, hidden, dtype, weight_dtype=None):
        planned = plan(cell, hidden, dtype, weight_dtype)
        far_pieces = planned.runs * cell.product_width - near_pieces
        far = far_pieces * planned.run * planned.threads * np.dtype(dtype).itemsize
        return planned._replace(near_pieces=near_pieces, shared_bytes=far)

    monkeypatch.setattr(cuda_weights, "plan_for", with_few_registers)
    for kernel in (scan_cuda.forward, scan_cuda.backward):
        kernel.cache_clear()
    assert_same(run_on_gpu(problem), before)


@on_emulated_gpu
@pytest.mark.parametrize("bidirectional", [False, True], ids=["one-way", "two-way"])
@each_cell
def test_layers_that_do_not_fit_go_step_by_step(gpu, monkeypatch, cell, bidirectional):
    monkeypatch.setattr(gpu, "shared_memory", lambda: 0)
    problem = random_problem(cell, SIZE, bidirectional=bidirectional, ragged=True)
    assert_close(run_on_gpu(problem), reference.run(*problem), TOLERANCE["float64"])


@on_emulated_gpu
def test_what_fits():
    """More threads than a block can have do not fit, nor more weights than its memory holds."""
    from numbarnn.cells import CELLS
    from numbarnn.engine.cuda.weights import Plan, plan_for

    plans = [plan_for(CELLS["rnn_tanh"], hidden, "float32") for hidden in (64, 1025)]
    assert [plan.fits(1 << 30) for plan in plans] == [True, False]
    far = Plan(lanes=4, threads=256, run=4, runs=4, near_pieces=2, shared_bytes=32 * 1024)
    assert far.fits(48 * 1024)
    assert not far.fits(48 * 1024 - 1)


@functools.cache
def kernels_of(*arguments):
    """What the compiler says about kernels: see ptx.py."""
    script = str(Path(__file__).with_name("ptx.py"))
    done = subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return list(map(json.loads, done.stdout.splitlines()))


@compiled
@pytest.mark.parametrize(
    ("cell", "capability"),
    # The kinds of RNN, and of LSTM, differ in a few lines, for which one GPU is enough.
    [
        (cell, each)
        for cell in STEP_INSTRUCTIONS
        for each in COMPILED_SIZES
        if cell not in ("rnn_relu", "lstm_peephole") or each == "9.0"
    ]
    + [(f"rnn_{activation}", "9.0") for activation in ("elu", "softplus", "softsign", "hard_sigmoid")],
)
def test_kernels_stay_in_registers(cell, capability):
    """No spilled register, no array in memory, and no double precision in a kernel of single precision."""
    sizes = COMPILED_SIZES[capability]
    kernels = kernels_of(cell, capability, *map(str, sizes))
    # Those of a step and of a user for each dtype; those of a scan with weights in 16 bits besides.
    assert len(kernels) == 3 * len(TOLERANCE) + 2 * len(sizes) * (len(TOLERANCE) + 1)
    for kernel in kernels:
        if kernel.get("shared_bytes", 0) > 0:
            assert kernel["spilled"] <= MOST_SPILLED, kernel
        else:
            assert kernel["spilled"] == kernel["stack"] == 0, kernel
        if kernel["dtype"] == "float32":
            assert kernel["float64"] == 0, kernel


@compiled
@pytest.mark.parametrize("capability", ["9.0"])
@pytest.mark.parametrize("cell", STEP_INSTRUCTIONS)
def test_time_loops_stay_in_bounds(cell, capability):
    """The assembler's instructions; what a warp waits for is not in them."""
    found = {
        (kernel["hidden"], kernel["kernel"]): kernel["instructions of a step"]
        for kernel in kernels_of(cell, capability, *map(str, COMPILED_SIZES[capability]))
        if kernel.get("weights") == "float32"
    }
    for hidden, bounds in STEP_INSTRUCTIONS[cell].items():
        counts = found[hidden, "forward"], found[hidden, "backward"]
        assert all(map(int.__le__, counts, bounds)), f"H={hidden}: {counts}, no more than {bounds} allowed"


@compiled
@pytest.mark.parametrize("capability", COMPILED_SIZES)
def test_other_kernels_stay_in_registers(capability):
    """Those of the layers without a state, the losses and the optimisers."""
    for kernel in kernels_of("others", capability):
        assert kernel["spilled"] == kernel["stack"] == 0, kernel
        if kernel["dtype"] == "float32":
            assert kernel["float64"] == 0, kernel
