"""How a pass is planned: batches that fit, divided units and prefetching change no number."""

import numpy as np
import pytest
from conftest import LAYERS, assert_same, make_layer, random_problem, run_layer
from numba.core import config

import numbarnn
from numbarnn.jit.cpu import padded
from numbarnn.layers import passes, plan, sharing
from numbarnn.layers.chain import Chain
from numbarnn.layers.passes import Buffers
from numbarnn.layers.recurrent_pass import RecurrentPass
from numbarnn.sequences.layout import Layout

INPUTS, ROWS, LONGEST, BATCHES = 5, 6, 30, 15


@pytest.fixture
def count_calls(monkeypatch):
    """Lists to which each call of a method of `RecurrentPass` adds its batch."""

    def count(name):
        batches, method = [], getattr(RecurrentPass, name)

        def counting(self, layout, *arguments):
            batches.append(layout)
            method(self, layout, *arguments)

        monkeypatch.setattr(RecurrentPass, name, counting)
        return batches

    return count


def training_step(chain, layers, lengths, seed):
    """Outputs and gradients of one batch, all copied."""
    rng = np.random.default_rng(seed)
    layout = Layout(lengths)
    # As a fit has it: batches stand in one and the same memory.
    if not hasattr(chain, "memory"):
        chain.memory = Buffers("float64")
        chain.memory.matrix("x", ROWS * LONGEST, padded(INPUTS, "float64"))
    x = chain.memory.matrix("x", layout.total, padded(INPUTS, "float64"))
    _, y = chain.prepare(layout, x, seed)
    chain.memory.matrix("dy", ROWS * LONGEST, y.shape[1])
    dy = chain.memory.matrix("dy", *y.shape)
    chain.prepare_backward(dy)
    x[:, :INPUTS] = rng.standard_normal((layout.total, INPUTS))
    size = layers[-1].hidden_size * layers[-1].directions
    dy[:, :size] = rng.standard_normal((len(y), size))
    chain.forward()
    chain.backward()
    return y.copy(), [layer.flat_gradients.copy() for layer in layers]


def ragged(seed):
    """Lengths; every third batch lacks a row."""
    return np.random.default_rng(seed).integers(1, LONGEST, ROWS - (seed % 3 == 2))


@pytest.mark.parametrize("cell", LAYERS)
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("return_sequences", [False, True])
@pytest.mark.parametrize("hidden_size", [7, 130])
def test_batches_that_move_in(cell, bidirectional, return_sequences, hidden_size, set_threads, count_calls):
    """130 hidden units are work for two threads: by rows, or by directions."""
    set_threads(2)
    name, options = LAYERS[cell]
    layer_class = getattr(numbarnn, name)
    options = {"bidirectional": bidirectional, "dtype": "float64", **options}
    layers = [
        layer_class(hidden_size, num_layers=2, dropout=0.3, return_sequences=True, **options),
        layer_class(9, return_sequences=return_sequences, **options),
    ]
    layers[0].build(INPUTS, seed=1)
    layers[1].build(hidden_size * layers[0].directions, seed=2)
    lasting, moved_in = Chain(layers, training=True), count_calls("_rebind")
    for seed in range(BATCHES):
        expected = training_step(Chain(layers, training=True), layers, ragged(seed), seed)
        y, gradients = training_step(lasting, layers, ragged(seed), seed)
        np.testing.assert_array_equal(y, expected[0])
        for found, wanted in zip(gradients, expected[1], strict=True):
            np.testing.assert_array_equal(found, wanted)
    assert config.DISABLE_JIT or len(moved_in) > 2


@pytest.mark.parametrize("return_sequences", [False, True])
def test_batch_that_does_not_fit_is_planned_anew(return_sequences, count_calls):
    layer = numbarnn.GRU(8, dtype="float64", return_sequences=return_sequences)
    layer.build(INPUTS, seed=0)
    chain, planned = Chain([layer], training=True), count_calls("_plan")

    def planned_anew(lengths):
        del planned[:]
        found = training_step(chain, [layer], np.array(lengths), 0)
        anew = bool(planned)
        expected = training_step(Chain([layer], training=True), [layer], np.array(lengths), 0)
        np.testing.assert_array_equal(found[0], expected[0])
        np.testing.assert_array_equal(found[1][0], expected[1][0])
        return anew

    assert planned_anew([20, 10])
    assert planned_anew([20, 11])  # more steps in all
    assert planned_anew([22, 2])  # a longer row
    assert planned_anew([22, 2, 2])  # more rows
    assert planned_anew([9, 9, 1])  # far fewer steps
    without_code = bool(config.DISABLE_JIT)
    assert planned_anew([8, 9, 1]) == without_code
    assert planned_anew([5, 5, 5]) == without_code
    assert planned_anew([7, 2]) == (without_code or not return_sequences)


@pytest.mark.parametrize("cell", LAYERS)
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rows", [1, 2, 9])
def test_threads_that_divide_hidden_units(cell, bidirectional, ragged, dtype, rows, set_threads, monkeypatch):
    """Large weights, and fewer rows than threads."""
    monkeypatch.setattr(passes, "OPERATIONS_WORTH_A_THREAD", 1)
    monkeypatch.setattr(sharing, "WEIGHTS_BYTES_FOR_ALL_ROWS", 0)
    monkeypatch.setattr(sharing, "OPERATIONS_WORTH_A_BARRIER", 0)
    monkeypatch.setattr(sharing, "FEW_ROWS_OPERATIONS_WORTH_A_BARRIER", 0)
    problem = random_problem(
        cell, (rows, 5, 6, 70), num_layers=2, bidirectional=bidirectional, ragged=ragged, dtype=dtype
    )
    set_threads(1)
    expected = run_layer(make_layer(problem), problem)
    for threads in (2, 3):
        set_threads(threads)
        layer = make_layer(problem)
        assert_same(run_layer(layer, problem), expected)
        (run,) = layer.store._spare[True]
        assert run.plan.sharing.by_units != (
            bidirectional and threads == 2
        )  # then they divide the directions


@pytest.mark.parametrize("cell", LAYERS)
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_fetching_ahead_changes_no_number(cell, bidirectional, ragged, dtype, set_threads, monkeypatch):
    """What lies ahead of the first and behind the last step is asked for too, wherever that may be."""
    monkeypatch.setattr(passes, "OPERATIONS_WORTH_A_THREAD", 1)
    set_threads(2)
    problem = random_problem(
        cell, (9, 5, 6, 70), num_layers=2, bidirectional=bidirectional, ragged=ragged, dtype=dtype
    )
    results = []
    for least, prefetches in ((plan.PREFETCH_FROM_BYTES, False), (0, True)):
        monkeypatch.setattr(plan, "PREFETCH_FROM_BYTES", least)
        layer = make_layer(problem)
        results.append(run_layer(layer, problem))
        (run,) = layer.store._spare[True]
        assert run.threads == 2
        assert run.plan.prefetches == prefetches
    assert_same(*results)
