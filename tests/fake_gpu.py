"""A GPU on a machine without one: the PTX of what the library launches is run by ``ptx_interpreter``.

Kernels are compiled by numba-cuda for a compute capability. They are launched with the blocks, threads,
shared memory and parameters that the library hands to the driver, within its limits. ``fake_cupy.py`` has
the arrays.

`install` comes before any other use of ``device="cuda"``, and lasts as long as the process. What it replaces
stands there; everything else is the library's own, from the public methods down to the bytes of the
parameters.
"""

import ctypes
import warnings
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, NamedTuple

import fake_cupy
import numpy as np
from driver_limits import MOST_SHARED_MEMORY, check_launch
from fake_cupy import STREAM, GpuArray
from numba import typeof
from numba.core import types
from numba.np import numpy_support
from ptx_interpreter import GlobalMemory, Kernel

# Buffers of a layer that count on the zeros of new memory.
READ_UNWRITTEN = ("bias", "nothing", "zeros")
# The numbers that an array becomes: two of an owner that is not there, then these, its shape and its strides.
SIZE, ITEMSIZE, POINTER, SHAPE = range(2, 6)


def type_of(value: Any) -> types.Type:
    """The type that numba-cuda gives to an argument."""
    if isinstance(value, tuple):
        kinds = tuple(map(type_of, value))
        return types.NamedTuple(kinds, type(value)) if hasattr(value, "_fields") else types.Tuple(kinds)
    if not isinstance(value, np.ndarray):
        return typeof(value)
    layout = "C" if value.flags.c_contiguous else "F" if value.flags.f_contiguous else "A"
    return types.Array(numpy_support.from_dtype(value.dtype), value.ndim, layout)


def parameters_of(value: Any) -> Iterator[Any]:
    """The parameters that numba-cuda makes of an argument of a user's kernel."""
    if isinstance(value, tuple):
        for part in value:
            yield from parameters_of(part)
    else:
        yield from (0, 0, value.size, value.itemsize, value.ctypes.data, *value.shape, *value.strides)


def plain_kinds(kinds: Any) -> Iterator[types.Type]:
    """The types without tuples."""
    for kind in kinds:
        if isinstance(kind, types.BaseTuple):
            yield from plain_kinds(kind)
        else:
            yield kind


class Parameters:
    """The parameters of a launch, by the types of its arguments.

    Attributes
    ----------
    arrays : list of ndarray
        The arrays among the arguments, where they lie in the host's memory.
    """

    def __init__(self, kinds: Any, take: Callable[[np.dtype], np.generic]) -> None:
        self.arrays: list[np.ndarray] = []
        self._values: list[Any] = []
        for kind in plain_kinds(kinds):
            if isinstance(kind, types.Array):
                numbers = [take(np.dtype(np.int64)) for _ in range(SHAPE + 2 * kind.ndim)]
                self._values.append(numbers)
                self.arrays.append(array_of(numbers, numpy_support.as_dtype(kind.dtype)))
            else:
                self._values.append(take(numpy_support.as_dtype(kind)))

    def in_memory(self, memory: GlobalMemory) -> list[np.generic]:
        """All parameters, with the addresses that arrays have in a memory."""
        arrays, parameters = iter(self.arrays), []
        for value in self._values:
            if isinstance(value, list):
                address = np.int64(memory.address(next(arrays)))
                parameters += [*value[:POINTER], address, *value[SHAPE:]]
            else:
                parameters.append(value)
        return parameters


def array_of(numbers: list[np.generic], dtype: np.dtype) -> np.ndarray:
    """The array that has these parameters."""
    rank = (len(numbers) - SHAPE) // 2
    shape, strides = (
        tuple(map(int, part)) for part in (numbers[SHAPE : SHAPE + rank], numbers[SHAPE + rank :])
    )
    assert numbers[SIZE] == np.prod(shape), "the size of an array is not that of its shape"
    assert numbers[ITEMSIZE] == dtype.itemsize, "the dtype of an array is not that of the kernel"
    described = {"data": (int(numbers[POINTER]), False), "shape": shape, "strides": strides}
    return np.asarray(SimpleNamespace(__array_interface__={**described, "typestr": dtype.str, "version": 3}))


class Launch(NamedTuple):
    """A launch, and the shared memory of a block."""

    kernel: str
    blocks: int
    threads: int
    static_bytes: int
    dynamic_bytes: int


class FakeGPU:
    """The GPU.

    Parameters
    ----------
    capability : tuple of int
        Its compute capability.

    Attributes
    ----------
    change_text : callable or None
        Takes the name of a kernel and its PTX, and returns the PTX to run: for faults that tests plant.
    launches : list of Launch
        All that were run.
    """

    def __init__(self, capability: tuple[int, int]) -> None:
        self.capability = capability
        self.most_shared_memory = MOST_SHARED_MEMORY[capability]
        self.change_text: Callable[[str, str], str] | None = None
        self.launches: list[Launch] = []
        self._texts: dict[Any, str] = {}
        self._kernels: dict[Any, Kernel] = {}

    def compiled(self, dispatcher: Any, kinds: tuple[types.Type, ...]) -> Kernel:
        """The interpreter's kernel of a function, for arguments of these types."""
        from numba import cuda

        key = dispatcher, kinds
        if key not in self._texts:
            function, signature = dispatcher.py_func, types.void(*kinds)
            self._texts[key], _ = cuda.compile_ptx(function, signature, cc=self.capability)
        if self.change_text is not None:
            return Kernel(self.change_text(dispatcher.py_func.__name__, self._texts[key]))
        if key not in self._kernels:
            self._kernels[key] = Kernel(self._texts[key])
        return self._kernels[key]

    def launch(
        self,
        dispatcher: Any,
        kinds: tuple[types.Type, ...],
        blocks: int,
        threads: int,
        shared_bytes: int,
        allowed_bytes: int | None,
        parameters: Parameters,
    ) -> None:
        """Run a kernel, if the driver would."""
        kernel = self.compiled(dispatcher, kinds)
        launch = Launch(
            dispatcher.py_func.__name__, blocks, threads, kernel.static_shared_bytes, shared_bytes
        )
        registers = dispatcher.targetoptions.get("max_registers") or 0
        check_launch(self.capability, *launch[1:3], registers, *launch[3:], allowed_bytes)

        def run() -> None:
            memory = GlobalMemory(parameters.arrays)
            kernel.run(blocks, threads, shared_bytes, parameters.in_memory(memory), memory)
            memory.copy_back()
            self.launches.append(launch)

        STREAM.do(run)

    def call(self, configuration: Any, *arguments: Any) -> None:
        """Launch a user's kernel: call what ``kernel[blocks, threads]`` of numba-cuda gives."""
        from numba.cuda.core.errors import NumbaPerformanceWarning

        kinds = tuple(map(type_of, arguments))
        parameters = [parameter for argument in arguments for parameter in parameters_of(argument)]
        if any(not isinstance(array, (GpuArray, tuple)) for array in arguments):
            warnings.warn(NumbaPerformanceWarning("Host array used in CUDA kernel"), stacklevel=2)
        values = iter(parameters)
        (blocks, *_), (threads, *_) = configuration.griddim, configuration.blockdim
        taken = Parameters(kinds, lambda dtype: dtype.type(next(values)))
        self.launch(configuration.dispatcher, kinds, blocks, threads, configuration.sharedmem, None, taken)


class FakeFunction:
    """The library's `CompiledFunction`: a kernel as the driver knows it."""

    gpu: FakeGPU

    def __init__(self, kernel: Any, kinds: tuple[types.Type, ...]) -> None:
        self.kernel, self.kinds = kernel, kinds
        self.allowed_bytes: int | None = None

    def allow_shared_memory(self, count: int) -> None:
        self.allowed_bytes = count

    def launch(self, blocks: int, threads: int, shared_bytes: int, stream: int, arguments: int) -> None:
        """Read the parameters as the driver does, from the addresses that stand at an address."""
        places = iter(range(arguments, 1 << 64, ctypes.sizeof(ctypes.c_void_p)))

        def take(dtype: np.dtype) -> np.generic:
            place = ctypes.c_void_p.from_address(next(places)).value
            return np.frombuffer(ctypes.string_at(place, dtype.itemsize), dtype)[0]

        parameters = Parameters(self.kinds, take)
        self.gpu.launch(
            self.kernel, self.kinds, blocks, threads, shared_bytes, self.allowed_bytes, parameters
        )

    # Teams of one block do not wait for others.
    launch_together = launch


def install(capability: tuple[int, int]) -> FakeGPU:
    """Put the GPU in place."""
    from numba import cuda
    from numba.cuda import dispatcher

    gpu = FakeFunction.gpu = FakeGPU(capability)
    device = SimpleNamespace(
        compute_capability=capability,
        MAX_SHARED_MEMORY_PER_BLOCK_OPTIN=gpu.most_shared_memory,
        COOPERATIVE_LAUNCH=0,  # blocks run one after the other
    )
    cuda.get_current_device = dispatcher.get_current_device = lambda: device
    cuda.as_cuda_array = lambda array: array
    dispatcher._LaunchConfiguration.__call__ = lambda *arguments: gpu.call(*arguments)
    fake_cupy.install()

    # Other modules of the library take these by name, so they are replaced before those are imported.
    from numbarnn import devices
    from numbarnn.engine.cuda import arrays
    from numbarnn.engine.cuda import device as cuda_device

    devices._count_gpus = lambda: 1
    cuda_device.CompiledFunction = FakeFunction
    arrays.on_host = lambda array: array.get() if isinstance(array, GpuArray) else array

    from numbarnn.engine.cuda import matmul

    cublas = matmul.CuBLAS(fake_cupy.FakeCuBLAS())
    matmul._library = lambda: cublas

    from numbarnn.layers.cuda.passes import CudaBuffers
    from numbarnn.layers.passes import Buffers

    def matrix(buffers: Any, key: Any, rows: int, columns: int) -> Any:
        """A buffer, which holds no numbers when it is new."""
        before = buffers._arrays.get(key)
        view = Buffers.matrix(buffers, key, rows, columns)
        array = buffers._arrays[key]
        name = key[0] if isinstance(key, tuple) else key
        if array is not before and name not in READ_UNWRITTEN:
            fake_cupy.fill(array)
        return view

    CudaBuffers.matrix = matrix
    return gpu
