"""The cells that layers choose by an option: activations of plain networks, LSTMs with peepholes."""

import copy

import numba
import numpy as np
import pytest
from conftest import EMULATED, on_gpu, sized, trials
from test_cell_contract import PLAIN, as_given, check, plain_sigmoid, problem_for

import numbarnn
from numbarnn.cells import CELLS
from numbarnn.jit.cpu import padded
from numbarnn.jit.nonlinearities import ACTIVATIONS
from numbarnn.jit.vector_memory import load, store
from numbarnn.jit.vectors import lane_count
from numbarnn.kernels import lstm_step, rnn_step

not_emulated = pytest.mark.skipif(EMULATED, reason="for the CPU")
INPUTS, HIDDEN = 3, sized(35, 3)
LENGTHS = (2, 4, 1)


def where_positive(x, above, below):
    return np.where(x.real > 0.0, above, below)


# The nonlinearities once more, for complex numbers as well: derivatives come from imaginary steps.
FUNCTIONS = {
    "sigmoid": plain_sigmoid,
    "identity": lambda x: x,
    "leaky_relu": lambda x: where_positive(x, x, 0.01 * x),
    "elu": lambda x: where_positive(x, x, np.exp(x) - 1.0),
    "softsign": lambda x: x / (1.0 + where_positive(x, x, -x)),
    "softplus": lambda x: np.log(1.0 + np.exp(x)),
    "hard_tanh": lambda x: np.where(np.abs(x.real) < 1.0, x, np.sign(x.real)),
    "hard_sigmoid": lambda x: np.where(np.abs(x.real) < 3.0, x / 6.0 + 0.5, x.real > 0.0),
}
each_activation = pytest.mark.parametrize("activation", FUNCTIONS)
# All layers are made alike of a pair of functions; to compile one takes ten seconds.
IN_LAYERS = sized(trials(("elu", "softplus", "hard_sigmoid"), tuple(FUNCTIONS)), tuple(FUNCTIONS))


def plain_step(activation):
    return lambda a, b, states: (FUNCTIONS[activation](a[0] + b[0]),)


def rnn(activation, **options):
    layer = numbarnn.RNN(HIDDEN, activation=activation, dtype="float64", **options)
    layer.build(INPUTS, seed=3)
    return layer


def peephole_lstm(**options):
    layer = numbarnn.LSTM(HIDDEN, peephole=True, dtype="float64", **options)
    layer.build(INPUTS, seed=3)
    return layer


@pytest.mark.parametrize("activation", IN_LAYERS)
def test_activations_against_plain_numpy(activation, device, monkeypatch):
    name = f"rnn_{activation}"
    monkeypatch.setitem(PLAIN, name, (CELLS[name], plain_step(activation)))
    layer = rnn(activation, bidirectional=True, device=device)
    check(layer, problem_for(layer, LENGTHS))


@pytest.mark.parametrize("num_layers", [1, 2])
def test_peepholes_against_plain_numpy(num_layers, device):
    layer = peephole_lstm(num_layers=num_layers, bidirectional=True, device=device)
    check(layer, problem_for(layer, LENGTHS))


def function_and_derivative(activation, x):
    """An activation of an array, and its derivative, in vectors as kernels use it."""
    function, function_backward = ACTIVATIONS[activation]

    @numba.njit
    def run(x, y, dx):
        for i in range(0, x.size, lane_count(x)):
            store(y, i, function(load(x, i)))
            store(dx, i, function_backward(load(y, i), load(dx, i)))

    given = np.zeros(padded(x.size, x.dtype))
    given[: x.size] = x
    y, dx = np.zeros_like(given), np.ones_like(given)
    run(given, y, dx)
    return y[: x.size], dx[: x.size]


@not_emulated
@each_activation
def test_activations_are_those_of_pytorch(activation):
    """The ends of their pieces too."""
    torch = pytest.importorskip("torch")
    functions = torch.nn.functional
    theirs = {
        "sigmoid": torch.sigmoid,
        "identity": lambda x: x * 1.0,
        "hard_tanh": functions.hardtanh,
        "hard_sigmoid": functions.hardsigmoid,
    }
    function = theirs.get(activation) or getattr(functions, activation)
    x = np.concatenate([np.linspace(-6.0, 6.0, 41), [-0.0, 1e-9, -1e-9, 30.0, -30.0, 300.0, -300.0]])
    given = torch.tensor(x, requires_grad=True)
    wanted = function(given)
    wanted.sum().backward()
    y, dx = function_and_derivative(activation, x)
    np.testing.assert_allclose(y, wanted.detach().numpy(), rtol=1e-13, atol=1e-15)
    # PyTorch's hard sigmoid has its slope of 1/6 in float32 only.
    tolerance = 1e-7 if activation == "hard_sigmoid" else 1e-11
    np.testing.assert_allclose(dx, given.grad.numpy(), rtol=tolerance, atol=1e-15)


@not_emulated
@each_activation
def test_nan_stays(activation):
    assert np.isnan(function_and_derivative(activation, np.array([np.nan]))[0]).all()


@numba.njit
def run_rnn(weights, x, h, y):
    for t in range(len(x)):
        rnn_step(weights, x[t], h)
        y[t] = h


@numba.njit
def run_lstm(weights, x, h, c, y):
    for t in range(len(x)):
        lstm_step(weights, x[t], h, c)
        y[t] = h


def test_step_functions():
    """Bit for bit those of the layers."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((5, INPUTS))
    layers = [rnn("elu"), peephole_lstm()]
    layers[-1].set_parameters({n: rng.uniform(-0.5, 0.5, p.shape) for n, p in layers[-1].parameters.items()})
    for layer in layers:
        y, _ = layer.forward(x[None])
        states, out = np.zeros((len(layer.cell.states), HIDDEN)), np.zeros((5, HIDDEN))
        run = run_rnn if len(states) == 1 else run_lstm
        run(layer.kernel_weights(), x, *states, out)
        np.testing.assert_array_equal(out, y[0])
        state = None
        for t in range(5):
            y_t, state = layer.step(x[t : t + 1], state)
            np.testing.assert_array_equal(y_t[0], y[0, t])


def test_peepholes_of_zero_are_none():
    """First parameters are those of an LSTM; the peepholes start at 0, and are trained."""
    layer, plain = peephole_lstm(), numbarnn.LSTM(HIDDEN, dtype="float64")
    plain.build(INPUTS, seed=3)
    vectors = {name: layer.parameters[name] for name in ("weight_ci_l0", "weight_cf_l0", "weight_co_l0")}
    assert all(vector.shape == (HIDDEN,) and not vector.any() for vector in vectors.values())
    rest = {name: value for name, value in layer.parameters.items() if name not in vectors}
    assert list(rest) == list(plain.parameters)
    assert rest["bias_ih_l0"].sum() == HIDDEN  # the forget gate's, 1 each
    plain.set_parameters(rest)
    problem = problem_for(plain, LENGTHS)
    initial = as_given(problem.initial_state)
    for found, wanted in zip(
        layer.forward(problem.x, initial_state=initial)[0],
        plain.forward(problem.x, initial_state=initial)[0],
        strict=True,
    ):
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-14)
    model = numbarnn.Sequential(layer, numbarnn.Dense(1, dtype="float64"))
    model.fit(problem.x, np.arange(3.0)[:, None], loss="mse", epochs=2, verbose=False)
    assert all(layer.parameters[name].all() for name in vectors)


def test_options_are_said_and_copied():
    for layer, said in (
        (rnn("leaky_relu"), f"RNN({HIDDEN}, activation='leaky_relu')"),
        (peephole_lstm(), f"LSTM({HIDDEN}, peephole=True)"),
    ):
        assert repr(layer) == said
        other = copy.deepcopy(layer)
        assert repr(other) == said
        np.testing.assert_array_equal(other.flat_values, layer.flat_values)
    with pytest.raises(ValueError, match=r"activation must be one of 'tanh', 'relu', .*, got 'swish'"):
        numbarnn.RNN(4, activation="swish")
    with pytest.raises(TypeError, match="peephole must be True or False"):
        numbarnn.LSTM(4, peephole=1)


@pytest.mark.cuda
@on_gpu
@each_activation
def test_activations_in_float32_on_a_gpu(activation):
    """Numbers that are written out in the functions are of the dtype of the others."""
    x = np.random.default_rng(0).standard_normal((2, 3, INPUTS)).astype(np.float32)
    layer = numbarnn.RNN(3, activation=activation)
    layer.build(INPUTS, seed=1)
    wanted, _ = layer.forward(x)
    found, _ = copy.deepcopy(layer).to("cuda").forward(x)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6)
