"""Launches of kernels on the GPU, and series of launches that come again as one.

Kernels run on the stream that CuPy works on, so that all is done in the order in which it was asked for.
"""

import contextlib
import functools
from collections.abc import Callable, Hashable
from typing import Any

from numba.core import config

from numbarnn.engine.cuda.arrays import arrays
from numbarnn.engine.cuda.device import SHARED_MEMORY, SIMULATED, allow_shared_memory, cuda
from numbarnn.jit.compile_cache import compile_clock

THREADS = 128  # of a block in which every thread has a number of its own
MOST_REMEMBERED = 4096  # arrays and launches


@functools.lru_cache(MOST_REMEMBERED)
def _as_numba(pointer: int, shape: tuple[int, ...], strides: tuple[int, ...], dtype: str) -> Any:
    """An array of the GPU as Numba takes it.

    To make one takes longer than a launch, so they are remembered. They do not keep the memory: whoever
    launches a kernel has the array.
    """
    described = {
        "data": (pointer, False), "shape": shape, "strides": strides, "typestr": dtype, "version": 3,
    }  # fmt: skip
    # Without waiting for the stream: kernels follow one another on it.
    return cuda.from_cuda_array_interface(described, sync=False)


@functools.lru_cache(MOST_REMEMBERED)
def _configured(kernel: Any, blocks: int, threads: int, stream: int, shared_bytes: int) -> Any:
    """A kernel with the shape of its launch, without Numba's warning that a few blocks leave most of a GPU
    idle: there are as many as sequences."""
    warns, config.CUDA_LOW_OCCUPANCY_WARNINGS = config.CUDA_LOW_OCCUPANCY_WARNINGS, 0
    try:
        return kernel[blocks, threads, cuda.external_stream(stream) if stream else 0, shared_bytes]
    finally:
        config.CUDA_LOW_OCCUPANCY_WARNINGS = warns


def launch(kernel: Any, blocks: int, threads: int, shared_bytes: int, *arguments: Any) -> None:
    """Run a kernel; arrays are those of `arrays`."""
    if SIMULATED:
        kernel[blocks, threads, 0, shared_bytes](*arguments)
        return
    xp = arrays()
    arguments = tuple(
        _as_numba(value.data.ptr, value.shape, value.strides, value.dtype.str)
        if isinstance(value, xp.ndarray)
        else value
        for value in arguments
    )
    with contextlib.nullcontext() if kernel.overloads else compile_clock.compiling():
        if shared_bytes > SHARED_MEMORY:
            allow_shared_memory(kernel, arguments, shared_bytes)
        stream = xp.cuda.get_current_stream().ptr
        _configured(kernel, blocks, threads, stream, shared_bytes)(*arguments)


def launch_each(kernel: Any, count: int, *arguments: Any) -> None:
    """Run a kernel that has a thread for each of so many numbers; it leaves alone what is beyond."""
    if count > 0:
        launch(kernel, -(-count // THREADS), THREADS, 0, *arguments)


class Series:
    """Many launches and products that may come again with the same arrays: from the second time on they are
    one launch, of a CUDA graph.

    Parameters
    ----------
    capture : callable, optional
        Takes a function that launches, and returns one that launches all of it as one.
    """

    def __init__(self, capture: Callable[[Callable[[], None]], Callable[[], None]] | None = None) -> None:
        self._capture = capture or _captured
        self._key: Hashable = None
        self._graph: Callable[[], None] | None = None

    def run(self, work: Callable[[], None], key: Hashable) -> None:
        """Do `work`, which is the same for the same `key`: places of arrays, sizes.

        A new key is worth no graph yet, for it may not come again; and kernels are compiled by then.
        """
        if key != self._key:
            self._key, self._graph = key, None
            work()
            return
        if self._graph is None:
            self._graph = self._capture(work)
        self._graph()


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


def place_of(array: Any) -> Hashable:
    """Where an array lies and how, for the key of a `Series`."""
    pointer = array.ctypes.data if SIMULATED else array.data.ptr
    return pointer, array.shape, array.strides
