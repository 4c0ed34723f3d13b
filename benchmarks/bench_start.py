"""What a program waits for before it works: import, and compiling from an empty cache."""

import os
import subprocess
import sys
import tempfile
import time

FIRST_STEP = """
import numpy as np, numbarnn
from numbarnn.jit.compile_cache import compile_clock
layer = numbarnn.LSTM(16)
x = np.ones((4, 10, 8), np.float32)
y, _ = layer.forward(x, training=True)
layer.backward(y)
print(compile_clock.seconds)
"""


def run_python(code: str, cache: str) -> tuple[float, str]:
    """Seconds from the start of a fresh process to its end, and what it printed."""
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "NUMBARNN_CACHE_DIR": cache},
    )
    return time.perf_counter() - began, done.stdout


class Start:
    timeout = 300

    def setup_cache(self):
        """Seconds: import, compiling, and a first training step with a warm cache."""
        with tempfile.TemporaryDirectory() as cache:
            compiling = float(run_python(FIRST_STEP, cache)[1])
            second_start, _ = run_python(FIRST_STEP, cache)
            importing, _ = run_python("import numbarnn", cache)
        return {"import": importing, "compile": compiling, "second": second_start}

    def track_import_seconds(self, seconds):
        return seconds["import"]

    def track_compile_seconds(self, seconds):
        return seconds["compile"]

    def track_second_start_seconds(self, seconds):
        return seconds["second"]

    track_import_seconds.unit = "s"
    track_compile_seconds.unit = "s"
    track_second_start_seconds.unit = "s"
