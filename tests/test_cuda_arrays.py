"""Arrays that are on the GPU already: results stay there. In Numba's simulator, whose GPU is the host."""

import pickle

import numpy as np
import pytest
from conftest import TOLERANCE, assert_close, assert_same, in_simulator, make_layer, random_problem

import numbarnn
from numbarnn.training import data

pytestmark = in_simulator


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


# ---- models ----------------------------------------------------------------------------------------------


X = np.random.default_rng(1).normal(size=(3, 3, 2))
TOKENS = np.array([[1, 2, 5], [4, 0, 3], [5, 5, 0]])
Y = np.array([0, 1, 1])
TAGS = np.array([[0, 1, 1], [1, 1, 0], [0, 0, 1]])


def classifier(device="cuda"):
    return numbarnn.Sequential(
        numbarnn.GRU(2, dtype="float64"), numbarnn.Dense(2, dtype="float64"), device=device
    )


def tagger(device="cuda"):
    return numbarnn.Sequential(
        numbarnn.GRU(2, return_sequences=True, dtype="float64"), numbarnn.Dense(2, dtype="float64"),
        device=device,
    )  # fmt: skip


def of_tokens(device="cuda"):
    return numbarnn.Sequential(
        numbarnn.Embedding(6, 2, dtype="float64"), numbarnn.MeanOverTime(),
        numbarnn.Dense(2, dtype="float64"), device=device,
    )  # fmt: skip


def of_vectors(device="cuda"):
    return numbarnn.Sequential(numbarnn.Dense(2, dtype="float64"), device=device)


MODELS = [(classifier, X, Y), (tagger, X, TAGS), (of_tokens, TOKENS, Y), (of_vectors, X[:, 0], Y)]
each_model = pytest.mark.parametrize(
    ("make", "x", "y"), MODELS, ids=lambda value: getattr(value, "__name__", "")
)


def fitted(model, x, y, **options):
    history = model.fit(x, y, epochs=1, batch_size=2, verbose=False, **options).history
    numbers = {name: np.array(values) for name, values in history.items() if name != "seconds"}
    return numbers, dict(model.parameters)


def refuse(*arguments, **options):
    raise AssertionError("data of the GPU have come to the host")


def read_nothing_on_the_host(monkeypatch):
    """Close the ways in which the host reads inputs and packs batches."""
    for name in ("pack_steps", "pack_tokens", "read_steps"):
        monkeypatch.setattr(data, name, refuse)


@each_model
def test_a_fit(make, x, y, monkeypatch):
    weights = np.array([1.0, 2.0, 0.5])
    usual = fitted(make(), x, y, validation_data=(x, y), sample_weight=weights)
    read_nothing_on_the_host(monkeypatch)
    x, y = OnGPU(x), OnGPU(y)
    options = {"validation_data": (x, y), "sample_weight": OnGPU(weights)}
    assert_same(fitted(make(), x, y, **options), usual)


def test_data_on_the_gpu_are_not_moved_in_a_fit(monkeypatch):
    """However little memory is free: they have theirs."""
    from numbarnn.training.cuda import step as cuda_step

    monkeypatch.setattr(cuda_step, "free_bytes", lambda: 0.0)
    monkeypatch.setattr(cuda_step, "Streamed", refuse)
    classifier().fit(OnGPU(X), Y, epochs=1, verbose=False)


def test_targets_on_the_gpu_with_data_of_the_host():
    rows = [X[0, :2], *X[1:]]
    assert_same(fitted(classifier(), rows, OnGPU(Y)), fitted(classifier(), rows, Y))


@each_model
def test_predictions_stay(make, x, y, monkeypatch):
    from numbarnn.layers.cuda import passes as cuda_passes

    model = make()
    model.fit(x, y, epochs=1, verbose=False)
    wanted = model.predict(x, batch_size=2), model.predict_proba(x)
    read_nothing_on_the_host(monkeypatch)
    monkeypatch.setattr(cuda_passes, "on_host", refuse)
    assert_same((model.predict(OnGPU(x), batch_size=2), model.predict_proba(OnGPU(x))), wanted)


@each_model
def test_an_evaluation(make, x, y):
    model = make()
    model.fit(x, y, epochs=1, verbose=False)
    wanted = model.evaluate(x, y)
    assert model.evaluate(OnGPU(x), OnGPU(y)) == model.evaluate(OnGPU(x), y) == wanted
    assert model.evaluate(OnGPU(x), y, loss="cross_entropy") == wanted


def test_a_model_takes_other_dtypes():
    model = classifier()
    model.build(2, seed=0)
    x = X.astype("float32")
    assert_same(model.predict(OnGPU(x)), model.predict(x))


class There(np.lib.mixins.NDArrayOperatorsMixin):
    """An array as CuPy's: NumPy's functions work on it, and it does not become one of NumPy's unasked."""

    __cuda_array_interface__ = {"version": 3}  # noqa: RUF012 (as in CuPy, an attribute)

    def __init__(self, values):
        self.values = values

    def __array__(self, dtype=None, copy=None):
        raise TypeError("Implicit conversion to a NumPy array is not allowed")

    def __array_ufunc__(self, ufunc, method, *inputs, **options):
        return There(getattr(ufunc, method)(*map(values_of, inputs), **options))

    def __array_function__(self, function, types, arguments, options):
        return There(function(*map(values_of, arguments), **options))

    def max(self, **options):
        return There(self.values.max(**options))

    def sum(self, **options):
        return There(self.values.sum(**options))


def values_of(array):
    return array.values if isinstance(array, There) else array


@pytest.mark.parametrize("loss", [numbarnn.CrossEntropy(), numbarnn.BinaryCrossEntropy()], ids=str)
def test_probabilities_stay(loss):
    outputs = X[:, 0]
    assert_same(loss.probabilities(There(outputs)).values, loss.probabilities(outputs))


def with_value(value):
    x = X.copy()
    x[1, 2, 0] = value
    return x


@pytest.mark.parametrize(
    ("make", "x", "error", "said"),
    [
        (classifier, X[:, 0], ValueError, r"x must be a \(B, T, I\) array, not an array of shape \(3, 2\)"),
        (classifier, X[:0], ValueError, r"x is empty: its shape is \(0, 3, 2\)"),
        (classifier, X > 0, TypeError, "x must hold real numbers, got dtype bool"),
        (classifier, with_value(np.nan), ValueError, "x must be finite: row 1, step 2 holds NaN"),
        (classifier, with_value(-np.inf), ValueError, "x must be finite: row 1, step 2 holds"),
        (of_tokens, TOKENS.astype(float), TypeError, "x must hold integers, got dtype float64"),
        (of_tokens, TOKENS + 1, ValueError, r"x must hold tokens in 0\.\.5; row 0, step 2 holds 6"),
        (of_tokens, TOKENS - 1, ValueError, r"x must hold tokens in 0\.\.5; row 1, step 1 holds -1"),
    ],
)
@pytest.mark.parametrize("validation", [False, True])
def test_what_does_not_fit_a_model(make, x, error, said, validation):
    model = make()
    with pytest.raises(error, match=f"^{'validation_data ' if validation else ''}{said}"):
        if validation:
            model.fit(OnGPU(X if make is classifier else TOKENS), Y, validation_data=(OnGPU(x), Y))
        else:
            model.fit(OnGPU(x), Y)
    assert not model.built


def test_what_does_not_fit_a_built_model():
    model = of_tokens()
    model.build(1, seed=0)
    with pytest.raises(ValueError, match=r"^x must hold tokens in 0\.\.5"):
        model.predict(OnGPU(TOKENS + 1))
    model = classifier()
    model.build(2, seed=0)
    for call in (model.predict, lambda x: model.evaluate(x, Y, "mse"), lambda x: model.fit(x, Y)):
        with pytest.raises(ValueError, match=r"^x must have 2 features, not 3$"):
            call(OnGPU(np.ones((3, 3, 3))))


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"y": OnGPU(Y[:2])}, ValueError, "y must have one target for each of the 3 rows of x, not 2"),
        ({"y": OnGPU(Y + 1)}, ValueError, "y must hold labels from 0 to 1"),
        (
            {"y": [OnGPU(tag) for tag in Y]},
            TypeError,
            "y must be one array where it is on the GPU, not a list",
        ),
        ({"sample_weight": OnGPU(-Y)}, ValueError, "sample_weight must be finite and not negative"),
        ({"x": list(map(OnGPU, X))}, TypeError, "x must be one array where it is on the GPU, not a list"),
    ],
)
def test_arguments_of_a_fit_that_do_not_fit(options, error, said):
    model = classifier()
    with pytest.raises(error, match=f"^{said}"):
        model.fit(**{"x": OnGPU(X), "y": Y, **options})
    assert not model.built


@pytest.mark.parametrize("name", ["x", "y", "sample_weight", "validation_data x", "validation_data y"])
@pytest.mark.parametrize("make", [OnGPU, lambda values: list(map(OnGPU, values))], ids=["array", "list"])
def test_a_model_on_the_cpu_refuses_them(make, name):
    arguments = {"x": X, "y": Y, "sample_weight": np.ones(3)}
    if name.startswith("validation"):
        pair = {"x": X, "y": Y}
        pair[name[-1]] = make(pair[name[-1]])
        arguments["validation_data"] = tuple(pair.values())
    else:
        arguments[name] = make(arguments[name])
    model = classifier("cpu")
    said = rf"^{name} must be in the host's memory for a model on device=\"cpu\", not a \S+\.OnGPU on a GPU;"
    with pytest.raises(TypeError, match=said):
        model.fit(**arguments)
    assert not model.built


def test_a_built_model_on_the_cpu_refuses_them():
    model = classifier()
    model.fit(X, Y, epochs=1, verbose=False)
    model = pickle.loads(pickle.dumps(model)).to("cpu")
    for call in (model.predict, model.predict_proba, lambda x: model.evaluate(x, Y)):
        with pytest.raises(TypeError, match=r"^x must be in the host's memory"):
            call(OnGPU(X))
    with pytest.raises(TypeError, match=r"^y must be in the host's memory"):
        model.evaluate(X, OnGPU(Y))
