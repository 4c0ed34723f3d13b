"""The arrays of the GPU: CuPy's, or NumPy's under the simulator."""

import types
from typing import Any

import numpy as np

from numbarnn.engine.cuda.device import SIMULATED, cuda


def arrays() -> types.ModuleType:
    """The module with NumPy's functions for arrays of the GPU."""
    if SIMULATED:
        return np
    import cupy  # only where there is a GPU

    return cupy


def on_host(array: Any) -> np.ndarray:
    """An array of the GPU in the host's memory."""
    return array if isinstance(array, np.ndarray) else array.get()


def for_kernels(array: np.ndarray) -> Any:
    """An array of the host on the GPU, as users' own kernels take it."""
    return array if SIMULATED else cuda.as_cuda_array(arrays().asarray(array))


def free_bytes() -> float:
    """Memory of the GPU that is free; in the simulator there is no end of it."""
    return float("inf") if SIMULATED else float(arrays().cuda.Device().mem_info[0])


def wait() -> None:
    """Until the GPU has done all that it was given."""
    if not SIMULATED:
        arrays().cuda.Device().synchronize()
