"""Stands in for CuPy and cuBLAS: arrays of the GPU are NumPy's in a class of their own.

As with CuPy, arrays of the host do not mix with them, and new memory holds no number that anybody may count
on. There is one stream, on which all is done at once; what is captured is done when its graph is launched.
"""

import contextlib
import ctypes
import importlib.machinery
import sys
import types
from collections.abc import Callable
from typing import Any

import numpy as np

MEMORY = 1 << 40  # bytes, of the GPU
DTYPES_OF_CUBLAS = {0: ctypes.c_float, 1: ctypes.c_double}
Action = Callable[[], Any]


class Stream:
    """The stream: it does what comes, or writes it down for a graph."""

    def __init__(self) -> None:
        self.captured: list[Action] | None = None

    def do(self, action: Action) -> None:
        if self.captured is None:
            action()
        else:
            self.captured.append(action)

    def result_of(self, compute: Action) -> Any:
        """A new array. While a graph is captured its numbers mean nothing yet."""
        result = as_gpu_array(compute())
        if self.captured is not None:
            place = to_host(result)
            self.captured.append(lambda: np.copyto(place, compute()))
        return result


STREAM = Stream()


class CuPyStream:
    """``cupy.cuda.Stream``."""

    ptr = 0

    def __init__(self, non_blocking: bool = False) -> None:
        pass

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: Any) -> None:
        pass

    def begin_capture(self) -> None:
        STREAM.captured = []

    def end_capture(self) -> Any:
        actions, STREAM.captured = STREAM.captured, None
        return types.SimpleNamespace(launch=lambda stream: [action() for action in actions])

    def synchronize(self) -> None:
        pass

    record = wait_event = lambda self, event: None


class Idle:
    """An event, a pool of memory or a device, with nothing to do."""

    mem_info = (MEMORY, MEMORY)
    malloc = None

    def __init__(self, **options: Any) -> None:
        pass

    def synchronize(self) -> None:
        pass


def refuse_host_arrays(values: Any) -> None:
    for value in values:
        if isinstance(value, np.ndarray) and not isinstance(value, GpuArray) and value.ndim > 0:
            raise TypeError("an array of the host among those of the GPU")


def refuse_in_capture(what: str) -> None:
    if STREAM.captured is not None:
        raise RuntimeError(f"{what} cannot be captured")


class GpuArray(np.ndarray):
    """An array of the GPU."""

    @property
    def data(self):
        return types.SimpleNamespace(ptr=self.ctypes.data)

    def __array_ufunc__(self, ufunc, method, *inputs, out=(), **options):
        refuse_host_arrays((*inputs, *out))
        inputs = [to_host(value) for value in inputs]
        if not out:
            return STREAM.result_of(lambda: getattr(ufunc, method)(*inputs, **options))
        places = tuple(map(to_host, out))
        STREAM.do(lambda: getattr(ufunc, method)(*inputs, out=places, **options))
        return out[0]

    def __setitem__(self, key, values):
        refuse_host_arrays((values,))
        place, values = to_host(self), to_host(values)
        STREAM.do(lambda: place.__setitem__(key, values))

    def get(self) -> np.ndarray:
        refuse_in_capture("a copy to the host")
        return np.array(self)

    def set(self, values: np.ndarray, stream: Any) -> None:
        to_host(self)[...] = values


def as_gpu_array(value: Any) -> Any:
    """A result of NumPy; CuPy has arrays without a shape where NumPy has scalars."""
    return np.asarray(value).view(GpuArray) if isinstance(value, (np.ndarray, np.generic)) else value


def to_host(value: Any) -> Any:
    """The same memory as an array of the host."""
    return value.view(np.ndarray) if isinstance(value, GpuArray) else value


def asarray(values: Any, dtype: Any = None) -> GpuArray:
    if isinstance(values, GpuArray) and dtype in (None, values.dtype):
        return values
    refuse_in_capture("a copy from the host")
    return np.array(values, dtype).view(GpuArray)


def fill(array: np.ndarray) -> np.ndarray:
    """Make the numbers of new memory NaN."""
    if array.dtype.kind == "f":
        to_host(array)[...] = np.nan
    return array


def empty(*arguments: Any, **options: Any) -> GpuArray:
    return fill(np.empty(*arguments, **options)).view(GpuArray)


def function_of_numpy(name: str) -> Any:
    """A function of NumPy for arrays of the GPU."""
    if name.startswith("__"):  # what the interpreter asks of modules, such as their file
        raise AttributeError(f"module 'cupy' has no attribute {name!r}")
    function = getattr(np, name)

    def call(*arguments: Any, **options: Any) -> Any:
        refuse_host_arrays(arguments)
        return STREAM.result_of(lambda: function(*arguments, **options))

    return call


def column_major(flat: np.ndarray, rows: int, columns: int, stride: int, transposed: bool) -> np.ndarray:
    """A matrix of so many rows and columns as cuBLAS finds it in memory."""
    if transposed:
        return column_major(flat, columns, rows, stride, False).T
    return np.lib.stride_tricks.as_strided(
        flat, (rows, columns), (flat.itemsize, stride * flat.itemsize), writeable=True
    )


def numbers_at(pointer: int, count: int, dtype: int) -> np.ndarray:
    kind = DTYPES_OF_CUBLAS[dtype]
    return np.frombuffer((kind * count).from_address(pointer), np.dtype(kind))


class Recorder:
    """A function of cuBLAS that writes down its name and its second argument."""

    def __init__(self, calls: list[Any], name: str) -> None:
        self.calls, self.name, self.status = calls, name, 0

    def __call__(self, handle: Any, first: Any, *others: Any) -> int:
        self.calls.append((self.name, first))
        return self.status


class Gemm:
    """``cublasGemmEx``, by its documentation."""

    def __init__(self, calls: list[Any]) -> None:
        self.calls = calls

    def __call__(
        self, handle, transa, transb, m, n, k, alpha, a, a_kind, lda, b, b_kind, ldb, beta, c, c_kind, ldc,
        computing, algorithm,
    ):  # fmt: skip
        self.calls.append((computing, algorithm))
        first = column_major(numbers_at(a, lda * (m if transa else k), a_kind), m, k, lda, transa)
        second = column_major(numbers_at(b, ldb * (k if transb else n), b_kind), k, n, ldb, transb)
        out = column_major(numbers_at(c, ldc * n, c_kind), m, n, ldc, False)
        scale, share = (numbers_at(pointer, 1, c_kind)[0] for pointer in (alpha, beta))

        def multiply() -> None:
            product = scale * (first @ second)
            out[...] = product if share == 0.0 else product + share * out  # with 0, out is not read

        STREAM.do(multiply)
        return 0


class FakeCuBLAS:
    """The functions of cuBLAS, and what they were called with."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.cublasCreate_v2 = lambda handle: 0
        self.cublasSetStream_v2 = Recorder(self.calls, "stream")
        self.cublasSetWorkspace_v2 = Recorder(self.calls, "workspace")
        self.cublasGemmEx = Gemm(self.calls)


def install() -> None:
    """Put CuPy in place."""
    cupy = types.ModuleType("cupy")
    cupy.__spec__ = importlib.machinery.ModuleSpec("cupy", None)
    cupy.__getattr__ = function_of_numpy
    cupy.ndarray, cupy.asarray, cupy.empty = GpuArray, asarray, empty
    cupy.cuda = types.SimpleNamespace(
        Stream=CuPyStream, Event=Idle, MemoryPool=Idle, Device=Idle, get_current_stream=CuPyStream,
        using_allocator=contextlib.nullcontext,
    )  # fmt: skip
    sys.modules["cupy"] = cupy
    sys.modules["cupyx"] = types.SimpleNamespace(empty_pinned=np.empty)
