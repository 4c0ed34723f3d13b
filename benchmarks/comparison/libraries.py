"""The libraries that are compared, which of them are here, and their processes."""

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

# OpenMP's and our own threads look for work for some milliseconds before they sleep.
SECONDS_TO_FALL_ASLEEP = 0.01


class Library(NamedTuple):
    """A library as tables call it, its module in `benchmarks.peers`, and the distributions that it needs.

    `tasks` are the functions of the module: ``layer``, ``ragged``, ``fit``, each of which makes a `Work`.
    """

    title: str
    module: str
    needs: tuple[str, ...]
    tasks: tuple[str, ...]

    def is_installed(self) -> bool:
        return all(importlib.util.find_spec(name) for name in self.needs)


OURS = Library("numbarnn", "numbarnn_peer", ("numba", "llvmlite", "numpy"), ("layer", "ragged", "fit"))
PEERS = [
    Library("PyTorch", "torch_peer", ("torch",), ("layer", "ragged", "fit")),
    Library("JAX", "jax_peer", ("jax", "jaxlib"), ("layer",)),
    Library("ONNX Runtime", "onnx_peer", ("onnxruntime", "onnx"), ("layer",)),
]


class Settings(NamedTuple):
    """How to measure: threads of each library, rounds, and seconds that a round takes for each call."""

    threads: int
    rounds: int
    seconds: float


class Process:
    """A library in a process of its own; it sleeps unless it is asked."""

    def __init__(self, module: str, settings: Settings) -> None:
        self.module, self.settings = module, settings
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "benchmarks.comparison.serve",
                f"benchmarks.peers.{module}",
                str(settings.threads),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(settings.threads),
        )

    def ask(self, task: str, arguments: list, least: int = 3) -> dict[str, float]:
        """One round of a task: milliseconds of each of its calls."""
        return self._request(task=task, arguments=arguments, seconds=self.settings.seconds, least=least)

    def results(self, task: str, arguments: list) -> dict[str, np.ndarray]:
        """The arrays that a task computes."""
        with tempfile.TemporaryDirectory() as folder:
            path = str(Path(folder, "results.npz"))
            self._request(task=task, arguments=arguments, seconds=self.settings.seconds, save=path)
            with np.load(path) as arrays:
                return dict(arrays)

    def _request(self, **request: Any) -> dict[str, float]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        time.sleep(SECONDS_TO_FALL_ASLEEP)
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the process of {self.module} ended, see above: {request}")
        return json.loads(answer)

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.communicate()


def environment(threads: int) -> dict[str, str]:
    """Of a library's process; peers stay on the CPU also where there is a GPU."""
    count = str(threads)
    return {**os.environ, "NUMBARNN_NUM_THREADS": count, "OMP_NUM_THREADS": count, "JAX_PLATFORMS": "cpu"}
