"""The recurrent layers against both oracles, and what they promise about forms, threads and rows."""

import importlib
import itertools
import os
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
    arrays_of,
    assert_close,
    assert_same,
    assert_same_on,
    make_layer,
    random_problem,
    run_layer,
    sized,
)

# (T, B, I, H), each with an edge of its own. With H = 1 most arrays are one number, and a sum that cancels
# loses digits in any float32 program: these T and B are ones where PyTorch's own float32 keeps them.
SIZES = sized(
    [(5, 3, 4, 6), (1, 2, 3, 5), (8, 5, 1, 1), (6, 1, 1, 7), (3, 33, 2, 17), (4, 5, 7, 64), (7, 4, 40, 16)],
    [(4, 3, 3, 5), (1, 2, 3, 3), (2, 2, 1, 1), (2, 1, 2, 4)],
)
# Enough work for several threads to get a share, and rows that do not divide evenly.
LARGE = sized((20, 37, 24, 48), (2, 2, 2, 9))
# Where the size does not matter, and the most that layers can be.
SOME, SMALL = sized(((6, 5, 3, 7), (5, 3, 4, 6)), [(2, 2, 2, 3)] * 2)
STACKED = sized({"num_layers": 2, "bidirectional": True}, {"bidirectional": True})

each_cell = pytest.mark.parametrize("cell", LAYERS)
shared_cell = pytest.mark.parametrize("cell", sized(list(LAYERS), ["lstm", "gru"]))
each_dtype = pytest.mark.parametrize("dtype", TOLERANCE)
each_direction = pytest.mark.parametrize("bidirectional", [False, True], ids=["one-way", "two-way"])


@pytest.fixture(params=["reference", "oracle_torch"])
def oracle(request):
    if request.param == "oracle_torch":
        pytest.importorskip("torch")
    return importlib.import_module(request.param)


def pad(rows, fill):
    """Rows (T_i, ...) as one array (B, T, ...) with ``fill`` past their ends."""
    padded = np.full((len(rows), max(map(len, rows)), *rows[0].shape[1:]), fill, rows[0].dtype)
    for target, row in zip(padded, rows, strict=True):
        target[: len(row)] = row
    return padded


def row_of(problem, row):
    """The problem of one row alone."""

    def of_state(state):
        return tuple(map(of_state, state)) if isinstance(state, tuple) else state[:, row : row + 1]

    return problem._replace(
        x=problem.x[row : row + 1],
        dy=problem.dy[row : row + 1],
        initial_state=of_state(problem.initial_state),
        dstate=of_state(problem.dstate),
    )


@each_dtype
@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("ragged", [False, True], ids=["full", "ragged"])
@pytest.mark.parametrize("num_layers", [1, 2])
@each_direction
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
@each_cell
def test_layer_is_its_oracle(device, oracle, cell, bias, bidirectional, num_layers, ragged, sizes, dtype):
    options = {"bias": bias, "bidirectional": bidirectional, "num_layers": num_layers, "ragged": ragged}
    problem = random_problem(cell, sizes, dtype=dtype, **options)
    actual = run_layer(make_layer(problem, device=device), problem, as_array=not ragged)
    assert_close(actual, oracle.run(*problem), TOLERANCE[dtype], dtype)


def assert_is_its_reference(problem, device):
    actual = run_layer(make_layer(problem, device=device), problem)
    assert_close(actual, reference.run(*problem), TOLERANCE["float64"])


@shared_cell
def test_large_problem_is_its_reference(device, cell):
    """The sizes at which the work is shared out among threads."""
    problem = random_problem(cell, LARGE, num_layers=2, bidirectional=True, ragged=True)
    assert_is_its_reference(problem, device)


@shared_cell
def test_row_is_itself_in_any_company(device, cell):
    problem = random_problem(cell, SOME, **STACKED, ragged=True)
    layer = make_layer(problem, device=device)
    together = run_layer(layer, problem)
    alone = [run_layer(layer, row_of(problem, row)) for row in range(len(problem.x))]
    assert_close(together.outputs, [row.outputs[0] for row in alone], TOLERANCE["float64"])
    assert_close(together.dx, [row.dx[0] for row in alone], TOLERANCE["float64"])
    for field in ("state", "dinitial_state"):
        parts = [[array for _, array in arrays_of(getattr(row, field))] for row in alone]
        joined = [np.concatenate(part, axis=1) for part in zip(*parts, strict=True)]
        parts_together = tuple(array for _, array in arrays_of(getattr(together, field)))
        assert_close(parts_together, tuple(joined), TOLERANCE["float64"])
    for name, gradient in together.gradients.items():
        assert_close(gradient, sum(row.gradients[name] for row in alone), TOLERANCE["float64"])


@shared_cell
def test_rows_come_back_in_the_callers_order(device, cell):
    lengths = sized([2, 9, 1, 5, 9, 4], [1, 3, 2])
    problem = random_problem(cell, (max(lengths), len(lengths), 2, 5), bidirectional=True, lengths=lengths)
    outputs = run_layer(make_layer(problem, device=device), problem).outputs
    assert [len(y) for y in outputs] == lengths
    assert_close(outputs, reference.run(*problem).outputs, TOLERANCE["float64"])


@each_direction
@shared_cell
def test_padded_array_with_lengths_is_the_list(device, cell, bidirectional):
    """What stands past a row's end, in x or in dy, has no influence."""
    problem = random_problem(cell, SOME, num_layers=2, bidirectional=bidirectional, ragged=True)
    layer, lengths = make_layer(problem, device=device), [len(row) for row in problem.x]
    as_list = run_layer(layer, problem)
    y, state = layer.forward(
        pad(problem.x, fill=1e3), initial_state=problem.initial_state, lengths=lengths, training=True
    )
    dx, dinitial_state = layer.backward(pad(problem.dy, fill=1e3), dstate=problem.dstate)
    assert_same_on(device, y, pad(as_list.outputs, fill=0.0))
    assert_same_on(device, dx, pad(as_list.dx, fill=0.0))
    assert_same_on(device, (state, dinitial_state), (as_list.state, as_list.dinitial_state))
    assert_same_on(device, layer.gradients, as_list.gradients)


@shared_cell
def test_rows_in_any_container(device, cell):
    problem = random_problem(cell, SOME, ragged=True)
    rows_as_objects = np.empty(len(problem.x), object)
    rows_as_objects[:] = problem.x
    layer = make_layer(problem, device=device)
    y, state = layer.forward(problem.x)
    for container in (tuple(problem.x), rows_as_objects):
        y_again, state_again = layer.forward(container)
        assert_same_on(device, (list(y_again), state_again), (y, state))


@each_dtype
@each_cell
def test_threads_and_repetition_change_no_bit(cell, dtype, set_threads):
    problem = random_problem(cell, LARGE, num_layers=2, bidirectional=True, ragged=True, dtype=dtype)
    results = []
    for threads in (1, 2, 5, 1):
        set_threads(threads)
        results.append(run_layer(make_layer(problem), problem))
    for result in results[1:]:
        assert_same(result, results[0])


@shared_cell
def test_gradients_left_out(device, cell):
    problem = random_problem(cell, SMALL, **STACKED, ragged=True)
    zeros = tuple(map(np.zeros_like, problem.dstate)) if cell == "lstm" else np.zeros_like(problem.dstate)
    layer = make_layer(problem, device=device)
    with_zeros = run_layer(layer, problem._replace(dstate=zeros))
    assert_same_on(device, run_layer(layer, problem._replace(dstate=None)), with_zeros)

    layer.forward(problem.x, initial_state=problem.initial_state, training=True)
    dx, dinitial_state = layer.backward(problem.dy, input_gradient=False)
    assert dx is None
    assert_same_on(device, dinitial_state, with_zeros.dinitial_state)
    assert_same_on(device, layer.gradients, with_zeros.gradients)


@shared_cell
def test_zero_initial_state_is_the_default(device, cell):
    problem = random_problem(cell, SMALL, num_layers=2, ragged=True)._replace(initial_state=None)
    assert_is_its_reference(problem, device)


@shared_cell
def test_forward_without_training(device, cell):
    problem = random_problem(cell, SMALL, **STACKED, ragged=True)
    layer = make_layer(problem, device=device)
    trained = run_layer(layer, problem)
    y, state = layer.forward(problem.x, initial_state=problem.initial_state)
    assert_same_on(device, (y, state), (trained.outputs, trained.state))
    with pytest.raises(RuntimeError, match="training"):
        layer.backward(problem.dy)


@each_dtype
@shared_cell
def test_inputs_of_any_layout_and_precision(device, cell, dtype):
    """Whole numbers are exact in every float, so that each way to hand them in must give the same bits."""
    steps, rows, input_size, hidden_size = sized((5, 4, 6, 7), (2, 2, 2, 3))
    sizes = (steps, rows, input_size, hidden_size)
    problem = random_problem(cell, sizes, bidirectional=not SIMULATED, dtype=dtype)
    x = np.random.default_rng(0).integers(-3, 4, (rows, steps, input_size)).astype(dtype)
    read_only = x.copy()
    read_only.flags.writeable = False
    spread = np.zeros((rows, 2 * steps, 2 * input_size), dtype)
    spread[:, ::2, ::2] = x
    variants = [
        x.astype("float16"),
        x.astype("float32"),
        x.astype("float64"),
        np.asfortranarray(x),
        read_only,
    ]
    variants += [spread[:, ::2, ::2], x[:, ::-1, ::-1].copy()[:, ::-1, ::-1]]
    layer = make_layer(problem, device=device)
    expected = layer.forward(x, initial_state=problem.initial_state)
    assert expected[0].dtype == dtype
    for variant in variants:
        assert_same_on(device, layer.forward(variant, initial_state=problem.initial_state), expected)
        as_rows = layer.forward(list(variant), initial_state=problem.initial_state)
        assert_same_on(device, (np.stack(as_rows[0]), as_rows[1]), expected)


@shared_cell
def test_states_of_any_layout(device, cell):
    """What a file or another library hands out may be read-only or at an odd address; one part or all."""
    problem = random_problem(cell, sized((5, 4, 6, 7), (2, 2, 2, 3)), bidirectional=True, dtype="float32")
    layer, x, dy = make_layer(problem, device=device), np.stack(problem.x), np.stack(problem.dy)
    good = [array for _, array in arrays_of(problem.initial_state)]
    expected = run_layer(layer, problem)
    variants = []
    for array in good:
        read_only, odd = array.copy(), np.zeros(array.nbytes + 1, np.uint8)[1:].view(np.float32)
        read_only.flags.writeable = False
        odd[:] = array.reshape(-1)
        variants.append([array, read_only, odd.reshape(array.shape), np.asfortranarray(array)])
    for parts in zip(*variants, strict=True) if SIMULATED else itertools.product(*variants):
        state = parts if len(parts) > 1 else parts[0]
        y, final = layer.forward(x, initial_state=state, training=True)
        assert_same_on(device, (list(y), final), (expected.outputs, expected.state))
        with_same = layer.backward(dy, dstate=problem.initial_state)
        layer.forward(x, initial_state=state, training=True)
        assert_same_on(device, layer.backward(dy, dstate=state), with_same)


@each_dtype
@pytest.mark.parametrize("as_array", [True, False], ids=["array", "list"])
@shared_cell
def test_callers_arrays_are_left_alone(device, cell, as_array, dtype):
    problem = random_problem(cell, SMALL, **STACKED, dtype=dtype)
    layer = make_layer(problem, device=device)
    x, dy = (np.stack(problem.x), np.stack(problem.dy)) if as_array else (problem.x, problem.dy)
    given = [x, dy] if as_array else [*x, *dy]
    given += [array for _, array in arrays_of((problem.initial_state, problem.dstate, problem.parameters))]
    copies = [array.copy() for array in given]
    y, state = layer.forward(x, initial_state=problem.initial_state, training=True)
    given += [*y, *(array for _, array in arrays_of(state))]  # what the layer handed out is the caller's too
    copies += [array.copy() for array in given[len(copies) :]]
    layer.backward(dy, dstate=problem.dstate)
    layer.forward(x)
    for array, copy in zip(given, copies, strict=True):
        assert_same(array, copy)


@each_dtype
@pytest.mark.parametrize("num_layers", [1, 2])
@each_cell
def test_steps_are_forward(cell, num_layers, dtype):
    problem = random_problem(cell, (6, 3, 4, 17), num_layers=num_layers, dtype=dtype)
    layer, x = make_layer(problem), np.stack(problem.x)
    for state in (None, problem.initial_state):
        y, final = layer.forward(x, initial_state=state)
        y_steps = []
        for t in range(x.shape[1]):
            y_t, state = layer.step(x[:, t], state)
            y_steps.append(y_t)
        assert_close(np.stack(y_steps, axis=1), y, TOLERANCE[dtype], dtype)
        assert_close(state, final, TOLERANCE[dtype], dtype)


@each_dtype
@pytest.mark.parametrize("hidden_size", [5, 16, 40])
@pytest.mark.parametrize("rows", [1, 3])
@each_cell
def test_steps_are_forward_to_the_last_bit(cell, rows, hidden_size, dtype):
    """Whether the steps come one by one or all at once, each sum has the same order."""
    problem = random_problem(cell, (50, rows, 3, hidden_size), num_layers=2, dtype=dtype)
    layer, x = make_layer(problem), np.stack(problem.x)
    state = problem.initial_state
    y, final = layer.forward(x, initial_state=state)
    for t in range(x.shape[1]):
        y_t, state = layer.step(np.ascontiguousarray(x[:, t]), state)
        assert_same(y_t, np.ascontiguousarray(y[:, t]))
    assert_same(state, final)


@pytest.mark.parametrize("training", [False, True])
@shared_cell
def test_states_left_by_one_call_are_not_those_of_the_next(device, cell, training):
    """One pass serves batches with and without states, of one shape and of others, in any order."""
    problem = random_problem(cell, sized((6, 3, 4, 17), (3, 1, 2, 2)), **STACKED)
    layer, x = make_layer(problem, device=device), np.stack(problem.x)
    batches = [(x, problem.initial_state), (x, None), (problem.x, None), (x[:, :2].copy(), None)]

    def run(layer, batch):
        given, state = batch
        y, final = layer.forward(given, initial_state=state, training=training)
        return (y, final, layer.backward(y)) if training else (y, final)

    expected = [run(make_layer(problem, device=device), batch) for batch in batches]
    for i in (0, 1, 0, 2, 0, 3, 3, 0, 1, 1):
        assert_same_on(device, run(layer, batches[i]), expected[i])


WITHOUT_JIT = """
import sys
sys.path.insert(0, sys.argv[1])
from conftest import LAYERS, TOLERANCE, assert_close, make_layer, random_problem, run_layer
import reference
for cell in LAYERS:
    problem = random_problem(cell, (3, 2, 3, 5), num_layers=2, bidirectional=True, ragged=True)
    assert_close(run_layer(make_layer(problem), problem), reference.run(*problem), TOLERANCE["float64"])
"""


def test_all_cells_without_the_compiler():
    """For a debugger: the kernels are plain functions then."""
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1"}
    command = [sys.executable, "-c", WITHOUT_JIT, str(Path(__file__).parent)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def dropout_masks(problem, rate, seed, device):
    """The factors that dropout puts between two layers, read off a network that only copies its input."""
    hidden_size = problem.parameters["weight_hh_l0"].shape[1]
    identity, zeros = np.eye(hidden_size), np.zeros((hidden_size, hidden_size))
    parameters = {}
    for suffix, copies in (("", [identity, zeros]), ("_reverse", [zeros, identity])):
        parameters |= {f"weight_ih_l0{suffix}": identity, f"weight_ih_l1{suffix}": np.hstack(copies)}
        parameters |= {f"weight_hh_l{layer}{suffix}": zeros for layer in range(2)}
    ones = [np.ones((len(x), hidden_size)) for x in problem.x]
    copying = problem._replace(cell="rnn_relu", parameters=parameters)
    layer = make_layer(copying, dropout=rate, device=device)
    masks, _ = layer.forward(ones, training=True, seed=seed)
    return masks


@shared_cell
def test_dropout_between_layers(device, cell):
    rate, seed = 0.25, 7
    problem = random_problem(
        cell, sized((8, 6, 5, 16), (2, 3, 2, 5)), num_layers=2, bidirectional=True, ragged=True
    )
    masks = dropout_masks(problem, rate, seed, device)
    factors, counts = np.unique(np.concatenate(masks), return_counts=True)
    np.testing.assert_allclose(factors, [0.0, 1.0 / (1.0 - rate)])
    assert counts[0] / counts.sum() == pytest.approx(rate, abs=sized(0.06, 0.15))  # fewer numbers spread more

    layer = make_layer(problem, dropout=rate, device=device)
    expected = reference.run(*problem, dropout_masks=[masks])
    assert_close(run_layer(layer, problem, seed=seed), expected, TOLERANCE["float64"])
    predicted, _ = layer.forward(problem.x, initial_state=problem.initial_state)
    assert_close(predicted, reference.run(*problem).outputs, TOLERANCE["float64"])
    assert np.any(np.concatenate(masks) != np.concatenate(dropout_masks(problem, rate, seed + 1, device)))
