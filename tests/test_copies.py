"""Parameters that change places, copies and pickles, and models whose list of layers was edited."""

import contextlib
import copy
import pickle

import numpy as np
import pytest
from conftest import assert_same

from numbarnn import (
    GRU,
    LSTM,
    RNN,
    SGD,
    Dense,
    Dropout,
    Embedding,
    MaxOverTime,
    MeanOverTime,
    Sequential,
)
from numbarnn.models.graph_model import GraphModel, Input, connect

RNG = np.random.default_rng(3)
X = RNG.standard_normal((4, 3, 4)).astype("float32")
Y = np.array([0, 1, 0, 1])
TOKENS = RNG.integers(0, 5, (4, 3))


def copies_of(parameters):
    return {name: values.copy() for name, values in parameters.items()}


def built(thing, size=4):
    thing.build(size, seed=0)
    return thing


# ---- parameters that are views of parameters -------------------------------------------------------------


def reverse_of(name):
    return name.removesuffix("_reverse") if name.endswith("_reverse") else f"{name}_reverse"


def test_directions_change_places():
    layer = built(LSTM(4, bidirectional=True))
    before = copies_of(layer.parameters)
    layer.set_parameters({name: layer.parameters[reverse_of(name)] for name in before})
    assert_same(layer.parameters, {name: before[reverse_of(name)] for name in before})


def test_layers_of_a_model_change_places():
    model = built(Sequential(GRU(4, return_sequences=True), GRU(4), Dense(2)))
    before = copies_of(model.parameters)
    partner = {name: {"0": "1", "1": "0"}.get(name[0], name[0]) + name[1:] for name in before}
    model.set_parameters({name: model.parameters[partner[name]] for name in before})
    assert_same(model.parameters, {name: before[partner[name]] for name in before})


@pytest.mark.parametrize("view", [np.transpose, lambda w: w[::-1], lambda w: w[:, ::-1], lambda w: w[::-1].T])
def test_views_that_overlap(view):
    """A square matrix takes the place of itself."""
    for thing, name in ((built(Dense(4)), "weight"), (built(Sequential(Dense(4))), "0.weight")):
        wanted = copies_of(thing.parameters) | {name: view(thing.parameters[name]).copy()}
        thing.set_parameters({**thing.parameters, name: view(thing.parameters[name])})
        assert_same(thing.parameters, wanted)


def test_views_of_another_model_stay_as_they_are():
    one, other = built(Sequential(Dense(4))), Sequential(Dense(4))
    other.build(4, seed=1)
    other.set_parameters(one.parameters)
    before = copies_of(other.parameters)
    one.set_parameters({name: values + 1 for name, values in one.parameters.items()})
    assert_same(other.parameters, before)


# ---- copies and pickles ----------------------------------------------------------------------------------


class Encoder(LSTM):
    """Arguments of its own, under other names."""

    def __init__(self, size=8, label="encoder"):
        super().__init__(size)
        self.label = label


class Wrapped(GRU):
    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.given = options


class LowRank(Dense):
    """Says what parameters it has by an attribute of its own."""

    def __init__(self, units, rank):
        super().__init__(units)
        self.rank = rank

    def parameter_shapes(self, input_size):
        assert self.rank > 0
        return super().parameter_shapes(input_size)

    def initialize(self, name, *arguments):
        assert self.rank > 0
        return super().initialize(name, *arguments)


class Pool(MaxOverTime):
    def __init__(self, name):
        super().__init__()
        self.name = name


class Stack(Sequential):
    """A model with arguments of its own."""

    def __init__(self, width, *classes):
        super().__init__(Encoder(width), Dense(len(classes)))
        self.classes = classes


PICKLE = pytest.param(lambda thing: pickle.loads(pickle.dumps(thing)), id="pickle")
DEEP = [PICKLE, pytest.param(copy.deepcopy, id="deepcopy")]
EACH_WAY = [*DEEP, pytest.param(copy.copy, id="copy")]
LAYERS = {
    "own arguments": lambda: Encoder(3),
    "any arguments": lambda: Wrapped(3, num_layers=2, bidirectional=True),
    "own shapes": lambda: LowRank(3, rank=2),
    "own name": lambda: Pool("last"),
    "RNN": lambda: RNN(3, activation="relu"),
    "LSTM": lambda: LSTM(3, dropout=0.5, num_layers=2, dtype="float64"),
    "GRU": lambda: GRU(3, recurrent_initializer="identity", bias=False),
    "Dense": lambda: Dense(3, activation="tanh"),
    "Embedding": lambda: Embedding(5, 3),
    "Dropout": lambda: Dropout(0.25),
    "MeanOverTime": MeanOverTime,
}
each_layer = pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)


def output_of(layer):
    y = layer.forward(TOKENS if isinstance(layer, Embedding) else X, training=True, seed=1)
    return y if isinstance(y, tuple) else (y,)


@each_layer
@pytest.mark.parametrize("ways", EACH_WAY)
@pytest.mark.parametrize("state", ["new", "built", "trained"])
def test_copies_of_layers(make, ways, state):
    layer = make()
    if state != "new":
        layer.build(4, seed=0)
    if state == "trained":
        y = output_of(layer)[0]
        layer.backward(np.ones_like(y))
    layer.label = ["set by hand"]
    layer.itself = layer
    twin = ways(layer)
    assert type(twin) is type(layer)
    assert twin.label == ["set by hand"]
    assert repr(twin) == repr(layer)
    assert (twin.built, twin.dtype, twin.options) == (layer.built, layer.dtype, layer.options)
    for name in set(vars(make())) - set(vars(type(layer).__mro__[1].__new__(type(layer)))):
        assert hasattr(twin, name)
    if state == "new":
        return
    assert_same(twin.parameters, layer.parameters)
    assert_same(output_of(twin), output_of(layer))
    for name, values in twin.parameters.items():
        assert not np.shares_memory(values, layer.parameters[name])
    before = copies_of(layer.parameters)
    twin.set_parameters({name: values + 1 for name, values in twin.parameters.items()})
    assert_same(layer.parameters, before)
    assert (twin.itself is twin) == (ways is not copy.copy)


@each_layer
def test_copies_take_no_buffers(make):
    """What a layer has besides its options and its parameters is the user's."""
    layer = make()
    layer.build(4, seed=0)
    output_of(layer)
    _, (_, options), (_, values, attributes) = layer.__reduce__()
    own = {"label", "given", "rank", "name"}
    assert set(attributes) - own == {"dtype", "follows_input_dtype", "follows_model_dtype"}
    assert values.size == layer.count_parameters()
    assert not any(isinstance(value, np.ndarray) for value in options.values())


@pytest.mark.parametrize("ways", DEEP)
def test_copies_of_models(ways):
    model = Stack(3, "a", "b")
    model.fit(X, Y, epochs=1, verbose=False)
    model.layers[0].label = "mine"
    model.remark = {"made": "by hand"}
    twin = ways(model)
    assert type(twin) is Stack
    assert (twin.classes, twin.remark, twin.layers[0].label) == (("a", "b"), model.remark, "mine")
    assert_same(twin.predict_proba(X), model.predict_proba(X))
    before = copies_of(model.parameters)
    twin.fit(X, Y, epochs=1, verbose=False)
    assert_same(model.parameters, before)


@pytest.mark.parametrize("ways", DEEP)
def test_a_layer_of_two_models_stays_one_layer(ways):
    shared = LSTM(3)
    models = {"a": Sequential(shared, Dense(2)), "b": Sequential(shared, Dense(3))}
    twins = ways(models)
    assert twins["a"].layers[0] is twins["b"].layers[0] is not shared


@pytest.mark.parametrize("ways", DEEP)
def test_copies_of_graphs(ways):
    given = Input()
    y, state = connect(Wrapped(3, return_sequences=True), given)
    again, _ = connect(Wrapped(3), y, state)
    model = GraphModel((given,), connect(Dense(2), again))
    model.build(4, seed=0)
    assert_same(ways(model).predict(X), model.predict(X))


@pytest.mark.parametrize("ways", DEEP)
def test_a_model_keeps_its_dtype(ways):
    """Layers without one of their own have that of their model, and copies of them do."""
    model = Sequential(Dropout(0.5), LSTM(3, dtype="float64", return_sequences=True), MeanOverTime())
    model.build(4, seed=0)
    twin = ways(model)
    assert twin.predict(X).dtype == np.float64
    assert_same(twin.predict(X), model.predict(X))
    pool = ways(model.layers[2])
    assert Sequential(LSTM(3, return_sequences=True), pool).dtype == np.float32


# ---- the list of layers is edited ------------------------------------------------------------------------


def fitted():
    model = Sequential(LSTM(4), Dense(2))
    model.fit(X, Y, epochs=1, verbose=False)
    model.forward(X)
    model.forward(X, training=True)
    return model


def test_another_last_layer():
    model = fitted()
    model.layers[-1] = Dense(5)
    with pytest.raises(RuntimeError, match=r"^backward needs a forward"):
        model.backward(np.ones((4, 5)))
    for use in (model.predict, model.predict_proba, lambda x: model.evaluate(x, Y)):
        with pytest.raises(RuntimeError, match="needs a built model"):
            use(X)
    assert model.forward(X).shape == (4, 5)
    assert model.predict(X).shape == (4, 5)
    before = model.layers[0].parameters["weight_ih_l0"].copy()
    model.fit(X, np.arange(4), epochs=1, verbose=False)
    assert (before != model.layers[0].parameters["weight_ih_l0"]).any()
    assert_same(model.predict(X), Sequential(*model.layers).predict(X))


EDITS = {
    "append": lambda layers: layers.append(Dense(3)),
    "insert": lambda layers: layers.insert(1, Dense(4, activation="tanh")),
    "remove": lambda layers: layers.pop(),
    "dropout in front": lambda layers: layers.insert(0, Dropout(0.1)),
    "all": lambda layers: layers.__setitem__(
        slice(None), [GRU(3, dtype="float64"), Dense(2, dtype="float64")]
    ),
    "pooling": lambda layers: layers.__setitem__(
        slice(0, 1), [GRU(3, return_sequences=True), MaxOverTime(), Dense(4)]
    ),
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_edits_that_make_a_model(edit):
    model = fitted()
    edit(model.layers)
    model.fit(X, Y, epochs=1, verbose=False)
    assert_same(model.predict(X), Sequential(*model.layers).predict(X))
    assert_same(model.forward(X), model.predict(X))
    assert_same(model.parameters, Sequential(*model.layers).parameters)
    model.set_parameters(copies_of(model.parameters))
    model.restore(model.snapshot())


WRONG_EDITS = {
    "another dtype": (
        lambda m: m.layers.__setitem__(1, Dense(2, dtype="float64")),
        "all layers must have one dty",
    ),
    "behind vectors": (lambda m: m.layers.append(LSTM(3)), r"layer 2 \(LSTM\(3\)\) needs sequences"),
    "tokens later": (lambda m: m.layers.append(Embedding(5, 3)), r"layer 2 .* takes tokens"),
    "no layer": (lambda m: m.layers.append("dense"), "layer 2 must be a layer, not str"),
    "twice": (lambda m: m.layers.append(m.layers[1]), "a layer may stand in a Sequential only once"),
    "nothing left": (lambda m: m.layers.clear(), "a Sequential needs at least one layer"),
    "no list": (lambda m: setattr(m, "layers", None), "layers must be a list of layers, not NoneType"),
}


@pytest.mark.parametrize(("edit", "message"), WRONG_EDITS.values(), ids=WRONG_EDITS)
def test_edits_that_the_constructor_would_refuse(edit, message):
    model = fitted()
    wanted, layers = model.predict(X), list(model.layers)
    edit(model)
    calls = (
        lambda: model.fit(X, Y, verbose=False), lambda: model.predict(X), lambda: model.evaluate(X, Y),
        lambda: model.forward(X), lambda: model.backward(wanted), lambda: model.build(4),
        lambda: model.parameters, lambda: model.set_parameters({}), model.snapshot, model.summary,
        lambda: model.restore([]), model.count_parameters, lambda: model.to("cpu"), lambda: model.output_size,
    )  # fmt: skip
    for call in calls:
        with pytest.raises((TypeError, ValueError), match=f"^{message}"):
            call()
    model.layers = layers
    assert_same(model.predict(X), wanted)


def test_layers_of_another_width():
    model = fitted()
    model.layers[0] = built(LSTM(5))
    with pytest.raises(ValueError, match=r"^layer 1 \(Dense\(2\)\) was built for 4 features, not 5"):
        model.predict(X)


def test_layers_in_a_tuple():
    model = fitted()
    wanted = model.predict(X)
    model.layers = tuple(model.layers)
    assert_same(model.predict(X), wanted)
    model.layers.append(Dense(2))
    assert model.forward(X).shape == (4, 2)


def test_layers_of_a_graph_stay():
    given = Input()
    y, _ = connect(LSTM(3), given)
    model = GraphModel((given,), connect(Dense(2), y))
    model.build(4, seed=0)
    model.layers.append(Dense(3))
    with pytest.raises(ValueError, match=r"^layers of a GraphModel cannot be changed"):
        model.predict(X)


# ---- any order of calls ----------------------------------------------------------------------------------

WIDTHS = (1, 2, 3, 5)


def any_layer(rng, dtype):
    width = int(rng.choice(WIDTHS))
    makers = (
        lambda: LSTM(width, return_sequences=bool(rng.integers(2)), dtype=dtype),
        lambda: GRU(width, return_sequences=True, num_layers=2, bidirectional=True, dropout=0.1, dtype=dtype),
        lambda: Dense(width, dtype=dtype),
        lambda: Dropout(0.3),
        MeanOverTime,
        MaxOverTime,
    )
    return makers[rng.integers(len(makers))]()


def any_call(rng, model, dtype):
    """One call, right or wrong at this moment."""
    layers = model.layers
    place = int(rng.integers(max(1, len(layers))))
    calls = (
        lambda: model.fit(X, Y, epochs=1, batch_size=3, verbose=0, seed=None),
        lambda: model.forward(X, training=True),
        lambda: model.backward(np.ones_like(model.predict(X))),
        lambda: layers.append(any_layer(rng, dtype)),
        lambda: layers.pop(place),
        lambda: layers.__setitem__(place, any_layer(rng, dtype)),
        lambda: rng.shuffle(layers),
        lambda: SGD(0.1).step(model),
        lambda: model.set_parameters({name: values + 0.01 for name, values in model.parameters.items()}),
        lambda: model.restore(model.snapshot()),
        lambda: layers[place].forward(X[:, :, : int(rng.integers(1, 5))], training=True),
        lambda: layers[place].build(int(rng.integers(1, 5))),
    )
    return calls[rng.integers(len(calls))]


@pytest.mark.parametrize("seed", range(20))
def test_a_model_computes_what_its_layers_show(seed):
    """After any calls, refused or not, it gives the bits, or the error, of a new model of such layers."""

    def outcome(make):
        try:
            return make().forward(X)
        except (TypeError, ValueError, IndexError) as error:
            return str(error)

    rng = np.random.default_rng(seed)
    dtype = str(rng.choice(["float32", "float64"]))
    model = Sequential(GRU(3, return_sequences=True, dtype=dtype), MaxOverTime(), Dense(2, dtype=dtype))
    for _ in range(12):
        with contextlib.suppress(TypeError, ValueError, RuntimeError, IndexError):
            any_call(rng, model, dtype)()
        if isinstance(outcome(lambda: Sequential(*copy.deepcopy(model.layers))), str):
            assert isinstance(outcome(lambda: model), str)
            continue
        got = outcome(lambda: model)  # builds what is not built
        assert_same(got, outcome(lambda: Sequential(*copy.deepcopy(model.layers))))
        assert_same(model.predict(X), got)
