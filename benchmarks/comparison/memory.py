"""Peak memory of training: ``python -m benchmarks.comparison.memory MODULE CELL SHAPE THREADS``.

In a fresh process each time: prints by how many MiB a few training steps raise the largest resident size over
that after the import. SciPy counts as not installed: neither library needs it, and it is here for JAX alone,
but Numba loads it where it finds it.
"""

import importlib
import resource
import subprocess
import sys

from benchmarks.comparison.libraries import Library, environment
from benchmarks.comparison.serve import use_cores

STEPS = 5


def peak_mebibytes() -> float:
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
