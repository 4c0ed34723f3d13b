"""The one door to ``numba.cuda``: imported where a GPU is asked for, never before.

On a GPU it is NVIDIA's package numba-cuda: the target that Numba brings cannot ask for shared memory. Under
``NUMBA_ENABLE_CUDASIM=1`` it is Numba's simulator, which runs the threads of a kernel as threads of Python;
NumPy's arrays are then those of the GPU.
"""

from collections.abc import Callable
from typing import Any

from numba import cuda
from numba.core import config

from numbarnn.engine.cuda.kernel_cache import MachineCode, machine_code

SIMULATED = bool(config.ENABLE_CUDASIM)
WARP = 1 if SIMULATED else 32  # threads that run in step: a block has a multiple of them
REGISTERS = 65_536  # of 32 bits, of a multiprocessor
PARTS = 4  # of a multiprocessor
MOST_REGISTERS = 255  # of a thread
MOST_THREADS = 1024  # of a block
SHARED_MEMORY = 48 * 1024  # that a block of any kernel can have; newer GPUs have more where it is asked for


def registers_of(threads: int) -> int:
    """The registers that a thread can have in a block of so many; they are given out by eights.

    A multiprocessor has four parts with a quarter of the registers each, and a warp has all of its in one.
    """
    shared_out = -(-threads // (PARTS * 32)) * PARTS * 32
    return min(MOST_REGISTERS, REGISTERS // shared_out // 8 * 8)


def kernel_for(threads: int) -> Callable:
    """The decorator of a kernel for blocks of so many threads, so that they find registers enough."""
    return cuda.jit if SIMULATED else cuda.jit(max_registers=registers_of(threads))


def device(function: Callable) -> Callable:
    """`function` for kernels to call."""
    return cuda.jit(device=True)(function)


def shared_memory() -> int:
    """The shared memory that a block can have on this GPU, in bytes."""
    if SIMULATED:
        return SHARED_MEMORY
    return cuda.get_current_device().MAX_SHARED_MEMORY_PER_BLOCK_OPTIN


def blocks_together() -> int:
    """How many blocks can wait for one another: one on each multiprocessor of this GPU."""
    if SIMULATED:
        return 1
    device = cuda.get_current_device()
    return device.MULTIPROCESSOR_COUNT if device.COOPERATIVE_LAUNCH else 1


class CompiledFunction:
    """A kernel compiled for arguments of these types, as the driver knows it; of numba-cuda alone."""

    def __init__(self, kernel: Any, kinds: tuple[Any, ...]) -> None:
        from numba.cuda.cudadrv.driver import binding

        device = cuda.get_current_device()

        def compiled() -> MachineCode:
            library = kernel.compile(kinds)._codelibrary
            return MachineCode(library._entry_name, library.get_cubin().code)

        name, code = machine_code(kernel, kinds, device.compute_capability, compiled)
        self._binding, self._device = binding, binding.CUdevice(device.id)
        self._code = code  # the driver reads it for as long as the library is there
        self._library = self._done(binding.cuLibraryLoadData(code, None, None, 0, None, None, 0), "load")
        found = self._done(binding.cuLibraryGetKernel(self._library, name.encode()), "find")
        self._handle = binding.CUfunction(int(found))
        self._kernel = found
        self._allowed = 0

    def _done(self, answer: tuple[Any, ...], what: str) -> Any:
        """What a call of the driver gave, or an error."""
        error, *given = answer
        if error != self._binding.CUresult.CUDA_SUCCESS:
            raise RuntimeError(f"the GPU's driver could not {what}: {error.name}")
        return given[0] if given else None

    def allow_shared_memory(self, count: int) -> None:
        """Let blocks have so many bytes beside the kernel's own arrays.

        It is asked for however few they are: the limit without permission counts the kernel's own arrays too.
        """
        if count > self._allowed:
            attribute = self._binding.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
            answer = self._binding.cuKernelSetAttribute(attribute, count, self._kernel, self._device)
            self._done(answer, f"allow {count} bytes of shared memory")
            self._allowed = count

    def launch(self, blocks: int, threads: int, shared_bytes: int, stream: int, arguments: int) -> None:
        """Start it; `arguments` is the address of the addresses of the arguments."""
        answer = self._binding.cuLaunchKernel(
            self._handle, blocks, 1, 1, threads, 1, 1, shared_bytes, stream, arguments, 0
        )
        self._check_start(answer, blocks, threads, shared_bytes)

    def launch_together(
        self, blocks: int, threads: int, shared_bytes: int, stream: int, arguments: int
    ) -> None:
        """`launch` for blocks that wait for one another: the driver refuses more than can run at one time."""
        answer = self._binding.cuLaunchCooperativeKernel(
            self._handle, blocks, 1, 1, threads, 1, 1, shared_bytes, stream, arguments
        )
        self._check_start(answer, blocks, threads, shared_bytes)

    def _check_start(self, answer: tuple[Any, ...], blocks: int, threads: int, shared_bytes: int) -> None:
        if answer[0] != self._binding.CUresult.CUDA_SUCCESS:
            size = f"{blocks} blocks of {threads} threads with {shared_bytes} bytes of shared memory"
            self._done(answer, f"start {size}")
