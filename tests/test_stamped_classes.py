"""A user's own cached loop around a step function never keeps the machine code of an earlier library."""

import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import numbarnn
from numbarnn.cells import CELLS
from numbarnn.jit import stamped_classes

PACKAGE = Path(numbarnn.__file__).parent
LOOP = """
import numba, numpy as np
from numbarnn.cells import CELLS
from numbarnn.kernels import gru_step

@numba.njit(cache=True)
def run(weights, signal, h):
    for t in range(signal.shape[0]):
        gru_step(weights, signal[t], h)

weights = CELLS["gru"].weights(**np.load("weights.npz"))  # of a layer: nothing else is compiled
h = np.zeros(4, np.float32)
run(weights, np.ones((2, 3), np.float32), h)
print(sum(run.stats.cache_hits.values()), h.tolist())
"""
EDITS = [
    ("cells/gru.py", "h_new = fma(z, h - n, n)", "h_new = fma(z, h - n, n) + n"),
    ("kernels.py", "    advance(unowned(weights), unowned(x), unowned((h,)))", "    h[0] = 3.0"),
]


@pytest.fixture
def run_loop(tmp_path):
    """Run the loop beside a copy of the package; it says how often it was loaded, and the states."""
    shutil.copytree(PACKAGE, tmp_path / "numbarnn", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "loop.py").write_text(LOOP)
    layer = numbarnn.GRU(4)
    layer.build(3, seed=0)
    np.savez(tmp_path / "weights.npz", **layer.kernel_weights()._asdict())
    environment = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}
    environment |= {"NUMBARNN_CACHE_DIR": str(tmp_path / "cache"), "PYTHONDONTWRITEBYTECODE": "1"}
    environment["PYTHONPATH"] = str(tmp_path)  # before an installed package, also on the safe path

    def run():
        done = subprocess.run(
            [sys.executable, "loop.py"], cwd=tmp_path, env=environment, capture_output=True, text=True,
            check=True,
        )  # fmt: skip
        loaded, _, states = done.stdout.partition(" ")
        return int(loaded), states

    return run


def test_a_users_cached_loop_sees_another_library(run_loop, tmp_path):
    loaded, before = run_loop()
    assert loaded == 0
    assert run_loop() == (1, before)
    for file, old, new in EDITS:
        path = tmp_path / "numbarnn" / file
        source = path.read_text()
        assert source.count(old) == 1
        path.write_text(source.replace(old, new))
        loaded, after = run_loop()
        assert loaded == 0
        assert after != before
        before = after


@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
def test_weights_can_be_pickled(cell):
    fields = ("input", "recurrent", "bias", *(["vectors"] if cell.vectors else []))
    weights = cell.weights(*map(np.ones, range(2, 2 + len(fields))))
    again = pickle.loads(pickle.dumps(weights))
    assert type(again) is cell.weights
    assert all(map(np.array_equal, again, weights))
    said = ", ".join(f"{field}={i}" for i, field in enumerate(fields))
    assert repr(cell.weights(*range(len(fields)))) == f"{cell.weights.__name__}({said})"


def test_weights_of_another_version():
    """Their class is another one to Numba; as arrays they are what they were."""
    weights_class = CELLS["lstm"].weights
    weights = weights_class(np.ones(2), np.ones(3), np.ones(4))
    digest = stamped_classes.digest_of_steps()
    pickled = pickle.dumps((weights, weights_class)).replace(digest.encode(), b"0" * len(digest))
    again, other = pickle.loads(pickled)
    assert type(again) is weights_class
    assert other is not weights_class
    assert other is pickle.loads(pickled)[1]


def test_names_that_are_no_class():
    for name in ("LSTM_0", "LSTMWeights", "nothing"):
        with pytest.raises(AttributeError, match=name):
            getattr(stamped_classes, name)
