"""Training steps that are recorded once and run for one batch after the other."""

import numpy as np
import pytest

import numbarnn
from numbarnn.engine.fork import ALONE
from numbarnn.engine.program import Program
from numbarnn.layers.chain import Chain
from numbarnn.sequences.layout import Layout, LayoutInPlace, find_cuts
from numbarnn.training import recorded_step
from numbarnn.training.clipping import clipping_of, global_norm
from numbarnn.training.data import LabelledSamples, read_samples
from numbarnn.training.fit import batches
from numbarnn.training.losses import CrossEntropy, Loss
from numbarnn.training.optimizers import SGD, Adam
from numbarnn.training.step import TrainingStep
from numbarnn.training.step_kernels import pairwise_sum

INPUTS, CLASSES, ROWS = 4, 3, 50
LONGEST = 12


def ragged(seed=0):
    """Rows of unequal length, and a label for each."""
    rng = np.random.default_rng(seed)
    x = [rng.standard_normal((length, INPUTS)) for length in rng.integers(1, LONGEST + 1, ROWS)]
    return x, rng.integers(0, CLASSES, ROWS)


def fitted(*layers, data=None, size=CLASSES, **options):
    """The parameters after a short fit, and the history's numbers but for the seconds."""
    x, y = data or ragged()
    model = numbarnn.Sequential(*layers, numbarnn.Dense(size))
    settings = {"epochs": 2, "batch_size": 16, "seed": 3, "verbose": False, **options}
    history = model.fit(x, y, **settings).history
    numbers = {name: values for name, values in history.items() if name != "seconds"}
    return [own for layer in model.layers for own in layer.parameters.values()], numbers


def assert_same(first, second):
    for one, other in zip(first[0], second[0], strict=True):
        np.testing.assert_array_equal(one, other)
    assert first[1] == second[1]


@pytest.fixture
def recorded(monkeypatch):
    """All steps that are recorded from now on."""
    made = []

    class Counted(recorded_step.RecordedStep):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            made.append(self)

    monkeypatch.setattr("numbarnn.training.step.RecordedStep", Counted)
    return made


# ---- the batch -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parts", [1, 2, 3, 7])
def test_cuts_divide_rows_evenly(parts):
    """As NumPy finds them: where the middle of a row lies says whose it is."""
    rng = np.random.default_rng(parts)
    for count in (1, 5, 40):
        sizes = np.sort(rng.integers(1, 30, count))[::-1].copy()
        middles = np.cumsum(sizes) - sizes / 2
        inner = np.searchsorted(middles, sizes.sum() * np.arange(1, parts) / parts)
        cuts = np.empty(parts + 1, np.int64)
        find_cuts(ALONE, sizes, cuts)
        assert cuts.tolist() == [0, *inner, count]


def test_layout_in_place_takes_one_batch_after_the_other():
    first, second = np.array([3, 9, 1, 5]), np.array([2, 2, 7, 4])
    layout = LayoutInPlace(first, steps=10, total=30)
    cuts = layout.row_cuts(2)
    program = Program(layout.refill_calls())
    for lengths in (first, second):
        layout.given[:] = lengths
        program.run()
        wanted = Layout(lengths)
        for name in ("order", "lengths", "inverse_order"):
            np.testing.assert_array_equal(getattr(layout, name), getattr(wanted, name))
        np.testing.assert_array_equal(layout.active[: wanted.steps], wanted.active)
        assert not layout.active[wanted.steps :].any()
        np.testing.assert_array_equal(layout.offset[: wanted.steps], wanted.offset[:-1])
        assert (layout.offset[wanted.steps :] == wanted.total).all()
        np.testing.assert_array_equal(cuts, wanted.row_cuts(2))


@pytest.mark.parametrize("count", [1, 7, 8, 9, 127, 128, 129, 200, 1000, 4097])
def test_weights_are_added_up_as_numpy_does(count):
    values = np.random.default_rng(count).uniform(0.1, 2.0, count + 5)
    assert pairwise_sum(values, count) == values[:count].sum()


# ---- what is recorded ------------------------------------------------------------------------------------


def test_batches_alike_share_one_record(recorded):
    """One for full batches, one for the last one; rows of few steps have their own, and a batch of more
    steps than there is room for is recorded anew."""
    fitted(numbarnn.GRU(5), epochs=6)
    assert {len(step.rows) for step in recorded} == {16, ROWS % 16}
    assert len(recorded) <= 6  # of 24 steps


def test_threads_are_asked_for_anew(recorded, set_threads):
    class Change(numbarnn.Callback):
        def on_epoch_end(self, model, epoch, logs):
            set_threads(1 + (epoch + 1) % 2)

    set_threads(1)
    changed = fitted(numbarnn.GRU(5), epochs=4, callbacks=[Change()])
    assert {step.threads for step in recorded} == {1, 2}
    set_threads(1)
    assert_same(changed, fitted(numbarnn.GRU(5), epochs=4))


def test_losses_use_the_threads(recorded, set_threads):
    rng = np.random.default_rng(0)
    rows, size = 400, 300
    data = rng.standard_normal((rows, INPUTS)).astype(np.float32), rng.integers(0, size, rows)
    results = []
    for threads in (1, 2):
        set_threads(threads)
        results.append(fitted(data=data, size=size, batch_size=rows))
    assert_same(*results)
    alone, together = recorded
    assert alone.loss_parts == 1
    assert together.loss_parts == 2


@pytest.mark.parametrize("per_step", [False, True])
@pytest.mark.parametrize("weighs", [False, True])
@pytest.mark.parametrize("bounds", [(None, None), (0.1, None), (None, 0.01), (0.1, 0.01)])
def test_steps_are_those_of_buffers_made_for_each_batch(per_step, weighs, bounds):
    """Long rows, then short ones, then long ones again: nothing is left behind."""
    rng = np.random.default_rng(5)
    lengths = [LONGEST] * 4 + [1] * 4 + [5, 2, 7, 3] + [1, LONGEST, 1, 1] + [6, 5]
    x = [rng.standard_normal((length, INPUTS)) for length in lengths]
    count = (lambda length: length) if per_step else (lambda length: None)
    y = [rng.integers(0, CLASSES, count(length)) for length in lengths]
    weights = rng.uniform(0.1, 2.0, len(x)) if weighs else None
    loss, optimizer, (clip_norm, clip_value) = CrossEntropy(), Adam(1e-2), bounds

    def layers():
        made = [
            numbarnn.LSTM(5, num_layers=2, bidirectional=True, return_sequences=per_step),
            numbarnn.Dense(3),
        ]
        for layer, size in zip(made, (INPUTS, 10), strict=True):
            layer.build(size, seed=1)
        return made

    def samples():
        steps = read_samples(x, np.dtype("float32"), "x", time=True, tokens=False)
        return LabelledSamples(steps, False, y, per_step, loss, CLASSES, "float32", weights)

    lasting, data = layers(), samples()
    step = TrainingStep(numbarnn.Sequential(*lasting), data, loss, CLASSES, optimizer, clip_norm, clip_value)
    fresh = layers()
    values = [layer.flat_values for layer in fresh]
    gradients = [layer.flat_gradients for layer in fresh]
    state = optimizer.start(values)
    for rows in batches(np.arange(len(x)), 4) * 2:
        step.step(rows, 0, 1e-2, "here")
        chain, batch = Chain(fresh, training=True), samples().batch(rows)
        layout, outputs = chain.prepare(batch.layout, batch.x, 0)
        doutputs, losses = np.zeros_like(outputs), np.zeros((2, layout.total))
        chain.prepare_backward(doutputs)
        chain.forward()
        loss.rows(
            outputs, CLASSES, batch.targets, batch.weights, 1.0 / batch.total_weight, *losses, doutputs,
            layout.active, layout.offset, 0, layout.rows,
        )  # fmt: skip
        chain.backward()
        clipping = clipping_of(gradients, global_norm(gradients), clip_norm, clip_value)
        optimizer.update(state, values, gradients, 1e-2, *clipping)
        for layer, other in zip(lasting, fresh, strict=True):
            other.count_change()
            np.testing.assert_array_equal(layer.flat_gradients, other.flat_gradients)
            np.testing.assert_array_equal(layer.flat_values, other.flat_values)


# ---- what users bring ------------------------------------------------------------------------------------


class PlainCrossEntropy(CrossEntropy):
    """Another class's `rows`, which cannot be recorded."""

    def rows(self, *arguments):
        super().rows(*arguments)


class SquaredDistance(Loss):
    """In NumPy, on arrays of exactly the batch."""

    name, metric = "squared_distance", "mae"

    def check_targets(self, y, size, dtype):
        return np.asarray(y)

    def kernel_for(self, targets):
        return self.compute, ()

    @staticmethod
    def compute(
        outputs, size, targets, weights, scale, losses, scores, doutputs, active, offset, first, stop
    ):
        count = len(targets)
        assert len(outputs) == len(losses) == len(weights) == len(doutputs) == offset[-1] == count
        assert active.size == offset.size - 1 and active.all()
        assert (first, stop) == (0, active[0])
        errors = outputs[:, :size] - np.eye(size, dtype=outputs.dtype)[targets]
        losses[:], scores[:] = (errors**2).sum(axis=1), np.abs(errors).mean(axis=1)
        doutputs[:] = 0.0
        doutputs[:, :size] = 2.0 * errors * (weights * scale)[:, None]


class PlainAdam(Adam):
    """Another class's `update`, which cannot be recorded."""

    def update(self, *arguments):
        super().update(*arguments)


def plain_descent(team, cuts, values, gradients, velocities, limit, factor, learning_rate, *others):
    values -= learning_rate * factor * np.clip(gradients, -limit, limit)


class PlainDescent(SGD):
    """A kernel of the user's, in NumPy."""

    update_kernel = staticmethod(plain_descent)


@pytest.mark.parametrize("per_step", [False, True])
def test_own_loss(per_step):
    data = ragged()
    if per_step:
        rng = np.random.default_rng(1)
        data = data[0], [rng.integers(0, CLASSES, len(row)) for row in data[0]]
    layer = {"return_sequences": per_step}
    ours = fitted(numbarnn.GRU(5, **layer), data=data)
    assert_same(fitted(numbarnn.GRU(5, **layer), data=data, loss=PlainCrossEntropy()), ours)
    _, history = fitted(numbarnn.GRU(5, **layer), data=data, loss=SquaredDistance(), epochs=20)
    assert history["loss"][-1] < history["loss"][0]


def test_own_optimizer():
    clipping = {"clip_norm": 0.1, "clip_value": 0.05}
    ours = fitted(numbarnn.GRU(5), optimizer=Adam(1e-2), **clipping)
    assert_same(fitted(numbarnn.GRU(5), optimizer=PlainAdam(1e-2), **clipping), ours)
    ours = fitted(numbarnn.GRU(5), optimizer=SGD(1e-2), **clipping)
    mine = fitted(numbarnn.GRU(5), optimizer=PlainDescent(1e-2), **clipping)
    for one, other in zip(ours[0], mine[0], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("optimizer", [Adam(), PlainAdam(), PlainDescent()])
def test_divergence_changes_no_parameter(optimizer):
    x, y = ragged()
    model = numbarnn.Sequential(numbarnn.GRU(5), numbarnn.Dense(CLASSES))
    model.fit(x, y, epochs=1, verbose=False)
    dense = model.layers[1]
    dense.set_parameters({"weight": np.full((CLASSES, 5), 3e38), "bias": np.full(CLASSES, 3e38)})
    before = [layer.flat_values.copy() for layer in model.layers]
    with pytest.raises(FloatingPointError, match="diverged"):
        model.fit(x, y, optimizer=optimizer, epochs=1, verbose=False)
    for layer, values in zip(model.layers, before, strict=True):
        np.testing.assert_array_equal(layer.flat_values, values)
