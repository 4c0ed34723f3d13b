"""Interrupts at any moment: the model then computes what it shows, and threads are all there."""

import os
import random
import signal
import sys
import threading
import time

import numpy as np
import pytest
from conftest import trials

import numbarnn
from numbarnn import LSTM, Adam, Dense, Dropout, EarlyStopping, Sequential
from numbarnn.engine import threads
from numbarnn.engine.fork import OWNED

PACKAGE = os.path.dirname(numbarnn.__file__)
RNG = np.random.default_rng(0)
X = [RNG.standard_normal((length, 3)).astype(np.float32) for length in (4, 6, 3, 7, 5, 6, 4, 5)]
Y = np.arange(len(X)) % 2
WIDE = RNG.standard_normal((32, 20, 16)).astype(np.float32)  # worth two threads
SECONDS_TO_WAIT = 10.0


def build():
    model = Sequential(LSTM(6, bidirectional=True), Dropout(0.1), Dense(2))
    model.build(3, seed=1)
    return model


WEIGHTS = {name: 0.9 * values for name, values in build().parameters.items()}


def use(model, stopping):
    """What may be interrupted."""
    model.set_parameters(WEIGHTS)
    model.fit(
        X, Y, epochs=2, batch_size=4, optimizer=Adam(0.1), validation_data=(X, Y), callbacks=[stopping],
        verbose=False,
    )  # fmt: skip
    model.predict(X)
    model.backward(model.forward(X, training=True))
    layer = model.layers[0]
    y, _ = layer.forward(X, training=True)
    layer.backward(y)
    model.restore(model.snapshot())


def check(model, stopping):
    """What must hold after an interrupt."""
    if stopping.best is not None:
        assert model.evaluate(X, Y)["loss"] == stopping.best
    twin, seen = build(), []
    twin.set_parameters(model.parameters)
    wanted = twin.predict(X), *twin.layers[0].forward(X)[0]
    np.testing.assert_array_equal(model.predict(X), wanted[0])

    def on_another_thread():
        seen.extend([model.predict(X), *model.layers[0].forward(X)[0]])
        model.set_parameters(model.parameters)

    other = threading.Thread(target=on_another_thread, daemon=True)
    other.start()
    other.join(SECONDS_TO_WAIT)
    assert not other.is_alive(), "another thread waits for ever"
    for array, expected in zip(seen, wanted, strict=True):
        np.testing.assert_array_equal(array, expected)
    model.fit(X, Y, epochs=1, verbose=False)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no timers that interrupt")
def test_signals_at_random_moments(set_threads):
    set_threads(2)
    rng, layer = random.Random(0), LSTM(64)
    wanted = layer.forward(WIDE)[0]
    use(build(), EarlyStopping())
    began = time.perf_counter()
    use(build(), EarlyStopping())
    typical = time.perf_counter() - began
    armed = interrupted = False

    def interrupt(number, frame):
        if armed:
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for _ in range(trials(100, 10_000)):
            model, stopping, armed = build(), EarlyStopping(), True
            try:
                signal.setitimer(signal.ITIMER_REAL, 1e-5 + 1.5 * typical * rng.random())
                layer.set_parameters(layer.parameters)
                layer.forward(WIDE)
                use(model, stopping)
                y, _ = layer.forward(WIDE, training=True)
                layer.backward(y)
            except KeyboardInterrupt:
                interrupted = True
            armed = False
            signal.setitimer(signal.ITIMER_REAL, 0.0)
            check(model, stopping)
            np.testing.assert_array_equal(layer.forward(WIDE)[0], wanted)
            team = threads._team
            assert team.board is not None
            assert team.board[OWNED] == 0
            assert len(team.workers) == 1
    finally:
        signal.signal(signal.SIGALRM, before)
    assert interrupted


class Tracer:
    """Interrupts when a line of the package is reached, by its number in the order of running."""

    def __init__(self, line):
        self.line, self.count = line, 0

    def __call__(self, frame, event, argument):
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        if event == "line":
            self.count += 1
            if self.count == self.line:
                raise KeyboardInterrupt
        return self

    def run(self, function, *arguments):
        before = sys.gettrace()
        sys.settrace(self)
        try:
            function(*arguments)
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(before)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_at_every_line():
    use(build(), EarlyStopping())
    counter = Tracer(-1)
    counter.run(use, build(), EarlyStopping())
    lines = range(1, counter.count + 1)
    for line in sorted(random.Random(0).sample(lines, trials(150, len(lines)))):
        model, stopping = build(), EarlyStopping()
        Tracer(line).run(use, model, stopping)
        check(model, stopping)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError, SystemExit])
def test_callbacks_hear_of_errors(error):
    """All of them, also where one of them raises."""
    told = []

    class Listen(numbarnn.Callback):
        def on_epoch_end(self, model, epoch, logs):
            if epoch == 1:
                raise error

        def on_exception(self, model, exception):
            told.append(exception)
            raise LookupError

        def on_fit_end(self, model):
            told.append("end")

    with pytest.raises(LookupError):
        build().fit(X, Y, epochs=3, callbacks=[Listen(), Listen()], verbose=False)
    assert [type(exception) for exception in told] == [error, error]
