"""Compiling ahead: nothing is left to compile for the models to come, and nothing else is changed."""

import json
import os
import random
import subprocess
import sys
import threading

import numpy as np
import pytest

import numbarnn
from numbarnn import compile_ahead
from numbarnn.jit.compile_cache import compile_clock
from numbarnn.training.fit import _CompileNotice

# What users may begin with; the last one is large enough for two threads.
FIRST_FITS = """
import json
import numpy as np
import numbarnn
from numbarnn import LSTM, Dense, Dropout, Embedding, MaxOverTime, MeanOverTime, Sequential
from numbarnn.jit.compile_cache import compile_clock

def first_fits():
    rng = np.random.default_rng(0)
    x, labels = rng.standard_normal((40, 9, 4)), np.arange(40) % 3
    ragged = [row[: 1 + i % 9] for i, row in enumerate(x)]
    Sequential(LSTM(8), Dense(3)).fit(ragged, labels, validation_data=(x, labels), epochs=2)
    deep = LSTM(8, num_layers=2, bidirectional=True, return_sequences=True)
    model = Sequential(Dropout(0.2), deep, Dense(1))
    model.fit(ragged, [row[:, :1] for row in ragged], loss="huber", optimizer="sgd", clip_norm=0.1, epochs=1)
    model.predict(ragged), model.evaluate(x, x[:, :, :1])
    model = Sequential(Embedding(9, 5), LSTM(8, return_sequences=True), MaxOverTime(), Dense(3, "tanh"))
    model.fit(rng.integers(0, 9, (40, 7)), labels, class_weight="balanced", clip_value=0.1, epochs=1)
    model = Sequential(LSTM(8, return_sequences=True), MeanOverTime(), Dense(1))
    model.fit(x, labels % 2, loss="binary_cross_entropy", optimizer="rmsprop", epochs=1)
    numbarnn.set_num_threads(2)
    wide = rng.standard_normal((64, 30, 40))
    Sequential(LSTM(64), Dense(3)).fit(wide, np.arange(64) % 3, batch_size=64, epochs=2)
"""
COUNT = """
ahead = compile_clock.kernels
first_fits()
print(json.dumps([ahead, compile_clock.kernels - ahead]))
"""


def run_python(program, cache):
    """What a program of its own prints, on stdout and on stderr."""
    environment = {**os.environ, "NUMBARNN_CACHE_DIR": str(cache), "NUMBA_OPT": "0"}  # compiles twice as fast
    arguments = [sys.executable, "-W", "error", "-c", FIRST_FITS + program]
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def test_first_fits_compile_nothing(tmp_path):
    out, messages = run_python("numbarnn.warmup()" + COUNT, tmp_path)
    ahead, later = json.loads(out)
    assert (ahead > 20, later) == (True, 0)
    assert "compiling" not in messages
    out, _ = run_python("numbarnn.warmup()" + COUNT, tmp_path)  # now from the cache
    assert json.loads(out) == [0, 0]


SMALL_FIT = """
model = numbarnn.Sequential(numbarnn.LSTM(4), numbarnn.Dense(3))
history = model.fit(np.ones((6, 5, 2)), np.arange(6) % 3, epochs=3, verbose=False)
"""


def test_background_beside_a_fit(tmp_path):
    """Both compile, and use what the other one has compiled."""
    program = (
        f"thread = numbarnn.warmup(background=True)\n{SMALL_FIT}\nthread.join()\n"
        "print(json.dumps([history.history['loss'], min(history.history['seconds']) >= 0.0]))"
    )
    out, messages = run_python(program + COUNT, tmp_path)
    (losses, is_positive), (ahead, later) = map(json.loads, out.splitlines())
    here = {"np": np, "numbarnn": numbarnn}
    exec(SMALL_FIT, here)
    assert losses == pytest.approx(here["history"].history["loss"], rel=1e-6)
    assert (is_positive, ahead > 20, later) == (True, True, 0)
    assert "compiling" not in messages


def test_process_may_end_while_it_compiles(tmp_path):
    program = "import time\nnumbarnn.warmup(background=True)\ntime.sleep(1.0)\nprint(compile_clock.kernels)"
    out, messages = run_python(program, tmp_path)
    assert messages == ""
    assert int(out) < 20


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_cell_and_nothing_left_behind(dtype, capsys):
    def state():
        drawn = np.random.get_state()[1].tolist()  # noqa: NPY002 - users may have seeded that very state
        threads = threading.active_count(), numbarnn.get_num_threads()
        return drawn, random.getstate(), threads, list(compile_clock.on_start)

    before = state()
    assert numbarnn.warmup(["rnn", "gru"], dtype) is None
    assert state() == before
    assert capsys.readouterr() == ("", "")
    compiled = compile_clock.kernels
    for layer in (numbarnn.RNN(3), numbarnn.RNN(3, activation="relu"), numbarnn.GRU(3, bidirectional=True)):
        options = {**layer.options, "dtype": dtype}
        model = numbarnn.Sequential(type(layer)(**options), numbarnn.Dense(2, dtype=dtype))
        model.fit(np.ones((4, 3, 2)), [0, 1, 0, 1], epochs=1, verbose=False)
    assert compile_clock.kernels == compiled


def test_thread_is_a_daemon_with_a_name():
    thread = numbarnn.warmup("lstm", background=True)
    assert isinstance(thread, threading.Thread)
    assert (thread.daemon, thread.name) == (True, "numbarnn warmup")
    thread.join()
    assert not thread.is_alive()


def test_errors_in_the_background_are_told(monkeypatch):
    told = []
    monkeypatch.setattr(threading, "excepthook", lambda arguments: told.append(arguments.exc_value))

    def fail(cells, dtype):
        raise OSError("no space left")

    monkeypatch.setattr(compile_ahead, "_compile", fail)
    before = list(compile_clock.on_start)
    numbarnn.warmup(background=True).join()
    assert [str(error) for error in told] == ["no space left"]
    assert compile_clock.on_start == before
    with pytest.raises(OSError, match="no space left"):
        numbarnn.warmup()


def test_other_threads_compilations_are_not_announced():
    class Messages(list):
        message = list.append

    said = Messages()
    notice = _CompileNotice(said)
    other = threading.Thread(target=notice)
    other.start()
    other.join()
    assert said == []
    notice()
    notice()
    assert len(said) == 1


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"cells": "LSTM"}, ValueError, "cells must be one of 'rnn', 'lstm', 'gru', got 'LSTM'"),
        ({"cells": ["lstm", "cnn"]}, ValueError, r"cells\[1\] must be one of 'rnn', .*, got 'cnn'"),
        ({"cells": [numbarnn.LSTM]}, ValueError, r"cells\[0\] must be one of 'rnn', .*, got <class"),
        ({"cells": ()}, ValueError, "cells must name at least one cell"),
        ({"cells": None}, TypeError, r"cells must be a name or several \('rnn', .*\), got None"),
        ({"dtype": "float16"}, ValueError, "dtype must be one of 'float32', 'float64', not 'float16'"),
        ({"background": 1}, TypeError, "background must be True or False, got 1"),
    ],
)
def test_wrong_arguments_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        numbarnn.warmup(**arguments)
