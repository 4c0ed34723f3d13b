"""Schedules against exact fractions, at every batch of odd numbers of batches and epochs."""

import math
from fractions import Fraction

import numpy as np
import pytest

from numbarnn import LSTM, SGD, Callback, Constant, CosineDecay, Dense, EarlyStopping, Sequential, StepDecay
from numbarnn.training.schedules import Schedule

BATCHES = (1, 2, 3, 5, 7, 10, 11, 13, 30, 49, 97, 100, 101, 331)
EPOCHS = (1, 2, 3, 5, 7, 10, 17)
EVERY = (
    "0.01",
    "0.07",
    "0.1",
    "0.125",
    "0.2",
    "0.3",
    "1/3",
    "0.7",
    "2/3",
    "1",
    "1.1",
    "1.5",
    "2.3",
    "7",
    "1e-3",
)


def moments(batches, epochs):
    """(as a fit says it, exactly) for every batch."""
    for epoch in range(epochs):
        for i in range(batches):
            yield epoch + i / batches, epoch + Fraction(i, batches)


@pytest.mark.parametrize("every", EVERY)
def test_steps_come_when_they_are_due(every):
    exactly = Fraction(every)
    schedule = StepDecay(1.0, factor=0.5, every=float(exactly))
    late = []
    for batches in BATCHES:
        for epochs in EPOCHS:
            for moment, exact in moments(batches, epochs):
                steps = math.floor(exact / exactly)
                if schedule.at(moment, epochs) != 0.5**steps:
                    late.append((batches, exact, schedule.at(moment, epochs), steps))
    assert late == []


def test_steps_after_many_epochs():
    for every in ("0.1", "0.3", "7", "1/3"):
        exactly = Fraction(every)
        schedule = StepDecay(1.0, factor=1 - 2**-20, every=float(exactly))
        for epoch in (10**3, 10**5, 10**6 - 1):
            for i in range(1001):
                steps = math.floor((epoch + Fraction(i, 1001)) / exactly)
                assert schedule.at(epoch + i / 1001, 10**6) == math.pow(1 - 2**-20, steps)


@pytest.mark.parametrize("batches", [1, 3, 7, 10])
def test_a_fit_asks_for_every_batch(batches):
    rates = []

    class Noted(StepDecay):
        def at(self, epoch, epochs):
            rates.append(super().at(epoch, epochs))
            return rates[-1]

    x = np.zeros((batches, 2, 1), np.float32)
    optimizer = SGD(Noted(1.0, factor=0.5, every=0.1))
    model = Sequential(LSTM(2), Dense(2))
    model.fit(x, [0] * batches, optimizer=optimizer, epochs=3, batch_size=1, verbose=False)
    due = [math.floor(exact / Fraction("0.1")) for _, exact in moments(batches, 3)]
    assert rates == [0.5**steps for steps in due]


def test_cosine_at_every_batch():
    for initial, final in ((0.3, 0.1), (0.7, 0.0), (1e-3, 1e-5), (0.1, 0.3), (2.0, 2.0)):
        schedule = CosineDecay(initial, final)
        low, high = sorted((initial, final))
        for batches in BATCHES:
            for epochs in EPOCHS:
                rates = [schedule.at(moment, epochs) for moment, _ in moments(batches, epochs)]
                assert rates[0] == initial
                assert all(low <= rate <= high for rate in rates)
                assert rates == sorted(rates, reverse=initial >= final)
                exact = [float(exact / epochs) for _, exact in moments(batches, epochs)]
                wanted = [final + (initial - final) * (1 + math.cos(math.pi * done)) / 2 for done in exact]
                assert np.allclose(rates, wanted, rtol=1e-12, atol=1e-15)
        assert schedule.at(7, 7) == final
        assert schedule.at(9.5, 7) == final
    assert {Constant(0.1).at(moment, 3) for moment, _ in moments(97, 3)} == {0.1}


def test_numbers_beyond_those_of_floats():
    assert StepDecay(1.0, factor=10.0, every=1e-3).at(1, 1) == math.inf
    assert StepDecay(1.0, factor=0.5, every=5e-324).at(1, 1) == 0.0
    assert StepDecay(1.0, factor=0.0).at(0, 1) == 1.0
    with np.errstate(all="raise"):
        rate = StepDecay(np.float64(1e-300), factor=np.float64(1e-300), every=np.float32(1)).at(2, 3)
    assert (rate, type(rate)) == (0.0, float)


class Wrong(Schedule):
    def __init__(self, rate):
        self.rate = rate

    def at(self, epoch, epochs):
        return self.rate if epoch > 0 else 0.1


@pytest.mark.parametrize("rate", [math.nan, math.inf, -0.1, None, "0.1", True, 1j])
def test_a_schedule_that_gives_no_rate(rate):
    model = Sequential(LSTM(2), Dense(2))
    with pytest.raises((TypeError, ValueError), match=r"^learning_rate must be "):
        model.fit(np.ones((4, 2, 1)), [0, 1, 0, 1], optimizer=SGD(Wrong(rate)), batch_size=2, verbose=False)
    assert all(np.isfinite(values).all() for values in model.parameters.values())


# ---- callbacks ------------------------------------------------------------------------------------------


class StopAtOnce(Callback):
    def on_epoch_end(self, model, epoch, logs):
        self.stop = epoch >= self.last


def fit(callbacks, epochs=6):
    model = Sequential(Dense(2))
    options = {"validation_data": (np.ones((2, 3)), [0, 1]), "optimizer": "sgd", "verbose": False}
    return model.fit(np.eye(4, 3), [0, 1, 0, 1], epochs=epochs, callbacks=callbacks, **options).epochs


def test_a_fit_begins_anew():
    """Whatever an earlier fit, or the user, left in `stop`."""
    callback = StopAtOnce()
    callback.last = 2
    assert fit([callback]) == 3
    assert callback.stop
    callback.last = 4
    assert fit([callback]) == 5
    callback.stop = True
    assert fit([callback]) == 5


class ReadOnly(Callback):
    stop = property(lambda self: False)


class Always(Callback):
    stop = True


def test_stop_of_a_class():
    assert fit([ReadOnly()]) == 6
    assert fit([Always()]) == 1


@pytest.mark.parametrize(
    ("values", "options", "done"),
    [
        ([math.nan] * 6, {}, 2),
        ([math.inf] * 6, {}, 3),
        ([math.inf, 1.0, 0.5, 0.5, 0.5, 0.5], {}, 5),
        ([1.0, math.nan, 0.9, math.nan, 0.8, 0.7], {}, 6),
        ([1.0, 0.9, 0.8, 0.7, 0.6, 0.5], {"min_delta": 0.1}, 6),
        ([1.0, 0.9, 0.8, 0.7, 0.6, 0.5], {"min_delta": 0.25}, 3),
        ([1.0, 0.95, 0.9, 0.85, 0.8, 0.75], {"min_delta": 0.5}, 3),
        ([-math.inf, 0.0, 0.0], {"mode": "max"}, 3),
    ],
)
def test_edges_of_early_stopping(values, options, done):
    stopping = EarlyStopping(patience=2, monitor="loss", restore_best=False, **options)
    for epoch, value in enumerate(values):
        stopping.on_epoch_end(None, epoch, {"loss": value})
        if stopping.stop:
            break
    assert epoch + 1 == done


@pytest.mark.parametrize("restore_best", ["no", 1, None])
def test_restore_best_is_yes_or_no(restore_best):
    with pytest.raises(TypeError, match=r"^restore_best must be True or False"):
        EarlyStopping(restore_best=restore_best)
