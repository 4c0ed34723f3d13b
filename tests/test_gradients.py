"""Every gradient of every layer against central differences of its forward, in float64.

The forward is that of the layer on the CPU, also where the gradients come from a GPU: it is called twice for
every number that moves.
"""

from functools import partial

import numpy as np
import pytest
from conftest import LAYERS, arrays_of, assert_close, make_layer, random_problem, sized

import numbarnn

TOLERANCE = 1e-6
STEP = 1e-6  # balances the error of the difference against rounding; a kink of ReLU or max is never this near
SEED = 7  # one dropout mask for all the calls of a test

DENSE_ACTIVATIONS = (None, "tanh", "relu", "sigmoid")
LAYERS_OF_STEPS = {
    f"dense-{activation}": partial(numbarnn.Dense, 4, activation=activation, dtype="float64")
    for activation in DENSE_ACTIVATIONS
}
LAYERS_OF_STEPS["dropout"] = partial(numbarnn.Dropout, 0.4)
POOLING_LAYERS = {"mean": numbarnn.MeanOverTime, "max": numbarnn.MaxOverTime}


def central_difference(loss, array):
    """dloss/darray, moving one number of ``array`` at a time, in place."""
    gradient = np.empty_like(array)
    for index in np.ndindex(array.shape):
        kept = array[index]
        array[index] = kept + STEP
        above = loss()
        array[index] = kept - STEP
        below = loss()
        array[index] = kept
        gradient[index] = (above - below) / (2 * STEP)
    return gradient


def weighted_sum(results, weights):
    """A scalar whose gradient with respect to ``results``, a nest of arrays, is ``weights``."""
    if isinstance(results, np.ndarray):
        return np.sum(results * weights)
    return sum(weighted_sum(part, weight) for part, weight in zip(results, weights, strict=True))


def changed_parameters(layer):
    """Parameters to move, away from what a fresh layer has: a bias of 0 would hide an error."""
    rng = np.random.default_rng(3)
    return {name: rng.uniform(-1.0, 1.0, array.shape) for name, array in layer.parameters.items()}


@pytest.mark.parametrize("cell", LAYERS)
def test_recurrent_layer(device, cell):
    """Two layers, both directions, ragged rows, dropout between the layers."""
    problem = random_problem(
        cell, sized((4, 3, 2, 3), (3, 2, 2, 2)), num_layers=2, bidirectional=True, ragged=True
    )
    layer, twin = make_layer(problem, dropout=0.4, device=device), make_layer(problem, dropout=0.4)

    def forward(layer):
        layer.set_parameters(problem.parameters)
        return layer.forward(problem.x, initial_state=problem.initial_state, training=True, seed=SEED)

    def loss():
        return weighted_sum(forward(twin), (problem.dy, problem.dstate))

    forward(layer)
    dx, dinitial_state = layer.backward(problem.dy, dstate=problem.dstate)
    analytic = {k: v.copy() for k, v in by_name(dx, dinitial_state, layer.gradients).items()}
    moved = by_name(problem.x, problem.initial_state, problem.parameters)
    assert_close(analytic, {k: central_difference(loss, v) for k, v in moved.items()}, TOLERANCE)


def by_name(x, initial_state, parameters):
    """The arrays that the loss depends on, or their gradients."""
    arrays = {f"x of row {row}": array for row, array in enumerate(x)}
    return {**arrays, **dict(arrays_of(initial_state, "initial_state")), **parameters}


def steps_in_form(form):
    """A random input of 3 features and its lengths: vectors (B, I), a list of rows, or padded (B, T, I)."""
    rng, lengths = np.random.default_rng(5), [2, 4, 1]
    if form == "vectors":
        return rng.standard_normal((3, 3)), None
    if form == "list":
        return [rng.standard_normal((length, 3)) for length in lengths], None
    return rng.standard_normal((3, 4, 3)), lengths  # not 0 past the ends


def check_layer(device, make, x, lengths):
    """Gradients of the input and of the parameters of a layer without states."""
    rows = x if isinstance(x, list) else [x]
    layer, twin = make(device=device), make()
    for each in (layer, twin):
        each.forward(x, lengths=lengths)  # builds it
    parameters = changed_parameters(layer)

    def forward(layer):
        if parameters:
            layer.set_parameters(parameters)
        return layer.forward(x, lengths=lengths, training=True, seed=SEED)

    y = forward(layer)
    rng = np.random.default_rng(6)
    dy = (
        [rng.standard_normal(row.shape) for row in y] if isinstance(y, list) else rng.standard_normal(y.shape)
    )
    dx = layer.backward(dy)
    gradients = {name: array.copy() for name, array in layer.gradients.items()}

    def loss():
        return weighted_sum(forward(twin), dy)

    if dx is not None:
        assert isinstance(dx, type(x))
        dx = dx if isinstance(x, list) else [dx]
        assert_close(dx, [central_difference(loss, row) for row in rows], TOLERANCE)
    assert_close(gradients, {k: central_difference(loss, v) for k, v in parameters.items()}, TOLERANCE)
    return dx, gradients


@pytest.mark.parametrize("form", ["vectors", "list", "padded"])
@pytest.mark.parametrize("name", LAYERS_OF_STEPS)
def test_layer_of_steps(device, name, form):
    dx, gradients = check_layer(device, LAYERS_OF_STEPS[name], *steps_in_form(form))
    assert dx is not None
    assert {k: v.shape for k, v in gradients.items()} == (
        {} if name == "dropout" else {"weight": (4, 3), "bias": (4,)}
    )


@pytest.mark.parametrize("form", ["list", "padded"])
@pytest.mark.parametrize("name", POOLING_LAYERS)
def test_pooling_layer(device, name, form):
    dx, gradients = check_layer(device, POOLING_LAYERS[name], *steps_in_form(form))
    assert dx is not None
    assert not gradients


@pytest.mark.parametrize("form", ["list", "padded"])
def test_embedding(device, form):
    """Tokens come more than once, and one never: its gradient is 0."""
    tokens = [np.array([1, 4, 1]), np.array([2]), np.array([4, 4, 0, 1])]
    lengths = None
    if form == "padded":
        tokens, lengths = np.array([[1, 4, 1, 3], [2, 3, 3, 3], [4, 4, 0, 1]]), [3, 1, 4]
    dx, gradients = check_layer(device, partial(numbarnn.Embedding, 5, 2, dtype="float64"), tokens, lengths)
    assert dx is None
    assert gradients["weight"].shape == (5, 2)
    assert not np.any(gradients["weight"][3])
