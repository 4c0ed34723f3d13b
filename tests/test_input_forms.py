"""In which forms arrays may come: right, or refused in one line; never taken for something else."""

import array
import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import assert_same

import numbarnn
from numbarnn import (
    GRU,
    LSTM,
    SGD,
    BinaryCrossEntropy,
    CrossEntropy,
    Dense,
    Dropout,
    Embedding,
    Huber,
    MaxOverTime,
    MeanOverTime,
    MeanSquaredError,
    Sequential,
)
from numbarnn.jit.compile_cache import compile_clock
from numbarnn.models.graph_model import GraphModel, Input, connect

RNG = np.random.default_rng(5)
X = RNG.standard_normal((4, 3, 2)).astype("float32")
Y = np.array([0, 1, 0, 1])
TAGS = RNG.integers(0, 2, (4, 3))
STATE = RNG.standard_normal((1, 4, 5)).astype("float32")


def classifier(**options):
    model = Sequential(GRU(5, **options), Dense(2))
    model.build(2, seed=0)
    return model


def fitted(x=X, y=Y, make=classifier, **options):
    """The parameters after a fit, bit for bit."""
    model = make()
    model.fit(x, y, **{"epochs": 2, "batch_size": 3, "verbose": False, **options})
    return {name: values.copy() for name, values in model.parameters.items()}


def masked(array):
    """The array with one masked element, whose value is not to be used."""
    array = np.array(array)
    mask = np.zeros(array.shape, bool)
    mask.flat[-1] = True
    return np.ma.masked_array(array, mask)


# ---- masks -----------------------------------------------------------------------------------------------


def gru():
    layer = GRU(5)
    layer.build(2, seed=0)
    return layer


def trained_gru():
    layer = gru()
    layer.forward(X, training=True)
    return layer


def optimizer_step(value, gradient):
    optimizer = SGD(0.1)
    optimizer.update(optimizer.start([np.zeros(4)]), [value], [gradient], 0.1)


MASKED = {
    "x": (r"x", lambda: gru().forward(masked(X))),
    "a row": (r"x\[3\]", lambda: gru().forward([*X[:3], masked(X[3])])),
    "rows of rows": (r"x\[3\]", lambda: gru().forward([*X[:3], [X[3, 0], masked(X[3, 1])]])),
    "a number": (r"x\[1\]", lambda: gru().forward([X[0].tolist(), [[0.5, np.ma.masked]]])),
    "an array of rows": (r"x\[0\]", lambda: gru().forward(np.array([masked(X[0]), X[1, :2]], dtype=object))),
    "a table": (r"x", lambda: Dense(3).forward(masked(X[:, 0]))),
    "vectors": (r"x", lambda: Dense(3).forward([X[0, 0], masked(X[0, 1])])),
    "pooling": (r"x", lambda: MeanOverTime().forward(masked(X))),
    "tokens": (r"x", lambda: Embedding(4, 2).forward(masked([[1, 2], [3, 0]]))),
    "rows of tokens": (r"x\[1\]", lambda: Embedding(4, 2).forward([np.array([1, 2]), masked([3, 0])])),
    "lengths": ("lengths", lambda: gru().forward(X, lengths=masked([3, 2, 1, 3]))),
    "initial_state": ("initial_state", lambda: gru().forward(X, initial_state=masked(STATE))),
    "states of an LSTM": (
        r"initial_state \(c\)",
        lambda: LSTM(5).forward(X, initial_state=(STATE, masked(STATE))),
    ),
    "dy": ("dy", lambda: trained_gru().backward(masked(np.ones((4, 3, 5))))),
    "dstate": ("dstate", lambda: trained_gru().backward(np.ones((4, 3, 5)), masked(STATE))),
    "x_t": ("x_t", lambda: gru().step(masked(X[:, 0]))),
    "state": ("state", lambda: gru().step(X[:, 0], masked(STATE))),
    "parameters": (
        "weight_ih_l0",
        lambda: gru().set_parameters({name: masked(values) for name, values in gru().parameters.items()}),
    ),
    "parameters of a model": (
        "layer 0: weight_ih_l0",
        lambda: classifier().set_parameters({n: masked(v) for n, v in classifier().parameters.items()}),
    ),
    "fit": ("x", lambda: fitted(x=masked(X))),
    "y": ("y", lambda: fitted(y=masked(Y))),
    "y of steps": (
        r"y\[3\]",
        lambda: fitted(y=masked(TAGS), make=lambda: classifier(return_sequences=True)),
    ),
    "sample_weight": ("sample_weight", lambda: fitted(sample_weight=masked([1.0, 2.0, 1.0, 2.0]))),
    "class_weight": (r"class_weight\[1\]", lambda: fitted(class_weight={1: np.ma.masked})),
    "validation_data": ("validation_data x", lambda: fitted(validation_data=(masked(X), Y))),
    "validation targets": ("validation_data y", lambda: fitted(validation_data=(X, masked(Y)))),
    "predict": ("x", lambda: classifier().predict(masked(X))),
    "evaluate": ("y", lambda: classifier().evaluate(X, masked(Y), "cross_entropy")),
    "labels of a loss": ("y", lambda: CrossEntropy().check_targets(masked(Y), 2, "float32")),
    "answers of a loss": ("y", lambda: BinaryCrossEntropy().check_targets(masked(Y), 1, "float32")),
    "numbers of a loss": ("y", lambda: Huber().check_targets(masked(Y), 1, "float32")),
    "gradients of an optimiser": ("gradients", lambda: optimizer_step(np.zeros(4), masked(np.ones(4)))),
    "values of an optimiser": ("values", lambda: optimizer_step(masked(np.ones(4)), np.ones(4))),
}


@pytest.mark.parametrize(("name", "call"), MASKED.values(), ids=MASKED)
def test_masked_elements_are_refused(name, call):
    with pytest.raises((TypeError, ValueError), match=f"^{name}.* (must|needs)"):
        call()


def test_a_mask_of_nothing_is_no_mask():
    nothing = np.ma.masked_array(X, np.zeros(X.shape, bool))
    assert_same(gru().forward(nothing), gru().forward(X))
    assert_same(gru().forward(np.ma.asarray(X)), gru().forward(X))
    assert_same(fitted(nothing, np.ma.asarray(Y)), fitted())


# ---- arrays of any making --------------------------------------------------------------------------------


def unaligned(array):
    raw = np.zeros(array.nbytes + 1, np.uint8)
    result = raw[1:].view(array.dtype).reshape(array.shape)
    result[...] = array
    assert not result.flags.aligned
    return result


def read_only(array):
    result = array.copy()
    result.flags.writeable = False
    return result


class OtherLibrary:
    """An array of a library that NumPy knows how to read."""

    def __init__(self, array):
        self.array = array

    def __array__(self, dtype=None, copy=None):
        return self.array


class Subclass(np.ndarray):
    pass


MAKINGS = {
    "read-only": read_only,
    "unaligned": unaligned,
    "Fortran's order": np.asfortranarray,
    "backwards": lambda array: array[::-1].copy()[::-1],
    "every other": lambda array: np.repeat(array, 2, axis=-1)[..., ::2],
    "other byte order": lambda array: array.astype(array.dtype.newbyteorder()),
    "of a subclass": lambda array: array.view(Subclass),
    "of another library": OtherLibrary,
    "without a mask": np.ma.asarray,
    "broadcast": lambda array: np.broadcast_to(array, array.shape),
}


def results_of(made):
    """Everywhere that arrays come in."""
    layer, model, dense, tokens = gru(), classifier(), Dense(2), Embedding(9, 2)
    dense.build(2, seed=0)
    tokens.build(1, seed=0)
    results = [*layer.forward(made(X), initial_state=made(STATE), training=True)]
    results += layer.backward(made(np.ones((4, 3, 5), "float32")), made(STATE))
    layer.set_parameters({name: made(2 * values) for name, values in layer.parameters.items()})
    results += [*layer.forward(X), *layer.forward(made(X), lengths=made(np.array([3, 1, 2, 3])))]
    results += layer.step(made(X[:, 0]), made(STATE))
    given = made(X), made(Y)
    model.fit(*given, sample_weight=made(np.arange(1.0, 5.0)), validation_data=given, verbose=False, epochs=1)
    results += [model.forward(made(X), training=True), model.backward(made(np.ones((4, 2), "float32")))]
    results += [model.predict(made(X)), np.array(model.evaluate(*given)["loss"])]
    results += [dense.forward(made(X[:, 0])), tokens.forward(made(TAGS))]
    results += [MeanOverTime(dtype="float32").forward(made(X)), MaxOverTime().forward(made(X))]
    return tuple(results)


@pytest.mark.parametrize("make", MAKINGS.values(), ids=MAKINGS)
def test_arrays_of_any_making(make):
    """The results of plain arrays, and no kernel is compiled for any other kind."""
    wanted = results_of(np.array)
    compiled = compile_clock.kernels
    assert_same(results_of(make), wanted)
    assert compile_clock.kernels == compiled


@pytest.mark.parametrize("make", [np.ndarray.tolist, lambda array: tuple(array.tolist())])
def test_nested_lists(make):
    assert_same(classifier().predict(make(X)), classifier().predict(X))
    assert_same(fitted(make(X), make(Y), sample_weight=make(np.ones(4))), fitted(sample_weight=np.ones(4)))
    tokens = Embedding(9, 2)
    assert_same(np.array(tokens.forward(make(TAGS))), tokens.forward(TAGS))
    assert_same(
        gru().forward(X, make(STATE), lengths=make(np.array([1, 2, 3, 1]))),
        gru().forward(X, STATE, [1, 2, 3, 1]),
    )


def test_read_only_losses_and_gradients_compile_nothing():
    outputs, targets = RNG.standard_normal((4, 16)).astype("float32"), np.array([0, 1, 2, 1])
    active, offset, weights = np.array([4]), np.array([0, 4]), np.ones(4)

    def run(made):
        losses, scores, doutputs = np.zeros(4), np.zeros(4), np.zeros_like(outputs)
        arrays = made(outputs), 3, made(targets), made(weights), 1.0, losses, scores, doutputs
        CrossEntropy().rows(*arrays, made(active), made(offset), 0, 4)
        value = np.ones(4)
        optimizer_step(value, made(np.arange(4.0)))
        return losses, scores, doutputs, value

    wanted = run(np.copy)
    compiled = compile_clock.kernels
    assert_same(run(read_only), wanted)
    assert compile_clock.kernels == compiled


def test_a_memory_map(tmp_path):
    np.save(tmp_path / "x.npy", X)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert_same(fitted(x=mapped), fitted())
    assert_same(classifier().predict(list(mapped)), classifier().predict(list(X)))


@pytest.mark.parametrize(
    "x",
    [
        X + 1j,
        X.astype("datetime64[s]"),
        X.astype("timedelta64[s]"),
        np.zeros((4, 3, 2), [("a", "f4"), ("b", "f4")]),
        X.astype(str),
        X.astype(bytes),
        np.full((4, 3, 2), 2**80, object),
        [[[2**80, 1]]],
        {"a": 1},
        np.array(3.0),
        "text",
        b"text",
        object(),
    ],
    ids=lambda x: str(getattr(x, "dtype", type(x).__name__)),
)
def test_what_holds_no_numbers(x):
    for call in (gru().forward, MeanOverTime().forward, Dense(2).forward, classifier().predict):
        with pytest.raises((TypeError, ValueError), match=r"^x"):
            call(x)


class Refusing:
    def __array__(self, dtype=None, copy=None):
        raise RuntimeError("it is on another device")


def test_what_another_library_says_comes_with_the_name():
    with pytest.raises(TypeError, match=r"^x cannot be read as an array: it is on another device$"):
        gru().forward(Refusing())
    with pytest.raises(TypeError, match=r"^x\[1\] cannot be read as an array"):
        gru().forward([X[0], Refusing()])


def test_callers_arrays_stay_read_only():
    x, y = read_only(X), read_only(Y)
    fitted(x, y)
    assert not x.flags.writeable
    assert x.tobytes() == X.tobytes()


# ---- dtypes of layers without parameters -----------------------------------------------------------------

DOUBLE, SINGLE = X.astype("float64"), X
WIDE = {
    "float64": DOUBLE,
    "longdouble": X.astype(np.longdouble),
    "a later row": [SINGLE[0], DOUBLE[1]],
    "a tuple": (SINGLE[0], DOUBLE[1]),
    "nested lists": X.tolist(),
    "an array of rows": np.array([DOUBLE[0], SINGLE[1, :2]], dtype=object),
    "another library": OtherLibrary(DOUBLE),
    "rows of another library": [OtherLibrary(SINGLE[0]), OtherLibrary(DOUBLE[1])],
    "other byte order": DOUBLE.astype(">f8"),
}
NARROW = {
    "float32": SINGLE,
    "float16": X.astype("float16"),
    "rows": list(SINGLE),
    "integers": TAGS[:, :, None],
    "bool": TAGS[:, :, None] > 0,
    "lists of integers": TAGS[:, :, None].tolist(),
}


@pytest.mark.parametrize(
    ("x", "dtype"),
    [(x, "float64") for x in WIDE.values()] + [(x, "float32") for x in NARROW.values()],
    ids=[*WIDE, *NARROW],
)
@pytest.mark.parametrize("layer_class", [MeanOverTime, MaxOverTime, lambda: Dropout(0.5)])
def test_layers_that_follow_the_dtype(layer_class, x, dtype):
    layer = layer_class()
    y = layer.forward(x, training=True, seed=0)
    assert {row.dtype for row in y} == {np.dtype(dtype)}
    dx = layer.backward(y)
    assert {row.dtype for row in dx} == {np.dtype(dtype)}


# ---- labels and rows -------------------------------------------------------------------------------------


def tagger():
    return classifier(return_sequences=True)


def yes_or_no():
    model = Sequential(GRU(5), Dense(1))
    model.build(2, seed=0)
    return model


LABELS = {
    "a column": (Y[:, None], classifier, {}),
    "a list of columns": (Y[:, None].tolist(), classifier, {}),
    "arrays of one": ([np.array([label]) for label in Y], classifier, {}),
    "whole floats": (Y.astype(float), classifier, {}),
    "booleans": (Y > 0, classifier, {}),
    "small integers": (Y.astype(np.uint8), classifier, {}),
    "one-hot": (np.eye(2)[Y], classifier, {}),
    "tags with an axis": (TAGS[:, :, None], tagger, {}),
    "rows of tags with an axis": (list(TAGS[:, :, None]), tagger, {}),
    "tags of another library": (OtherLibrary(TAGS), tagger, {}),
    "yes or no": (Y, yes_or_no, {"loss": "binary_cross_entropy"}),
    "yes or no, a column": (Y[:, None], yes_or_no, {"loss": "binary_cross_entropy"}),
    "yes or no, booleans": (Y > 0, yes_or_no, {"loss": "binary_cross_entropy"}),
    "one number": (Y[:, None] / 2, yes_or_no, {"loss": "mse"}),
    "weights in a column": (Y, classifier, {"sample_weight": np.ones((4, 1))}),
}


@pytest.mark.parametrize(("y", "make", "options"), LABELS.values(), ids=LABELS)
def test_labels_of_any_form(y, make, options):
    plain = {"mse": Y / 2}.get(options.get("loss"), TAGS if make is tagger else Y)
    more = {"sample_weight": np.ones(4)} if "sample_weight" in options else {}
    wanted = fitted(y=plain, make=make, **{**options, **more})
    got = fitted(y=y, make=make, **options)
    if np.shape(y) == (4, 2):  # soft targets have a kernel of their own
        assert all(np.allclose(got[name], wanted[name], atol=1e-6) for name in got)
    else:
        assert_same(got, wanted)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        ([0, 1, 0.5, 1], "y must hold whole numbers as labels; got 0.5 at position 2"),
        (["a", "b", "a", "b"], "y must hold numbers, got dtype <U1"),
        (np.zeros((4, 1, 1)), r"y must have shape \(n,\), labels"),
        (np.zeros((4, 3)), r"y must have shape \(n,\), labels"),
    ],
)
def test_labels_that_are_none(y, message):
    with pytest.raises((TypeError, ValueError), match=f"^{message}"):
        fitted(y=y)


def test_vectors_in_a_list():
    table, labels = X[:, 0].astype(float), [0, 1, 0, 1]

    def fit(x):
        return fitted(x, labels, lambda: Sequential(Dense(3, activation="tanh"), Dense(2)), seed=0)

    numbers = [array.array("d", row) for row in table]
    for x in (table.tolist(), list(table), tuple(table), numbers, list(map(OtherLibrary, table))):
        assert_same(fit(x), fit(table))
    dense = Dense(2)
    dense.build(2, seed=0)
    assert_same(dense.forward(table.tolist()), dense.forward(table))
    given = Input(sequence=False)
    model = GraphModel((given,), connect(dense, given))
    assert_same(model.forward(table.tolist()), model.forward(table))
    with pytest.raises(ValueError, match=r"^x is not a regular array"):
        dense.forward([[1.0, 2.0], [3.0]])
    with pytest.raises(ValueError, match=r"^lengths is for sequences"):
        dense.forward(table.tolist(), lengths=[1] * 4)


@pytest.mark.parametrize(("verbose", "shown"), [(0, False), (1, True), (2, True), (np.int64(0), False)])
def test_verbose_as_a_number(verbose, shown, capsys):
    fitted(verbose=verbose)
    assert bool(capsys.readouterr().err) == shown


@pytest.mark.parametrize("verbose", [3, -1, 1.0, "auto", None])
def test_verbose_that_means_nothing(verbose):
    with pytest.raises(TypeError, match=r"^verbose must be True or False, got "):
        fitted(verbose=verbose)


@pytest.mark.parametrize("layer_class", [MeanOverTime, MaxOverTime, lambda: Dropout(0.5)])
def test_layers_without_parameters_take_any_width(layer_class):
    layer = layer_class()
    for x in (X, X[:, :, :1], np.repeat(X, 9, axis=2), X):
        y = layer.forward(x, training=True, seed=1)
        twin = layer_class()
        assert_same(y, twin.forward(x, training=True, seed=1))
        assert_same(layer.backward(y), twin.backward(y))
    model = Sequential(layer_class())
    for x in (X, X[:, :, :1]):
        assert_same(model.forward(x), layer_class().forward(x))
        assert_same(model.predict(x), layer_class().forward(x))


def test_a_layer_without_parameters_goes_from_model_to_model():
    pool = MaxOverTime()
    for width in (3, 5):
        model = Sequential(GRU(width, return_sequences=True), pool, Dense(2))
        model.fit(X, Y, epochs=1, verbose=False)
        assert model.predict(X).shape == (4, 2)


def test_seeds_of_a_loop_of_fits():
    def course(seeds):
        model = Sequential(GRU(5), Dropout(0.5), Dense(2))
        model.build(2, seed=0)
        draws = []
        for seed in seeds:
            before = {name: values.copy() for name, values in model.parameters.items()}
            model.fit(X, Y, epochs=1, batch_size=1, seed=seed, verbose=False)
            draws.append(model.parameters["2.bias"].copy())
            model.set_parameters(before)
        return [draw.tobytes() for draw in draws]

    assert len(set(course([0, 0, 0]))) == 1
    assert len(set(course([None] * 3))) == 3


# ---- a program that has NumPy raise ----------------------------------------------------------------------


def test_numpy_may_raise_on_anything():
    tiny, huge = np.full((4, 3, 2), 1e-60), np.full((4, 3, 2), 1e6)
    with np.errstate(all="raise"):
        model = Sequential(LSTM(3, dropout=0.1, num_layers=2), Dropout(0.2), Dense(2))
        options = {"clip_norm": 1.0, "clip_value": 1.0, "validation_data": (huge, Y), "verbose": False}
        weight = np.array([1e-300, 1e-200, 1.0, 1.0])
        for optimizer in ("sgd", "rmsprop", "adam", "adamw"):
            model.fit(
                tiny,
                Y,
                optimizer=optimizer,
                sample_weight=weight,
                epochs=2,
                class_weight={0: 1e-300},
                **options,
            )
        model.fit(X, Y, optimizer=SGD(numbarnn.CosineDecay(np.float64(1e-310), 1e-320)), epochs=2, **options)
        model.fit(X, np.eye(2)[Y] * (1 - 1e-300), epochs=1, verbose=False)
        model.set_parameters({name: 1e4 * values for name, values in model.parameters.items()})
        model.predict_proba(huge)
        model.evaluate(huge, Y)
        for loss in (CrossEntropy(), BinaryCrossEntropy()):
            for dtype in ("float32", "float64"):
                probabilities = loss.probabilities(np.array([[-800.0, 0.0, 800.0]], dtype))
                assert np.isfinite(probabilities).all()
        assert MeanSquaredError().check_targets([1e-60], 1, "float32").tolist() == [[0.0]]
        for initializer in ("glorot_uniform", "orthogonal", "pytorch"):
            LSTM(5, weight_initializer=initializer).build(3, seed=0)
            Dense(5, weight_initializer=initializer).build(3, seed=0)
        layer = gru()
        layer.forward(tiny, initial_state=np.full(STATE.shape, 1e-50), training=True)
        layer.backward(np.full((4, 3, 5), 1e-50), np.full(STATE.shape, 1e-50))
        layer.set_parameters(
            {name: np.full(values.shape, 1e-60) for name, values in layer.parameters.items()}
        )
        with pytest.raises(ValueError, match=r"^x must be finite"):
            layer.forward(np.full((1, 2, 2), 1e300))


def test_dropout_without_the_compiler():
    """No warning of an overflow that is meant, and the numbers of compiled code."""
    program = """
import numpy as np, numbarnn
layer = numbarnn.Dropout(0.5)
print(layer.forward(np.ones((3, 4, 5)), training=True, seed=7).astype(int).ravel().tolist())
"""
    said = []
    for value in ("0", "1"):
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", program], env={**os.environ, "NUMBA_DISABLE_JIT": value},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        said.append(done.stdout)
    assert said[0] == said[1]
    assert "2" in said[0]


def test_weights_of_one_row_cancel_out():
    """As the documentation says."""
    weight = [1.0, 5.0, 2.0, 9.0]
    assert_same(fitted(sample_weight=weight, batch_size=1), fitted(batch_size=1))
    changed = fitted(sample_weight=weight)
    assert any((changed[name] != values).any() for name, values in fitted().items())
