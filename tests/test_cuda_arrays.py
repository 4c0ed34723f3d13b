"""Arrays that are on the GPU already: results stay there. In Numba's simulator, whose GPU is the host."""

import os

import numpy as np
import pytest
from conftest import TOLERANCE, assert_close, assert_same, make_layer, random_problem

import numbarnn

pytestmark = pytest.mark.skipif(
    os.environ.get("NUMBA_ENABLE_CUDASIM") != "1", reason="needs NUMBA_ENABLE_CUDASIM=1"
)


class OnGPU:
    """An array as other libraries have them."""

    def __init__(self, values):
        self.values = np.asarray(values)

    @property
    def dtype(self):
        return self.values.dtype

    @property
    def __cuda_array_interface__(self):
        return {"version": 3}

    def __array__(self, dtype=None, copy=None):
        return self.values


def problem_of(cell, **options):
    """A problem as arrays: x and dy (B, T, ...) with anything at all behind the end of a row."""
    problem = random_problem(cell, (3, 2, 2, 4), ragged=True, **options)
    lengths = np.array([len(row) for row in problem.x])

    def padded(rows):
        return np.stack([np.pad(row, ((0, 3 - len(row)), (0, 0)), constant_values=7.0) for row in rows])

    return problem, padded(problem.x), padded(problem.dy), lengths


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_recurrent(cell):
    problem, x, dy, lengths = problem_of(cell, num_layers=2, bidirectional=True)
    cpu, gpu = make_layer(problem), make_layer(problem, device="cuda")
    y, state = cpu.forward(x, problem.initial_state, lengths, training=True)
    dx, dinitial = cpu.backward(dy, problem.dstate)

    def there(states):
        return tuple(map(OnGPU, states)) if cell == "lstm" else OnGPU(states)

    results = gpu.forward(OnGPU(x), there(problem.initial_state), OnGPU(lengths), training=True)
    gradients = gpu.backward(OnGPU(dy), there(problem.dstate))
    assert_close((*results, *gradients), (y, state, dx, dinitial), TOLERANCE["float64"])
    assert_close(gpu.gradients, cpu.gradients, TOLERANCE["float64"])


@pytest.mark.parametrize("make", [numbarnn.Dense, numbarnn.Dropout, numbarnn.MaxOverTime, numbarnn.Embedding])
def test_stateless(make):
    arguments = {numbarnn.Dense: (2,), numbarnn.Dropout: (0.5,), numbarnn.Embedding: (9, 2)}.get(make, ())
    pair = [make(*arguments, dtype="float64", device=device) for device in ("cpu", "cuda")]
    rng = np.random.default_rng(0)
    tokens = make is numbarnn.Embedding
    x = rng.integers(0, 9, (3, 4)) if tokens else rng.normal(size=(3, 4, 2))
    for layer in pair:
        layer.build(2, seed=0)
    lengths = np.array([2, 4, 1])
    y = pair[0].forward(x, lengths, training=True, seed=1)
    dy = rng.normal(size=y.shape)
    dx = pair[0].backward(dy)
    there = pair[1].forward(OnGPU(x), lengths, training=True, seed=1)
    dx_there = pair[1].backward(OnGPU(dy))
    assert_close(there, y, TOLERANCE["float64"])
    if tokens:
        assert dx_there is dx is None
    else:
        assert_close(dx_there, dx, TOLERANCE["float64"])
    assert_close(pair[1].gradients, pair[0].gradients, TOLERANCE["float64"])


def test_one_vector_a_row():
    layer = numbarnn.Dense(2, "tanh", device="cuda")
    x = np.random.default_rng(0).normal(size=(3, 4)).astype("float32")
    assert_same(layer.forward(OnGPU(x)), layer.forward(x))


def test_a_layer_builds_itself_and_takes_other_dtypes():
    layer = numbarnn.GRU(3, device="cuda")
    y, _ = layer.forward(OnGPU(np.ones((2, 3, 2))))
    assert (layer.input_size, y.dtype, y.shape) == (2, np.float32, (2, 3, 3))


@pytest.mark.parametrize(
    ("x", "options", "error", "said"),
    [
        (np.ones((2, 3, 5)), {}, ValueError, "x must have 2 features, not 5"),
        (np.ones((2, 3)), {}, ValueError, r"x must be a \(B, T, I\) array, not an array of shape \(2, 3\)"),
        (np.ones((2, 0, 2)), {}, ValueError, r"x is empty: its shape is \(2, 0, 2\)"),
        (np.ones((2, 3, 2), int), {}, TypeError, "x must hold real numbers, got dtype int64"),
        (np.ones((2, 3, 2)), {"lengths": [1, 9]}, ValueError, "lengths must lie in 1..3"),
        (
            np.ones((2, 3, 2)),
            {"initial_state": OnGPU(np.ones((1, 3, 4)))},
            ValueError,
            r"initial_state \(h\) must have shape \(1, 2, 4\), not \(1, 3, 4\)",
        ),
    ],
)
def test_what_does_not_fit(x, options, error, said):
    layer = numbarnn.GRU(4, device="cuda")
    layer.build(2, seed=0)
    with pytest.raises(error, match=f"^{said}"):
        layer.forward(OnGPU(x), **options)


def test_a_gradient_that_does_not_fit():
    layer = numbarnn.GRU(4, device="cuda")
    layer.forward(OnGPU(np.ones((2, 3, 2))), training=True)
    with pytest.raises(ValueError, match=r"^dy must have the shape of the output, \(2, 3, 4\), not"):
        layer.backward(OnGPU(np.ones((2, 3, 5))))
    layer.backward(OnGPU(np.ones((2, 3, 4))))
