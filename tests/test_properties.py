"""What must be so whatever the numbers: rows in another order or company, padded, cut in two, reversed.

Outputs, states and predictions are compared bit for bit. Of backward `docs/design/panels.md` says which sums
take another order; those are compared to rounding.
"""

import numpy as np
import pytest
from conftest import (
    LAYERS,
    TOLERANCE,
    assert_close,
    assert_same,
    make_layer,
    random_problem,
    run_layer,
    trials,
)

import numbarnn
from numbarnn import Dense, Embedding, MaxOverTime, MeanOverTime, Sequential
from numbarnn.engine.scan.backward import SMALL_WEIGHTS_BYTES
from numbarnn.jit.cpu import padded
from numbarnn.layers import passes

DRAWS = trials(6, 300)
EXTRA_STEPS = 3  # of padding, behind the longest row
FILL = 1e3  # in the padding
INPUTS, HIDDEN = (1, 2, 5, 8, 16, 17, 35), (1, 3, 7, 9, 16, 17, 33, 64)

each_cell = pytest.mark.parametrize("cell", LAYERS)
each_dtype = pytest.mark.parametrize("dtype", TOLERANCE)


@pytest.fixture(autouse=True)
def threads_share_small_batches(set_threads, monkeypatch):
    monkeypatch.setattr(passes, "OPERATIONS_WORTH_A_THREAD", 1)
    set_threads(2)


def drawn(cell, dtype, least_rows=1, least_steps=1, **fixed):
    """Problems of random sizes and options, each with a generator of its own."""
    for seed in range(DRAWS):
        rng = np.random.default_rng([seed, len(cell)])
        sizes = (
            int(rng.integers(least_steps, 9)), int(rng.integers(least_rows, 12)),
            int(rng.choice(INPUTS)), int(rng.choice(HIDDEN)),
        )  # fmt: skip
        options = {
            "num_layers": int(rng.integers(1, 3)), "bidirectional": bool(rng.integers(2)),
            "bias": bool(rng.integers(2)), "ragged": bool(rng.integers(2)), **fixed,
        }  # fmt: skip
        yield random_problem(cell, sizes, dtype=dtype, **options), rng


def of_states(change, state):
    """A state, or a pair of them, with each array changed."""
    return tuple(map(change, state)) if isinstance(state, tuple) else change(state)


def rows_of_state(state, rows):
    return of_states(lambda array: array[:, rows].copy(), state)


def rows_of(problem, rows):
    """Some rows of a problem, in any order."""
    return problem._replace(
        x=[problem.x[row] for row in rows], dy=[problem.dy[row] for row in rows],
        initial_state=rows_of_state(problem.initial_state, rows),
        dstate=rows_of_state(problem.dstate, rows),
    )  # fmt: skip


def turns_at_odd_steps(problem):
    """Whether backward sums in the other direction at every other step."""
    layer = make_layer(problem)
    row_bytes = layer.cell.sum_count * padded(layer.hidden_size, layer.dtype) * layer.dtype.itemsize
    return row_bytes * layer.hidden_size > SMALL_WEIGHTS_BYTES


def assert_as_good_as(is_same, actual, expected, dtype):
    if is_same:
        assert_same(actual, expected)
    else:
        assert_close(actual, expected, TOLERANCE[dtype], dtype)


# ---- layers ----------------------------------------------------------------------------------------------


@each_dtype
@each_cell
def test_rows_in_another_order(cell, dtype):
    for problem, rng in drawn(cell, dtype):
        whole = run_layer(make_layer(problem), problem)
        order = rng.permutation(len(problem.x))
        other = run_layer(make_layer(problem), rows_of(problem, order))
        assert_same(other.outputs, [whole.outputs[row] for row in order])
        assert_same(other.dx, [whole.dx[row] for row in order])
        for field in ("state", "dinitial_state"):
            expected = rows_of_state(getattr(whole, field), order)
            assert_same((getattr(other, field),), (expected,))
        assert_close(other.gradients, whole.gradients, TOLERANCE[dtype])  # sums over the rows


@each_dtype
@each_cell
def test_rows_in_other_company(cell, dtype):
    """Backward of a single row is not that of several."""
    for problem, rng in drawn(cell, dtype, least_rows=2):
        whole = run_layer(make_layer(problem), problem)
        count = int(rng.integers(1, len(problem.x) + 1))
        some = rng.permutation(len(problem.x))[:count]
        part = run_layer(make_layer(problem), rows_of(problem, some))
        assert_same(part.outputs, [whole.outputs[row] for row in some])
        assert_same((part.state,), (rows_of_state(whole.state, some),))
        dinitial_state = rows_of_state(whole.dinitial_state, some)
        assert_as_good_as(count > 1, part.dx, [whole.dx[row] for row in some], dtype)
        assert_as_good_as(count > 1, (part.dinitial_state,), (dinitial_state,), dtype)


@each_dtype
@each_cell
def test_padding_changes_nothing(cell, dtype):
    for problem, _ in drawn(cell, dtype):
        as_list = run_layer(make_layer(problem), problem)
        lengths = [len(x) for x in problem.x]
        for extra in (0, EXTRA_STEPS):
            shape = len(lengths), max(lengths) + extra
            x = np.full((*shape, problem.x[0].shape[1]), FILL, dtype)
            dy = np.full((*shape, problem.dy[0].shape[1]), FILL, dtype)
            for row, length in enumerate(lengths):
                x[row, :length], dy[row, :length] = problem.x[row], problem.dy[row]
            layer = make_layer(problem)
            y, state = layer.forward(x, problem.initial_state, lengths=lengths, training=True)
            dx, dinitial_state = layer.backward(dy, dstate=problem.dstate)
            for array, rows in ((y, as_list.outputs), (dx, as_list.dx)):
                assert_same([row[:length] for row, length in zip(array, lengths, strict=True)], rows)
                assert not any(row[length:].any() for row, length in zip(array, lengths, strict=True))
            assert_same((state, dinitial_state), (as_list.state, as_list.dinitial_state))
            assert_same(dict(layer.gradients), as_list.gradients)


@each_dtype
@each_cell
def test_two_parts_through_the_carried_state(cell, dtype):
    """Backward goes on to the last bit where neither part is a single row of several, and where the direction
    of its sums does not change from step to step, or the cut lies between steps of equal directions."""
    for problem, rng in drawn(cell, dtype, least_steps=2, bidirectional=False):
        whole = run_layer(make_layer(problem), problem)
        cut = int(rng.integers(1, max(map(len, problem.x))))
        left = [row for row, x in enumerate(problem.x) if len(x) > cut]
        first = problem._replace(x=[x[:cut] for x in problem.x], dy=[dy[:cut] for dy in problem.dy])
        begin = make_layer(problem)
        y, state = begin.forward(first.x, first.initial_state, training=True)
        second = rows_of(problem, left)
        second = second._replace(
            x=[x[cut:] for x in second.x], dy=[dy[cut:] for dy in second.dy],
            initial_state=rows_of_state(state, left),
        )  # fmt: skip
        rest = run_layer(make_layer(problem), second)
        # The rows that end in the first part have their final states' gradients from there.
        waiting = problem.dstate if isinstance(problem.dstate, tuple) else (problem.dstate,)
        behind = rest.dinitial_state if isinstance(rest.dinitial_state, tuple) else (rest.dinitial_state,)
        for array, later in zip(waiting, behind, strict=True):
            array[:, left] = later
        dx, dinitial_state = begin.backward(first.dy, dstate=problem.dstate)

        outputs, dinputs = list(y), list(dx)
        for place, row in enumerate(left):
            outputs[row] = np.concatenate([y[row], rest.outputs[place]])
            dinputs[row] = np.concatenate([dx[row], rest.dx[place]])
        assert_same(outputs, whole.outputs)
        assert_same((rest.state,), (rows_of_state(whole.state, left),))
        same = len(problem.x) == 1 or len(left) > 1
        same = same and (cut % 2 == 0 or not turns_at_odd_steps(problem))
        assert_as_good_as(same, dinputs, whole.dx, dtype)
        assert_as_good_as(same, (dinitial_state,), (whole.dinitial_state,), dtype)
        gradients = {name: values + rest.gradients[name] for name, values in begin.gradients.items()}
        assert_close(gradients, whole.gradients, TOLERANCE[dtype])


def reversed_problem(problem):
    """Rows, and what belongs to each direction, in reverse."""
    hidden = problem.parameters["weight_hh_l0"].shape[1]

    def swapped(array):
        return np.concatenate([array[:, hidden:], array[:, :hidden]], axis=1)

    parameters = {}
    for name, values in problem.parameters.items():
        other = name.removesuffix("_reverse") if name.endswith("_reverse") else f"{name}_reverse"
        reads_both = name.startswith("weight_ih") and "l0" not in name
        parameters[other] = swapped(values) if reads_both else values
    order = np.arange(2 * problem.num_layers) ^ 1
    return problem._replace(
        parameters=parameters, x=[x[::-1].copy() for x in problem.x],
        dy=[swapped(dy[::-1]) for dy in problem.dy],
        initial_state=of_states(lambda state: state[order].copy(), problem.initial_state),
        dstate=of_states(lambda state: state[order].copy(), problem.dstate),
    )  # fmt: skip


@each_dtype
@pytest.mark.parametrize("num_layers", [1, 2])
@each_cell
def test_reversed_rows_through_both_directions(cell, num_layers, dtype):
    """The second layer adds up both directions' outputs, and dx is the sum of both: in another order here."""
    for problem, _ in drawn(cell, dtype, num_layers=num_layers, bidirectional=True):
        whole = run_layer(make_layer(problem), problem)
        twin = reversed_problem(problem)
        found = run_layer(make_layer(twin), twin)
        expected = reversed_problem(
            problem._replace(
                x=whole.dx, dy=whole.outputs, initial_state=whole.state, dstate=whole.dinitial_state
            )
        )
        assert_as_good_as(num_layers == 1, found.outputs, expected.dy, dtype)
        assert_as_good_as(num_layers == 1, (found.state,), (expected.initial_state,), dtype)
        assert_close(found.dx, expected.x, TOLERANCE[dtype], dtype)
        same = num_layers == 1 and not turns_at_odd_steps(problem)
        assert_as_good_as(same, (found.dinitial_state,), (expected.dstate,), dtype)


# ---- models ----------------------------------------------------------------------------------------------

MODELS = {
    "last state": lambda **options: [numbarnn.LSTM(9, **options)],
    "steps": lambda **options: [
        numbarnn.GRU(7, bidirectional=True, num_layers=2, return_sequences=True, **options)
    ],
    "mean": lambda **options: [numbarnn.RNN(5, return_sequences=True, **options), MeanOverTime(**options)],
    "largest": lambda **options: [Dense(17, "tanh", **options), MaxOverTime(**options)],
    "tokens": lambda **options: [Embedding(11, 5, **options), numbarnn.GRU(16, **options)],
}


@each_dtype
@pytest.mark.parametrize("name", MODELS)
def test_predictions_of_rows_in_another_order_and_in_other_batches(name, dtype):
    model = Sequential(*MODELS[name](dtype=dtype), Dense(3, dtype=dtype))
    model.build(3 if name != "tokens" else 1, seed=0)
    for seed in range(DRAWS):
        rng = np.random.default_rng(seed)
        lengths = rng.integers(1, 30, int(rng.integers(1, 20)))
        x = [rng.standard_normal((length, 3)).astype(dtype) for length in lengths]
        if name == "tokens":
            x = [rng.integers(0, 11, length) for length in lengths]
        expected = model.predict(x)
        order = rng.permutation(len(x))
        batch_size = int(rng.integers(1, len(x) + 1))
        found = model.predict([x[row] for row in order], batch_size=batch_size)
        assert_same(list(found), [expected[row] for row in order])


@each_dtype
@pytest.mark.parametrize("name", [name for name in MODELS if name != "tokens"])
def test_predictions_of_an_array_are_those_of_its_rows(name, dtype):
    model = Sequential(*MODELS[name](dtype=dtype), Dense(3, dtype=dtype))
    model.build(3, seed=0)
    x = np.random.default_rng(0).standard_normal((5, 6, 3)).astype(dtype)
    expected = model.predict(x)
    assert_same(list(model.predict(list(x))), list(expected))
    for row in range(len(x)):
        assert_same(list(model.predict(x[row : row + 1])), [expected[row]])
