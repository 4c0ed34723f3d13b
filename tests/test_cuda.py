"""How the GPU's scan lies on the chip, in Numba's simulator, and what all of its kernels compile to.

``NUMBA_ENABLE_CUDASIM=1 pytest tests/test_cuda.py`` runs the kernels; without it they are compiled, where
``pip install ".[ptx]"`` brought the compiler of GPU code. ``test_recurrent.py`` and ``test_layers.py`` hold
the layers to their oracles on every device.
"""

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
    in_simulator,
    make_layer,
    random_problem,
    run_layer,
)

HAS_COMPILER = all(importlib.util.find_spec(name) for name in ("numba_cuda", "nvidia"))

compiled = pytest.mark.skipif(
    SIMULATED or not HAS_COMPILER, reason='needs pip install ".[ptx]", no simulator'
)
each_cell = pytest.mark.parametrize("cell", LAYERS)

SIZE = (4, 2, 2, 5)  # T, B, I, H

COMPILED_SIZES = (33, 64, 128)
COMPILED_FOR_OLDER_ONES = (90,)  # where registers are fewest for what is in them
CAPABILITIES = ("7.5", "8.0", "9.0")


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


@in_simulator
@pytest.mark.parametrize("in_registers", [0, 1])
def test_weights_in_shared_memory(gpu, monkeypatch, in_registers):
    """What does not fit the registers gives the same numbers."""
    from numbarnn.engine.cuda import scan as scan_cuda

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
    from numbarnn.engine.cuda import scan as scan_cuda

    plans = [scan_cuda.plan_for(CELLS["rnn_tanh"], hidden, "float32") for hidden in (64, 257)]
    assert [plan.fits(1 << 30) for plan in plans] == [True, False]
    far = scan_cuda.Plan(threads=256, share=16, in_registers=8, shared_bytes=32 * 1024)
    assert far.fits(48 * 1024)
    assert not far.fits(48 * 1024 - 1)


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
    sizes = COMPILED_SIZES if capability == CAPABILITIES[-1] else COMPILED_FOR_OLDER_ONES
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
