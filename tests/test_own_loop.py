"""Training loops of one's own: a model's forward and backward, and single steps of an optimiser."""

import copy

import numpy as np
import pytest
from conftest import SIMULATED, assert_same, assert_same_on, sized

import numbarnn
from numbarnn.models.graph_model import GraphModel, Input, concatenate, connect

FEATURES, HIDDEN, OUTPUTS = 3, sized(5, 2), 2
LENGTHS = sized((4, 2, 6, 1), (2, 1, 3))
STEP = 1e-5  # of central differences


def rows_of(lengths=LENGTHS, seed=1):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((length, FEATURES)) for length in lengths]


def make_model(device="cpu", sequence=False, dropout=0.0):
    options = {"dtype": "float64", "device": device}
    lstm = numbarnn.LSTM(HIDDEN, return_sequences=sequence, **options)
    dense = numbarnn.Dense(OUTPUTS, "tanh", **options)
    model = numbarnn.Sequential(lstm, numbarnn.Dropout(dropout, **options), dense)
    model.build(FEATURES, seed=2)
    return model


def gradient_like(y):
    rng = np.random.default_rng(3)
    if isinstance(y, list):
        return [rng.standard_normal(row.shape) for row in y]
    return rng.standard_normal(y.shape)


def product(y, dy):
    return sum(float((one * other).sum()) for one, other in zip(y, dy, strict=True))


def gradients_of(model):
    return {
        f"{i} {name}": gradient.copy()
        for i, layer in enumerate(model.layers)
        for name, gradient in layer.gradients.items()
    }


@pytest.mark.parametrize("sequence", [False, True])
def test_forward_and_backward_are_those_of_the_layers(sequence, device):
    model, alone = make_model(device, sequence), make_model(device, sequence)
    x = rows_of()
    lstm, _, dense = alone.layers
    sequences, (h, c) = lstm.forward(x, training=True)
    expected = dense.forward(sequences if sequence else h[-1], training=True)
    y = model.forward(x, training=True)
    assert_same_on(device, (y,), (expected,))
    assert_same_on(device, (model.forward(x),), (model.predict(x),))
    dy = gradient_like(y)
    dx = model.backward(dy)
    back = dense.backward(dy)
    zeros = [np.zeros_like(row) for row in sequences]
    wanted, _ = lstm.backward(back) if sequence else lstm.backward(zeros, (back[None], np.zeros_like(c)))
    for got, one in zip(dx, wanted, strict=True):
        np.testing.assert_allclose(got, one, rtol=0, atol=1e-13)
    for name, gradient in gradients_of(alone).items():
        np.testing.assert_allclose(gradients_of(model)[name], gradient, rtol=0, atol=1e-13)


@pytest.mark.skipif(SIMULATED, reason="many forwards")
def test_input_gradients_of_a_graph_are_those_of_central_differences():
    """The second input goes two ways, so that its gradient is a sum."""
    source, target = Input(), Input()
    _, state = connect(numbarnn.GRU(HIDDEN, dtype="float64"), source)
    hidden = connect(numbarnn.Dense(FEATURES, "tanh", dtype="float64"), target)
    first, _ = connect(numbarnn.GRU(HIDDEN, dtype="float64"), hidden, state)
    _, again = connect(numbarnn.GRU(HIDDEN, dtype="float64"), target)
    y, _ = connect(numbarnn.GRU(HIDDEN, dtype="float64", return_sequences=True), hidden, again)
    pooled = connect(numbarnn.MeanOverTime(dtype="float64"), y)
    model = GraphModel((source, target), concatenate(first, pooled))
    model.build((FEATURES, FEATURES), seed=1)
    x = (rows_of(seed=1), rows_of(LENGTHS[::-1], seed=2))
    dy = gradient_like(model.forward(x, training=True))
    dx = model.backward(dy)
    for values, gradients in zip(x, dx, strict=True):
        for row, gradient in zip(values, gradients, strict=True):
            for place in np.ndindex(row.shape):
                row[place] += STEP
                above = product(model.forward(x), dy)
                row[place] -= 2 * STEP
                below = product(model.forward(x), dy)
                row[place] += STEP
                assert abs((above - below) / (2 * STEP) - gradient[place]) < 1e-6


def test_a_loop_of_ones_own_learns(device):
    model = make_model(device)
    x, target = rows_of(), np.linspace(-0.5, 0.5, len(LENGTHS) * OUTPUTS).reshape(-1, OUTPUTS)
    optimizer, losses = numbarnn.Adam(0.05), []
    for _ in range(sized(60, 6)):
        error = model.forward(x, training=True) - target
        losses.append(float((error**2).mean()))
        model.backward(2 * error / error.size, input_gradient=False)
        optimizer.step(model)
    assert losses[-1] < sized(0.01, 0.9) * losses[0]


def test_steps_are_the_updates_of_the_optimizer():
    model, x = make_model(), rows_of()
    optimizer = numbarnn.Adam(0.05)
    layers = [layer for layer in model.layers if layer.count_parameters()]
    values = [layer.flat_values.copy() for layer in layers]
    state = optimizer.start(values)
    for rate in (0.05, 0.01, 0.05):
        model.backward(gradient_like(model.forward(x, training=True)))
        optimizer.update(state, values, [layer.flat_gradients for layer in layers], rate)
        numbarnn.Adam(0.05).step(model, None if rate == optimizer.learning_rate else rate)
        assert_same(tuple(layer.flat_values for layer in layers), tuple(values))
    fresh = copy.deepcopy(model)  # copies forget what an optimiser remembers
    fresh.backward(gradient_like(fresh.forward(x, training=True)))
    optimizer.update(
        optimizer.start(values),
        values,
        [layer.flat_gradients for layer in fresh.layers if layer.count_parameters()],
        0.05,
    )
    optimizer.step(fresh)
    assert_same(tuple(layer.flat_values for layer in fresh.layers if layer.count_parameters()), tuple(values))


def test_calls_on_other_batches_are_those_of_a_fresh_model():
    """Buffers and recorded calls serve all batches; what layers become in between is seen."""
    model = make_model(sequence=True)
    for lengths in ((4, 2, 6, 1), (3, 3), (4, 2, 6, 1), (1, 7, 2, 5, 6), (2,)):
        x = rows_of(lengths, seed=len(lengths))
        fresh = copy.deepcopy(model)
        results = []
        for one in (model, fresh):
            y = one.forward(x, training=True)
            results.append((y, one.backward(gradient_like(y)), gradients_of(one), one.forward(x)))
        assert_same(*results)
        numbarnn.SGD(0.1).step(model)
    model.layers[0].build(FEATURES, seed=9)
    assert_same((model.forward(x),), (model.predict(x),))


def test_a_seed_fixes_dropout():
    model, x = make_model(dropout=0.5), rows_of()
    first, again, other = (model.forward(x, training=True, seed=seed) for seed in (1, 1, 2))
    assert_same((first,), (again,))
    assert (first != other).any()
    assert_same((model.forward(x),), (model.predict(x),))


def test_tokens_have_no_gradient():
    model = numbarnn.Sequential(numbarnn.Embedding(5, 3), numbarnn.GRU(HIDDEN))
    y = model.forward([np.array([1, 2, 4]), np.array([0])], training=True)
    assert model.backward(np.ones_like(y)) is None
    assert np.abs(model.layers[0].gradients["weight"][[0, 1, 2, 4]]).min() > 0.0
    assert not model.layers[0].gradients["weight"][3].any()


def test_calls_that_do_not_fit():
    model, x = make_model(), rows_of()
    with pytest.raises(RuntimeError, match="backward needs a forward"):
        model.backward(np.zeros((len(x), OUTPUTS)))
    y = model.forward(x, training=True)
    with pytest.raises(ValueError, match="dy must have the shape of the output"):
        model.backward(y[:1])
    with pytest.raises(ValueError, match="dy"):
        model.backward(np.full_like(y, np.nan))
    model.backward(y)
    with pytest.raises(RuntimeError, match="one for each backward"):
        model.backward(y)
    with pytest.raises(TypeError, match="training must be"):
        model.forward(x, training="yes")
    with pytest.raises(ValueError, match="x must have 3 features, not 2"):
        model.forward([row[:, :2] for row in x])


def test_steps_that_do_not_fit():
    model = make_model()
    with pytest.raises(ValueError, match="learning_rate must be given"):
        numbarnn.Adam(numbarnn.CosineDecay(0.1)).step(model)
    with pytest.raises(ValueError, match="learning_rate must be finite and at least 0"):
        numbarnn.Adam(0.1).step(model, -1.0)
    with pytest.raises(RuntimeError, match="needs a built model"):
        numbarnn.Adam(0.1).step(numbarnn.Sequential(numbarnn.LSTM(2)))
