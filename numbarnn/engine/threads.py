"""The threads that kernels run on: how many there are, and the team that waits for work.

A worker waits for jobs in compiled code, without the interpreter's lock (see ``fork.py``), and goes to sleep
when for about two milliseconds there was none. No threading layer of Numba is used: OpenMP's kills a child
forked after use, and workqueue aborts the process when two threads call at once.
"""

import functools
import os
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from numbarnn import arguments
from numbarnn.engine.fork import ALONE, make_board, serve

# Reads of the board, one to three milliseconds, before a worker sleeps: the kernels of a training loop follow
# one another faster than that, and waking a thread took 60 to 350 microseconds on the virtual machines where
# it was measured.
READS_BEFORE_SLEEP = 3_000_000

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
    _thread_count = arguments.count("n", n)


class _Worker:
    """A thread that serves the team's board while it is awake."""

    def __init__(self, board: np.ndarray, number: int) -> None:
        self.board = board
        self.number = number
        self.asleep = False
        self._lock = threading.Lock()
        self._wake = threading.Semaphore(0)
        threading.Thread(target=self._live, name="numbarnn", daemon=True).start()

    def _live(self) -> None:
        while True:
            serve(self.board, self.number, READS_BEFORE_SLEEP)
            with self._lock:
                self.asleep = True
            self._wake.acquire()

    def wake(self) -> None:
        """Have the worker serve again. One that is just falling asleep misses this job, which is no harm."""
        with self._lock:
            was_asleep, self.asleep = self.asleep, False
        if was_asleep:
            self._wake.release()


class _Team:
    """The workers of this process; one caller at a time has them."""

    def __init__(self) -> None:
        self.board: np.ndarray | None = None  # made when it is first used
        self.workers: list[_Worker] = []
        self.in_use = threading.Lock()

    def wake(self, count: int) -> np.ndarray:
        """Have this many workers take part; the board to call them by."""
        if self.board is None:
            self.board, self._runner = make_board()
        while len(self.workers) < count:
            self.workers.append(_Worker(self.board, len(self.workers)))
        for worker in self.workers[:count]:
            if worker.asleep:
                worker.wake()
        return self.board


_team = _Team()


def _forget_team() -> None:
    """A forked child has none of its parent's threads."""
    global _team
    _team = _Team()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_team)


def run(kernel: Callable, parts: int, *arguments: Any) -> Any:
    """Call ``kernel(team, *arguments)`` with a team for this many parts.

    The team is `ALONE` for one part, and where another thread has the workers; the result is the same.
    """
    team = _team
    if parts > 1 and team.in_use.acquire(blocking=False):
        try:
            return kernel(team.wake(parts - 1), *arguments)
        finally:
            team.in_use.release()
    return kernel(ALONE, *arguments)


@functools.lru_cache(maxsize=256)
def even_cuts(count: int, parts: int) -> np.ndarray:
    """``range(count)`` in `parts` pieces of nearly equal size: piece p goes from cut p to cut p + 1."""
    return count * np.arange(parts + 1) // parts
