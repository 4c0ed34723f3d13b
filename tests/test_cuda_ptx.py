"""What the PTX of the GPU's kernels does, where ``NUMBARNN_TEST_PTX=9.0`` has it run without a GPU.

The tests that all devices share, and those of ``test_cuda*.py``, run on it too. Here are the cases that
matter to PTX alone: more than a warp of threads, weights in shared memory, the driver's limits; and faults,
planted in the kernels, that must be noticed.
"""

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

from ptx_interpreter import PTXError

pytestmark = pytest.mark.skipif(not INTERPRETED, reason="needs NUMBARNN_TEST_PTX=9.0")

each_cell = pytest.mark.parametrize("cell", LAYERS)
PRECISIONS = {"float64": ("float64", None), "float32": ("float32", None), "float16": ("float32", "float16")}
each_precision = pytest.mark.parametrize("precision", PRECISIONS)

INPUTS, ROWS, STEPS = 2, 2, 3
MORE_THAN_A_WARP = 33  # hidden units: threads in several warps, and some left over
MOST_HIDDEN = 512  # more than any plan has


def is_its_reference(cell, precision, hidden, **options):
    """Forward and backward of a layer, on rows of unequal length."""
    dtype, weight_dtype = PRECISIONS[precision]
    problem = random_problem(cell, (STEPS, ROWS, INPUTS, hidden), dtype=dtype, ragged=True, **options)
    layer_options = {"precision": "float16"} if weight_dtype else {}
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

    found = {
        hidden: plan_for(CELLS[cell], hidden, *PRECISIONS[precision]) for hidden in range(1, MOST_HIDDEN)
    }
    most = GPU.most_shared_memory
    return {hidden: plan for hidden, plan in found.items() if plan.fits(most)}


@each_precision
@each_cell
def test_scan_of_several_warps(cell, precision):
    is_its_reference(cell, precision, MORE_THAN_A_WARP, bidirectional=True)


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
    is_its_reference(cell, "float32", MORE_THAN_A_WARP)
    assert {"step_forward", "step_backward"} <= set(GPU.launches)


# ---- limits of the driver --------------------------------------------------------------------------------


@each_precision
@each_cell
def test_launches_of_every_size_are_within_the_limits(cell, precision):
    """The largest scan that fits, and the sizes around the memory that is there without asking."""
    dtype, _ = PRECISIONS[precision]
    from numbarnn.cells import CELLS
    from numbarnn.engine import cuda_launch, scan_cuda
    for hidden, plan in plans(cell, precision).items():
        pass


# ---- faults ----------------------------------------------------------------------------------------------


def without_barrier(text, which):
    begin, end = [found.span() for found in re.finditer(r"\n[^\n]*bar\.sync[^\n]*;", text)][which]
    return text[:begin] + text[end:]


FAULTS = {
    "first barrier": lambda text: without_barrier(text, 0),
    "second barrier": lambda text: without_barrier(text, 1),
    "a shuffle": lambda text: re.sub(
        r"shfl\.sync\.bfly\.b32\s+(%r\d+)\|%p\d+, (%r\d+).*?;", r"mov.b32 \1, \2;", text, count=1
    ),
    "the other lane": lambda text: re.sub(
        r"(shfl\.sync\.bfly\.b32\s+%r\d+\|%p\d+, %r\d+, )[^,]*,", r"\g<1>16,", text, count=1
    ),
    "shared memory": lambda text: re.sub(
        r"(_smem_\d+)\[(\d+)\]", lambda found: f"{found[1]}[{int(found[2]) - 8}]", text, count=1
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("way", ["forward", "backward"])
@pytest.mark.parametrize("cell", ["lstm", "gru"] if ALL_CASES else ["lstm"])
def test_faults_are_noticed(monkeypatch, cell, way, fault):
    """Each is taken away, or replaced, in one of the kernels."""
    changed = []

    def change(name, text):
        if name != f"scan_{way}":
            return text
        changed.append(FAULTS[fault](text))
        assert changed[-1] != text
        return changed[-1]

    monkeypatch.setattr(GPU, "change_text", change)
    with pytest.raises((PTXError, AssertionError), match="race|outside|error .*, allowed"):
        is_its_reference(cell, "float32", MORE_THAN_A_WARP)
    assert changed
