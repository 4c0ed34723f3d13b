"""What is there: versions, the card, its ceilings, and whether one kernel compiles and runs."""

import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version

import numpy as np

PACKAGES = ("numbarnn", "numba", "numba-cuda", "llvmlite", "numpy", "cupy-cuda13x", "cuda-bindings", "torch")
CELLS = ("lstm", "gru", "rnn")
COPIED_BYTES = 2 << 30
PRODUCT_SIZE = 8192
REPEATS = 10


def cases(part: str, quick: bool) -> list[str]:
    return [
        "versions",
        "card",
        "one launch",
        "ceilings",
        *[f"compile {cell}" for cell in CELLS],
        "two starts",
    ]


def run(case: str) -> dict:
    what, _, cell = case.partition(" ")
    if what == "versions":
        return {"python": platform.python_version(), **{name: version_of(name) for name in PACKAGES}}
    functions = {
        "card": card, "one": one_launch, "ceilings": ceilings, "compile": lambda: compile_times(cell),
        "two": two_starts,
    }  # fmt: skip
    return functions[what]()


def version_of(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def card() -> dict:
    query = "name,driver_version,clocks.sm,clocks.max.sm,memory.total"
    command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    from numbarnn.engine.cuda.device import cuda, shared_memory

    device = cuda.get_current_device()
    return {
        "card": said,
        "capability": ".".join(map(str, device.compute_capability)),
        "multiprocessors": device.MULTIPROCESSOR_COUNT,
        "shared_memory": shared_memory(),
    }


def one_launch() -> dict:
    """A kernel with arguments of every kind, and what a launch takes the host."""
    from numbarnn.engine.cuda.arrays import arrays, on_host, wait
    from numbarnn.engine.cuda.pointwise import gather

    xp = arrays()
    source, rows = xp.arange(12.0).reshape(4, 3), xp.asarray(np.array([2, 0, 3]))
    target = xp.zeros((3, 3))
    gather(rows, source, target)
    wanted = np.arange(12.0).reshape(4, 3)[[2, 0, 3]]
    np.testing.assert_array_equal(on_host(target), wanted)
    began, count = time.perf_counter(), 1000
    for _ in range(count):
        gather(rows, source, target)
    host = (time.perf_counter() - began) / count
    wait()
    return {"host_microseconds": 1e6 * host}


def ceilings() -> dict:
    """Bytes a second that a copy reads and writes, operations a second of a product of float32."""
    from numbarnn.engine.cuda.arrays import arrays, wait
    from numbarnn.engine.cuda.matmul import multiply

    xp = arrays()
    source, target = (xp.ones(COPIED_BYTES // 4, np.float32) for _ in range(2))
    a, b = (xp.random.random((PRODUCT_SIZE, PRODUCT_SIZE), np.float32) for _ in range(2))
    out = xp.empty_like(a)

    def seconds(call) -> float:
        call()
        wait()
        began = time.perf_counter()
        for _ in range(REPEATS):
            call()
        wait()
        return (time.perf_counter() - began) / REPEATS

    return {
        "bytes_a_second": 2 * COPIED_BYTES / seconds(lambda: xp.copyto(target, source)),
        "operations_a_second": 2 * PRODUCT_SIZE**3 / seconds(lambda: multiply(a, b, out)),
    }


def compile_times(cell: str) -> dict:
    """Seconds of a first forward and a first backward, which compile a kernel each."""
    from benchmarks.trainer import LAYERS

    layer = LAYERS[cell](64, device="cuda")
    x = np.ones((2, 3, 4), np.float32)
    times = [time.perf_counter()]
    y, _ = layer.forward(x, training=True)
    times.append(time.perf_counter())
    layer.backward(np.ones_like(y))
    times.append(time.perf_counter())
    return {"forward_seconds": times[1] - times[0], "backward_seconds": times[2] - times[1]}


FIRST_FIT = """
import numpy as np
import numbarnn
model = numbarnn.Sequential(numbarnn.GRU(24), numbarnn.Dense(3), device="cuda")
x = np.ones((20, 7, 5), np.float32)
model.fit(x, np.arange(20) % 3, optimizer="adam", epochs=1, verbose=False)
"""


def two_starts() -> dict:
    """Seconds of a program that fits a model on the GPU, with an empty kernel cache and with a full one."""
    with tempfile.TemporaryDirectory() as folder:
        seconds = []
        for _ in range(2):
            began = time.perf_counter()
            environment = {**os.environ, "NUMBARNN_CACHE_DIR": folder}
            subprocess.run([sys.executable, "-c", FIRST_FIT], check=True, env=environment)
            seconds.append(time.perf_counter() - began)
    return {"empty_cache_seconds": seconds[0], "full_cache_seconds": seconds[1]}
