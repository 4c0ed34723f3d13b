"""A share of the soak; `soak.py` says what it is, and runs all."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import soak
from conftest import trials

import numbarnn

FITS, PREDICTIONS = trials((100, 3_000), (10_000, 1_000_000))
ON_LINUX = Path("/proc/self/statm").exists()

pytestmark = pytest.mark.skipif(not ON_LINUX, reason="reads what Linux counts")


def test_memory_is_flat_and_no_threads_are_left_over():
    """In a process of its own: other tests' memory is not ours."""
    script, package = Path(soak.__file__), Path(numbarnn.__file__).parent
    path = os.pathsep.join([str(script.parent), str(package.parent)])
    done = subprocess.run(
        [sys.executable, str(script), "--fits", str(FITS), "--predictions", str(PREDICTIONS)],
        env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    print(done.stdout)
    assert (done.returncode, done.stderr) == (0, "")
    assert "memory is flat" in done.stdout


def test_memory_that_grows_is_found(monkeypatch):
    kept, size = [], 2**25 + 1  # the C library keeps no freed memory for so many bytes
    monkeypatch.setattr(soak, "fit", lambda turn, rng: kept.append(np.ones(size, np.uint8)))
    with pytest.raises(SystemExit, match="the memory grew by"):
        soak.run(fits=10, predictions=0)


def test_threads_that_are_left_over_are_found(monkeypatch):
    end = threading.Event()
    monkeypatch.setattr(soak, "fit", lambda turn, rng: threading.Thread(target=end.wait).start())
    try:
        with pytest.raises(SystemExit, match="threads are left over"):
            soak.run(fits=10, predictions=0)
    finally:
        end.set()
