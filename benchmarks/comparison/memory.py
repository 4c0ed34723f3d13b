"""Peak memory of training: ``python -m benchmarks.comparison.memory MODULE CELL SHAPE THREADS``.

In a fresh process each time: prints by how many MiB a few training steps raise the largest resident size over
that after the import. SciPy counts as not installed: neither library needs it, and it is here for JAX alone,
but Numba loads it where it finds it.
"""

import importlib
import resource
import subprocess
import sys
from pathlib import Path

from benchmarks.comparison.libraries import Library, environment
from benchmarks.comparison.serve import use_cores

STEPS = 5
LINUX_STATUS = Path("/proc/self/status")


def peak_mebibytes() -> float:
    """The largest resident size of this process."""
    if LINUX_STATUS.exists():
        # getrusage gives at least the size of the process that started this one.
        (line,) = (line for line in LINUX_STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) / 1024
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def training_memory(library: Library, cell: str, shape: str, threads: int) -> float:
    """MiB that training takes in a process of its own."""
    module = f"benchmarks.peers.{library.module}"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.comparison.memory", module, cell, shape, str(threads)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env=environment(threads),
    )
    return float(done.stdout)


def main() -> None:
    module, cell, shape, threads = sys.argv[1:]
    sys.modules["scipy"] = None  # type: ignore[assignment]
    use_cores(int(threads))
    peer = importlib.import_module(module)
    peer.use_threads(int(threads))
    before = peak_mebibytes()
    step = peer.layer(cell, shape).calls["train"]
    for _ in range(STEPS):
        step()
    print(peak_mebibytes() - before)


if __name__ == "__main__":
    main()
