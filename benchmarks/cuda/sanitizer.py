"""NVIDIA's compute-sanitizer on two tiny cases: accesses outside of memory, and races in shared memory."""

import shutil
import subprocess
import sys

TOOLS = ("memcheck", "racecheck")
TINY = """
import numpy as np
import numbarnn
for cell, hidden in ((numbarnn.LSTM, 9), (numbarnn.GRU, 100)):
    layer = cell(hidden, device="cuda", bidirectional=True)
    x = np.ones((3, 5, 4), np.float32)
    y, _ = layer.forward(x, lengths=[5, 2, 3], training=True)
    layer.backward(np.ones_like(y))
"""


def cases(part: str, quick: bool) -> list[str]:
    return [] if quick or shutil.which("compute-sanitizer") is None else list(TOOLS)


def run(case: str) -> dict:
    # Libraries ask the driver for functions that it may not have; that is no error.
    options = ["--tool", case, "--error-exitcode", "9", *["--report-api-errors=no"] * (case == "memcheck")]
    command = ["compute-sanitizer", *options, sys.executable, "-c", TINY]
    done = subprocess.run(command, capture_output=True, text=True)
    said = (done.stdout + done.stderr)[-4000:]
    if done.returncode != 0:
        raise AssertionError(said)
    return {"said": said.strip().splitlines()[-1]}
