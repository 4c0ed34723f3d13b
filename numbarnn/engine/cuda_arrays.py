"""The arrays of the GPU: CuPy's, or NumPy's under the simulator."""

import types
from typing import Any

import numpy as np

from numbarnn.engine.cuda_device import SIMULATED, cuda


def arrays() -> types.ModuleType:
    """The module with NumPy's functions for arrays of the GPU."""
    if SIMULATED:
        return np
    import cupy  # only where there is a GPU

    return cupy


def launch(kernel: Any, blocks: int, threads: int, shared_bytes: int, *arguments: Any) -> None:
    """Run a kernel; arrays are those of `arrays`."""
    if not SIMULATED:
        arguments = tuple(
            cuda.as_cuda_array(value) if hasattr(value, "__cuda_array_interface__") else value
            for value in arguments
        )
    kernel[blocks, threads, 0, shared_bytes](*arguments)
