"""Is there a GPU to work on? Asked without loading ``numba.cuda`` or waking the driver.

The management library of NVIDIA's driver answers. Unlike ``cuInit`` it makes no context, takes no memory on
the GPU, and leaves the process free to fork.
"""

import ctypes
import importlib.util
import os
import sys
from typing import Any

from numba.core import config

from numbarnn.arguments import shown

DEVICES = ("cpu", "cuda")
MANAGEMENT_LIBRARY = "nvml.dll" if sys.platform == "win32" else "libnvidia-ml.so.1"
SUCCESS = 0
DLPACK_CUDA = (2, 13)  # memory of a GPU, and memory that it shares with the host
INSTALL = 'pip install "numbarnn[cuda13]", for a driver older than 580 "numbarnn[cuda12]"'


def cuda_available() -> bool:
    """Whether ``device="cuda"`` would work here; asking has no side effect.

    Returns
    -------
    bool
        True where there is an NVIDIA GPU that ``CUDA_VISIBLE_DEVICES`` does not hide, its driver, CuPy and
        numba-cuda.

    Examples
    --------
    >>> import numbarnn
    >>> device = "cuda" if numbarnn.cuda_available() else "cpu"
    """
    return config.ENABLE_CUDASIM or (_count_gpus() > 0 and _has_cupy())


def check_device(device: str) -> str:
    """`device`, or an error that says what is missing.

    Raises
    ------
    ValueError
        If it is neither "cpu" nor "cuda".
    RuntimeError
        If it is "cuda" and there is no GPU.
    ImportError
        If there is one, and CuPy or numba-cuda is missing.
    """
    if device not in DEVICES:
        raise ValueError(f"device must be one of {', '.join(map(repr, DEVICES))}, not {shown(device)}")
    if device == "cuda" and not config.ENABLE_CUDASIM:
        if _count_gpus() == 0:
            raise RuntimeError(
                'device="cuda" needs an NVIDIA GPU and its driver, and none was found here (see'
                ' numbarnn.cuda_available); device="cpu" works everywhere'
            )
        if not _has_cupy():
            raise ImportError(f'device="cuda" needs CuPy and numba-cuda: {INSTALL}')
    return device


def is_on_gpu(array: Any) -> bool:
    """Whether an array of some library lies in the memory of an NVIDIA GPU."""
    if hasattr(array, "__cuda_array_interface__"):
        return True
    return hasattr(array, "__dlpack_device__") and array.__dlpack_device__()[0] in DLPACK_CUDA


def _has_cupy() -> bool:
    return all(importlib.util.find_spec(name) for name in ("cupy", "numba_cuda"))


def _count_gpus() -> int:
    """How many GPUs the driver knows; 0 where it is missing or all are hidden."""
    if os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip() in ("", "-1"):
        return 0
    try:
        driver = ctypes.CDLL(MANAGEMENT_LIBRARY)
    except OSError:
        return 0
    if driver.nvmlInit_v2() != SUCCESS:
        return 0
    count = ctypes.c_uint(0)
    found = driver.nvmlDeviceGetCount_v2(ctypes.byref(count))
    driver.nvmlShutdown()
    return count.value if found == SUCCESS else 0
