"""A process that forks while other threads use the library: children work, and none hangs."""

import os
import subprocess
import sys

import pytest
from conftest import trials

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork"),
]

PROGRAM = """
import os, random, signal, sys, threading, time
import numpy as np
from numbarnn import GRU, LSTM, Dense, Sequential

what, children = sys.argv[1], int(sys.argv[2])
rng = np.random.default_rng(0)
x, y = rng.standard_normal((16, 20, 8)).astype(np.float32), np.arange(16) % 2


def build():
    model = Sequential(LSTM(64, bidirectional=True), Dense(2))
    model.build(8, seed=1)
    return model


model, fitted, wide = build(), build(), LSTM(256)
weights = [model.snapshot(), [0.9 * values for values in model.snapshot()]]
possible = set()
for snapshot in weights:
    model.restore(snapshot)
    possible.add(model.predict(x).tobytes())
build().fit(x, y, epochs=1, verbose=False)
wide.forward(x)


def go_on():
    turn = 0
    while True:
        turn += 1
        if what == "set":
            model.restore(weights[turn % 2])
            model.predict(x)
            wide.set_parameters(wide.parameters)
            wide.forward(x)
        elif what == "fit":
            fitted.fit(x, y, epochs=2, batch_size=8, verbose=False)
        elif what == "train":
            fitted.backward(fitted.forward(x, training=True))
        elif what == "compile":
            import numba
            numba.njit(lambda a: a + turn)(np.ones(3))


threading.Thread(target=go_on, daemon=True).start()
statuses, draw = [], random.Random(0)
for _ in range(children):
    time.sleep(0.01 * draw.random())
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        right = model.predict(x).tobytes() in possible
        LSTM(20).forward(x)
        wide.forward(x)
        fitted.fit(x, y, epochs=1, verbose=False)
        seen = []
        other = threading.Thread(target=lambda: seen.append(model.predict(x).tobytes()))
        other.start()
        other.join()
        os._exit(0 if right and seen[0] in possible else 1)
    statuses.append(os.waitpid(child, 0)[1])
print(statuses.count(0), set(statuses) - {0})
sys.stdout.flush()
os._exit(0)
"""


@pytest.mark.parametrize("what", ["set", "fit", "train", "compile"])
def test_children_of_a_busy_process(what):
    children = trials(6, 300)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM, what, str(children)],
        capture_output=True, text=True, timeout=trials(300, 3000),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == [str(children), "set()"], done.stdout + done.stderr[-2000:]
