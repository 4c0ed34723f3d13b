"""Models that are not chains: shared layers, several inputs, states that go from one layer to another."""

import pickle

import numpy as np
import pytest
from conftest import SIMULATED, assert_same, sized

import numbarnn
from numbarnn.layers.moves import RowOrder
from numbarnn.models.graph_model import GraphModel, Input, concatenate, connect
from numbarnn.sequences.layout import Layout
from numbarnn.training.data import Batch
from numbarnn.training.losses import get_loss
from numbarnn.training.step import TrainingStep

FEATURES = 3
CLASSES = 2
HIDDEN = sized(5, 2)
SOURCE_LENGTHS = sized((4, 2, 6, 1, 3, 5), (2, 1, 3))
TARGET_LENGTHS = sized((2, 5, 1, 4, 6, 3), (1, 3, 2))
STEP = 1e-5  # of central differences
CLOSE = 1e-6
needs_compiled_code = pytest.mark.skipif(SIMULATED, reason="thousands of forwards")


def sequences(lengths, seed):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((length, FEATURES)) for length in lengths]


def settings(device, **more):
    return {"dtype": "float64", "device": device, **more}


def siamese(device="cpu"):
    """Two inputs that one shared layer reads; final states and last outputs side by side."""
    first, second = Input(), Input()
    shared = numbarnn.LSTM(HIDDEN, **settings(device))
    y, (_, c) = connect(shared, first)
    other_y, (h, _) = connect(shared, second)
    both = concatenate(y, c, other_y, h)
    return GraphModel((first, second), connect(numbarnn.Dense(CLASSES, **settings(device)), both))


def translator(device="cpu", cell=numbarnn.LSTM, **options):
    """An encoder whose final states start a decoder, which has a label at every step."""
    source, target = Input(), Input()
    _, state = connect(cell(HIDDEN, **settings(device, **options)), source)
    decoder = cell(HIDDEN, **settings(device, return_sequences=True, **options))
    y, _ = connect(decoder, target, state)
    return GraphModel((source, target), connect(numbarnn.Dense(CLASSES, **settings(device)), y))


def bridge(device="cpu"):
    """A bidirectional encoder whose final states a dense layer brings to the size of the decoder's; its
    sequence is read twice, by two ways of pooling."""
    source, target, extra = Input(), Input(), Input(sequence=False)
    encoder = numbarnn.GRU(HIDDEN, bidirectional=True, **settings(device, return_sequences=True))
    y, (h,) = connect(encoder, source)
    start = connect(numbarnn.Dense(HIDDEN, "tanh", **settings(device)), h)
    last, _ = connect(numbarnn.GRU(HIDDEN, **settings(device)), target, (start,))
    mean = connect(numbarnn.MeanOverTime(**settings(device)), y)
    largest = connect(numbarnn.MaxOverTime(**settings(device)), y)
    joined = concatenate(last, mean, largest, extra)
    return GraphModel((source, target, extra), connect(numbarnn.Dense(CLASSES, **settings(device)), joined))


MODELS = {
    "siamese": siamese,
    "translator": translator,
    "translator of two layers": lambda device="cpu": translator(device, num_layers=2),
    "translator in both directions": lambda device="cpu": translator(device, bidirectional=True),
    "translator of plain cells": lambda device="cpu": translator(device, cell=numbarnn.RNN),
    "bridge": bridge,
}


def data_for(model):
    """Inputs and targets; rows of the inputs have different lengths."""
    rng = np.random.default_rng(5)
    x = (sequences(SOURCE_LENGTHS, 1), sequences(TARGET_LENGTHS, 2))
    if len(model.inputs) == 3:
        x = (*x, rng.standard_normal((len(SOURCE_LENGTHS), 2)))
    if model._output.sequence:
        return x, [rng.integers(0, CLASSES, length) for length in TARGET_LENGTHS]
    return x, rng.integers(0, CLASSES, len(SOURCE_LENGTHS))


def built(make, device="cpu"):
    model = make(device)
    model.build((FEATURES, FEATURES, 2)[: len(model.inputs)], seed=3)
    return model


def loss_of(model, x, y):
    return model.evaluate(x, y, loss="cross_entropy")["loss"]


def gradients_of(model, x, y, order=None):
    """Gradients of the mean loss over all rows, in this order, by one pass of a training step's calls."""
    loss, device = get_loss("cross_entropy"), model.device
    steps = model._read(x, "x")
    size = model._size_of_output(model._features(steps))
    samples = model._label(steps, y, loss, size)
    graph = model.new_graph(training=True)
    batch: Batch = samples.batch(np.arange(samples.rows) if order is None else np.asarray(order))
    layout, outputs = graph.prepare(batch.layout, graph.to_device(batch.x, samples.features), 0)
    dy = graph.buffers.matrix("dy", *outputs.shape)
    graph.prepare_backward(dy)
    graph.forward()
    on_host, losses, scores = graph.to_host(outputs), *np.empty((2, layout.total))
    gradient = np.zeros_like(on_host)
    loss.rows(
        on_host, size, batch.targets, batch.weights, 1.0 / batch.total_weight, losses, scores, gradient,
        layout.active, layout.offset, 0, layout.rows,
    )  # fmt: skip
    gradient = gradient[:, : dy.shape[1]]
    if device == "cuda":
        from numbarnn.engine.cuda.arrays import arrays  # where there is a GPU

        gradient = arrays().asarray(gradient)
    dy[...] = gradient
    graph.backward()
    graph.export_gradients()
    assert model.device == device
    return [
        np.concatenate([g.ravel() for g in layer.gradients.values()])
        for layer in model.layers
        if layer.count_parameters()
    ]


@needs_compiled_code
@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_gradients_are_those_of_central_differences(make):
    model = built(make)
    x, y = data_for(model)
    trained = [layer for layer in model.layers if layer.count_parameters()]
    rng = np.random.default_rng(9)
    for layer, gradient in zip(trained, gradients_of(model, x, y), strict=True):
        assert np.abs(gradient).max() > 1e-3
        for i in rng.choice(gradient.size, min(30, gradient.size), replace=False):
            losses = []
            for step in (STEP, -STEP):
                layer.flat_values[i] += step
                layer.count_change()
                losses.append(loss_of(model, x, y))
                layer.flat_values[i] -= step
            layer.count_change()
            assert abs((losses[0] - losses[1]) / (2 * STEP) - gradient[i]) < CLOSE


@needs_compiled_code
@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_gradients_do_not_depend_on_the_order_of_rows(make):
    model = built(make)
    x, y = data_for(model)
    expected = gradients_of(model, x, y)
    backwards = np.arange(len(SOURCE_LENGTHS))[::-1]
    for got, wanted in zip(gradients_of(model, x, y, backwards), expected, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-12)


@pytest.mark.cuda
@pytest.mark.skipif(not numbarnn.cuda_available(), reason="needs a GPU or NUMBA_ENABLE_CUDASIM=1")
@pytest.mark.parametrize("make", [siamese, translator, bridge])
def test_the_gpu_computes_the_same(make):
    cpu, gpu = built(make), built(make, "cuda")
    x, y = data_for(cpu)
    for got, wanted in zip(gradients_of(gpu, x, y), gradients_of(cpu, x, y), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-10)
    got, wanted = gpu.predict(x), cpu.predict(x)
    for one, other in zip(got, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-10)
    histories = [
        model.fit(x, y, epochs=2, batch_size=2, seed=1, verbose=False).history["loss"] for model in (cpu, gpu)
    ]
    np.testing.assert_allclose(*histories, rtol=0, atol=1e-10)


@needs_compiled_code
@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_a_fit_lowers_the_loss(make):
    model = make()
    x, y = data_for(model)
    history = model.fit(
        x, y, optimizer=numbarnn.Adam(0.05), epochs=30, batch_size=2, validation_data=(x, y),
        seed=0, verbose=False,
    )  # fmt: skip
    assert history.history["val_loss"][-1] < 0.5 * history.history["val_loss"][0]
    assert history.history["val_loss"][-1] == pytest.approx(model.evaluate(x, y)["loss"])


@needs_compiled_code
def test_batches_of_one_graph_are_those_of_fresh_ones():
    """Buffers and recorded calls serve batches of other rows and lengths."""
    model = built(translator)
    x, y = data_for(model)
    loss, steps = get_loss("cross_entropy"), model._read(x, "x")
    samples = model._label(steps, y, loss, CLASSES)
    lasting = model.new_graph(training=True)
    for rows in ([0, 1, 2], [3, 4, 5], [2, 0], [5, 1, 4, 0], [1], [4, 2, 3, 0]):
        batch = samples.batch(np.array(rows))
        results = []
        for graph in (lasting, model.new_graph(training=True)):
            _, outputs = graph.prepare(batch.layout, batch.x, 0)
            dy = graph.buffers.matrix("dy", *outputs.shape)
            dy[...] = np.sin(np.arange(dy.size)).reshape(dy.shape)
            dy[:, CLASSES:] = 0.0
            graph.prepare_backward(dy)
            graph.forward()
            graph.backward()
            results.append((outputs.copy(), *(layer.flat_gradients.copy() for layer in model.layers)))
        assert_same(*results)


@needs_compiled_code
@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_recorded_steps_are_those_of_fresh_passes(make):
    """What is recorded for the first batch serves batches of other rows, sorted in other orders."""
    lasting, fresh = built(make), built(make)
    x, y = data_for(lasting)
    loss, optimizer = get_loss("cross_entropy"), numbarnn.Adam(0.01)
    samples = lasting._label(lasting._read(x, "x"), y, loss, CLASSES)
    step = TrainingStep(lasting, samples, loss, CLASSES, optimizer, None, None)
    trained = [layer for layer in fresh.layers if layer.count_parameters()]
    state = optimizer.start([layer.flat_values for layer in trained])
    for rows in ([3, 1, 2], [0, 4, 5], [5, 2, 0], [1, 3, 4], [2], [0]):
        step.step(np.array(rows), 0, 0.01, "here")
        gradients = gradients_of(fresh, x, y, rows)
        optimizer.update(state, [layer.flat_values for layer in trained], gradients, 0.01)
        for layer in trained:
            layer.count_change()
        for own, other in zip(lasting.layers, fresh.layers, strict=True):
            np.testing.assert_array_equal(own.flat_gradients, other.flat_gradients)
            np.testing.assert_array_equal(own.flat_values, other.flat_values)
    assert {each.leading.layout.rows for each in step.recorded.values()} == {1, 3}


@needs_compiled_code
def test_a_graph_of_a_chain_is_the_chain():
    def layers():
        options = {"dtype": "float64"}
        return numbarnn.LSTM(HIDDEN, **options), numbarnn.Dropout(0.3), numbarnn.Dense(CLASSES, **options)

    lstm, dropout, dense = layers()
    x = Input()
    graph = GraphModel([x], connect(dense, connect(dropout, connect(lstm, x)[0])))
    chain = numbarnn.Sequential(*layers())
    rows = sequences(SOURCE_LENGTHS, 1)
    labels = [0, 1, 0, 1, 1, 0]
    fits = [model.fit(rows, labels, epochs=3, seed=2, verbose=False) for model in (chain, graph)]
    assert fits[0].history["loss"] == fits[1].history["loss"]
    assert_same((graph.predict(rows), graph.parameters), (chain.predict(rows), chain.parameters))


@needs_compiled_code
def test_states_are_those_of_the_layers_own_calls():
    """The decoder alone, from the final states of the encoder alone."""
    model = built(translator)
    x, _ = data_for(model)
    encoder, decoder, dense = model.layers
    _, state = encoder.forward(x[0])
    y, _ = decoder.forward(x[1], initial_state=state)
    for got, wanted in zip(model.predict(x), dense.forward(y), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-13)


def test_rows_go_over_in_the_order_of_the_other_layout():
    source, target = Layout(np.array(SOURCE_LENGTHS)), Layout(np.array(TARGET_LENGTHS))
    layer = numbarnn.Dropout(0.0, dtype="float64")
    layer.build(1)
    carrier = layer.new_pass(False)
    order = RowOrder(source.last, target.last, carrier)
    rows = np.arange(len(SOURCE_LENGTHS))[:, None] * np.ones(2)  # the caller's numbers
    there, back = np.zeros((2, *rows.shape))
    order.take(rows[source.order], 0, there, 0, 2).run()
    np.testing.assert_array_equal(there, rows[target.order])
    order.put_back(there, 0, back, 0, 2).run()
    np.testing.assert_array_equal(back, rows[source.order])


@needs_compiled_code
def test_tokens_of_two_inputs():
    source, target = Input(), Input()
    table = numbarnn.Embedding(7, 4, dtype="float64")
    _, state = connect(numbarnn.GRU(HIDDEN, dtype="float64"), connect(table, source))
    decoder = numbarnn.GRU(HIDDEN, dtype="float64", return_sequences=True)
    y, _ = connect(decoder, connect(table, target), state)
    model = GraphModel((source, target), connect(numbarnn.Dense(7, dtype="float64"), y))
    rng = np.random.default_rng(1)
    x = tuple([rng.integers(0, 7, n) for n in lengths] for lengths in (SOURCE_LENGTHS, TARGET_LENGTHS))
    history = model.fit(x, x[1], optimizer=numbarnn.Adam(0.05), epochs=30, verbose=False)
    assert history.history["loss"][-1] < 0.5 * history.history["loss"][0]
    with pytest.raises(ValueError, match=r"tokens in 0\.\.6"):
        model.predict((x[0], [row + 7 for row in x[1]]))


@needs_compiled_code
def test_a_model_survives_a_pickle():
    model = built(bridge)
    x, y = data_for(model)
    model.fit(x, y, epochs=1, verbose=False)
    again = pickle.loads(pickle.dumps(model))
    assert_same((again.predict(x),), (model.predict(x),))
    again.fit(x, y, epochs=1, verbose=False)


def test_the_summary_counts_a_shared_layer_once(capsys):
    model = built(siamese)
    model.summary()
    printed = capsys.readouterr().out
    assert printed.count("LSTM") == 1
    assert f"{model.count_parameters():,}" in printed
    assert model.count_parameters() == sum(layer.count_parameters() for layer in model.layers)


def gru(x):
    """A vector a row."""
    return connect(numbarnn.GRU(2), x)[0]


def dense(x):
    return connect(numbarnn.Dense(2), x)


@pytest.mark.parametrize(
    ("error", "message", "make"),
    [
        (TypeError, "layer must be a layer, not str", lambda x: connect("lstm", x)),
        (TypeError, "x must be a symbol, from Input or connect, not list", lambda x: dense([])),
        (ValueError, "initial_state is for recurrent", lambda x: connect(numbarnn.Dense(2), x, (x,))),
        (ValueError, r"must be a tuple \(h, c\)", lambda x: connect(numbarnn.LSTM(2), x, (x,))),
        (ValueError, r"\(h\) must be one vector a row", lambda x: connect(numbarnn.GRU(2), x, (x,))),
        (ValueError, "must be an Input", lambda x: connect(numbarnn.Embedding(2, 2), dense(x))),
        (ValueError, "must be a sequence", lambda x: gru(gru(x))),
        (ValueError, "not some of both", lambda x: concatenate(x, gru(x))),
        (ValueError, "at least one symbol", lambda x: concatenate()),
        (ValueError, "must come from a layer", lambda x: GraphModel([x], x)),
        (ValueError, r"inputs\[1\] is not needed", lambda x: GraphModel([x, Input()], dense(x))),
        (ValueError, "must differ", lambda x: GraphModel([x, x], dense(x))),
        (ValueError, "every Input", lambda x: GraphModel([Input()], dense(x))),
        (TypeError, r"inputs\[0\] must be an Input", lambda x: GraphModel([3], dense(x))),
    ],
)
def test_symbols_that_do_not_fit(error, message, make):
    with pytest.raises(error, match=message):
        make(Input())


@pytest.mark.parametrize(
    ("message", "change"),
    [
        ("x must be a tuple of 3 inputs", lambda x: x[0]),
        (r"x\[1\] must have 3 rows as x\[0\], not 2", lambda x: (x[0][:3], x[1][:2], x[2][:3])),
        (r"x\[0\] must have 3 features, not 2", lambda x: ([row[:, :2] for row in x[0]], *x[1:])),
        (r"x\[2\] must be an array \(B, I\)", lambda x: (*x[:2], x[2][:, None])),
    ],
)
def test_inputs_that_do_not_fit(message, change):
    model = built(bridge)
    x, y = data_for(model)
    before = {name: values.copy() for name, values in model.parameters.items()}
    model._loss = get_loss("cross_entropy")
    for call in (lambda: model.fit(change(x), y, verbose=False), lambda: model.predict(change(x))):
        with pytest.raises(ValueError, match=message):
            call()
    assert_same(model.parameters, before)


def test_states_of_another_size_do_not_fit():
    source, target = Input(), Input()
    _, state = connect(numbarnn.GRU(3), source)
    y, _ = connect(numbarnn.GRU(4), target, state)
    with pytest.raises(ValueError, match=r"initial state of GRU\(4\) must have 4 features, not 3"):
        GraphModel((source, target), y).build((2, 2))


def test_sequences_side_by_side_must_be_equally_long():
    first, second = Input(), Input()
    y, _ = connect(numbarnn.GRU(3, dtype="float64"), concatenate(first, second))
    model = GraphModel((first, second), y)
    x = sequences(SOURCE_LENGTHS, 1)
    model.build((FEATURES, FEATURES), seed=1)
    assert model.predict((x, x)).shape == (len(x), 3)
    with pytest.raises(ValueError, match=r"rows of x\[1\] must be as long as those of x\[0\]"):
        model.predict((x, x[::-1]))
