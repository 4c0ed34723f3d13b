"""One layer or model and several threads: consistent results, clear errors, no crash."""

import threading
from dataclasses import dataclass

import numpy as np
import pytest
from conftest import trials

import numbarnn
from numbarnn import GRU, LSTM, Adam, Dense, Dropout, Embedding, MaxOverTime, MeanOverTime, Sequential
from numbarnn.training.callbacks import Callback

RNG = np.random.default_rng(0)
X = [RNG.standard_normal((int(length), 3)).astype(np.float32) for length in RNG.integers(1, 9, 40)]
Y = np.arange(len(X)) % 2
ARRAY = RNG.standard_normal((4, 6, 3)).astype(np.float32)
SECONDS_TO_WAIT = 60.0  # for threads that should end in a moment


def classifier():
    model = Sequential(LSTM(6, bidirectional=True, num_layers=2), Dropout(0.1), Dense(2))
    model.build(3, seed=1)
    return model


def in_threads(*functions):
    """Run functions at the same time; return what each returned or raised."""
    results = [None] * len(functions)
    start = threading.Barrier(len(functions))

    def run(i, function):
        start.wait()
        try:
            results[i] = function()
        except Exception as error:  # whatever it is, the test looks at it
            results[i] = error

    threads = [threading.Thread(target=run, args=pair, daemon=True) for pair in enumerate(functions)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS_TO_WAIT)
        assert not thread.is_alive()
    return results


def as_bytes(result):
    return b"".join(np.asarray(part).tobytes() for part in result)


@dataclass(frozen=True)
class Noting(Adam):
    """Keeps the parameters after every step."""

    notes: tuple = ()

    def update(self, state, values, *arguments, **options):
        super().update(state, values, *arguments, **options)
        self.notes[0].append([value.copy() for value in values])


def test_predictions_beside_a_fit_are_those_of_one_set_of_weights():
    model, twin, done = classifier(), classifier(), threading.Event()
    notes = [[model.layers[0].flat_values.copy(), model.layers[2].flat_values.copy()]]
    ways = {
        "predict": lambda of: of.predict(X, batch_size=7),
        "forward": lambda of: of.forward(X),
        "layer": lambda of: of.layers[0].forward(ARRAY)[0],
        "parameters": lambda of: [*of.snapshot()],
    }
    seen = {name: [] for name in ways}

    def use(name):
        while not done.is_set():
            seen[name].append(as_bytes(ways[name](model)))

    def train():
        try:
            for seed in range(trials(20, 1000)):
                optimizer = Noting(1e-2, notes=(notes,))
                model.fit(X, Y, epochs=2, batch_size=8, optimizer=optimizer, verbose=False, seed=seed)
        finally:
            done.set()

    results = in_threads(train, *(lambda name=name: use(name) for name in ways))
    assert results == [None] * len(results)
    for name, way in ways.items():
        possible = set()
        for recurrent, dense in notes:
            twin.restore([recurrent, np.zeros(0, np.float32), dense])
            possible.add(as_bytes(way(twin)))
        assert len(set(seen[name])) > 5
        assert set(seen[name]) <= possible, name


def test_predictions_while_weights_are_set():
    layer, other = GRU(40, num_layers=2), GRU(40, num_layers=2)
    possible, weights = set(), []
    for seed in range(2):
        other.build(3, seed=seed)
        weights.append({name: values.copy() for name, values in other.parameters.items()})
        possible.add(other.forward(ARRAY)[0].tobytes())
    layer.build(3, seed=0)
    done = threading.Event()

    def set_weights():
        for turn in range(trials(300, 20000)):
            layer.set_parameters(weights[turn % 2])
        done.set()

    def predict():
        seen = set()
        while not done.is_set():
            seen.add(layer.forward(ARRAY)[0].tobytes())
        return seen

    _, *seen = in_threads(set_weights, predict, predict)
    assert set.union(*seen) <= possible


@pytest.mark.parametrize("make", [lambda: LSTM(24, num_layers=2, bidirectional=True), lambda: Dense(5)])
def test_first_call_of_several_threads(make):
    for _ in range(trials(20, 500)):
        layer = make()
        results = in_threads(*[lambda layer=layer: layer.forward(ARRAY, training=False)] * 3)
        wanted = layer.forward(ARRAY)
        for result in results:
            np.testing.assert_array_equal(
                *(part[0] if isinstance(part, tuple) else part for part in (result, wanted))
            )


def test_first_fit_of_several_threads():
    """One of them fits, or all after one another; the model is that of a fit."""
    for _ in range(trials(3, 50)):
        model = Sequential(LSTM(6), Dense(2))
        results = in_threads(*[lambda model=model: model.fit(X, Y, epochs=2, verbose=False)] * 2)
        errors = [result for result in results if isinstance(result, Exception)]
        assert len(errors) < 2
        assert all(
            isinstance(error, RuntimeError) and "another call of fit" in str(error) for error in errors
        )
        assert np.isfinite(model.predict(X)).all()


def test_training_and_building_on_several_threads():
    """What is refused is refused in one line."""
    layer, turns = LSTM(32, num_layers=2, bidirectional=True), trials(60, 3000)
    layer.build(3, seed=0)
    wide = RNG.standard_normal((4, 6, 20)).astype(np.float32)

    def train(seed):
        rng, errors = np.random.default_rng(seed), []
        for _ in range(turns):
            try:
                y, _ = layer.forward(ARRAY[: int(rng.integers(1, 5))], training=True)
                layer.backward(y)
            except (RuntimeError, ValueError) as error:
                errors.append(str(error))
        return errors

    def build():
        for turn in range(turns):
            layer.build((3, 20)[turn % 2], seed=turn)

    def predict():
        errors = []
        for turn in range(turns):
            try:
                layer.forward((ARRAY, wide)[turn % 2])
            except ValueError as error:
                errors.append(str(error))
        return errors

    for functions in [(lambda: train(0), lambda: train(1)), (lambda: train(0), build, predict)]:
        for result in in_threads(*functions):
            assert not isinstance(result, Exception), result
            for said in result or ():
                assert said.startswith(("x must have", "backward")), said


def test_backward_of_a_thread_that_another_one_displaced():
    layer = LSTM(4)
    y, _ = layer.forward(ARRAY, training=True)
    (other,) = in_threads(lambda: layer.forward(2 * ARRAY, training=True)[0])
    with pytest.raises(RuntimeError, match="another thread called forward"):
        layer.backward(y)
    (gradients,) = in_threads(lambda: layer.forward(ARRAY, training=True) and layer.backward(other))
    assert not isinstance(gradients, Exception)
    y, _ = layer.forward(ARRAY, training=True)
    layer.backward(y)


def test_backward_may_be_called_by_another_thread():
    """As pools of threads do."""
    layer, model = LSTM(4), Sequential(LSTM(4), Dense(2))
    y, _ = layer.forward(ARRAY, training=True)
    output = model.forward(ARRAY, training=True)
    results = in_threads(lambda: layer.backward(y), lambda: model.backward(output))
    assert not any(isinstance(result, Exception) for result in results)


@pytest.mark.parametrize("what", ["fit", "build", "to"])
def test_a_fit_keeps_its_layers(what, monkeypatch):
    model = classifier()
    calls = {
        "fit": lambda: model.fit(X, Y, epochs=1, verbose=False),
        "build": lambda: model.layers[0].build(5),
        "to": lambda: model.layers[0].to("cuda"),
    }
    monkeypatch.setattr("numbarnn.layers.base.check_device", lambda device: device)
    said = []

    class Disturb(Callback):
        def on_epoch_end(self, model, epoch, logs):
            said.extend(in_threads(calls[what]))

    model.fit(X, Y, epochs=1, callbacks=[Disturb()], verbose=False)
    assert isinstance(said[0], RuntimeError)
    assert "another call of fit" in str(said[0])
    model.fit(X, Y, epochs=1, verbose=False)


def test_callbacks_may_set_and_use_parameters():
    model = classifier()

    class Use(Callback):
        def on_epoch_end(self, model, epoch, logs):
            model.predict(X)
            model.set_parameters({name: 0.5 * values for name, values in model.parameters.items()})
            self.wanted = model.predict(X)

    use = Use()
    model.fit(X, Y, epochs=2, callbacks=[use], verbose=False)
    np.testing.assert_array_equal(model.predict(X), use.wanted)


def test_a_user_s_loss_may_use_the_model():
    """The step has the model's parameters while it runs: the same thread may read them."""
    model, seen = classifier(), []

    class Curious(numbarnn.CrossEntropy):
        def rows(self, *arguments):
            seen.append(model.predict(X))
            super().rows(*arguments)

    model.fit(X, Y, loss=Curious(), epochs=1, verbose=False)
    assert len(seen) > 1


@pytest.mark.parametrize("make", [lambda: Dropout(0.5), MeanOverTime, MaxOverTime])
def test_a_layer_without_parameters_with_two_dtypes_and_widths_at_once(make):
    layer = make()
    given = [ARRAY, ARRAY.astype(np.float64), ARRAY[..., :2].copy(), ARRAY[..., :1].astype(np.float64)]
    wanted = [make().forward(x) for x in given]

    def use(x):
        results = [layer.forward(x) for _ in range(trials(20, 1000))]
        for _ in range(trials(20, 1000)):
            try:
                y = layer.forward(x, training=True, seed=0)
                layer.backward(y)
            except RuntimeError as error:
                assert "backward" in str(error)
        return results

    for results, expected in zip(in_threads(*(lambda x=x: use(x) for x in given)), wanted, strict=True):
        for result in results:
            assert result.dtype == expected.dtype
            np.testing.assert_array_equal(result, expected)


def test_parameters_that_changed_before_backward():
    """Backward reads the weights that forward has read, or is refused."""
    layer = LSTM(4)
    layer.build(3, seed=0)
    x = ARRAY
    y, _ = layer.forward(x, training=True)
    layer.set_parameters({name: 2 * values for name, values in layer.parameters.items()})
    in_threads(lambda: layer.forward(2 * x)[0])
    before = layer.backward(y)[0]
    twin = LSTM(4)
    twin.build(3, seed=0)
    twin.forward(x, training=True)
    np.testing.assert_array_equal(before, twin.backward(y)[0])
    layer.forward(x, training=True)
    layer.set_parameters(twin.parameters)
    model = Sequential(layer, Dense(2))
    model.forward(x, training=True)  # packs what backward of the layer would read
    with pytest.raises(RuntimeError, match="parameters of the layer were changed"):
        layer.backward(y)


def test_tokens_and_threads():
    layer = Embedding(9, 4)
    results = in_threads(*[lambda: layer.forward(np.arange(9)[None])] * 3)
    for result in results:
        np.testing.assert_array_equal(result, layer.parameters["weight"][None])
