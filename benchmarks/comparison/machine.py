"""What was measured on what: the lines above the tables."""

import datetime
import os
import platform
from importlib.metadata import version
from pathlib import Path

import numbarnn
from benchmarks.comparison.libraries import OURS, Library


def processor() -> str:
    """The processor's name as Linux knows it, else as Python does."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def vector_bits() -> int:
    """Bits of a vector register, as this library's kernels use them."""
    from numbarnn.jit.cpu import registers  # loads Numba, so only when all is measured

    return 8 * registers().width


def available_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def describe(libraries: list[Library], threads: int) -> list[str]:
    """Machine, versions and date."""
    needed = [name for library in [OURS, *libraries] for name in library.needs]
    versions = [f"numbarnn {numbarnn.__version__}", *(f"{name} {version(name)}" for name in needed)]
    return [
        f"- {processor()} ({platform.machine()}), {available_cores()} cores, vectors of {vector_bits()} bits,"
        f" {platform.system()}; {threads} {'thread' if threads == 1 else 'threads'} for every library",
        f"- Python {platform.python_version()}, {', '.join(versions)}",
        f"- {datetime.date.today().isoformat()}",
    ]
