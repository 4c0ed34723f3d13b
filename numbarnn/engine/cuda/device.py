"""The one door to ``numba.cuda``: imported where a GPU is asked for, never before.

Both the target that Numba brings and NVIDIA's package numba-cuda will do; with the latter installed the same
import gives it. Under ``NUMBA_ENABLE_CUDASIM=1`` it is Numba's simulator, which runs the threads of a kernel
as threads of Python; NumPy's arrays are then those of the GPU.
"""

from collections.abc import Callable
from typing import Any

from numba import cuda
from numba.core import config

SIMULATED = bool(config.ENABLE_CUDASIM)
WARP = 1 if SIMULATED else 32  # threads that run in step: a block has a multiple of them
REGISTERS = 65_536  # of 32 bits, of a multiprocessor
MOST_REGISTERS = 255  # of a thread
SHARED_MEMORY = 48 * 1024  # that a block of any kernel can have; newer GPUs have more where it is asked for


def registers_of(threads: int) -> int:
    """The registers that a thread can have in a block of so many; they are given out by eights."""
    return min(MOST_REGISTERS, REGISTERS // threads // 8 * 8)


def kernel_for(threads: int) -> Callable:
    """The decorator of a kernel for blocks of so many threads, so that they find registers enough."""
    return cuda.jit if SIMULATED else cuda.jit(max_registers=registers_of(threads))


def device(function: Callable) -> Callable:
    """`function` for kernels to call."""
    return cuda.jit(device=True)(function)


def shared_memory() -> int:
    """The shared memory that a block can have on this GPU, in bytes."""
    if SIMULATED or cuda.implementation != "NVIDIA":  # Numba's own target cannot ask for more
        return SHARED_MEMORY
    return cuda.get_current_device().MAX_SHARED_MEMORY_PER_BLOCK_OPTIN


_allowed: set[tuple[Any, int]] = set()


def allow_shared_memory(kernel: Any, arguments: tuple[Any, ...], count: int) -> None:
    """Let blocks of a kernel, which takes arguments like these, have so many bytes beside its own arrays."""
    if (kernel, count) in _allowed:
        return
    from numba.cuda.cudadrv.driver import binding, driver  # of numba-cuda: see `shared_memory`

    compiled = kernel.compile(tuple(map(kernel.typeof_pyval, arguments)))
    function = compiled._codelibrary.get_cufunc()
    attribute = binding.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
    driver.cuKernelSetAttribute(attribute, count, function.handle, function.device.id)
    _allowed.add((kernel, count))
