"""Layers without recurrence against plain NumPy, first values of the parameters, and dropout's numbers."""

import inspect
from functools import partial

import numpy as np
import pytest
from conftest import TOLERANCE, assert_close, assert_same, assert_same_on, sized

import numbarnn
from numbarnn import GRU, LSTM, RNN, Dense, Dropout, Embedding, MaxOverTime, MeanOverTime, Sequential

LENGTHS = [2, 5, 1, 3]
each_dtype = pytest.mark.parametrize("dtype", TOLERANCE)


def random_rows(size, dtype="float64", seed=0, lengths=LENGTHS):
    rng = np.random.default_rng([seed, size])
    return [rng.standard_normal((length, size)).astype(dtype) for length in lengths]


def pad(rows, fill):
    """Rows (T_i, ...) as one array (B, T, ...) with ``fill`` past their ends."""
    padded = np.full((len(rows), max(map(len, rows)), *rows[0].shape[1:]), fill, rows[0].dtype)
    for target, row in zip(padded, rows, strict=True):
        target[: len(row)] = row
    return padded


def run(layer, x, dy_of, **options):
    """Output, input gradient and gradients of one forward and backward."""
    y = layer.forward(x, training=True, seed=0, **options)
    return y, layer.backward(dy_of(y)), {name: array.copy() for name, array in layer.gradients.items()}


def dy_like(y):
    """A gradient for an output of any form; the same numbers for the same step of a row."""
    rng = np.random.default_rng(1)
    if isinstance(y, list):
        padded = rng.standard_normal((len(y), max(map(len, y)), y[0].shape[1])).astype(y[0].dtype)
        return [row[: len(values)] for row, values in zip(padded, y, strict=True)]
    return rng.standard_normal(y.shape).astype(y.dtype)


def check_forms(layer, rows, gives_sequence):
    """List, list sorted otherwise, padded array with lengths, and one row alone give the same bits."""
    device = layer.device
    as_list = run(layer, rows, dy_like)
    y, dx, gradients = run(layer, pad(rows, np.nan), dy_like, lengths=[len(row) for row in rows])
    assert_same_on(device, y, pad(as_list[0], 0.0) if gives_sequence else as_list[0])
    assert_same_on(device, dx, pad(as_list[1], 0.0))
    assert_same_on(device, gradients, as_list[2])
    for i, row in enumerate(rows):
        assert_same_on(device, np.asarray(layer.forward([row])[0]), np.asarray(layer.forward(rows)[i]))


# ---- dense -----------------------------------------------------------------------------------------------

ACTIVATIONS = {  # the function, and its derivative from the output
    None: (lambda a: a, np.ones_like),
    "tanh": (np.tanh, lambda y: 1.0 - y**2),
    "relu": (lambda a: np.maximum(a, 0.0), lambda y: (y > 0.0).astype(y.dtype)),
    "sigmoid": (lambda a: 1.0 / (1.0 + np.exp(-a)), lambda y: y * (1.0 - y)),
}


@each_dtype
@pytest.mark.parametrize(("input_size", "units"), [(1, 1), (3, 5), (17, 4), (40, 33)])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_dense(device, activation, input_size, units, dtype):
    layer = Dense(units, activation, dtype=dtype, weight_initializer="pytorch", device=device)
    layer.build(input_size, seed=1)
    function, derivative = ACTIVATIONS[activation]
    weight, bias = (values.astype("float64") for values in layer.parameters.values())
    rows = random_rows(input_size, dtype)
    y, dx, gradients = run(layer, rows, dy_like)
    x, dy = np.concatenate(rows).astype("float64"), np.concatenate(dy_like(y)).astype("float64")
    expected = function(x @ weight.T + bias)
    dsums = dy * derivative(expected)
    assert_close(np.concatenate(y), expected, TOLERANCE[dtype], dtype)
    assert_close(np.concatenate(dx), dsums @ weight, TOLERANCE[dtype], dtype)
    assert_close(gradients, {"weight": dsums.T @ x, "bias": dsums.sum(axis=0)}, TOLERANCE[dtype], dtype)


def test_dense_of_vectors(device):
    """One vector a row is the case of a single step."""
    layer = Dense(3, "tanh", dtype="float64", device=device)
    layer.build(4, seed=0)
    x = np.random.default_rng(0).standard_normal((7, 4))
    y, dx, gradients = run(layer, x, dy_like)
    assert (y.shape, dx.shape) == ((7, 3), (7, 4))
    steps = run(layer, x[:, None], lambda _: dy_like(y)[:, None])
    assert_same_on(device, (y[:, None], dx[:, None], gradients), steps)


def test_dense_in_any_form(device):
    check_forms(Dense(5, "sigmoid", dtype="float64", device=device), random_rows(3), gives_sequence=True)


# ---- embedding -------------------------------------------------------------------------------------------


@each_dtype
@pytest.mark.parametrize("dim", [1, 5, 16, 33])
def test_embedding(device, dim, dtype):
    layer = Embedding(7, dim, dtype=dtype, device=device)
    tokens = [np.array([3, 3]), np.array([0, 6, 3, 1, 0]), np.array([6]), np.array([2, 0, 2])]
    y = layer.forward(tokens, training=True)
    table = layer.parameters["weight"]
    assert_same(y, [table[row] for row in tokens])
    dy = dy_like(y)
    assert layer.backward(dy) is None
    expected = np.zeros((7, dim))
    np.add.at(expected, np.concatenate(tokens), np.concatenate(dy))
    assert_close(layer.gradients["weight"], expected, TOLERANCE[dtype], dtype)
    assert not layer.gradients["weight"][[4, 5]].any()  # tokens that did not come


def test_embedding_of_padded_tokens(device):
    """What stands past a row's end may be anything, also no token."""
    layer = Embedding(7, 3, device=device)
    rows = [np.array([3, 1]), np.array([0, 6, 2]), np.array([5])]
    as_list = layer.forward(rows)
    for integer in ("int64", "int32", "uint8"):
        y = layer.forward(pad(rows, 99).astype(integer), lengths=[2, 3, 1])
        assert_same(y, pad(as_list, 0.0))
    assert_same(layer.forward([row.tolist() for row in rows]), as_list)


# ---- pooling ---------------------------------------------------------------------------------------------


@each_dtype
@pytest.mark.parametrize("size", [1, 5, 16, 33])
def test_mean_over_time(device, size, dtype):
    rows = random_rows(size, dtype)
    y, dx, _ = run(MeanOverTime(device=device), rows, dy_like)
    assert_close(y, np.stack([row.astype("float64").mean(axis=0) for row in rows]), TOLERANCE[dtype], dtype)
    shares = [
        np.repeat(dy[None] / len(row), len(row), axis=0) for dy, row in zip(dy_like(y), rows, strict=True)
    ]
    assert_close(dx, shares, TOLERANCE[dtype], dtype)


@each_dtype
@pytest.mark.parametrize("size", [1, 5, 16, 33])
def test_max_over_time(device, size, dtype):
    rows = [row.round() + 0.0 for row in random_rows(size, dtype)]  # with equal values, without -0
    y, dx, _ = run(MaxOverTime(device=device), rows, dy_like)
    assert_same(y, np.stack([row.max(axis=0) for row in rows]))
    expected = [np.zeros_like(row) for row in rows]
    for target, row, dy in zip(expected, rows, dy_like(y), strict=True):
        target[row.argmax(axis=0), np.arange(size)] = dy  # the first of them wins
    assert_same(dx, expected)


def test_max_of_negative_values(device):
    rows = [-1.0 - np.abs(row) for row in random_rows(3)]
    layer, expected = MaxOverTime(device=device), np.stack([row.max(axis=0) for row in rows])
    assert_same(layer.forward(rows), expected)
    assert_same(layer.forward(pad(rows, 0.0), lengths=LENGTHS), expected)


@pytest.mark.parametrize("layer_class", [MeanOverTime, MaxOverTime])
def test_pooling_in_any_form(device, layer_class):
    check_forms(layer_class(device=device), random_rows(5), gives_sequence=False)


@pytest.mark.parametrize("make", [MeanOverTime, MaxOverTime, lambda **options: Dropout(0.5, **options)])
def test_layers_without_parameters_follow_the_input(device, make):
    layer, rows = make(device=device), random_rows(3)
    assert layer.forward(np.stack(rows[:1]).astype("float32")).dtype == "float32"
    assert layer.forward(np.stack(rows[:1])).dtype == "float64"
    assert layer.forward(np.ones((2, 3, 3), int)).dtype == "float32"
    assert (layer.parameters, layer.gradients, layer.count_parameters()) == ({}, {}, 0)


def test_layers_of_a_model_keep_its_dtype():
    x = np.random.default_rng(0).standard_normal((4, 3, 2))
    results = []
    for call_alone in (False, True):
        model = Sequential(Dropout(0.5), LSTM(4), Dense(2))
        if call_alone:
            model.layers[0].forward(x)
        model.fit(x, [0, 1, 0, 1], epochs=1, verbose=False)
        results.append(model.parameters)
    assert_same(results[1], results[0])


# ---- dropout ---------------------------------------------------------------------------------------------


def masks(device, rate, rows, seed):
    """The factors of a dropout layer for rows of ones."""
    return Dropout(rate, device=device).forward([np.ones_like(row) for row in rows], training=True, seed=seed)


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 0.9])
def test_dropout_drops_at_its_rate(device, rate):
    values = np.concatenate(
        masks(device, rate, random_rows(40, lengths=sized([300, 200, 100], [25, 15, 10])), seed=3)
    )
    scale = 1.0 / (1.0 - rate)
    assert set(np.unique(values)) == ({scale} if rate == 0.0 else {0.0, scale})
    spread = np.sqrt(rate * (1.0 - rate) / values.size)
    assert np.mean(values == 0.0) == pytest.approx(rate, abs=5.0 * spread)
    for axis in (0, 1):  # no step and no unit is preferred
        shares = np.mean(values == 0.0, axis=axis)
        assert np.std(shares) < 2.0 * np.sqrt(rate * (1.0 - rate) / values.shape[axis]) + 1e-12


def test_dropout_and_its_gradient_use_the_same_numbers(device):
    rows = random_rows(5)
    expected = masks(device, 0.5, rows, seed=0)
    y, dx, _ = run(Dropout(0.5, device=device), rows, dy_like)
    assert_close(y, [row * mask for row, mask in zip(rows, expected, strict=True)], 0.0)
    assert_close(dx, [dy * mask for dy, mask in zip(dy_like(y), expected, strict=True)], 0.0)


def test_dropout_is_fixed_by_its_seed(device):
    rows = random_rows(16)
    assert_same(masks(device, 0.5, rows, seed=7), masks(device, 0.5, rows, seed=7))
    different = [
        masks(device, 0.5, rows, seed=7),
        masks(device, 0.5, rows, seed=8),
        masks(device, 0.5, rows, None),
        masks(device, 0.5, rows, None),
    ]
    flat = [np.concatenate(each).tobytes() for each in different]
    assert len(set(flat)) == 4


def test_dropout_belongs_to_the_callers_row_step_and_unit(device):
    """Neither how rows are sorted, nor which others there are and how long, nor the form has an influence."""
    long = [np.ones((6, 9)) for _ in range(4)]
    full = masks(device, 0.5, long, seed=5)
    assert len({mask.tobytes() for mask in full}) == 4
    for lengths in ([2, 5, 1, 3], [6, 1, 6, 2], [1, 1, 1, 1], [3, 6]):
        rows = [row[:length] for row, length in zip(long, lengths, strict=False)]
        shorter = masks(device, 0.5, rows, seed=5)
        assert_same(shorter, [mask[: len(part)] for mask, part in zip(full, shorter, strict=False)])
    as_array = Dropout(0.5, device=device).forward(pad(rows, 1.0), lengths=lengths, training=True, seed=5)
    assert_same(as_array, pad(shorter, 0.0))
    narrow = masks(device, 0.5, [row[:, :4] for row in long], seed=5)
    assert_same(narrow, [mask[:, :4] for mask in full])


def test_dropout_only_while_training(device):
    rows = random_rows(5)
    assert_same(Dropout(0.5, device=device).forward(rows, seed=0), rows)


def test_dropout_of_vectors(device):
    y = Dropout(0.5, device=device).forward(np.ones((50, 40)), training=True, seed=0)
    assert y.shape == (50, 40)
    assert np.mean(y == 0.0) == pytest.approx(0.5, abs=0.06)


# ---- first values of the parameters ----------------------------------------------------------------------

H, I = 12, 7  # noqa: E741
RECURRENT = [(RNN, {}, 1), (RNN, {"activation": "relu"}, 1), (LSTM, {}, 4), (GRU, {}, 3)]
each_recurrent = pytest.mark.parametrize(
    ("layer_class", "options", "gates"), RECURRENT, ids=["rnn-tanh", "rnn-relu", "lstm", "gru"]
)


def first_values(layer_class, seed=0, **options):
    layer = layer_class(H, dtype="float64", num_layers=2, bidirectional=True, **options)
    layer.build(I, seed=seed)
    return layer.parameters


def blocks(parameters, kind, gates):
    """The gates' blocks of all weights of one kind."""
    return [
        block
        for name, values in parameters.items()
        if name.startswith(kind)
        for block in np.split(values, gates)
    ]


@each_recurrent
def test_orthogonal_gate_by_gate(layer_class, options, gates):
    parameters = first_values(
        layer_class, weight_initializer="orthogonal", recurrent_initializer="orthogonal", **options
    )
    assert len(blocks(parameters, "weight", gates)) == 8 * gates
    for block in blocks(parameters, "weight", gates):
        rows, columns = block.shape
        product = block @ block.T if rows <= columns else block.T @ block
        np.testing.assert_allclose(product, np.eye(min(rows, columns)), atol=1e-12)
    square = blocks(parameters, "weight_hh", gates)
    assert len({block.tobytes() for block in square}) == len(square)


@each_recurrent
def test_identity(layer_class, options, gates):
    parameters = first_values(layer_class, recurrent_initializer="identity", **options)
    for block in blocks(parameters, "weight_hh", gates):
        np.testing.assert_array_equal(block, np.eye(H))


@each_recurrent
def test_glorot_fills_its_bounds(layer_class, options, gates):
    """Fans are those of one gate."""
    parameters = first_values(
        layer_class, weight_initializer="glorot_uniform", recurrent_initializer="glorot_uniform", **options
    )
    for block in blocks(parameters, "weight", gates):
        limit = np.sqrt(6.0 / sum(block.shape))
        assert 0.9 * limit < np.abs(block).max() <= limit
        assert block.min() < -0.8 * limit
        assert block.max() > 0.8 * limit


@each_recurrent
def test_pytorch_fills_its_bounds(layer_class, options, gates):
    parameters = first_values(
        layer_class, weight_initializer="pytorch", recurrent_initializer="pytorch", **options
    )
    for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
        values = np.concatenate([part.ravel() for name, part in parameters.items() if name.startswith(kind)])
        assert 0.85 / np.sqrt(H) < np.abs(values).max() <= 1.0 / np.sqrt(H)
        assert values.min() < 0.0 < values.max()


@each_recurrent
def test_first_biases(layer_class, options, gates):
    for name, values in first_values(layer_class, **options).items():
        if name.startswith("bias"):
            expected = np.zeros((gates, H))
            if layer_class is LSTM and name.startswith("bias_ih"):
                expected[1] = 1.0  # i, f, g, o
            np.testing.assert_array_equal(values, expected.ravel())


def test_default_initializers():
    assert (LSTM(3).weight_initializer, LSTM(3).recurrent_initializer) == ("glorot_uniform", "orthogonal")
    assert RNN(3).recurrent_initializer == "orthogonal"
    assert RNN(3, activation="relu").recurrent_initializer == "identity"


def test_first_values_of_dense():
    for name, limit in (("glorot_uniform", np.sqrt(6.0 / 70)), ("pytorch", 1.0 / np.sqrt(40))):
        layer = Dense(30, weight_initializer=name)
        layer.build(40, seed=0)
        assert 0.95 * limit < np.abs(layer.parameters["weight"]).max() <= limit
        assert np.any(layer.parameters["bias"] != 0.0) == (name == "pytorch")
        assert np.abs(layer.parameters["bias"]).max() <= limit


def test_first_values_of_an_embedding():
    layer = Embedding(200, 50)
    layer.build(1, seed=0)
    weight = layer.parameters["weight"]
    assert weight.mean() == pytest.approx(0.0, abs=0.05)
    assert weight.std() == pytest.approx(1.0, abs=0.05)


MAKERS = {
    "rnn": lambda: RNN(5),
    "lstm": lambda: LSTM(5, num_layers=2),
    "gru": lambda: GRU(5, weight_initializer="pytorch", recurrent_initializer="glorot_uniform"),
    "dense": lambda: Dense(5),
    "embedding": lambda: Embedding(5, 3),
    "model": lambda: Sequential(LSTM(5), Dense(5)),
}
each_maker = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


@each_maker
def test_seed_fixes_the_first_values(make):
    things = [make() for _ in range(4)]
    for thing, seed in zip(things, (3, 3, 4, None), strict=True):
        thing.build(4, seed=seed)
    assert_same(things[1].parameters, things[0].parameters)
    weight = next(name for name in things[0].parameters if "weight" in name)
    for other in things[2:]:
        assert np.all(other.parameters[weight] != things[0].parameters[weight])


def test_equal_layers_of_a_model_begin_differently():
    model = Sequential(LSTM(5, return_sequences=True), LSTM(5))
    model.build(5, seed=0)
    assert np.all(model.parameters["0.weight_ih_l0"] != model.parameters["1.weight_ih_l0"])


# ---- parameters and gradients ----------------------------------------------------------------------------


@each_maker
def test_parameters_are_read_only_views(make):
    thing = make()
    thing.build(4, seed=0)
    for name, values in thing.parameters.items():
        with pytest.raises(ValueError, match="read-only"):
            values[...] = 0.0
        assert np.shares_memory(values, thing.parameters[name])


@each_maker
def test_set_parameters_takes_copies(make):
    thing = make()
    thing.build(4, seed=0)
    views = thing.parameters
    new = {name: np.full(values.shape, 0.5) for name, values in views.items()}
    thing.set_parameters(new)
    for name, values in views.items():
        new[name][...] = 7.0
        np.testing.assert_array_equal(values, 0.5)
    assert sum(values.size for values in views.values()) == thing.count_parameters()


FEW_ROWS = random_rows(3, "float32", lengths=sized(LENGTHS, [1, 2]))
GRADIENT_CASES = {
    "lstm": (partial(LSTM, 5, num_layers=2, bidirectional=True, dropout=0.5), FEW_ROWS),
    "gru": (partial(GRU, 5), FEW_ROWS),
    "dense": (partial(Dense, 5, "tanh"), random_rows(3, "float32")),
    "embedding": (partial(Embedding, 5, 3), [np.array([1, 2]), np.array([2, 4, 2])]),
    "dropout": (partial(Dropout, 0.5), random_rows(3, "float32")),
    "mean": (MeanOverTime, random_rows(3, "float32")),
    "max": (MaxOverTime, random_rows(3, "float32")),
}
each_gradient_case = pytest.mark.parametrize(("make", "x"), GRADIENT_CASES.values(), ids=GRADIENT_CASES)


def forward_and_backward(layer, x):
    """The gradient that backward began from, those of input and state that came back, and the parameters'."""
    y = layer.forward(x, training=True, seed=1)
    dy = dy_like(y[0] if isinstance(y, tuple) else y)
    return dy, *backward(layer, dy)


def backward(layer, dy):
    dx = layer.backward(dy)
    gradients = {name: array.copy() for name, array in layer.gradients.items()}
    return dx if isinstance(dx, tuple) else () if dx is None else (dx,), gradients


@each_gradient_case
def test_gradients_do_not_accumulate(device, make, x):
    layer = make(device=device)
    first = forward_and_backward(layer, x)
    assert_same_on(device, forward_and_backward(layer, x), first)


@each_gradient_case
def test_backward_twice(device, make, x):
    """The second gives the same gradients again, or is refused; it never gives others."""
    layer = make(device=device)
    dy, *expected = forward_and_backward(layer, x)
    try:
        again = backward(layer, dy)
    except RuntimeError as error:
        assert "forward(training=True)" in str(error)
    else:
        assert_same_on(device, again, tuple(expected))


@each_gradient_case
def test_earlier_calls_have_no_influence(device, make, x):
    """What a larger batch and a prediction leave in the buffers is not seen again."""
    used, fresh = make(device=device), make(device=device)
    forward_and_backward(used, [*x, *x, *x[::-1]])
    used.forward(x)
    results = forward_and_backward(used, x)
    fresh.build(used.input_size)
    fresh.set_parameters(used.parameters)
    assert_same_on(device, forward_and_backward(fresh, x), results)


def test_layers_know_what_they_are():
    assert repr(LSTM(5, num_layers=2, dropout=0.5)) == "LSTM(5, num_layers=2, dropout=0.5)"
    assert repr(Dense(3, "relu")) == "Dense(3, activation='relu')"
    assert [repr(layer) for layer in (Embedding(5, 3), Dropout(0.5), MaxOverTime())] == [
        "Embedding(5, 3)",
        "Dropout(0.5)",
        "MaxOverTime()",
    ]
    assert numbarnn.LSTM is LSTM


def test_recurrent_layers_take_the_same_options_by_keyword():
    signatures = {layer: inspect.signature(layer).parameters for layer in (RNN, LSTM, GRU)}
    common = [
        "num_layers", "bidirectional", "bias", "dropout", "return_sequences", "dtype", "device", "precision",
        "weight_initializer", "recurrent_initializer",
    ]  # fmt: skip
    own = {RNN: ["activation"], LSTM: ["peephole"], GRU: ["reset_after"]}
    for layer, parameters in signatures.items():
        assert list(parameters) == ["hidden_size", *own[layer], *common]
        by_keyword = {name for name, each in parameters.items() if each.kind is each.KEYWORD_ONLY}
        assert by_keyword == set(parameters) - {"hidden_size"}
        # The initial recurrent weights of an RNN depend on its activation.
        for name in set(common) - {"recurrent_initializer"}:
            assert parameters[name].default == signatures[LSTM][name].default
