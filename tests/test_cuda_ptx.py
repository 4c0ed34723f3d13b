"""What the PTX of the GPU's kernels does, where ``NUMBARNN_TEST_PTX=9.0`` has it run without a GPU.

The tests that all devices share, and those of ``test_cuda*.py``, run on it too. Here are the cases that
matter to PTX alone: more than a warp of threads, weights in shared memory, the driver's limits; and faults,
planted in the kernels, that must be noticed.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import reference
from conftest import (
    ALL_CASES,
    GPU,
    INTERPRETED,
    LAYERS,
    TOLERANCE,
    assert_close,
    make_layer,
    random_problem,
    run_layer,
)
from driver_limits import LaunchError, check_launch
from ptx_interpreter import PTXError

import numbarnn

pytestmark = pytest.mark.skipif(not INTERPRETED, reason="needs NUMBARNN_TEST_PTX=9.0")

each_cell = pytest.mark.parametrize("cell", LAYERS)
# The dtype of a layer, and that of its recurrent weights where it is another one.
PRECISIONS = {"float64": ("float64", None), "float32": ("float32", None), "float16": ("float32", "float16")}
each_precision = pytest.mark.parametrize("precision", PRECISIONS)

INPUTS, ROWS, STEPS = 2, 2, 3
MORE_THAN_A_WARP = 33  # hidden units: threads in several warps, and some left over
MOST_HIDDEN = 512  # more than any plan has


def is_its_reference(cell, precision, hidden, **options):
    """Forward and backward of a layer, on rows of unequal length."""
    dtype, weight_dtype = PRECISIONS[precision]
    problem = random_problem(cell, (STEPS, ROWS, INPUTS, hidden), dtype=dtype, ragged=True, **options)
    layer_options = {"precision": weight_dtype} if weight_dtype else {}
    results = run_layer(make_layer(problem, device="cuda", **layer_options), problem)
    if weight_dtype:
        rounded = {
            name: values.astype(weight_dtype).astype(dtype) if "weight_hh" in name else values
            for name, values in problem.parameters.items()
        }
        problem = problem._replace(parameters=rounded)
    assert_close(results, reference.run(*problem), TOLERANCE[dtype], dtype)


def plans(cell, precision):
    """The plan of each number of hidden units that fits this GPU."""
    from numbarnn.cells import CELLS
    from numbarnn.engine.cuda.weights import plan_for

    kind = PRECISIONS[precision]
    found = {hidden: plan_for(CELLS[cell], hidden, *kind) for hidden in range(1, MOST_HIDDEN)}
    return {hidden: plan for hidden, plan in found.items() if plan.fits(GPU.most_shared_memory)}


def static_bytes_of(cell, precision, plan):
    """Shared memory for h forward, and for the gradients of the sums backward: two of each, in turns."""
    from numbarnn.cells import CELLS

    size = np.dtype(PRECISIONS[precision][0]).itemsize
    return [2 * vectors * plan.padded * size for vectors in (1, CELLS[cell].product_width)]


@each_precision
@each_cell
def test_scan_of_several_warps(cell, precision):
    begin = len(GPU.launches)
    is_its_reference(cell, precision, MORE_THAN_A_WARP, bidirectional=True)
    plan = plans(cell, precision)[MORE_THAN_A_WARP]
    shapes = {each.kernel: each[1:] for each in GPU.launches[begin:] if each.kernel.startswith("scan_")}
    forward, backward = static_bytes_of(cell, precision, plan)
    assert shapes == {
        "scan_forward": (ROWS, plan.threads, forward, plan.shared_bytes),
        "scan_backward": (ROWS, plan.threads, backward, plan.shared_bytes),
    }


@pytest.mark.parametrize("cell", LAYERS if ALL_CASES else ["lstm", "gru"])
@pytest.mark.parametrize("precision", PRECISIONS if ALL_CASES else ["float32"])
@pytest.mark.parametrize("which", ["first", "largest"])
def test_scan_with_weights_in_shared_memory(cell, precision, which):
    """The fewest and the most hidden units whose weights the library puts there."""
    far = [hidden for hidden, plan in plans(cell, precision).items() if plan.shared_bytes > 0]
    is_its_reference(cell, precision, far[0] if which == "first" else far[-1])


@each_cell
def test_steps_of_several_warps(monkeypatch, cell):
    from numbarnn.layers.cuda import recurrent_pass

    monkeypatch.setattr(recurrent_pass, "shared_memory", lambda: 0)
    begin = len(GPU.launches)
    is_its_reference(cell, "float32", MORE_THAN_A_WARP)
    kernels = {launch.kernel for launch in GPU.launches[begin:]}
    assert {"step_forward", "step_backward"} <= kernels
    assert not {"scan_forward", "scan_backward"} & kernels


def test_a_users_kernel_with_states_in_shared_memory():
    from numba import cuda

    from numbarnn.kernels import lstm_step

    hidden, inputs = 5, 2

    @cuda.jit
    def walk(weights, signal, out):
        h, c = cuda.shared.array(hidden, "float32"), cuda.shared.array(hidden, "float32")
        x = cuda.shared.array(inputs, "float32")
        thread = cuda.threadIdx.x
        if thread < hidden:
            h[thread] = c[thread] = 0.0
        for t in range(signal.shape[0]):
            if thread < inputs:
                x[thread] = signal[t, thread]
            cuda.syncthreads()
            lstm_step(weights, x, h, c)
            if thread < hidden:
                out[t, thread] = h[thread]
            cuda.syncthreads()

    problem = random_problem("lstm", (4, 1, inputs, hidden), dtype="float32")
    weights = make_layer(problem, device="cuda").kernel_weights()
    out = np.zeros((4, hidden), np.float32)
    with pytest.warns(match="Grid size|Host array"):
        walk[1, 32](weights, problem.x[0], out)
    wanted, _, _ = reference.forward("lstm", problem.parameters, problem.x)
    assert_close(out, wanted[0], TOLERANCE["float32"], "float32")


def test_each_layer_brings_what_its_kernels_need():
    """In a process where no other layer was used before."""
    program = (
        "import sys; sys.path.insert(0, '.')\n"
        "import conftest, numbarnn, numpy as np\n"
        "layer = numbarnn.Dense(2, 'tanh', device='cuda')\n"
        "print(np.abs(layer.forward(np.ones((1, 2, 3), 'float32'))).max() < 1.0)"
    )
    tests, package = Path(__file__).parent, Path(numbarnn.__file__).parent
    environment = {**os.environ, "PYTHONPATH": str(package.parent)}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tests, env=environment, capture_output=True, text=True
    )
    assert done.stdout.split() == ["True"], done.stderr


# ---- limits of the driver --------------------------------------------------------------------------------


class KernelWithoutCode:
    """Stands for a scan of which only the launch counts."""

    def __init__(self, threads, static_bytes):
        from numbarnn.engine.cuda.device import registers_of

        self.targetoptions = {"max_registers": registers_of(threads)}
        self.static_shared_bytes = static_bytes
        self.py_func = type(self)

    def run(self, *arguments):
        """It does nothing."""


@each_precision
@each_cell
def test_launches_of_every_size_are_within_the_limits(monkeypatch, cell, precision):
    from numbarnn.engine.cuda import launch

    monkeypatch.setattr(launch, "_launchers", {})
    monkeypatch.setattr(GPU, "compiled", lambda kernel, kinds: kernel)
    fitting = plans(cell, precision)
    assert MORE_THAN_A_WARP in fitting
    for plan in fitting.values():
        for static_bytes in static_bytes_of(cell, precision, plan):
            kernel = KernelWithoutCode(plan.threads, static_bytes)
            launch.launch(kernel, ROWS, plan.threads, plan.shared_bytes)


@pytest.mark.parametrize(
    ("launch", "said"),
    [
        ((1, 1025, 0, 0, 0, None), "1 blocks of 1025 threads"),
        ((0, 32, 0, 0, 0, None), "0 blocks of 32 threads"),
        ((1, 512, 136, 0, 0, None), "512 threads of 136 registers"),
        ((1, 13 * 32, 152, 0, 0, None), "416 threads of 152 registers"),
        ((1, 32, 0, 48 * 1024 + 1, 0, None), "more than this GPU has"),
        ((1, 32, 0, 8, 200 * 1024, 227 * 1024), "more than this GPU has"),
        ((1, 32, 0, 8, 48 * 1024 - 7, None), "49144 are allowed"),
        ((1, 32, 0, 0, 50 * 1024 + 1, 50 * 1024), "51200 are allowed"),
    ],
)
def test_launches_beyond_the_limits(launch, said):
    """Threads, registers and shared memory: of the kernel, of the launch, and what was allowed."""
    with pytest.raises(LaunchError, match=said):
        check_launch((9, 0), *launch)


# ---- faults ----------------------------------------------------------------------------------------------


def without_barrier(text, which):
    begin, end = [found.span() for found in re.finditer(r"\n[^\n]*bar\.sync[^\n]*;", text)][which]
    return text[:begin] + text[end:]


FAULTS = {
    "no first barrier": lambda text: without_barrier(text, 0),
    "no second barrier": lambda text: without_barrier(text, 1),
    "a shuffle less": lambda text: re.sub(
        r"shfl\.sync\.bfly\.b32\s+(%r\d+)\|%p\d+, (%r\d+).*?;", r"mov.b32 \1, \2;", text, count=1
    ),
    "another lane": lambda text: re.sub(
        r"(shfl\.sync\.bfly\.b32\s+%r\d+\|%p\d+, %r\d+, )[^,]*,", r"\g<1>16,", text, count=1
    ),
    "less shared memory": lambda text: re.sub(
        r"(_smem_\d+)\[(\d+)\]", lambda found: f"{found[1]}[{int(found[2]) - 8}]", text, count=1
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("way", ["forward", "backward"])
@pytest.mark.parametrize("cell", ["lstm", "gru"] if ALL_CASES else ["lstm"])
def test_faults_are_noticed(monkeypatch, cell, way, fault):
    changed = []

    def change(name, text):
        if name != f"scan_{way}":
            return text
        changed.append(FAULTS[fault](text))
        assert changed[-1] != text, "nothing to change"
        return changed[-1]

    monkeypatch.setattr(GPU, "change_text", change)
    with pytest.raises((PTXError, AssertionError), match=r"race in|outside every buffer|error .*, allowed"):
        is_its_reference(cell, "float32", MORE_THAN_A_WARP)
    assert changed
