"""Layers and models on the GPU beside the same ones on the CPU, in Numba's simulator.

``NUMBA_ENABLE_CUDASIM=1 pytest tests/test_cuda_models.py`` runs them. The CPU's own results are held to the
oracles by the other tests.
"""

import pickle

import numpy as np
import pytest
from conftest import TOLERANCE, assert_close, assert_same, make_layer, on_gpu, random_problem, run_layer

import numbarnn
from numbarnn.training.losses import MeanSquaredError

pytestmark = on_gpu

FEATURES = 3
LENGTHS = (2, 4, 1)
LOSSES = {
    "cross_entropy": ("cross_entropy", lambda rng, n: rng.integers(0, 2, n)),
    "shares": ("cross_entropy", lambda rng, n: rng.dirichlet(np.ones(2), n)),
    "binary_cross_entropy": ("binary_cross_entropy", lambda rng, n: rng.integers(0, 2, (n, 2))),
    "mse": ("mse", lambda rng, n: rng.normal(size=(n, 2))),
    "mae": ("mae", lambda rng, n: rng.normal(size=(n, 2))),
    "huber": (numbarnn.Huber(0.3), lambda rng, n: rng.normal(size=(n, 2))),
}
OPTIMIZERS = (
    numbarnn.SGD(0.1, momentum=0.5, nesterov=True, weight_decay=0.01),
    numbarnn.RMSprop(0.01, momentum=0.5, weight_decay=0.01),
    numbarnn.Adam(0.01, weight_decay=0.01),
    numbarnn.AdamW(0.01),
)


def sequences(dtype="float64"):
    rng = np.random.default_rng(1)
    return [rng.normal(size=(length, FEATURES)).astype(dtype) for length in LENGTHS]


def layers(make, dtype):
    """The same layer on both devices."""
    pair = [make(dtype=dtype, device=device) for device in ("cpu", "cuda")]
    for layer in pair:
        layer.build(FEATURES, seed=1)
    return pair


def passes(layer, x, dy=None, **options):
    y = layer.forward(x, training=True, **options)
    if dy is None:
        rng = np.random.default_rng(2)
        dy = [rng.normal(size=row.shape).astype(layer.dtype) for row in y]
        dy = dy if isinstance(y, list) else np.array(dy)
    dx = layer.backward(dy)
    gradients = {name: gradient.copy() for name, gradient in layer.gradients.items()}
    return y, () if dx is None else dx, gradients


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("activation", [None, "tanh", "relu", "sigmoid"])
def test_dense(activation, dtype):
    cpu, gpu = layers(lambda **options: numbarnn.Dense(2, activation, **options), dtype)
    x = sequences(dtype)
    assert_close(passes(gpu, x), passes(cpu, x), TOLERANCE[dtype], dtype)


@pytest.mark.parametrize("pooling", [numbarnn.MeanOverTime, numbarnn.MaxOverTime])
def test_pooling(pooling):
    cpu, gpu = layers(pooling, "float64")
    x = sequences()
    assert_close(passes(gpu, x), passes(cpu, x), TOLERANCE["float64"])


def test_embedding_adds_up_tokens_that_come_again():
    cpu, gpu = layers(lambda **options: numbarnn.Embedding(5, 2, **options), "float64")
    tokens = [np.array([4, 0, 4]), np.array([0]), np.array([4, 2])]
    assert_close(passes(gpu, tokens), passes(cpu, tokens), TOLERANCE["float64"])


def test_dropout_drops_the_same_numbers():
    cpu, gpu = layers(lambda **options: numbarnn.Dropout(0.4, **options), "float64")
    x = sequences()
    dropped = passes(gpu, x, seed=3)
    assert_same(dropped, passes(cpu, x, seed=3))
    assert (dropped[0][1] == 0.0).any()


def test_dropout_between_layers():
    problem = random_problem("gru", (3, 2, 2, 3), num_layers=2, ragged=True)
    cpu, gpu = (make_layer(problem, dropout=0.5, device=device) for device in ("cpu", "cuda"))
    assert_close(run_layer(gpu, problem, seed=5), run_layer(cpu, problem, seed=5), TOLERANCE["float64"])


def model(device, *head, **options):
    recurrent = numbarnn.GRU(2, bidirectional=True, dtype="float64", **options)
    return numbarnn.Sequential(recurrent, *head, numbarnn.Dense(2, dtype="float64"), device=device)


def fitted(device, x, y, *head, options=None, **arguments):
    """The history's numbers, the parameters, and the gradients of the last step."""
    made = model(device, *head, **(options or {}))
    history = made.fit(x, y, epochs=2, batch_size=2, seed=4, verbose=False, **arguments)
    numbers = {name: np.array(values) for name, values in history.history.items() if name != "seconds"}
    return numbers, dict(made.parameters), tuple(layer.gradients for layer in made.layers)


@pytest.mark.parametrize("name", LOSSES)
def test_fit_with_each_loss(name):
    loss, draw = LOSSES[name]
    x, y = sequences(), draw(np.random.default_rng(3), len(LENGTHS))
    on_gpu, on_cpu = (fitted(device, x, y, loss=loss) for device in ("cuda", "cpu"))
    assert_close(on_gpu, on_cpu, TOLERANCE["float64"])


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda optimizer: type(optimizer).__name__)
def test_fit_with_each_optimizer(optimizer):
    x, y = sequences(), np.array([0, 1, 1])
    arguments = {"optimizer": optimizer, "clip_norm": 0.5, "clip_value": 0.2}
    on_gpu, on_cpu = (fitted(device, x, y, **arguments) for device in ("cuda", "cpu"))
    assert_close(on_gpu, on_cpu, TOLERANCE["float64"])


def test_fit_on_steps_with_weights_dropout_and_validation():
    x = sequences()
    y = [np.array([0, 1]), np.array([1, 1, 0, 1]), np.array([0])]
    arguments = {
        "sample_weight": [0.5, 2.0, 1.0],
        "class_weight": {0: 3.0},
        "validation_data": (x, y),
        "clip_norm": 0.1,
        "options": {"return_sequences": True},
    }
    on_gpu, on_cpu = (fitted(device, x, y, numbarnn.Dropout(0.3), **arguments) for device in ("cuda", "cpu"))
    assert_close(on_gpu, on_cpu, TOLERANCE["float64"])


def test_fit_where_the_data_do_not_fit_the_gpu(monkeypatch):
    from numbarnn.training.cuda import step as cuda_step

    x, y = sequences(), np.array([0, 1, 1])
    before = fitted("cuda", x, y)
    monkeypatch.setattr(cuda_step, "free_bytes", lambda: 0.0)
    assert_same(fitted("cuda", x, y), before)


def test_predictions_and_evaluation():
    x, y = sequences(), np.array([0, 1, 1])
    gpu = model("cuda", numbarnn.MaxOverTime(), return_sequences=True)
    gpu.fit(x, y, epochs=1, verbose=False)
    cpu = pickle.loads(pickle.dumps(gpu)).to("cpu")
    assert (gpu.device, cpu.device) == ("cuda", "cpu")
    assert_close(gpu.predict_proba(x), cpu.predict_proba(x), TOLERANCE["float64"])
    assert gpu.evaluate(x, y) == pytest.approx(cpu.evaluate(x, y), rel=TOLERANCE["float64"])


def test_tokens():
    def make(device):
        return numbarnn.Sequential(
            numbarnn.Embedding(4, 2, dtype="float64"), numbarnn.LSTM(2, dtype="float64"),
            numbarnn.Dense(2, dtype="float64"), device=device,
        )  # fmt: skip

    x, y = [np.array([1, 3, 1]), np.array([0, 2])], np.array([0, 1])
    pair = [make(device) for device in ("cuda", "cpu")]
    for made in pair:
        made.fit(x, y, epochs=2, batch_size=1, verbose=False)
    assert_close(*(dict(made.parameters) for made in pair), TOLERANCE["float64"])


# The simulator's threads are NumPy's scalars, which warn.
@pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")
def test_divergence_is_said_and_leaves_the_parameters():
    x, y = sequences(), np.full((3, 2), 1e200)
    made = model("cuda")
    made.build(FEATURES, seed=0)
    before, predicted = made.snapshot(), made.predict(x)
    with pytest.raises(FloatingPointError, match=r"epoch 1, step 1 of 2.*diverged"):
        made.fit(x, y, loss="mse", optimizer="sgd", batch_size=2, verbose=False)
    assert_same(made.snapshot(), before)
    assert_same(made.predict(x), predicted)


class OwnLoss(MeanSquaredError):
    def kernel_for(self, targets):
        return test_what_has_no_kernel_here, ()


class OwnOptimizer(numbarnn.SGD):
    update_kernel = staticmethod(len)


@pytest.mark.parametrize(
    ("what", "own"), [("loss", OwnLoss()), ("optimizer", OwnOptimizer(0.1))], ids=["loss", "optimizer"]
)
def test_what_has_no_kernel_here(what, own):
    """It is said before the model is built."""
    made, options = model("cuda"), {"loss": "mse", "optimizer": "sgd", what: own}
    with pytest.raises(ValueError, match=f'{what} Own.* has no kernel for device="cuda"'):
        made.fit(sequences(), np.zeros((3, 2)), verbose=False, **options)
    assert not made.built


def test_parameters_set_by_hand_are_used():
    x = sequences()
    made = model("cuda")
    made.build(FEATURES, seed=0)
    made.predict(x)
    made.set_parameters({name: 0.0 * values for name, values in made.parameters.items()})
    assert not made.predict(x).any()


def test_moving_a_layer():
    problem = random_problem("lstm", (2, 2, 2, 3))
    layer = make_layer(problem)
    on_cpu = run_layer(layer, problem)
    assert layer.to("cuda") is layer
    assert "device='cuda'" in repr(layer)
    assert_close(run_layer(layer, problem), on_cpu, TOLERANCE["float64"])
    assert_same(run_layer(layer.to("cpu"), problem), on_cpu)


@pytest.mark.parametrize("wrong", ["x", "initial_state", "dy", "dstate"])
def test_what_is_not_finite_is_named(wrong):
    problem = random_problem("gru", (2, 2, 2, 3))
    layer = make_layer(problem, device="cuda")
    spoilt = [array.copy() for array in getattr(problem, wrong)] if wrong in ("x", "dy") else None
    if spoilt is None:
        spoilt = getattr(problem, wrong).copy()
        spoilt[0, 1, 0] = np.nan
    else:
        spoilt[1][0, 0] = np.inf
    problem = problem._replace(**{wrong: spoilt})
    with pytest.raises(ValueError, match=rf"^{wrong}.* must be finite|^{wrong}.*finite"):
        run_layer(layer, problem)
