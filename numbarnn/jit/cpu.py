"""What the kernels need to know of the processor: how wide its registers are and how many it has."""

import functools
from typing import NamedTuple

import llvmlite.binding as llvm
import numpy as np
from numba.core import config


class Registers(NamedTuple):
    """The vector registers of a processor: bytes in one, and how many there are."""

    width: int
    number: int


@functools.cache
def registers() -> Registers:
    """Width and number of the vector registers, as Numba's own compiler settings see them."""
    if config.CPU_FEATURES is not None:
        features = {name[1:] for name in config.CPU_FEATURES.split(",") if name.startswith("+")}
    else:
        features = {name for name, present in llvm.get_host_cpu_features().items() if present}
    if "avx512f" in features:
        return Registers(64, 32)
    if "avx2" in features or "avx" in features:
        return Registers(32, 16)
    if "neon" in features:
        return Registers(16, 32)
    return Registers(16, 16)


def lanes(dtype) -> int:
    """How many numbers of `dtype` one vector register holds."""
    return registers().width // np.dtype(dtype).itemsize


def padded(size: int, dtype) -> int:
    """`size` rounded up to whole vectors."""
    width = lanes(dtype)
    return -(-size // width) * width


PANEL_VECTORS = 4 if registers().number == 32 else 2  # in a panel of packed weights: what a tile holds best
