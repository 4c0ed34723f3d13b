"""A share of the soak; `soak.py` says what it is, and runs all."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import soak
from conftest import trials

import numbarnn

FITS, PREDICTIONS = trials((100, 3_000), (10_000, 1_000_000))
ON_LINUX = Path("/proc/self/statm").exists()

pytestmark = pytest.mark.skipif(not ON_LINUX, reason="reads what Linux counts")


def run_alone(*arguments):
    """Python in a process of its own: the memory of other tests, taken or free, is not ours."""
    path = os.pathsep.join([str(Path(soak.__file__).parent), str(Path(numbarnn.__file__).parent.parent)])
    return subprocess.run(
        [sys.executable, *arguments], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip


def test_memory_is_flat_and_no_threads_are_left_over():
    done = run_alone(soak.__file__, "--fits", str(FITS), "--predictions", str(PREDICTIONS))
    print(done.stdout)
    assert (done.returncode, done.stderr) == (0, "")
    assert "memory is flat" in done.stdout


LEAK = """
import numpy as np
import soak
kept = []
soak.fit = lambda turn, rng: kept.append(np.ones(2**20, np.uint8))
soak.run(fits=20, predictions=0)
"""


def test_memory_that_grows_is_found():
    done = run_alone("-c", LEAK)
    assert done.returncode == 1
    assert "the memory grew by" in done.stderr


def test_threads_that_are_left_over_are_found(monkeypatch):
    end = threading.Event()
    monkeypatch.setattr(soak, "fit", lambda turn, rng: threading.Thread(target=end.wait).start())
    try:
        with pytest.raises(SystemExit, match="threads are left over"):
            soak.run(fits=10, predictions=0)
    finally:
        end.set()
