"""What the tests share: devices, random problems, the layer of a problem, a tolerance table, threads to set.

A test with an argument ``device`` runs on the CPU and, where there is a GPU or a stand-in for one, on the GPU
too; ``pytest -m cuda`` takes the latter alone, and all of ``test_cuda*.py``.
"""

import itertools
import os
from typing import Any, NamedTuple

import numpy as np
import pytest
from reference import CELLS, Results, parameter_names

import numbarnn

# The largest error allowed in an array, relative to the largest magnitude in that array.
TOLERANCE = {"float64": 1e-10, "float32": 2e-5}

# Where there is no GPU its kernels run in Numba's simulator or, compiled to PTX, in the tests' interpreter.
SIMULATED = os.environ.get("NUMBA_ENABLE_CUDASIM") == "1"
INTERPRETED = os.environ.get("NUMBARNN_TEST_PTX", "")  # the compute capability to compile for, as in "9.0"
EMULATED = SIMULATED or INTERPRETED != ""
ALL_CASES = os.environ.get("NUMBARNN_TEST_ALL_CASES") == "1"
if INTERPRETED:
    import fake_gpu

    GPU = fake_gpu.install(tuple(map(int, INTERPRETED.split("."))))
else:
    GPU = None
on_emulated_gpu = pytest.mark.skipif(
    not EMULATED, reason="needs NUMBA_ENABLE_CUDASIM=1 or NUMBARNN_TEST_PTX=9.0"
)
in_simulator = pytest.mark.skipif(not SIMULATED, reason="needs NUMBA_ENABLE_CUDASIM=1")
on_gpu = pytest.mark.skipif(not numbarnn.cuda_available(), reason="needs a GPU or a stand-in for one")
DEVICES = [pytest.param("cpu")]
if numbarnn.cuda_available():
    DEVICES.append(pytest.param("cuda", marks=pytest.mark.cuda))

LAYERS = {
    "rnn_tanh": ("RNN", {"activation": "tanh"}),
    "rnn_relu": ("RNN", {"activation": "relu"}),
    "lstm": ("LSTM", {}),
    "gru": ("GRU", {}),
}


def trials(quick, long):
    """How often a test tries what goes wrong seldom: more often with NUMBARNN_LONG_TESTS=1."""
    return long if os.environ.get("NUMBARNN_LONG_TESTS") == "1" else quick


def sized(full, simulated):
    """Sizes of a test: small ones where a GPU is emulated, thread by thread."""
    return simulated if EMULATED else full


@pytest.fixture(params=DEVICES)
def device(request):
    """The devices that are here, in turns."""
    return request.param


@pytest.hookimpl(tryfirst=True)  # before the marks select
def pytest_collection_modifyitems(config, items):
    """Mark the tests of the GPU alone; where it is emulated, thin out the grids of those that it shares."""
    grids: dict[str, list[pytest.Item]] = {}
    for item in items:
        if item.path.name.startswith("test_cuda"):
            item.add_marker(pytest.mark.cuda)
        elif item.get_closest_marker("cuda") and EMULATED and not ALL_CASES:
            grids.setdefault(item.nodeid.partition("[")[0], []).append(item)
    dropped = {item for grid in grids.values() for item in set(grid) - set(all_pairs(grid))}
    if dropped:
        config.hook.pytest_deselected(items=[item for item in items if item in dropped])
        items[:] = [item for item in items if item not in dropped]


def all_pairs(grid):
    """Cases of a test in which each pair of values of two parameters occurs that occurs in all its cases."""
    pairs = {}
    for item in grid:
        values = [(name, id(value)) for name, value in sorted(item.callspec.params.items())]
        pairs[item] = set(itertools.combinations(values, min(2, len(values))))
    left = set().union(*pairs.values())
    while left:
        best = max(grid, key=lambda item: len(pairs[item] & left))
        left -= pairs[best]
        yield best


class Problem(NamedTuple):
    """A network, its input and the gradients to start backward from: the arguments of an oracle's ``run``."""

    cell: str
    parameters: dict[str, np.ndarray]
    x: list[np.ndarray]
    initial_state: Any
    dy: list[np.ndarray]
    dstate: Any
    num_layers: int
    bidirectional: bool


def random_problem(
    cell, sizes, *, num_layers=1, bidirectional=False, bias=True, ragged=False, dtype="float64", lengths=None
):
    """A problem whose weights differ from gate to gate and whose states do not begin at 0.

    ``sizes`` is (T, B, I, H). The same arguments give the same numbers.
    """
    steps, rows, input_size, hidden_size = sizes
    rng = np.random.default_rng([*sizes, num_layers, bidirectional, bias, ragged])
    directions, gates, states = 1 + bidirectional, CELLS[cell].gates, CELLS[cell].states

    def normal(*shape):
        return rng.standard_normal(shape).astype(dtype)

    def uniform(*shape):
        return (rng.uniform(-1.0, 1.0, shape) / np.sqrt(hidden_size)).astype(dtype)

    def state():
        parts = tuple(normal(num_layers * directions, rows, hidden_size) for _ in range(states))
        return parts if states > 1 else parts[0]

    parameters = {}
    for layer in range(num_layers):
        inputs = input_size if layer == 0 else directions * hidden_size
        for direction in range(directions):
            names = parameter_names(layer, direction)
            parameters[names.weight_ih] = uniform(gates * hidden_size, inputs)
            parameters[names.weight_hh] = uniform(gates * hidden_size, hidden_size)
            if bias:
                parameters[names.bias_ih] = uniform(gates * hidden_size)
                parameters[names.bias_hh] = uniform(gates * hidden_size)
    if lengths is None:
        lengths = np.full(rows, steps)
        if ragged:
            lengths[: rows - 1] = rng.integers(1, steps + 1, rows - 1)  # the longest row comes last: unsorted
            lengths[: rows // 3] = 1
    x = [normal(length, input_size) for length in lengths]
    dy = [normal(length, directions * hidden_size) for length in lengths]
    return Problem(cell, parameters, x, state(), dy, state(), num_layers, bidirectional)


def make_layer(problem, **options):
    """The numbarnn layer of a problem, with its parameters set."""
    layer_class, cell_options = LAYERS[problem.cell]
    layer = getattr(numbarnn, layer_class)(
        problem.parameters["weight_hh_l0"].shape[1],
        num_layers=problem.num_layers,
        bidirectional=problem.bidirectional,
        bias="bias_ih_l0" in problem.parameters,
        dtype=str(problem.parameters["weight_hh_l0"].dtype),
        **cell_options,
        **options,
    )
    layer.build(problem.parameters["weight_ih_l0"].shape[1], seed=0)
    layer.set_parameters(problem.parameters)
    return layer


def run_layer(layer, problem, as_array=False, seed=None):
    """Forward and backward of a layer on a problem; ``as_array`` hands in (B, T, I), not a list of rows."""
    x, dy = (np.stack(problem.x), np.stack(problem.dy)) if as_array else (problem.x, problem.dy)
    y, state = layer.forward(x, initial_state=problem.initial_state, training=True, seed=seed)
    dx, dinitial_state = layer.backward(dy, dstate=problem.dstate)
    assert isinstance(y, np.ndarray if as_array else list), "the results keep the form of the input"
    assert isinstance(dx, type(y))
    gradients = {name: gradient.copy() for name, gradient in layer.gradients.items()}
    return Results(list(y), state, list(dx), dinitial_state, gradients)


def arrays_of(results, name=""):
    """(name, array) of every array in a nest of tuples and dicts; the rows of a list count as one array."""
    if isinstance(results, np.ndarray):
        yield name, results
    elif isinstance(results, list):
        yield f"{name} lengths", np.array([len(row) for row in results])
        yield name, np.concatenate(results)
    elif isinstance(results, dict):
        for key in sorted(results):
            yield from arrays_of(results[key], f"{name} {key}")
    else:
        for key, part in zip(getattr(results, "_fields", range(len(results))), results, strict=True):
            yield from arrays_of(part, f"{name} {key}")


def assert_close(actual, expected, tolerance, dtype=None):
    """Every array has the shape and, to ``tolerance`` of its largest magnitude, the values that it should."""
    actual, expected = dict(arrays_of(actual)), dict(arrays_of(expected))
    assert list(actual) == list(expected)
    for name, array in actual.items():
        wanted = expected[name]
        assert array.shape == wanted.shape, f"{name}: shape {array.shape}, not {wanted.shape}"
        if dtype is not None and array.dtype.kind == "f":
            assert array.dtype == dtype, f"{name}: {array.dtype}, not {dtype}"
        error = np.max(np.abs(array.astype(np.float64) - wanted), initial=0.0)
        allowed = tolerance * np.max(np.abs(wanted), initial=0.0)
        assert error <= allowed, f"{name}: error {error:.2e}, allowed {allowed:.2e}"  # also fails on NaN


def assert_same_on(device, actual, expected):
    """Bit for bit on the CPU. The GPU promises no order of its sums, so that there a tolerance must do."""
    if device == "cpu":
        assert_same(actual, expected)
        return
    dtypes = {str(array.dtype) for _, array in arrays_of(expected) if array.dtype.kind == "f"}
    for dtype in dtypes or {None}:
        assert_close(actual, expected, TOLERANCE.get(dtype, 0.0), dtype)


def assert_same(actual, expected):
    """Every array is the same, bit for bit."""
    actual, expected = dict(arrays_of(actual)), dict(arrays_of(expected))
    assert list(actual) == list(expected)
    for name, array in actual.items():
        wanted = expected[name]
        assert (array.dtype, array.shape) == (wanted.dtype, wanted.shape), name
        assert array.tobytes() == wanted.tobytes(), f"{name} differs"


@pytest.fixture
def set_threads():
    """`set_num_threads`, undone afterwards."""
    before = numbarnn.get_num_threads()
    yield numbarnn.set_num_threads
    numbarnn.set_num_threads(before)


@pytest.fixture
def teams_of_one(monkeypatch):
    """Layers of the GPU go by so many teams of one block (see ``engine/cuda/teams.py``), of which each thread
    has so many pieces in registers."""
    from numbarnn.engine.cuda import teams as cuda_teams
    from numbarnn.layers.cuda import recurrent_pass

    def arrange(teams, near_pieces=None, lanes=2):
        def team_for(cell, hidden, dtype, weight_dtype, shared_memory, most_blocks):
            team = cuda_teams.team_of(cell, hidden, dtype, weight_dtype, 1, lanes)
            plan = team.plan
            if near_pieces is not None:
                far_pieces = plan.runs * cell.product_width - near_pieces
                far = far_pieces * plan.run * plan.threads * np.dtype(dtype).itemsize
                plan = plan._replace(near_pieces=near_pieces, shared_bytes=far)
            return team._replace(plan=plan)

        monkeypatch.setattr(cuda_teams, "team_for", team_for)
        monkeypatch.setattr(cuda_teams, "IN_USE", True)
        monkeypatch.setattr(recurrent_pass, "shared_memory", lambda: 0)
        monkeypatch.setattr(recurrent_pass, "blocks_together", lambda: teams)

    return arrange
