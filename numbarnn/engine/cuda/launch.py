"""Launches of kernels on the GPU, and series of launches that come again as one.

Kernels run on the stream that CuPy works on, so that all is done in the order in which it was asked for.
"""

import ctypes
import functools
import math
import struct
import threading
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numba.core import types
from numba.np.numpy_support import from_dtype

from numbarnn.engine.cuda.arrays import arrays
from numbarnn.engine.cuda.device import SIMULATED, CompiledFunction
from numbarnn.jit.compile_cache import compile_clock

THREADS = 128  # of a block in which every thread has a number of its own
MOST_REMEMBERED = 4096  # arrays


class Described(NamedTuple):
    """An argument of a kernel as the driver takes it.

    code : str
        What decides about the code to be compiled: dtype, dimensions and order of an array.
    kind : Numba type
        The same for the compiler.
    layout : str
        The parameters that it becomes, in the letters of ``struct``: each takes eight bytes.
    values : tuple of numbers
        The parameters.
    """

    code: str
    kind: Any
    layout: str
    values: tuple[Any, ...]


PADDED_TO_EIGHT_BYTES = {"f4": "f4x", "f8": "d", "i8": "q", "u8": "Q", "b1": "?7x"}


@functools.lru_cache(MOST_REMEMBERED)
def _described(pointer: int, shape: tuple[int, ...], strides: tuple[int, ...], dtype: np.dtype) -> Described:
    """An array of the GPU; descriptions are remembered, and do not keep the memory: whoever launches a kernel
    has the array."""
    size = math.prod(shape)
    in_order = size == 0 or strides == _strides_in_order(shape, dtype.itemsize)
    kind = types.Array(from_dtype(dtype), len(shape), "C" if in_order else "A")
    code = f"{dtype.str}{len(shape)}{kind.layout}"
    no_owner = (0, 0)
    return Described(
        code, kind, "q" * (5 + 2 * len(shape)), (*no_owner, size, dtype.itemsize, pointer, *shape, *strides)
    )


def _strides_in_order(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    strides = []
    for length in reversed(shape):
        strides.append(itemsize)
        itemsize *= length
    return tuple(reversed(strides))


@functools.cache
def _described_number(dtype: np.dtype) -> Described:
    """What all numbers of a dtype have in common; the value is put in later."""
    layout = PADDED_TO_EIGHT_BYTES[dtype.str[1:]]
    return Described(dtype.str, from_dtype(dtype), layout, ())


NO_ARRAYS = Described("()", types.Tuple(()), "", ())


def _described_tuple(parts: Sequence[Described]) -> Described:
    """A tuple of arrays, which becomes the parameters of one after the other: none where it is empty."""
    if not parts:
        return NO_ARRAYS
    codes, kinds, layouts, values = zip(*parts, strict=True)
    return Described(
        f"({','.join(codes)})", types.BaseTuple.from_types(kinds), "".join(layouts), sum(values, ())
    )


PYTHON_NUMBERS = {bool: np.dtype(bool), int: np.dtype(np.int64), float: np.dtype(np.float64)}


class Launcher:
    """A kernel compiled for arguments of certain types, and the place where the driver reads them.

    Numba takes 1 to 3 microseconds an argument to bring them there; this takes a third of it.
    """

    def __init__(self, kernel: Any, arguments: Sequence[Described]) -> None:
        self.function = CompiledFunction(kernel, tuple(argument.kind for argument in arguments))
        layout = "".join(argument.layout for argument in arguments)
        self._structure = struct.Struct(f"<{layout}")
        count = self._structure.size // 8
        self._slots = (ctypes.c_int64 * count)()
        first = ctypes.addressof(self._slots)
        self._pointers = (ctypes.c_void_p * count)(*range(first, first + 8 * count, 8))
        self._address = ctypes.addressof(self._pointers)
        self._lock = threading.Lock()  # of the slots, until the driver has read them

    def __call__(
        self,
        blocks: int,
        threads: int,
        shared_bytes: int,
        stream: int,
        values: Sequence[Any],
        together: bool = False,
    ) -> None:
        if shared_bytes > 0:
            self.function.allow_shared_memory(shared_bytes)
        with self._lock:
            self._structure.pack_into(self._slots, 0, *values)
            start = self.function.launch_together if together else self.function.launch
            start(blocks, threads, shared_bytes, stream, self._address)


_launchers: dict[tuple[Any, ...], Launcher] = {}


def _writeable(value: Any) -> Any:
    """An argument for the simulator, which writes all arrays back, also those that a kernel only reads."""
    return value.copy() if isinstance(value, np.ndarray) and not value.flags.writeable else value


def launch(
    kernel: Any, blocks: int, threads: int, shared_bytes: int, *arguments: Any, together: bool = False
) -> None:
    """Run a kernel; arrays, and tuples of them, are those of `arrays`. `together`: its blocks wait for one
    another."""
    if SIMULATED:
        kernel[blocks, threads, 0, shared_bytes](*map(_writeable, arguments))
        return
    xp = arrays()
    described: list[Described] = []
    values: list[Any] = []
    for value in arguments:
        if isinstance(value, xp.ndarray):
            argument = _described(value.data.ptr, value.shape, value.strides, value.dtype)
            values += argument.values
        elif isinstance(value, tuple):
            argument = _described_tuple(
                [_described(part.data.ptr, part.shape, part.strides, part.dtype) for part in value]
            )
            values += argument.values
        else:
            argument = _described_number(PYTHON_NUMBERS.get(type(value)) or value.dtype)
            values.append(value)
        described.append(argument)
    key = (kernel, *[argument.code for argument in described])
    launcher = _launchers.get(key)
    if launcher is None:
        with compile_clock.compiling():
            launcher = _launchers[key] = Launcher(kernel, described)
    launcher(blocks, threads, shared_bytes, xp.cuda.get_current_stream().ptr, values, together)


def launch_each(kernel: Any, count: int, *arguments: Any) -> None:
    """Run a kernel that has a thread for each of so many numbers; it leaves alone what is beyond."""
    if count > 0:
        launch(kernel, -(-count // THREADS), THREADS, 0, *arguments)


class CapturedLaunches:
    """Many launches and products that may come again with the same arrays: from the second time on they are
    one launch, of a CUDA graph.

    Parameters
    ----------
    capture : callable, optional
        Takes a function that launches, and returns one that launches all of it as one.
    """

    MOST_KEPT = 4  # graphs: a fit has full batches, and the rest of an epoch

    def __init__(self, capture: Callable[[Callable[[], None]], Callable[[], None]] | None = None) -> None:
        self._capture = capture or _captured
        self._graphs: dict[Hashable, Callable[[], None] | None] = {}  # the latest used at the end

    def run(self, work: Callable[[], None], key: Hashable) -> None:
        """Do `work`, which is the same for the same `key`: places of arrays, sizes.

        A new key is worth no graph yet, for it may not come again; and kernels are compiled by then.
        """
        if key not in self._graphs:
            self._graphs[key] = None
            if len(self._graphs) > self.MOST_KEPT:
                del self._graphs[next(iter(self._graphs))]
            work()
            return
        graph = self._graphs.pop(key) or self._capture(work)
        self._graphs[key] = graph
        graph()


def _captured(work: Callable[[], None]) -> Callable[[], None]:
    """`work` as a CUDA graph."""
    if SIMULATED:
        return work
    xp = arrays()
    stream, pool = xp.cuda.Stream(non_blocking=True), xp.cuda.MemoryPool()
    # What is allocated on the way must belong to nobody else as long as there is the graph.
    with xp.cuda.using_allocator(pool.malloc), stream:
        stream.begin_capture()
        work()
        graph = stream.end_capture()

    def replay(pool: Any = pool) -> None:
        graph.launch(xp.cuda.get_current_stream())

    return replay


def buffer_key(array: Any) -> Hashable:
    """Where an array lies and how, for the key of a `CapturedLaunches`."""
    pointer = array.ctypes.data if SIMULATED else array.data.ptr
    return pointer, array.shape, array.strides
