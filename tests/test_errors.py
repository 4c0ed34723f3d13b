"""Wrong input: one short error that names the argument, and everything is as it was before the call."""

import contextlib
import os
import re
import subprocess
import sys

import numpy as np
import pytest

import numbarnn
from numbarnn import (
    GRU,
    LSTM,
    RNN,
    Adam,
    CrossEntropy,
    Dense,
    Dropout,
    EarlyStopping,
    Embedding,
    MaxOverTime,
    MeanOverTime,
    Sequential,
)

RNG = np.random.default_rng(0)
X = RNG.standard_normal((4, 3, 2))  # 4 rows of 3 steps and 2 features
Y = [0, 1, 2, 1]
TOKENS = [np.array([1, 2, 3]), np.array([4])]
RAGGED_X = [RNG.standard_normal((length, 2)) for length in (3, 1, 2)]
RAGGED_Y = [[0, 1, 2], [1], [2, 0]]


def with_value(value, dtype="float64"):
    """X with one odd number, in row 1 at step 2."""
    x = X.astype(dtype)
    x[1, 2, 0] = value
    return x


def classifier(built):
    model = Sequential(LSTM(4), Dense(3))
    if built:
        model.build(2, seed=0)
    return model


def tagger(built):
    model = Sequential(LSTM(4, return_sequences=True), Dense(3))
    if built:
        model.build(2, seed=0)
    return model


def token_classifier(built):
    model = Sequential(Embedding(5, 3), MeanOverTime(), Dense(3))
    if built:
        model.build(1, seed=0)
    return model


def built_lstm(**options):
    layer = LSTM(4, **options)
    layer.build(2, seed=0)
    return layer


def fingerprint(thing):
    """All of a layer or model that a refused call must leave alone."""
    layers = getattr(thing, "layers", [thing])
    values = [(name, array.tobytes()) for layer in layers for name, array in layer.parameters.items()]
    return [layer.input_size for layer in layers], values


@contextlib.contextmanager
def refused(error, message, *things):
    """The block raises ``error`` with a text that fits ``message``, and changes nothing of the ``things``."""
    before = [fingerprint(thing) for thing in things]
    with pytest.raises(error, match=message):
        yield
    assert [fingerprint(thing) for thing in things] == before


def setting(name, value):
    """What is said of a wrong setting."""
    return rf"^{name} must be .*, (got|not) {re.escape(repr(value))}$"


def table(*cases):
    """Cases (id, ...) for parametrize."""
    return [pytest.param(*case[1:], id=case[0]) for case in cases]


def made(**makers):
    """Parametrize ``make`` by functions that make a layer or model."""
    return pytest.mark.parametrize("make", makers.values(), ids=makers)


each_start = pytest.mark.parametrize("built", [False, True], ids=["unbuilt", "built"])


# ---- what a layer is made with ---------------------------------------------------------------------------

SIZES = [
    (RNN, "hidden_size", {}),
    (LSTM, "hidden_size", {}),
    (GRU, "hidden_size", {}),
    (RNN, "num_layers", {"hidden_size": 3}),
    (LSTM, "num_layers", {"hidden_size": 3}),
    (GRU, "num_layers", {"hidden_size": 3}),
    (Dense, "units", {}),
    (Embedding, "num_embeddings", {"embedding_dim": 3}),
    (Embedding, "embedding_dim", {"num_embeddings": 3}),
]
RATES = [
    (RNN, "dropout", {"hidden_size": 3}),
    (LSTM, "dropout", {"hidden_size": 3}),
    (GRU, "dropout", {"hidden_size": 3}),
    (Dropout, "rate", {}),
]
WRONG_SIZES = [(0, ValueError), (-1, ValueError), (2.0, TypeError), (True, TypeError), ("8", TypeError)]
WRONG_SIZES += [(None, TypeError), ([3], TypeError)]
WRONG_RATES = [(-0.1, ValueError), (1.0, ValueError), (1.5, ValueError), (np.nan, ValueError)]
WRONG_RATES += [("0.5", TypeError), (True, TypeError), (None, TypeError)]


@pytest.mark.parametrize(("value", "error"), WRONG_SIZES)
@pytest.mark.parametrize(("layer_class", "name", "others"), SIZES)
def test_sizes(layer_class, name, others, value, error):
    with pytest.raises(error, match=setting(name, value)):
        layer_class(**others, **{name: value})


@pytest.mark.parametrize(("value", "error"), WRONG_RATES)
@pytest.mark.parametrize(("layer_class", "name", "others"), RATES)
def test_rates(layer_class, name, others, value, error):
    with pytest.raises(error, match=setting(name, value)):
        layer_class(**others, **{name: value})


@pytest.mark.parametrize("value", [1, "yes", None])
@pytest.mark.parametrize("name", ["bidirectional", "bias", "return_sequences"])
@pytest.mark.parametrize("layer_class", [RNN, LSTM, GRU])
def test_flags(layer_class, name, value):
    with pytest.raises(TypeError, match=setting(name, value)):
        layer_class(3, **{name: value})


@pytest.mark.parametrize(
    ("layer_class", "name", "value"),
    [
        (RNN, "activation", "swish"),
        (RNN, "activation", None),
        (Dense, "activation", "softmax"),
        (Dense, "activation", 3),
        (RNN, "dtype", "float16"),
        (LSTM, "dtype", "int64"),
        (LSTM, "dtype", None),
        (GRU, "dtype", int),
        (Dense, "dtype", 64),
        (Dropout, "dtype", "float"),
        (MeanOverTime, "dtype", "complex64"),
        (LSTM, "weight_initializer", "identity"),
        (GRU, "weight_initializer", "zeros"),
        (Dense, "weight_initializer", None),
        (LSTM, "recurrent_initializer", "he_normal"),
        (RNN, "recurrent_initializer", 1),
    ],
)
def test_choices(layer_class, name, value):
    size = {} if layer_class is MeanOverTime else {"rate": 0.5} if layer_class is Dropout else None
    with pytest.raises(ValueError, match=setting(name, value)):
        layer_class(*([3] if size is None else []), **(size or {}), **{name: value})


def test_reset_gate_that_is_not_built():
    with pytest.raises(ValueError, match="reset_after must be True"):
        GRU(3, reset_after=False)


@pytest.mark.parametrize(("value", "error"), WRONG_SIZES)
@made(lstm=lambda: LSTM(4), dense=lambda: Dense(3), mean=MeanOverTime, model=lambda: classifier(False))
def test_build_with_a_wrong_size(make, value, error):
    thing = make()
    with refused(error, setting("input_size", value), thing):
        thing.build(value)


@pytest.mark.parametrize(("seed", "error"), [(-1, ValueError), (1.5, TypeError), ("0", TypeError)])
@made(lstm=lambda: LSTM(4), dense=lambda: Dense(3), model=lambda: classifier(False))
def test_build_with_a_wrong_seed(make, seed, error):
    thing = make()
    with refused(error, setting("seed", seed), thing):
        thing.build(2, seed=seed)


# ---- layers that do not fit one another ------------------------------------------------------------------

SHARED = LSTM(4)


@pytest.mark.parametrize(
    ("layers", "error", "message"),
    table(
        ("no layers", [], ValueError, "at least one layer"),
        ("no layer", [LSTM(4), "dense"], TypeError, "layer 1 must be a layer, not str"),
        ("a class", [LSTM, Dense(3)], TypeError, "layer 0 must be a layer, not type"),
        ("a list", [[LSTM(4), Dense(3)]], TypeError, "layer 0 must be a layer, not list"),
        ("twice", [SHARED, SHARED], ValueError, "only once"),
        (
            "vectors into LSTM",
            [LSTM(4), LSTM(4)],
            ValueError,
            r"layer 1 \(LSTM\(4\)\) needs sequences, and layer 0 .* return_sequences=True",
        ),
        ("vectors into pooling", [GRU(4), Dense(3), MaxOverTime()], ValueError, "layer 2 .* needs sequences"),
        ("pooling twice", [MeanOverTime(), MeanOverTime()], ValueError, "layer 1 .* needs sequences"),
        ("tokens later", [LSTM(4), Embedding(5, 3)], ValueError, r"layer 1 \(Embedding.* takes tokens"),
        (
            "mixed dtypes",
            [LSTM(4), Dense(3, dtype="float64")],
            ValueError,
            r"one dtype; LSTM\(4\): float32, Dense\(3\): float64",
        ),
    ),
)
def test_layers_that_do_not_fit(layers, error, message):
    with pytest.raises(error, match=message):
        Sequential(*layers)


@pytest.mark.parametrize("features", [1, 5, 400])
def test_layers_built_for_other_sizes(features):
    """Found when the model is put together or used: never by reading past the end of an array."""
    lstm, dense = built_lstm(), Dense(3)
    dense.build(features)
    with refused(ValueError, rf"layer 1 .*{features} features, not 4", lstm, dense):
        Sequential(lstm, dense).predict(X)
    unbuilt = LSTM(4)
    with refused(ValueError, rf"layer 1 .*{features} features, not 4", unbuilt, dense):
        Sequential(unbuilt, dense).fit(X, Y, verbose=False)


def test_build_for_another_size():
    model = classifier(True)
    with refused(ValueError, r"layer 0 .* built for 2 features, not 3", model):
        model.build(3)


# ---- sequences -------------------------------------------------------------------------------------------

# What is said about the argument comes after its name.
WRONG_X = table(
    ("nan", with_value(np.nan), ValueError, r" must be finite: row 1, step 2 holds NaN or inf"),
    ("infinity", with_value(np.inf), ValueError, " must be finite: row 1, step 2"),
    ("negative infinity", list(with_value(-np.inf, "float32")), ValueError, " must be finite: row 1, step 2"),
    ("too large for float32", with_value(1e300), ValueError, " must be finite: row 1, step 2"),
    ("a number", 3.0, ValueError, r" must be a \(B, T, I\) array"),
    ("rank 1", X[0, 0], ValueError, r" must be a \(B, T, I\) array .* shape \(2,\)"),
    ("rank 2", X[0], ValueError, r" must be a \(B, T, I\) array .* shape \(3, 2\)"),
    ("rank 4", X[None], ValueError, r" must be a \(B, T, I\) array .* shape \(1, 4, 3, 2\)"),
    ("rows of rank 1", list(X[0]), ValueError, r"\[0\] must be a \(T, I\) array, not .* shape \(2,\)"),
    ("rows of rank 3", [X, X], ValueError, r"\[0\] must be a \(T, I\) array, not .* shape \(4, 3, 2\)"),
    ("empty list", [], ValueError, " is empty: at least one row"),
    ("empty tuple", (), ValueError, " is empty: at least one row"),
    ("no rows", X[:0], ValueError, r" is empty: its shape is \(0, 3, 2\)"),
    ("no steps", X[:, :0], ValueError, r" is empty: its shape is \(4, 0, 2\)"),
    ("no features", X[:, :, :0], ValueError, r" is empty: its shape is \(4, 3, 0\)"),
    ("a row without steps", [X[0], X[1, :0]], ValueError, r"\[1\] has no steps"),
    ("rows without features", [X[0, :, :0]], ValueError, r"\[0\] has no features"),
    ("features differ", [X[0], X[1, :, :1]], ValueError, r"\[1\] has 1 features and \w* ?\w*\[0\] has 2"),
    ("a ragged row", [X[0], [[1.0, 2.0], [3.0]]], ValueError, r"\[1\] is not a regular array"),
    ("a string", "a text", TypeError, " must hold real numbers, not <U6"),
    ("strings", np.full((4, 3, 2), "a"), TypeError, " must hold real numbers, not <U1"),
    ("rows of strings", ["a", "b"], TypeError, r"\[0\] must hold real numbers, not <U1"),
    ("none", None, TypeError, " must hold real numbers, not object"),
    ("rows of none", [X[0], None], TypeError, r"\[1\] must hold real numbers, not object"),
    ("objects", np.full((4, 3, 2), None), TypeError, r"\[0\] must hold real numbers, not object"),
    ("one object", np.array(None, object), TypeError, " must hold real numbers, not object"),
    ("complex", X + 1j, TypeError, " must hold real numbers, not complex128"),
    ("dates", np.zeros((4, 3, 2), "datetime64[s]"), TypeError, " must hold real numbers, not datetime64"),
    ("a generator", (row for row in X), TypeError, " must hold real numbers, not object"),
)
WRONG_TOKENS = table(
    ("floats", np.ones((2, 3)), TypeError, r" must hold integers \(tokens\), not float64"),
    ("rows of floats", [TOKENS[0], np.ones(2)], TypeError, r"\[1\] must hold integers \(tokens\), not float"),
    ("flags", np.ones((2, 3), bool), TypeError, r" must hold integers \(tokens\), not bool"),
    ("strings", ["word", "word"], TypeError, r"\[0\] must hold integers \(tokens\), not <U4"),
    ("none", None, TypeError, r" must hold integers \(tokens\), not object"),
    ("too large", [TOKENS[0], np.array([1, 5])], ValueError, r" .*0\.\.4; row 1, step 1 holds 5"),
    ("negative", np.array([[0, 1], [-1, 2]]), ValueError, r" .*0\.\.4; row 1, step 0 holds -1"),
    ("far too large", np.array([[2**63 + 1]], np.uint64), ValueError, r" .*0\.\.4; row 0, step 0"),
    ("rank 1", TOKENS[0], ValueError, r" must be a \(B, T\) array of tokens .* shape \(3,\)"),
    ("rank 3", np.ones((2, 3, 1), int), ValueError, r" must be a \(B, T\) array of tokens .* \(2, 3, 1\)"),
    ("empty list", [], ValueError, " is empty"),
    ("no steps", np.zeros((2, 0), int), ValueError, " is empty"),
    ("a row without steps", [TOKENS[0], TOKENS[0][:0]], ValueError, r"\[1\] has no steps"),
)

# Every way for sequences to come in: (the argument's name, call of a model, whether it needs a built one).
DOORS = {
    "forward": ("x", lambda model, x, y, x_wrong: model.layers[0].forward(x_wrong), False),
    "fit": ("x", lambda model, x, y, x_wrong: model.fit(x_wrong, y, verbose=False), False),
    "validation_data": (
        "validation_data x",
        lambda model, x, y, x_wrong: model.fit(x, y, validation_data=(x_wrong, y), verbose=False),
        False,
    ),
    "predict": ("x", lambda model, x, y, x_wrong: model.predict(x_wrong), True),
    "evaluate": ("x", lambda model, x, y, x_wrong: model.evaluate(x_wrong, y, "cross_entropy"), True),
}
each_door = pytest.mark.parametrize(
    ("door", "built"),
    [(door, built) for door in DOORS for built in (False, True) if built or not DOORS[door][2]],
    ids=lambda value: {True: "built", False: "unbuilt"}.get(value, value),
)


@each_door
@pytest.mark.parametrize(("x", "error", "message"), WRONG_X)
def test_sequences(door, built, x, error, message):
    name, knock, _ = DOORS[door]
    model = classifier(built)
    with refused(error, f"^{name}{message}", model):
        knock(model, X, Y, x)


@each_door
@pytest.mark.parametrize(("x", "error", "message"), WRONG_TOKENS)
def test_tokens(door, built, x, error, message):
    name, knock, _ = DOORS[door]
    model = token_classifier(built)
    with refused(error, f"^{name}{message}", model):
        knock(model, TOKENS, Y[:2], x)


@pytest.mark.parametrize("x", [X[:, :, :1], list(np.ones((4, 3, 5)))], ids=["fewer", "more"])
@pytest.mark.parametrize(("door", "built"), [("validation_data", False), *((door, True) for door in DOORS)])
def test_features_of_another_model(door, built, x):
    name, knock, _ = DOORS[door]
    model = classifier(built)
    with refused(ValueError, f"^{name} must have 2 features, not {x[0].shape[-1]}", model):
        knock(model, X, Y, x)


@pytest.mark.parametrize(("x", "message"), [(X[0, :, :1], "features"), (X[None], r"shape \(1, 4, 3, 2\)")])
def test_vectors(x, message):
    dense = Dense(3)
    dense.build(2)
    with refused(ValueError, f"^x must .*{message}", dense):
        dense.forward(x)


@pytest.mark.parametrize(
    ("lengths", "error", "message"),
    table(
        ("too few", [3, 2], ValueError, r"shape \(4,\), .* not \(2,\)"),
        ("one number", 3, ValueError, r"shape \(4,\), .* not \(\)"),
        ("none", [], (TypeError, ValueError), ""),
        ("zero", [3, 0, 2, 1], ValueError, r"1\.\.3.* 0\.\.3"),
        ("negative", [3, -2, 2, 1], ValueError, r"1\.\.3.* -2\.\.3"),
        ("too long", [3, 4, 2, 1], ValueError, r"1\.\.3.* 1\.\.4"),
        ("floats", [3.0, 2.0, 2.0, 1.0], TypeError, "integers, not float64"),
        ("strings", list("3221"), TypeError, "integers, not <U1"),
        ("ragged", [[3, 2], [1]], (TypeError, ValueError), ""),
    ),
)
@made(lstm=lambda: LSTM(4), mean=MeanOverTime, dense=lambda: Dense(3))
def test_lengths(make, lengths, error, message):
    layer = make()
    with refused(error, f"^lengths .*{message}", layer):
        layer.forward(X, lengths=lengths)


@pytest.mark.parametrize(("layer_class", "x"), [(LSTM, list(X)), (Dense, X[0])], ids=["list", "vectors"])
def test_lengths_where_there_is_no_padding(layer_class, x):
    layer = layer_class(4)
    with refused(ValueError, "^lengths ", layer):
        layer.forward(x, lengths=[1] * len(x))


@each_start
@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("seed", -1, ValueError),
        ("seed", "0", TypeError),
        ("seed", 1.0, TypeError),
        ("training", "yes", TypeError),
        ("training", None, TypeError),
    ],
)
@made(lstm=lambda: LSTM(4), dense=lambda: Dense(3), dropout=lambda: Dropout(0.5))
def test_options_of_forward(make, built, name, value, error):
    layer = make()
    if built:
        layer.build(2, seed=0)
    with refused(error, setting(name, value), layer):
        layer.forward(X, **{"training": True, name: value})


# ---- states and gradients --------------------------------------------------------------------------------

STATE = np.zeros((1, 4, 4))
WRONG_STATES = table(
    ("batch", STATE[:, :3], ValueError, r"shape \(1, 4, 4\), not \(1, 3, 4\)"),
    ("rank", STATE[0], ValueError, r"shape \(1, 4, 4\), not \(4, 4\)"),
    ("hidden size", STATE[:, :, :3], ValueError, r"shape \(1, 4, 4\), not \(1, 4, 3\)"),
    ("a number", 0.0, ValueError, r"shape \(1, 4, 4\), not \(\)"),
    ("nan", np.full_like(STATE, np.nan), ValueError, "finite"),
    ("too large for float32", np.full_like(STATE, 1e300), ValueError, "finite"),
    ("strings", np.full(STATE.shape, "a"), TypeError, "real numbers, not <U1"),
    ("complex", STATE + 1j, TypeError, "real numbers, not complex128"),
    ("none", [None], TypeError, "real numbers, not object"),
    ("ragged", [[[0.0], [0.0, 1.0]]], ValueError, ""),
)


@each_start
@pytest.mark.parametrize(("state", "error", "message"), WRONG_STATES)
def test_initial_states(built, state, error, message):
    for layer, given, name in (
        (GRU(4), state, "initial_state"),
        (LSTM(4), (state, STATE), r"initial_state \(h\)"),
        (LSTM(4), (STATE, state), r"initial_state \(c\)"),
    ):
        if built:
            layer.build(2, seed=0)
        with refused(error, f"^{name}.*{message}", layer):
            layer.forward(X, initial_state=given)


@pytest.mark.parametrize(
    "state", [STATE, np.stack([STATE, STATE]), (STATE,), (STATE,) * 3, "hc", {"h": STATE}]
)
def test_states_of_an_lstm_are_a_pair(state):
    layer = LSTM(4)
    with refused((TypeError, ValueError), r"^initial_state must be a tuple \(h, c\)", layer):
        layer.forward(X, initial_state=state)


WRONG_DY = table(
    ("rank", np.zeros((4, 4)), ValueError, r"\(4, 3, 4\), not \(4, 4\)"),
    ("rows", np.zeros((3, 3, 4)), ValueError, r"\(4, 3, 4\), not \(3, 3, 4\)"),
    ("steps", np.zeros((4, 2, 4)), ValueError, r"\(4, 3, 4\), not \(4, 2, 4\)"),
    ("features", np.zeros((4, 3, 5)), ValueError, r"\(4, 3, 4\), not \(4, 3, 5\)"),
    ("nan", np.full((4, 3, 4), np.nan), ValueError, "finite: row 0, step 0"),
    ("strings", np.full((4, 3, 4), "a"), TypeError, "real numbers, not <U1"),
    ("none", None, TypeError, "real numbers, not object"),
    ("ragged", [[0.0], [0.0, 1.0]], ValueError, ""),
)
WRONG_DY_LISTS = table(
    ("fewer rows", [np.zeros((3, 4)), np.zeros((1, 4))], ValueError, "rows and lengths of the output"),
    (
        "lengths",
        [np.zeros((length, 4)) for length in (1, 3, 2)],
        ValueError,
        "rows and lengths of the output",
    ),
    ("features", [np.zeros((length, 5)) for length in (3, 1, 2)], ValueError, "4 features, not 5"),
    ("nan", [np.full((length, 4), np.nan) for length in (3, 1, 2)], ValueError, "finite: row 0, step 0"),
    ("an array", np.zeros((3, 3, 4)), ValueError, "rows and lengths of the output"),
    ("none", None, TypeError, ""),
    ("a number", 1.0, TypeError, ""),
)


@pytest.mark.parametrize(
    ("x", "dy", "error", "message"),
    [pytest.param(X, *case.values, id=f"array-{case.id}") for case in WRONG_DY]
    + [pytest.param(RAGGED_X, *case.values, id=f"list-{case.id}") for case in WRONG_DY_LISTS],
)
@pytest.mark.parametrize("layer_class", [LSTM, Dense])
def test_gradients_of_the_output(layer_class, x, dy, error, message):
    """After the refusal the same backward still works."""
    layer = layer_class(4)
    layer.forward(x, training=True, seed=0)
    before = {name: gradient.tobytes() for name, gradient in layer.gradients.items()}
    with refused(error, f"^dy.*{message}", layer):
        layer.backward(dy)
    assert {name: gradient.tobytes() for name, gradient in layer.gradients.items()} == before
    layer.backward([np.ones((len(row), 4)) for row in x])


@pytest.mark.parametrize(("state", "error", "message"), WRONG_STATES)
def test_gradients_of_the_state(state, error, message):
    layer = built_lstm()
    layer.forward(X, training=True)
    with refused(error, rf"^dstate \(c\).*{message}", layer):
        layer.backward(np.zeros((4, 3, 4)), dstate=(STATE, state))
    with refused(TypeError, setting("input_gradient", "no"), layer):
        layer.backward(np.zeros((4, 3, 4)), input_gradient="no")


@made(lstm=lambda: LSTM(4), dense=lambda: Dense(4), mean=MeanOverTime, dropout=lambda: Dropout(0.5))
def test_backward_needs_a_forward(make):
    layer, wanted = make(), r"^backward needs a forward\(training=True\)"
    with refused(RuntimeError, wanted, layer):
        layer.backward(np.zeros((4, 3, 4)))
    layer.forward(X, training=True)
    layer.forward(X)
    with refused(RuntimeError, wanted, layer):
        layer.backward(np.zeros((4, 3, 4)))


@pytest.mark.parametrize("x", [with_value(np.nan), with_value(np.inf, "float32"), X[0, 0], None])
@pytest.mark.parametrize("training", [False, True])
@made(lstm=built_lstm, dense=lambda: Dense(4), mean=MeanOverTime)
def test_refused_forward_leaves_the_latest_one(make, training, x):
    layer = make()

    def forward():
        y = layer.forward(X, training=True)
        return np.ones_like(y[0] if isinstance(y, tuple) else y)

    def backward(dy):
        dx = layer.backward(dy)
        return dx[0] if isinstance(dx, tuple) else dx

    expected = backward(forward())
    dy = forward()
    with refused((TypeError, ValueError), "^x ", layer):
        layer.forward(x, training=training)
    np.testing.assert_array_equal(backward(dy), expected)


def not_finite(value):
    """A state of the dtype that a layer takes as it is, with one odd number at its end."""
    state = np.zeros((1, 4, 4), "float32")
    state[0, 3, 3] = value
    return state


GOOD_STATE = tuple(RNG.standard_normal((2, 1, 4, 4)).astype("float32"))
STATES_NOT_FINITE = table(
    ("h", (not_finite(np.nan), GOOD_STATE[1]), "h"),
    ("c", (GOOD_STATE[0], not_finite(np.nan)), "c"),
    ("infinite", (GOOD_STATE[0], not_finite(-np.inf)), "c"),
    ("both", (not_finite(np.inf), not_finite(np.nan)), "[hc]"),
)


@pytest.mark.parametrize(("state", "name"), STATES_NOT_FINITE)
@pytest.mark.parametrize("training", [False, True])
def test_refused_initial_state_leaves_the_latest_forward(training, state, name):
    """Numbers that only the pass itself finds, when it has begun."""
    layer = built_lstm()
    dy = layer.forward(X, GOOD_STATE, training=True)[0]
    dx, dinitial = layer.backward(dy)
    layer.forward(X, GOOD_STATE, training=True)
    with refused(ValueError, rf"^initial_state \({name}\) must be finite", layer):
        layer.forward(X, state, training=training)
    dx_again, dinitial_again = layer.backward(dy)
    np.testing.assert_array_equal(dx_again, dx)
    np.testing.assert_array_equal(dinitial_again, dinitial)


@pytest.mark.parametrize(("state", "name"), STATES_NOT_FINITE)
def test_refused_state_gradient_leaves_the_latest_forward(state, name):
    layer = built_lstm()
    dy = layer.forward(X, GOOD_STATE, training=True)[0]
    dx, dinitial = layer.backward(dy, GOOD_STATE)
    gradients = {key: gradient.copy() for key, gradient in layer.gradients.items()}
    layer.forward(X, GOOD_STATE, training=True)
    with refused(ValueError, rf"^dstate \({name}\) must be finite", layer):
        layer.backward(dy, state)
    dx_again, dinitial_again = layer.backward(dy, GOOD_STATE)
    np.testing.assert_array_equal(dx_again, dx)
    np.testing.assert_array_equal(dinitial_again, dinitial)
    for key, gradient in layer.gradients.items():
        np.testing.assert_array_equal(gradient, gradients[key])


# ---- steps and kernels' weights --------------------------------------------------------------------------


def test_step_of_a_bidirectional_layer():
    layer = LSTM(4, bidirectional=True)
    with refused(ValueError, "^step needs a one-way layer", layer):
        layer.step(X[:, 0])


@each_start
@pytest.mark.parametrize(
    ("x_t", "error"),
    table(
        ("rank 1", X[0, 0], ValueError),
        ("rank 3", X, ValueError),
        ("no rows", X[:0, 0], ValueError),
        ("no rows of the layer's own dtype", X[:0, 0].astype("float32"), ValueError),
        ("nan", with_value(np.nan)[:, 2], ValueError),
        ("strings", np.full((4, 2), "a"), TypeError),
        ("none", None, (TypeError, ValueError)),
        ("ragged", [[1.0, 2.0], [3.0]], ValueError),
    ),
)
def test_inputs_of_a_step(built, x_t, error):
    layer = built_lstm() if built else LSTM(4)
    with refused(error, "^x_t ", layer):
        layer.step(x_t)


def test_inputs_of_a_step_with_other_features():
    layer = built_lstm()
    with refused(ValueError, "^x_t must have 2 features, not 1", layer):
        layer.step(X[:, 0, :1])


@pytest.mark.parametrize("state", [STATE, (STATE, STATE[:, :2]), (STATE, np.full_like(STATE, np.nan))])
def test_states_of_a_step(state):
    layer = built_lstm()
    with refused(ValueError, "^state ", layer):
        layer.step(X[:, 0], state)


@pytest.mark.parametrize(
    ("state", "error", "message"),
    [
        *(pytest.param(*case.values[:1], ValueError, rf"\({case.values[1]}\) must be finite", id=case.id)
          for case in STATES_NOT_FINITE),
        *table(
            ("shape of h", (GOOD_STATE[0][:, :3], GOOD_STATE[1]), ValueError, r"\(h\) must have shape"),
            ("shape of c", (GOOD_STATE[0], GOOD_STATE[1][:, :, :3]), ValueError, r"\(c\) must have shape"),
            ("complex c", [GOOD_STATE[0], GOOD_STATE[1] + 1j], TypeError, r"\(c\) must hold real numbers"),
            ("words", [GOOD_STATE[0], [[["a"] * 4] * 4]], TypeError, r"\(c\) must hold real numbers"),
            ("h alone", [GOOD_STATE[0]], ValueError, r"must be a tuple \(h, c\)"),
        ),
    ],
)  # fmt: skip
def test_refused_step_leaves_the_next_ones_alone(state, error, message):
    layer, x = built_lstm(), X[:, 0].astype("float32")
    expected = layer.step(x, GOOD_STATE), layer.step(x)
    with refused(error, f"^state {message}", layer):
        layer.step(x, state)
    for given, (y, final) in zip((GOOD_STATE, None), expected, strict=True):
        y_again, final_again = layer.step(x, given)
        np.testing.assert_array_equal(y_again, y)
        np.testing.assert_array_equal(final_again, final)


@pytest.mark.parametrize("options", [{"num_layers": 2}, {"bidirectional": True}])
def test_kernel_weights_of_more_than_one_layer(options):
    with pytest.raises(ValueError, match="kernel_weights is for a single-layer, one-way layer"):
        built_lstm(**options).kernel_weights()


def test_kernel_weights_before_the_build():
    with pytest.raises(RuntimeError, match=r"^build\(input_size\) the layer"):
        LSTM(4).kernel_weights()


# ---- parameters ------------------------------------------------------------------------------------------


def changed(parameters, name, value):
    return {**parameters, name: value}


WRONG_VALUES = table(
    ("shape", np.zeros((2, 16)), ValueError, r"{name} must have shape \(16, 2\), not \(2, 16\)"),
    ("one number", 1.0, ValueError, r"{name} must have shape \(16, 2\), not \(\)"),
    ("nan", np.full((16, 2), np.nan), ValueError, "{name} must be finite"),
    ("infinity", np.full((16, 2), np.inf), ValueError, "{name} must be finite"),
    ("too large for float32", np.full((16, 2), 1e300), ValueError, "{name} must be finite"),
    ("strings", np.full((16, 2), "a"), TypeError, "{name} must hold real numbers, not <U1"),
    ("complex", np.zeros((16, 2), complex), TypeError, "{name} must hold real numbers, not complex128"),
    ("ragged", [[1.0], [1.0, 2.0]], ValueError, "{name}"),
    ("none", None, TypeError, "{name} must hold real numbers, not object"),
)


@pytest.mark.parametrize(("value", "error", "message"), WRONG_VALUES)
def test_values_of_parameters(value, error, message):
    layer, model = built_lstm(), classifier(True)
    message = message.format(name="weight_ih_l0")
    with refused(error, f"^{message}", layer):
        layer.set_parameters(changed(layer.parameters, "weight_ih_l0", value))
    with refused(error, f"^layer 0: {message}", model):
        model.set_parameters(changed(model.parameters, "0.weight_ih_l0", value))


def test_a_late_wrong_parameter_changes_no_early_one():
    model = classifier(True)
    parameters = {name: values + 1.0 for name, values in model.parameters.items()}
    with refused(ValueError, r"^layer 1: bias must have shape \(3,\), not \(4,\)", model):
        model.set_parameters(changed(parameters, "1.bias", np.zeros(4)))


@pytest.mark.parametrize("make", [built_lstm, lambda: classifier(True)], ids=["layer", "model"])
def test_names_of_parameters(make):
    thing = make()
    last = list(thing.parameters)[-1]
    short = last.rpartition(".")[2]
    without = {name: values for name, values in thing.parameters.items() if name != last}
    with refused(ValueError, f"parameters must be exactly .* missing: '{short}'", thing):
        thing.set_parameters(without)
    with refused(ValueError, "parameters must be exactly .* unknown: 'weight'", thing):
        thing.set_parameters(changed(thing.parameters, "weight", np.zeros(3)))
    with refused(ValueError, "parameters must be exactly .* unknown: 3", thing):
        thing.set_parameters(changed(thing.parameters, 3, np.zeros(3)))
    for value in (None, 3, [np.zeros(3)], list(thing.parameters)):
        with refused((TypeError, ValueError), "parameters", thing):
            thing.set_parameters(value)


def test_parameters_before_the_build():
    for thing, wanted in ((LSTM(4), r"^build\(input_size\)"), (classifier(False), "^set_parameters needs a")):
        with refused(RuntimeError, wanted, thing):
            thing.set_parameters({})


def test_snapshot_of_another_model():
    other = Sequential(LSTM(4), Dense(2))
    other.build(2, seed=1)
    model = classifier(True)
    for snapshot in (other.snapshot(), other.snapshot()[:1], [np.ones(1), np.ones(1)]):
        with refused(ValueError, "snapshot", model):
            model.restore(snapshot)


# ---- targets ---------------------------------------------------------------------------------------------

WRONG_LABELS = table(
    ("too few", [0, 1], ValueError, " must have one target for each of the 4 rows of x, not 2"),
    ("too many", [*Y, 1], ValueError, " must have one target for each of the 4 rows of x, not 5"),
    ("one label", 1, ValueError, " must have one target for each of the 4 rows of x, not a single value"),
    ("none", None, (TypeError, ValueError), " must"),
    ("halves", [0, 1, 1.5, 2], TypeError, " must hold whole numbers as labels; got 1.5 at position 2"),
    ("words", ["a", "b", "a", "b"], TypeError, " must hold numbers, got dtype <U1"),
    ("too large", [0, 1, 2, 3], ValueError, " must hold labels from 0 to 2, .* got 3 at position 3"),
    ("negative", [0, -1, 2, 1], ValueError, " must hold labels from 0 to 2, .* got -1 at position 1"),
    ("nan", [0, 1, np.nan, 1], ValueError, " must hold finite numbers; got nan at position 2"),
    ("complex", [0, 1, 1j, 1], TypeError, " must hold numbers, got dtype complex128"),
    ("two columns", np.array([Y, Y]).T, ValueError, r" must have shape \(n,\), labels, .* got \(4, 2\)"),
    ("ragged", [[0], [1], [1, 2], [1]], ValueError, ""),
    ("no probabilities", np.full((4, 3), 0.5), ValueError, " must hold probabilities .* sum to 1"),
)
WRONG_TAGS = table(
    ("fewer rows", RAGGED_Y[:2], ValueError, " must have targets for each of the 3 rows of x, not for 2"),
    ("a short row", [[0, 1], [1], [2, 0]], ValueError, r"\[0\] must have one target for each of the 3 steps"),
    ("a long row", [[0, 1, 2], [1], [2, 0, 1]], ValueError, r"\[2\] .*for each of the 2 steps"),
    ("padded", np.zeros((3, 3), int), ValueError, r"\[1\] must have one target for each of the 1 steps"),
    ("one a row", [0, 1, 2], ValueError, r"\[0\] must have one target for each of the 3 steps"),
    ("none", None, (TypeError, ValueError), " must"),
    ("one label", 1, (TypeError, ValueError), " must"),
    ("words", [[0, 1, 2], ["a"], [2, 0]], TypeError, ".* must hold numbers"),
    ("too large", [[0, 1, 2], [1], [2, 3]], ValueError, ".* must hold labels from 0 to 2, .* got 3"),
    ("of two ranks", [[0, 1, 2], [[1]], [2, 0]], ValueError, ""),
)
TARGET_DOORS = {
    "fit": ("y", lambda model, x, y, wrong: model.fit(x, wrong, verbose=False)),
    "validation_data": (
        "validation_data y",
        lambda model, x, y, wrong: model.fit(x, y, validation_data=(x, wrong), verbose=False),
    ),
    "evaluate": ("y", lambda model, x, y, wrong: model.evaluate(x, wrong, "cross_entropy")),
}
each_target_door = pytest.mark.parametrize("door", TARGET_DOORS)


@each_target_door
@each_start
@pytest.mark.parametrize(("y", "error", "message"), WRONG_LABELS)
def test_labels(door, built, y, error, message):
    name, knock = TARGET_DOORS[door]
    model = classifier(built or door == "evaluate")
    with refused(error, f"^{name}{message}", model):
        knock(model, X, Y, y)


@each_target_door
@each_start
@pytest.mark.parametrize(("y", "error", "message"), WRONG_TAGS)
def test_tags(door, built, y, error, message):
    name, knock = TARGET_DOORS[door]
    model = tagger(built or door == "evaluate")
    with refused(error, f"^{name}{message}", model):
        knock(model, RAGGED_X, RAGGED_Y, y)


@pytest.mark.parametrize(
    ("loss", "y", "message"),
    [
        ("mse", Y, r"^y must have shape \(n, 3\)"),
        ("huber", np.full((4, 3), np.inf), "^y must hold finite numbers"),
        ("mae", np.full((4, 3), 1e300), "^y must hold numbers that float32 can hold"),
        ("binary_cross_entropy", np.full((4, 3), 2), "^y must hold 0 and 1"),
    ],
)
def test_targets_of_other_losses(loss, y, message):
    model = classifier(False)
    with refused(ValueError, message, model):
        model.fit(X, y, loss=loss, verbose=False)


# ---- arguments of fit ------------------------------------------------------------------------------------

COUNTS = [(0, ValueError), (-1, ValueError), (1.5, TypeError), (True, TypeError), ("3", TypeError)]
LIMITS = [(0, ValueError), (-1.0, ValueError), (np.nan, ValueError), (np.inf, ValueError), ("1", TypeError)]
FIT_ARGUMENTS = [
    *(("epochs", value, error, "epochs must be") for value, error in [*COUNTS, (None, TypeError)]),
    *(("batch_size", value, error, "batch_size must be") for value, error in [*COUNTS, (None, TypeError)]),
    *(("clip_norm", value, error, "clip_norm must be") for value, error in [*LIMITS, (True, TypeError)]),
    *(("clip_value", value, error, "clip_value must be") for value, error in [*LIMITS, (True, TypeError)]),
    ("loss", "hinge", ValueError, "loss must be one of 'cross_entropy', .*got 'hinge'"),
    ("loss", None, TypeError, "loss must be a name .*got None"),
    ("loss", CrossEntropy, TypeError, r"loss must be .*call it: CrossEntropy\(\)"),
    ("loss", ["mse"], TypeError, r"loss must be a name .*got \['mse'\]"),
    ("optimizer", "sdg", ValueError, "optimizer must be one of 'sgd', .*got 'sdg'"),
    ("optimizer", 0.01, TypeError, "optimizer must be a name .*got 0.01"),
    ("optimizer", Adam, TypeError, r"optimizer must be .*call it: Adam\(\)"),
    ("optimizer", None, TypeError, "optimizer must be a name .*got None"),
    ("shuffle", 1, TypeError, "shuffle must be True or False, got 1"),
    ("verbose", None, TypeError, "verbose must be True or False, got None"),
    ("seed", -1, ValueError, "seed must be at least 0, got -1"),
    ("seed", 1.0, TypeError, "seed must be a whole number"),
    ("seed", True, TypeError, "seed must be a whole number"),
    ("callbacks", EarlyStopping(), TypeError, "callbacks must be a list of callbacks, not EarlyStopping"),
    ("callbacks", None, TypeError, "callbacks must be a list"),
    ("callbacks", ["early"], TypeError, r"callbacks\[0\] must be a Callback, not str"),
    ("callbacks", [EarlyStopping], TypeError, r"callbacks\[0\] must be a Callback, not type"),
    ("validation_data", X, ValueError, r"validation_data must be a pair \(x, y\)"),
    ("validation_data", (X,), ValueError, r"validation_data must be a pair \(x, y\)"),
    ("validation_data", (X, Y, Y), ValueError, r"validation_data must be a pair \(x, y\)"),
    ("validation_data", 0.2, (TypeError, ValueError), r"validation_data must be a pair \(x, y\)"),
    ("sample_weight", [1.0, 2.0], ValueError, r"sample_weight must have shape \(4,\), .*not \(2,\)"),
    ("sample_weight", 2.0, ValueError, r"sample_weight must have shape \(4,\), .*not \(\)"),
    ("sample_weight", np.ones((4, 3)), ValueError, r"sample_weight must have shape \(4,\), .*not \(4, 3\)"),
    ("sample_weight", [1, -1, 1, 1], ValueError, "sample_weight must be finite and not negative"),
    ("sample_weight", [1, np.nan, 1, 1], ValueError, "sample_weight must be finite and not negative"),
    ("sample_weight", [1, np.inf, 1, 1], ValueError, "sample_weight must be finite and not negative"),
    ("sample_weight", list("1111"), TypeError, "sample_weight must hold real numbers, not <U1"),
    ("sample_weight", [1, None, 1, 1], TypeError, "sample_weight must hold real numbers, not object"),
    ("sample_weight", [[1], [1, 2], 1, 1], (TypeError, ValueError), "sample_weight"),
    ("sample_weight", np.zeros(4), ValueError, "sample_weight .* sum is 0"),
    ("class_weight", "even", ValueError, "class_weight must be a dict or \"balanced\", not 'even'"),
    ("class_weight", [1, 2, 1], TypeError, 'class_weight must be a dict or "balanced", not list'),
    ("class_weight", {3: 1.0}, ValueError, r"class_weight has the label 3; labels are 0\.\.2"),
    ("class_weight", {-1: 1.0}, ValueError, "class_weight has the label -1"),
    ("class_weight", {1.0: 1.0}, ValueError, r"class_weight has the label 1\.0"),
    ("class_weight", {"a": 1.0}, ValueError, "class_weight has the label 'a'"),
    ("class_weight", {True: 1.0}, ValueError, "class_weight has the label True"),
    ("class_weight", {0: -1.0}, ValueError, r"class_weight\[0\] must be finite and at least 0, got -1.0"),
    ("class_weight", {0: np.nan}, ValueError, r"class_weight\[0\] must be finite"),
    ("class_weight", {0: "1"}, TypeError, r"class_weight\[0\] must be"),
    ("class_weight", {0: None}, TypeError, r"class_weight\[0\] must be"),
    ("class_weight", {0: 0, 1: 0, 2: 0}, ValueError, ".*class_weight .* sum is 0"),
]


@each_start
@pytest.mark.parametrize(
    ("name", "value", "error", "message"),
    [pytest.param(*case, id=f"{case[0]}={str(case[1])[:20]}") for case in FIT_ARGUMENTS],
)
def test_arguments_of_fit(built, name, value, error, message):
    model = classifier(built)
    with refused(error, f"^{message}", model):
        model.fit(X, Y, **{"verbose": False, name: value})


def test_class_weights_need_labels():
    model = classifier(False)
    with refused(ValueError, "^class_weight needs integer labels", model):
        model.fit(X, np.zeros((4, 3)), loss="mse", class_weight="balanced", verbose=False)


@each_start
def test_early_stopping_on_a_number_that_does_not_exist(built):
    model = classifier(built)
    with refused(ValueError, "^monitor='val_loss' .*validation_data", model):
        model.fit(X, Y, callbacks=[EarlyStopping()], verbose=False)


# ---- models before their time ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("use", "message"),
    table(
        ("predict", lambda model: model.predict(X), "predict needs a built model"),
        ("evaluate", lambda model: model.evaluate(X, Y, "cross_entropy"), "evaluate needs a built model"),
        ("predict_proba", lambda model: model.predict_proba(X), "predict_proba needs .* fit the model first"),
        ("summary", lambda model: model.summary(), "summary needs a built model"),
        ("count", lambda model: model.count_parameters(), "count_parameters needs a built model"),
        ("snapshot", lambda model: model.snapshot(), "snapshot needs a built model"),
        ("restore", lambda model: model.restore([]), "restore needs a built model"),
        ("output_size", lambda model: model.output_size, "output_size needs a built model"),
    ),
)
def test_models_that_are_not_built(use, message):
    model = classifier(False)
    with refused(RuntimeError, f"^{message}", model):
        use(model)


def test_models_that_are_not_fitted():
    model = classifier(True)
    for use in (lambda: model.predict_proba(X), lambda: model.evaluate(X, Y)):
        with refused(RuntimeError, "needs to know the loss: fit the model first", model):
            use()


@pytest.mark.parametrize(("value", "error"), COUNTS)
def test_batch_size_of_predict(value, error):
    model = classifier(True)
    with refused(error, "^batch_size must be", model):
        model.predict(X, batch_size=value)


def test_probabilities_of_a_regression():
    model = classifier(False)
    model.fit(X, np.zeros((4, 3)), loss="mse", epochs=1, verbose=False)
    with refused(ValueError, "^predict_proba needs a model trained with loss 'cross_entropy'", model):
        model.predict_proba(X)


def test_unknown_loss_of_evaluate():
    model = classifier(True)
    with refused(ValueError, "^loss must be one of", model):
        model.evaluate(X, Y, loss="accuracy")


# ---- the machine -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "error"),
    [
        (0, ValueError),
        (-2, ValueError),
        (1.0, TypeError),
        ("2", TypeError),
        (True, TypeError),
        (None, TypeError),
    ],
)
def test_numbers_of_threads(n, error):
    before = numbarnn.get_num_threads()
    with pytest.raises(error, match=setting("n", n)):
        numbarnn.set_num_threads(n)
    assert numbarnn.get_num_threads() == before


@pytest.mark.parametrize("value", ["0", "-1", "two", "1.5"])
def test_number_of_threads_in_the_environment(value):
    program = "import numbarnn\ntry:\n    numbarnn.get_num_threads()\nexcept ValueError as e:\n    print(e)"
    environment = {**os.environ, "NUMBARNN_NUM_THREADS": value}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert re.match(f"NUMBARNN_NUM_THREADS must be a whole number .*, not '{value}'", done.stdout)
