"""Sequential: what is fitted, on what, with which numbers; predictions, histories and parameters."""

import copy
import pickle
import sys
import weakref

import numpy as np
import pytest
from conftest import TOLERANCE, assert_close, assert_same

from numbarnn import (
    GRU,
    LSTM,
    RNN,
    SGD,
    Adam,
    Callback,
    CosineDecay,
    Dense,
    Dropout,
    EarlyStopping,
    Embedding,
    MaxOverTime,
    MeanOverTime,
    Sequential,
)

LENGTHS = [3, 7, 1, 5, 4, 2, 6, 3, 7, 2, 5, 4]
HISTORY = ["loss", "accuracy", "val_loss", "val_accuracy", "grad_norm", "learning_rate", "seconds"]


def random_rows(size=3, lengths=LENGTHS, seed=0):
    rng = np.random.default_rng([seed, size])
    return [rng.standard_normal((length, size)) for length in lengths]


X = random_rows()
Y = [int(row.sum() > 0.0) for row in X]
TAGS = [(row.sum(axis=1) > 0.0).astype(int) + (row[:, 0] > 1.0) for row in X]  # one of three labels a step


def classifier(dtype="float64", **options):
    return Sequential(LSTM(5, dtype=dtype, **options), Dense(2, dtype=dtype))


def tagger(dtype="float64"):
    return Sequential(GRU(5, bidirectional=True, return_sequences=True, dtype=dtype), Dense(3, dtype=dtype))


def fit(model, x=X, y=Y, **options):
    """One quiet step of gradient descent on all rows, unless the options say otherwise."""
    usual = {"optimizer": SGD(0.5), "epochs": 1, "batch_size": len(x), "shuffle": False, "verbose": False}
    return model.fit(x, y, **{**usual, **options}).history


def cross_entropy(logits, labels):
    """Losses and hits of rows of logits."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_softmax = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return -log_softmax[np.arange(len(labels)), labels], logits.argmax(axis=1) == labels


# ---- problems that can be learned ------------------------------------------------------------------------


@pytest.mark.parametrize("layer_class", [RNN, LSTM, GRU])
def test_learns_one_label_a_sequence(layer_class):
    model = Sequential(layer_class(8), Dense(2))
    history = model.fit(X, Y, optimizer=Adam(0.02), epochs=60, batch_size=4, seed=1, verbose=False).history
    assert history["accuracy"][-1] == 1.0
    assert history["loss"][-1] < 0.5 * history["loss"][0]
    assert np.argmax(model.predict(X), axis=1).tolist() == Y
    assert model.evaluate(X, Y)["accuracy"] == 1.0


def test_learns_one_label_a_step():
    model = tagger("float32")
    fit(model, y=TAGS, optimizer=Adam(0.05), epochs=60, batch_size=4)
    assert model.evaluate(X, TAGS)["accuracy"] > 0.9
    assert [row.shape for row in model.predict(X)] == [(length, 3) for length in LENGTHS]


def test_learns_from_tokens():
    """Whether token 2 comes."""
    rng = np.random.default_rng(0)
    x = [rng.integers(0, 5, length) for length in LENGTHS]
    y = [int(2 in row) for row in x]
    model = Sequential(Embedding(5, 4), MaxOverTime(), Dense(2))
    fit(model, x, y, optimizer=Adam(0.1), epochs=40, batch_size=4)
    assert model.evaluate(x, y)["accuracy"] == 1.0
    padded = np.array([[0, 1, 2], [4, 3, 1]], np.int32)
    assert np.argmax(model.predict(padded), axis=1).tolist() == [1, 0]


def test_learns_numbers():
    y = np.array([[row[:, 0].mean(), row[:, 1].max()] for row in X])
    model = Sequential(LSTM(12), Dense(2))
    history = fit(
        model, y=y, loss="mse", optimizer=Adam(0.03), epochs=100, batch_size=4, validation_data=(X, y)
    )
    assert list(history) == [name.replace("accuracy", "mae") for name in HISTORY]
    scores = model.evaluate(X, y)
    assert list(scores) == ["loss", "mae"]
    errors = model.predict(X) - y
    assert scores == pytest.approx(
        {"loss": np.mean(errors**2), "mae": np.mean(np.abs(errors))}, rel=1e-3, abs=1e-6
    )
    assert scores["mae"] < 0.25 * np.mean(np.abs(y))


def test_learns_yes_or_no():
    model = Sequential(LSTM(8), Dense(1))
    fit(model, loss="binary_cross_entropy", optimizer=Adam(0.02), epochs=60, batch_size=4)
    assert model.evaluate(X, Y)["accuracy"] == 1.0
    probabilities = model.predict_proba(X)
    np.testing.assert_allclose(probabilities, 1.0 / (1.0 + np.exp(-model.predict(X))), rtol=1e-5)
    assert (probabilities[:, 0] > 0.5).tolist() == [label == 1 for label in Y]


def test_labels_of_any_kind():
    results = []
    for y in (Y, tuple(Y), np.array(Y, np.uint8), np.array(Y, float), np.eye(2)[Y]):
        model = classifier()
        fit(model, y=y)
        results.append(model.parameters)
    for parameters in results[1:]:
        assert_close(parameters, results[0], 1e-12)


# ---- padding, losses and metrics -------------------------------------------------------------------------


def test_padding_counts_neither_in_the_loss_nor_in_the_accuracy():
    model = tagger()
    model.build(3, seed=0)
    losses, hits = cross_entropy(np.concatenate(model.predict(X)), np.concatenate(TAGS))
    history = fit(model, y=TAGS, optimizer=SGD(0.0), validation_data=(X, TAGS))
    for prefix in ("", "val_"):
        assert history[f"{prefix}loss"] == [pytest.approx(losses.mean(), rel=1e-12)]
        assert history[f"{prefix}accuracy"] == [hits.mean()]
    assert model.evaluate(X, TAGS) == pytest.approx(
        {"loss": losses.mean(), "accuracy": hits.mean()}, rel=1e-12
    )


def test_loss_of_an_epoch_is_the_mean_over_rows_not_over_batches():
    model = classifier()
    model.build(3, seed=0)
    losses, hits = cross_entropy(model.predict(X), Y)
    history = fit(model, optimizer=SGD(0.0), batch_size=5)
    assert history["loss"] == [pytest.approx(losses.mean(), rel=1e-12)]
    assert history["accuracy"] == [hits.mean()]


def test_arrays_and_lists_give_the_same_fit():
    x, tags = random_rows(lengths=[4] * 6), [row[:4] % 3 for row in np.arange(24).reshape(6, 4)]
    as_list, as_array = tagger(), tagger()
    fit(as_list, x, tags, epochs=3, batch_size=4)
    fit(as_array, np.stack(x), np.stack(tags), epochs=3, batch_size=4)
    assert_same(as_array.parameters, as_list.parameters)


# ---- weights ---------------------------------------------------------------------------------------------


def weighted_and_repeated(make, y, counts, **options):
    """Parameters and history after one step with weights, and with rows as often as their weight says."""
    weighted, repeated = make(), make()
    history = fit(weighted, y=y, sample_weight=counts, **options)
    rows = [i for i, count in enumerate(counts) for _ in range(count)]
    expected = fit(repeated, [X[i] for i in rows], [y[i] for i in rows], **options)
    return (weighted.parameters, history), (repeated.parameters, expected)


@pytest.mark.parametrize(
    "counts",
    [[2] * 12, [1] * 11 + [2], [1] * 11 + [0], [0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3]],
    ids=["all twice", "one twice", "one left out", "mixed"],
)
@pytest.mark.parametrize(("make", "y"), [(classifier, Y), (tagger, TAGS)], ids=["rows", "steps"])
def test_weight_of_a_row_is_how_often_it_comes(make, y, counts):
    (parameters, history), (expected, expected_history) = weighted_and_repeated(make, y, counts)
    assert_close(parameters, expected, TOLERANCE["float64"])
    for name in ("loss", "grad_norm"):
        assert history[name] == pytest.approx(expected_history[name], rel=1e-12)


def test_only_the_relations_of_weights_count():
    weights = np.random.default_rng(0).uniform(0.5, 2.0, len(X))
    results = []
    for scale in (1.0, 1e-6, 1e6):
        model = classifier()
        fit(model, sample_weight=scale * weights)
        results.append(model.parameters)
    for parameters in results[1:]:
        assert_close(parameters, results[0], TOLERANCE["float64"])


@pytest.mark.parametrize(("make", "y"), [(classifier, Y), (tagger, TAGS)], ids=["rows", "steps"])
def test_class_weights_are_weights_of_rows_or_steps(make, y):
    """The loss is Σ w l / Σ w."""
    labels = np.concatenate([np.atleast_1d(part) for part in y])
    counts = np.bincount(labels)
    size = len(counts)
    row_weights = np.random.default_rng(0).uniform(0.5, 2.0, len(X))
    row_of = np.repeat(np.arange(len(X)), [np.size(part) for part in y])
    named = {0: 3.0, size - 1: 0.5}
    balanced = len(labels) / (size * counts)
    for given, by_class in ((named, [named.get(k, 1.0) for k in range(size)]), ("balanced", balanced)):
        for sample_weight in (None, row_weights):
            model = make()
            model.build(3, seed=0)
            outputs = model.predict(X)
            losses, _ = cross_entropy(
                np.concatenate(outputs) if isinstance(outputs, list) else outputs, labels
            )
            weights = np.asarray(by_class)[labels]
            if sample_weight is not None:
                weights = weights * row_weights[row_of]
            history = fit(model, y=y, class_weight=given, sample_weight=sample_weight)
            assert history["loss"] == [pytest.approx(np.sum(weights * losses) / np.sum(weights), rel=1e-12)]


def test_class_weights_of_yes_and_no():
    results = []
    for weights in ({"class_weight": {1: 3.0}}, {"sample_weight": [1.0 + 2.0 * label for label in Y]}):
        model = Sequential(LSTM(5, dtype="float64"), Dense(1, dtype="float64"))
        history = fit(model, loss="binary_cross_entropy", **weights)
        results.append((model.parameters, np.array(history["loss"])))
    assert_close(results[0], results[1], 1e-12)


def test_balanced_weights_are_those_of_a_dict():
    results = []
    for given in ("balanced", {label: len(Y) / (2 * Y.count(label)) for label in (0, 1)}):
        model = classifier()
        fit(model, class_weight=given, epochs=3, batch_size=5)
        results.append(model.parameters)
    assert_close(results[0], results[1], 1e-12)


def test_batch_without_weight_changes_nothing():
    """The rows of the first batch of three weigh nothing: the loss has no gradient there, and no NaN."""
    weighted, rest = classifier(), classifier()
    history = fit(weighted, sample_weight=[0.0] * 4 + [1.0] * 8, batch_size=4)
    expected = fit(rest, X[4:], Y[4:], batch_size=4)
    assert_close(weighted.parameters, rest.parameters, TOLERANCE["float64"])
    assert history["loss"] == pytest.approx(expected["loss"], rel=1e-12)


# ---- predictions -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 5, 256])
def test_predictions_keep_form_and_order(batch_size):
    model = tagger()
    model.build(3, seed=0)
    expected = [model.predict([row])[0] for row in X]
    as_list = model.predict(X, batch_size=batch_size)
    assert isinstance(as_list, list)
    assert_close(as_list, expected, 1e-12, "float64")
    rows_as_objects = np.empty(len(X), object)
    rows_as_objects[:] = X
    for rows in (tuple(X), rows_as_objects):
        assert_same(list(model.predict(rows, batch_size=batch_size)), as_list)
    as_array = model.predict(np.stack(X[1:2] + X[8:9]), batch_size=batch_size)
    assert as_array.shape == (2, 7, 3)
    assert_close(list(as_array), [expected[1], expected[8]], 1e-12)
    vectors = Sequential(LSTM(5), Dense(2))
    vectors.build(3, seed=0)
    assert_close(
        vectors.predict(X, batch_size=batch_size), np.concatenate([vectors.predict([row]) for row in X]), 1e-6
    )


def test_predictions_use_the_buffers_of_those_before(monkeypatch):
    """Results are those of a model that has predicted nothing before; the caller's arrays are let go."""
    model = tagger()
    model.build(3, seed=0)
    padded = np.stack([X[1], X[8]])
    for x in (X, X[:4], padded, X[::-1], padded[:, :2], X):
        assert_same(list(model.predict(x)), list(copy.deepcopy(model).predict(x)))
    waiting = model._spare[False][0]
    model.predict(X)
    assert model._spare[False][0] is waiting
    given = weakref.ref(padded)
    del padded, x
    assert given() is None
    monkeypatch.setattr("numbarnn.models.base.LARGEST_SPARE_BYTES", 10)
    model.predict(X)
    assert not model._spare[False]


def test_model_of_vectors():
    """Dense layers alone take one vector a row, or a vector a step."""
    model = Sequential(Dense(4, "tanh"), Dropout(0.2), Dense(2))
    x = np.stack([row.mean(axis=0) for row in X])
    fit(model, x, Y, epochs=3)
    assert model.predict(x).shape == (12, 2)
    assert_close(model.predict(x[:, None])[:, 0], model.predict(x), 1e-6)


def test_probabilities_of_classes():
    for model, y in ((classifier(), Y), (tagger(), TAGS)):
        fit(model, y=y)
        outputs, probabilities = model.predict(X), model.predict_proba(X)
        assert type(probabilities) is type(outputs)
        for row, of_row in zip(outputs, probabilities, strict=True):
            powers = np.exp(row)
            np.testing.assert_allclose(of_row, powers / powers.sum(axis=-1, keepdims=True), rtol=1e-12)
            np.testing.assert_allclose(of_row.sum(axis=-1), 1.0, rtol=1e-12)


def test_predictions_leave_dropout_out():
    model = Sequential(LSTM(5, num_layers=2, dropout=0.5), Dropout(0.5), Dense(2))
    fit(model, epochs=2)
    assert_same(model.predict(X), model.predict(X))
    assert model.evaluate(X, Y) == model.evaluate(X, Y)


# ---- the same bits ---------------------------------------------------------------------------------------


def large_fit(**options):
    """A fit with all kinds of layers and dropout, with enough work for several threads."""
    model = Sequential(
        Dropout(0.1),
        LSTM(48, num_layers=2, bidirectional=True, dropout=0.3, return_sequences=True),
        Dense(16, "relu"),
        MeanOverTime(),
        Dense(2),
    )
    x = random_rows(24, [20 - i % 7 for i in range(37)])
    y = [int(row.sum() > 0.0) for row in x]
    history = model.fit(
        x, y, epochs=2, batch_size=20, validation_data=(x, y), clip_norm=0.1, verbose=False, **options
    ).history
    del history["seconds"]
    return model.parameters, {name: np.array(values) for name, values in history.items()}


def test_seed_fixes_every_bit_whatever_the_threads(set_threads):
    results = []
    for count in (1, 2, 5, 1):
        set_threads(count)
        results.append(large_fit(seed=3))
    for result in results[1:]:
        assert_same(result, results[0])
    parameters, _ = large_fit(seed=4)
    for name, values in parameters.items():
        assert np.any(values != results[0][0][name]), name


def test_seed_fixes_order_and_dropout():
    """Of a model that is built already, so that first values play no part."""

    def fitted(seed, rate, shuffle):
        model = Sequential(LSTM(5, dtype="float64"), Dropout(rate), Dense(2, dtype="float64"))
        model.build(3, seed=0)
        fit(model, seed=seed, shuffle=shuffle, batch_size=5)
        return model.parameters["1.weight" if rate is None else "2.weight"].tobytes()

    assert fitted(1, 0.0, shuffle=False) == fitted(2, 0.0, shuffle=False)
    assert fitted(1, 0.0, shuffle=True) == fitted(1, 0.0, shuffle=True) != fitted(2, 0.0, shuffle=True)
    assert fitted(1, 0.5, shuffle=False) == fitted(1, 0.5, shuffle=False) != fitted(2, 0.5, shuffle=False)


def test_order_is_drawn_anew_every_epoch():
    """With a learning rate of 0 only the order can change the gradients' norms."""
    model = classifier()
    history = fit(model, optimizer=SGD(0.0), shuffle=True, epochs=4, batch_size=5)
    assert len(set(history["grad_norm"])) == 4
    history = fit(model, optimizer=SGD(0.0), epochs=4, batch_size=5)
    assert len(set(history["grad_norm"])) == 1


def test_fit_again_goes_on():
    """Without momentum two fits of one epoch are one fit of two; with it, the second begins afresh."""
    parts, whole = classifier(), classifier()
    first = fit(parts)
    second = fit(parts)
    together = fit(whole, epochs=2)
    assert_same(parts.parameters, whole.parameters)
    assert first["loss"] + second["loss"] == together["loss"]
    fit(parts, optimizer=Adam(0.01))
    before = parts.parameters["1.bias"].copy()
    fit(parts, optimizer=Adam(0.01))
    np.testing.assert_allclose(
        np.abs(parts.parameters["1.bias"] - before), 0.01, rtol=1e-4
    )  # Adam's first step


# ---- against PyTorch -------------------------------------------------------------------------------------


def test_training_is_pytorchs():
    """An epoch of ragged batches through a bidirectional LSTM and a Dense layer."""
    torch = pytest.importorskip("torch")
    from torch.nn.utils.rnn import pack_sequence

    model = classifier(bidirectional=True, weight_initializer="pytorch")
    model.build(3, seed=0)
    lstm = torch.nn.LSTM(3, 5, bidirectional=True, dtype=torch.float64)
    dense = torch.nn.Linear(10, 2, dtype=torch.float64)
    for module, layer in zip((lstm, dense), model.layers, strict=True):
        module.load_state_dict({name: torch.tensor(values) for name, values in layer.parameters.items()})
    parameters = [*lstm.parameters(), *dense.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=0.01)
    losses, norms = [], []
    for start in range(0, 12, 5):
        rows = [torch.tensor(row) for row in X[start : start + 5]]
        _, (h_n, _) = lstm(pack_sequence(rows, enforce_sorted=False))
        logits = dense(torch.cat([h_n[0], h_n[1]], dim=1))
        loss = torch.nn.functional.cross_entropy(logits, torch.tensor(Y[start : start + 5]))
        optimizer.zero_grad()
        loss.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(parameters, np.inf)))
        optimizer.step()
        losses.append(float(loss.detach()) * len(rows))
    history = fit(model, optimizer=Adam(0.01), batch_size=5)
    for module, layer in zip((lstm, dense), model.layers, strict=True):
        expected = {name: values.detach().numpy() for name, values in module.named_parameters()}
        assert_close(layer.parameters, expected, 1e-9, "float64")
    assert history["loss"] == [pytest.approx(sum(losses) / 12, rel=1e-9)]
    assert history["grad_norm"] == [pytest.approx(np.mean(norms), rel=1e-9)]


# ---- clipping, schedules, callbacks ----------------------------------------------------------------------


def step_of(**options):
    """How one step of SGD with a rate of 1 changes a model, as one vector."""
    model = classifier()
    model.build(3, seed=0)
    before = np.concatenate([values.ravel() for values in model.parameters.values()])
    history = fit(model, optimizer=SGD(1.0), **options)
    return np.concatenate([values.ravel() for values in model.parameters.values()]) - before, history


def test_clipping():
    step, history = step_of()
    norm = np.linalg.norm(step)
    assert history["grad_norm"] == [pytest.approx(norm, rel=1e-9)]
    clipped, history = step_of(clip_norm=0.25 * norm)
    assert_close(clipped, 0.25 * step, 1e-9)
    assert history["grad_norm"] == [pytest.approx(norm, rel=1e-9)]  # as it was before
    assert_close(step_of(clip_norm=1.01 * norm)[0], step, 1e-12)
    limit = 0.5 * np.abs(step).max()
    clipped = np.clip(step, -limit, limit)
    assert_close(step_of(clip_value=limit)[0], clipped, 1e-9)
    both = clipped * (0.25 * norm / np.linalg.norm(clipped))
    assert_close(step_of(clip_value=limit, clip_norm=0.25 * norm)[0], both, 1e-9)


def test_history_has_one_entry_an_epoch():
    history = fit(classifier(), epochs=3, batch_size=5, validation_data=(X[:4], Y[:4]))
    assert list(history) == HISTORY
    for values in history.values():
        assert len(values) == 3
        assert np.all(np.isfinite(values))
        assert all(type(value) is float for value in values)
    assert history["learning_rate"] == [0.5] * 3
    without = fit(classifier(), epochs=2)
    assert list(without) == [name for name in HISTORY if not name.startswith("val_")]


def test_history_of_a_fit():
    history = classifier().fit(X, Y, epochs=2, verbose=False)
    assert history.epochs == 2
    assert history.fit_seconds >= sum(history.history["seconds"]) > 0.0
    assert history.compile_seconds >= 0.0


def test_schedule_runs_through_the_fit():
    rates = fit(classifier(), optimizer=Adam(CosineDecay(0.1)), epochs=20, batch_size=4)["learning_rate"]
    assert rates == sorted(rates, reverse=True)
    assert 0.09 < rates[0] <= 0.1
    assert 0.0 <= rates[-1] < 0.001


class Watch(Callback):
    """Keeps what it is called with, and what the model predicts then."""

    def __init__(self, stop_after=None):
        self.calls, self.outputs, self.stop_after = [], [], stop_after

    def on_fit_begin(self, model):
        self.calls.append("begin")
        self.stop = False

    def on_epoch_end(self, model, epoch, logs):
        self.calls.append((epoch, logs["loss"], list(logs)))
        self.outputs.append(model.predict(X))
        self.stop = epoch == self.stop_after

    def on_fit_end(self, model):
        self.calls.append("end")


def test_callbacks():
    watch = Watch(stop_after=2)
    history = fit(classifier(), epochs=9, callbacks=[watch])
    assert watch.calls[0] == "begin"
    assert watch.calls[-1] == "end"
    assert watch.calls[1:-1] == [(i, history["loss"][i], list(history)) for i in range(3)]
    assert all(len(values) == 3 for values in history.values())


def test_early_stopping_goes_back_to_the_best_epoch():
    """Labels that are wrong in the validation: the better the fit, the worse it gets there."""
    watch, stopping = Watch(), EarlyStopping(patience=3)
    model = classifier()
    wrong = [1 - label for label in Y]
    history = fit(
        model, optimizer=Adam(0.05), epochs=40, validation_data=(X, wrong), callbacks=[watch, stopping]
    )
    best = int(np.argmin(history["val_loss"]))
    assert len(history["val_loss"]) == best + 4 < 40
    assert_same(model.predict(X), watch.outputs[best])
    assert np.any(watch.outputs[best] != watch.outputs[-1])
    assert model.evaluate(X, wrong)["loss"] == pytest.approx(history["val_loss"][best], rel=1e-12)


# ---- divergence ------------------------------------------------------------------------------------------


def linear(rate, epochs, batch_size, dtype, scale=1.0):
    """A regression whose steps are far too long."""
    model = Sequential(Dense(1, dtype=dtype))
    x = np.stack([row.mean(axis=0) for row in X])
    fit(
        model, x, scale * x.sum(axis=1), loss="mse", optimizer=SGD(rate), epochs=epochs, batch_size=batch_size
    )
    return model


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_divergence_is_an_error(dtype):
    with pytest.raises(
        FloatingPointError, match=r"in epoch \d+, step \d of 3, at .* of 1000: .*Lower the learning"
    ):
        linear(1e3, epochs=100, batch_size=5, dtype=dtype)


def test_divergence_in_the_last_step_is_an_error():
    """No loss is computed after it; what a fit returns is finite all the same."""
    with pytest.raises(FloatingPointError, match="Lower the learning rate"):
        linear(3e38, epochs=1, batch_size=12, dtype="float32", scale=100.0)


def test_divergence_under_clipping():
    """The norm is clipped, the loss is not."""
    model = classifier("float32")
    history = fit(model, optimizer=SGD(1e3), clip_norm=1e-3, epochs=20)
    assert np.all(np.isfinite(history["loss"]))


# ---- parameters ------------------------------------------------------------------------------------------


def test_parameters_have_names_by_layer():
    model = Sequential(Embedding(7, 3), LSTM(4, bias=False, return_sequences=True), Dropout(0.5), Dense(2))
    model.build(1, seed=0)
    assert {name: values.shape for name, values in model.parameters.items()} == {
        "0.weight": (7, 3),
        "1.weight_ih_l0": (16, 3),
        "1.weight_hh_l0": (16, 4),
        "3.weight": (2, 4),
        "3.bias": (2,),
    }
    assert model.count_parameters() == 21 + 48 + 64 + 8 + 2


def test_parameters_carry_a_model_over():
    first, second = classifier(), classifier()
    fit(first, epochs=2)
    second.build(3, seed=9)
    outputs = second.predict(X)
    second.set_parameters(first.parameters)
    assert_same(second.parameters, first.parameters)
    assert_same(second.predict(X), first.predict(X))
    assert np.any(outputs != second.predict(X))
    second.set_parameters(
        {name: values.astype(np.float32).tolist() for name, values in first.parameters.items()}
    )
    assert_close(second.predict(X), first.predict(X), 1e-6)


def test_snapshot_and_restore():
    model = classifier()
    fit(model)
    snapshot, outputs, parameters = model.snapshot(), model.predict(X), model.snapshot()
    fit(model, epochs=3)
    assert np.any(model.predict(X) != outputs)
    assert_same(tuple(snapshot), tuple(parameters))  # is no view
    model.restore(snapshot)
    assert_same(model.predict(X), outputs)
    fit(model)
    assert_same(tuple(snapshot), tuple(parameters))


@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))], ids=["copy", "pickle"]
)
def test_copies_are_independent(duplicate):
    model = classifier()
    fit(model, epochs=2)
    twin = duplicate(model)
    outputs = model.predict(X)
    assert_same(twin.predict(X), outputs)
    assert_same(twin.predict_proba(X), model.predict_proba(X))  # the loss is known, too
    fit(twin)
    assert_same(model.predict(X), outputs)
    fit(model)
    assert_same(twin.parameters, model.parameters)
    unbuilt = duplicate(classifier())
    assert not unbuilt.built
    fit(unbuilt)


def test_layers_of_a_model_share_its_parameters():
    model = classifier()
    fit(model)
    layer = model.layers[0]
    assert model.layers == [layer, model.layers[1]]
    layer.set_parameters({name: 0.5 * values for name, values in layer.parameters.items()})
    _, (h_n, _) = layer.forward(X)
    logits = h_n[0] @ model.parameters["1.weight"].T + model.parameters["1.bias"]
    assert_close(model.predict(X), logits, 1e-12)


def test_layers_built_beforehand_are_used_as_they_are():
    lstm = LSTM(5, dtype="float64")
    lstm.build(3, seed=7)
    before = {name: values.copy() for name, values in lstm.parameters.items()}
    model = Sequential(lstm, Dense(2, dtype="float64"))
    fit(model, optimizer=SGD(0.0))
    assert_same(lstm.parameters, before)


def test_callers_arrays_are_left_alone():
    x, y, weights = np.stack(random_rows(lengths=[4] * 6)), np.arange(6) % 2, np.arange(6.0)
    before = [array.copy() for array in (x, y, weights)]
    for array in (x, y, weights):
        array.flags.writeable = False
    model = classifier()
    fit(model, x, y, sample_weight=weights, class_weight="balanced", shuffle=True)
    y_predicted = model.predict(x)
    kept = y_predicted.copy()
    model.predict(2.0 * x)
    assert_same(y_predicted, kept)
    for array, kept in zip((x, y, weights), before, strict=True):
        assert_same(array, kept)


# ---- what is printed -------------------------------------------------------------------------------------


def test_summary(capsys):
    model = Sequential(Embedding(5000, 32), LSTM(64, bidirectional=True), Dense(2))
    model.build(1)
    model.summary()
    assert capsys.readouterr().out.splitlines() == [
        "layer                         output      parameters",
        "----------------------------  ----------  ----------",
        "Embedding(5000, 32)           (B, T, 32)     160,000",
        "LSTM(64, bidirectional=True)  (B, 128)        50,176",
        "Dense(2)                      (B, 2)             258",
        "----------------------------  ----------  ----------",
        "total                                        210,434",
    ]
    assert repr(model) == "Sequential(Embedding(5000, 32), LSTM(64, bidirectional=True), Dense(2))"


@pytest.mark.parametrize("with_tqdm", [True, False])
def test_progress(with_tqdm, monkeypatch, capsys):
    if with_tqdm:
        pytest.importorskip("tqdm")
    else:
        monkeypatch.setitem(sys.modules, "tqdm", None)
    fit(classifier(), epochs=3, validation_data=(X, Y), verbose=True)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "3/3" in shown.err
    assert "val_accuracy" in shown.err
    fit(classifier(), epochs=3, verbose=False)
    assert capsys.readouterr() == ("", "")
