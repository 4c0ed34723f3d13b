"""A GPU on a machine without one: the PTX of what the library launches is run by ``ptx_interpreter``.

Kernels are compiled by numba-cuda for a compute capability and launched with the blocks, threads and shared
memory that the library computes, within the limits of the driver. ``fake_cupy.py`` has the arrays.

`install` comes before any other use of ``device="cuda"``, and lasts as long as the process. All parts of the
library that it replaces stand there; everything else is the library's own, from the public methods down to
the arguments of each launch.
"""

import ctypes
import warnings
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import fake_cupy
import numpy as np
from driver_limits import DriverLimits
from fake_cupy import GpuArray
from numba import typeof
from numba.core import types
from numba.np import numpy_support
from ptx_interpreter import GlobalMemory, Kernel

READ_UNWRITTEN = ("bias", "nothing")  # buffers of a layer that count on the zeros of new memory


def type_of(value: Any) -> types.Type:
    """The type that numba-cuda gives to an argument."""
    if isinstance(value, tuple):
        return types.NamedTuple(tuple(map(type_of, value)), type(value))
    if not isinstance(value, np.ndarray):
        return typeof(value)
    is_broadcast = 0 in value.strides and value.size > 0
    layout = "C" if value.flags.c_contiguous else "F" if value.flags.f_contiguous else "A"
    return types.Array(numpy_support.from_dtype(value.dtype), value.ndim, "A" if is_broadcast else layout)


def parameters_of(kind: types.Type, value: Any, memory: GlobalMemory) -> Iterator[np.generic]:
    """The parameters of the PTX that numba-cuda makes of an argument."""
    if isinstance(kind, types.BaseTuple):
        for part, element in zip(kind, value, strict=True):
            yield from parameters_of(part, element, memory)
    elif isinstance(kind, types.Array):
        no_owner = (0, 0)
        for number in (
            *no_owner,
            value.size,
            value.itemsize,
            memory.address(value),
            *value.shape,
            *value.strides,
        ):
            yield np.int64(number)
    elif isinstance(kind, types.Boolean):
        yield np.uint8(bool(value))
    elif isinstance(kind, types.Integer):
        yield np.dtype(str(kind)).type(getattr(ctypes, f"c_{kind}")(value).value)
    else:
        yield np.dtype(str(kind)).type(value)


def arrays_in(values: Any) -> Iterator[np.ndarray]:
    for value in values:
        if isinstance(value, tuple):
            yield from arrays_in(value)
        elif isinstance(value, np.ndarray):
            yield value


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
    launches : list of str
        The names of the kernels that were run.
    """

    def __init__(self, capability: tuple[int, int]) -> None:
        self.capability = capability
        self.limits = DriverLimits(capability)
        self.change_text: Callable[[str, str], str] | None = None
        self.launches: list[str] = []
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
        self, dispatcher: Any, blocks: int, threads: int, shared_bytes: int, arguments: tuple[Any, ...]
    ) -> None:
        """Run a kernel, if the driver would."""
        from numba.cuda.core.errors import NumbaPerformanceWarning

        arrays = list(arrays_in(arguments))
        if not all(isinstance(array, GpuArray) for array in arrays):
            warnings.warn(NumbaPerformanceWarning("Host array used in CUDA kernel"), stacklevel=2)
        kinds = tuple(map(type_of, arguments))
        kernel = self.compiled(dispatcher, kinds)
        self.limits.check(dispatcher, blocks, threads, kernel.static_shared_bytes, shared_bytes)
        memory = GlobalMemory(arrays)
        parameters = [
            parameter
            for kind, argument in zip(kinds, arguments, strict=True)
            for parameter in parameters_of(kind, argument, memory)
        ]
        kernel.run(blocks, threads, shared_bytes, parameters, memory)
        memory.copy_back()
        self.launches.append(dispatcher.py_func.__name__)

    def call(self, configuration: Any, *arguments: Any) -> None:
        """Call what ``kernel[blocks, threads, stream, shared_bytes]`` of numba-cuda gives."""
        (blocks, *_), (threads, *_) = configuration.griddim, configuration.blockdim
        self.launch(configuration.dispatcher, blocks, threads, configuration.sharedmem, arguments)


def array_at(described: dict[str, Any], sync: bool) -> GpuArray:
    """``cuda.from_cuda_array_interface``."""
    return np.asarray(SimpleNamespace(__array_interface__=described)).view(GpuArray)


def install(capability: tuple[int, int]) -> FakeGPU:
    """Put the GPU in place."""
    from numba import cuda
    from numba.cuda import dispatcher

    gpu = FakeGPU(capability)
    device = SimpleNamespace(
        compute_capability=capability, MAX_SHARED_MEMORY_PER_BLOCK_OPTIN=gpu.limits.most_shared_memory
    )
    cuda.get_current_device = dispatcher.get_current_device = lambda: device
    cuda.from_cuda_array_interface = array_at
    cuda.as_cuda_array = lambda array: array
    dispatcher._LaunchConfiguration.__call__ = lambda configuration, *arguments: gpu.call(
        configuration, *arguments
    )
    fake_cupy.install()

    # Other modules of the library take these by name, so they are replaced before those are imported.
    from numbarnn.engine import cuda_arrays, cuda_device, cuda_probe

    cuda_probe._count_gpus = lambda: 1
    cuda_device.allow_shared_memory = lambda kernel, arguments, count: gpu.limits.allow(kernel, count)
    cuda_arrays.on_host = lambda array: array.get() if isinstance(array, GpuArray) else array

    from numbarnn.engine import cuda_launch
    from numbarnn.layers import cuda_passes, passes

    cuda_launch._captured = lambda work: work  # there are no graphs here

    def matrix(buffers, key, rows, columns):
        """A buffer, which holds no numbers when it is new."""
        before = buffers._arrays.get(key)
        view = passes.Buffers.matrix(buffers, key, rows, columns)
        array = buffers._arrays[key]
        if array is not before and key not in READ_UNWRITTEN:
            fake_cupy.fill(array)
        return view

    cuda_passes.CudaBuffers.matrix = matrix
    return gpu
