"""A small pool of threads that run compiled kernels side by side.

A region is a Python function of a part number that calls kernels, which release the GIL. The caller runs
part 0, workers the others. A worker that has finished spins for a moment in compiled code, without the GIL,
before it goes to sleep: the regions of a training loop follow one another within microseconds, and waking a
sleeping thread costs tens of them.

No threading layer of Numba is used: OpenMP's kills a child forked after use, and workqueue aborts the
process when two threads call at once.
"""

import functools
import itertools
import os
import sys
import threading
from collections.abc import Callable

import numpy as np
from numba.core import types
from numba.extending import intrinsic, overload

from numbarnn.engine.compile_cache import kernel

# Looks at a shared number before going to sleep, about 2 milliseconds. A region that finds its workers awake
# costs 10 microseconds; waking a thread took 60 to 350 on the virtual machines where this was measured.
LOOKS_BEFORE_YIELD = 1000
LOOKS_TO_SETTLE = 10_000  # about 3 microseconds
YIELDS_BEFORE_SLEEP = 3000
YIELDS_FOR_START = 50  # a sleeping worker is not waited for any longer

_thread_count: int | None = None


def get_num_threads() -> int:
    """How many threads kernels use at most.

    All the cores that this process may use, unless ``NUMBARNN_NUM_THREADS`` is set in the environment or
    `set_num_threads` was called.

    Returns
    -------
    int
        The number of threads, at least 1.

    Examples
    --------
    >>> import numbarnn
    >>> numbarnn.get_num_threads() >= 1
    True
    """
    return _default_thread_count() if _thread_count is None else _thread_count


@functools.cache
def _default_thread_count() -> int:
    named = os.environ.get("NUMBARNN_NUM_THREADS")
    if named is None:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not named.isdecimal() or int(named) < 1:
        raise ValueError(f"NUMBARNN_NUM_THREADS must be a whole number from 1 on, not {named!r}")
    return int(named)


def set_num_threads(n: int) -> None:
    """Set how many threads kernels use at most; results do not depend on it, to the last bit.

    Parameters
    ----------
    n : int
        From 1 on. More threads than cores only costs time.

    Raises
    ------
    TypeError
        If `n` is not an integer.
    ValueError
        If `n` is less than 1.

    Examples
    --------
    >>> import numbarnn
    >>> before = numbarnn.get_num_threads()
    >>> numbarnn.set_num_threads(1)
    >>> numbarnn.get_num_threads()
    1
    >>> numbarnn.set_num_threads(before)
    """
    global _thread_count
    if isinstance(n, bool) or not isinstance(n, (int, np.integer)):
        raise TypeError(f"n must be an integer, not {type(n).__name__}")
    if n < 1:
        raise ValueError(f"n must be at least 1, not {n}")
    _thread_count = int(n)


def _read_shared(cell):
    """The first element of an array that another thread writes."""
    return cell[0]


@intrinsic
def _atomic_read(typingctx, cell):
    def codegen(context, builder, sig, args):
        data = context.make_array(sig.args[0])(context, builder, args[0]).data
        return builder.load_atomic(data, ordering="acquire", align=8)

    return types.int64(cell), codegen


@overload(_read_shared)
def _overload_read_shared(cell):
    return lambda cell: _atomic_read(cell)


# Offers the processor to a thread that waits for it: the system may have put the thread that we wait for
# on our own core.
_yield_processor = types.ExternalFunction(
    "SwitchToThread" if sys.platform == "win32" else "sched_yield", types.int32()
)


@kernel
def _wait_for_change(cell, seen, yields):
    """Spin until ``cell[0]`` is no longer `seen`; False when that has not come after so many yields."""
    for _ in range(yields):
        for _ in range(LOOKS_BEFORE_YIELD):
            if _read_shared(cell) != seen:
                # Whoever wrote it holds the interpreter's lock for a few microseconds more. To wait for
                # that lock is to sleep; to come a little later is not.
                for _ in range(LOOKS_TO_SETTLE):
                    _read_shared(cell)
                return True
        _yield_processor()
    return False


class _Worker:
    def __init__(self, number: int) -> None:
        self.ticket = np.zeros(1, np.int64)
        self.started = np.zeros(1, np.int64)
        self.finished = np.zeros(1, np.int64)
        self.lock = threading.Lock()
        self.wake = threading.Semaphore(0)
        self.done = threading.Semaphore(0)
        self.asleep = False
        self.caller_asleep = False
        self.region: Callable[[int], None] | None = None
        self.error: BaseException | None = None
        self.number = number
        threading.Thread(target=self._work, name=f"numbarnn-{number}", daemon=True).start()

    def _work(self) -> None:
        seen = 0
        while True:
            if not _wait_for_change(self.ticket, seen, YIELDS_BEFORE_SLEEP):
                with self.lock:
                    self.asleep = bool(self.ticket[0] == seen)
                if self.asleep:
                    self.wake.acquire()
            seen += 1
            assert self.region is not None
            self.started[0] = seen
            try:
                self.region(self.number)
            except BaseException as error:  # handed to the caller, who raises it
                self.error = error
            self.region = None
            with self.lock:
                self.finished[:] = seen
                wake_caller, self.caller_asleep = self.caller_asleep, False
            if wake_caller:
                self.done.release()

    def start(self, region: Callable[[int], None]) -> None:
        self.region = region
        with self.lock:
            self.ticket += 1
            wake, self.asleep = self.asleep, False
        if wake:
            self.wake.release()

    def join(self) -> BaseException | None:
        if not _wait_for_change(self.finished, self.ticket[0] - 1, YIELDS_BEFORE_SLEEP):
            with self.lock:
                self.caller_asleep = bool(self.finished[0] != self.ticket[0])
                wait = self.caller_asleep
            if wait:
                self.done.acquire()
        error, self.error = self.error, None
        return error


class _Pool:
    def __init__(self) -> None:
        self.workers: list[_Worker] = []
        self.in_use = threading.Lock()

    def run(self, region: Callable[[int], None], parts: int) -> None:
        if parts == 1:
            region(0)
        elif self.in_use.acquire(blocking=False):
            try:
                self._run_side_by_side(region, parts)
            finally:
                self.in_use.release()
        else:
            # Another thread has the workers: the same work, one part after the other.
            for part in range(parts):
                region(part)

    def _run_side_by_side(self, region: Callable[[int], None], parts: int) -> None:
        while len(self.workers) < parts - 1:
            self.workers.append(_Worker(len(self.workers) + 1))
        for worker in self.workers[: parts - 1]:
            worker.start(region)
        # Let them get through the interpreter, one after the other, while the caller does not need it.
        for worker in self.workers[: parts - 1]:
            _wait_for_change(worker.started, worker.ticket[0] - 1, YIELDS_FOR_START)
        own_error: BaseException | None = None
        try:
            region(0)
        except BaseException as error:  # raised below, once no worker uses the caller's buffers any more
            own_error = error
        errors = [own_error, *(worker.join() for worker in self.workers[: parts - 1])]
        for error in errors:
            if error is not None:
                raise error


_pool = _Pool()


def _forget_threads() -> None:
    """A forked child has none of its parent's threads."""
    global _pool
    _pool = _Pool()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_threads)


def run_parts(region: Callable[[int], None], parts: int) -> None:
    """Call ``region(part)`` for every part, side by side where there are several.

    Parameters
    ----------
    region : callable
        Takes the part's number. What it computes must not depend on which thread runs it.
    parts : int
        How many parts there are.
    """
    _pool.run(region, parts)


def even_ranges(count: int, parts: int) -> list[tuple[int, int]]:
    """``range(count)`` cut into `parts` pieces of nearly equal size."""
    cuts = [count * part // parts for part in range(parts + 1)]
    return list(itertools.pairwise(cuts))
