"""The threads that kernels run on: how many there are, and the team that waits for work.

A worker waits for jobs in compiled code, without the interpreter's lock (see ``fork.py``), and goes to sleep
when for about two milliseconds there was none. No threading layer of Numba is used: OpenMP's kills a child
forked after use, and workqueue aborts the process when two threads call at once.
"""

import contextlib
import functools
import os
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from numbarnn import arguments
from numbarnn.engine.fork import ALONE, make_board, serve
from numbarnn.engine.processors import processor_count

# Reads of the board, one to three milliseconds, before a worker sleeps: the kernels of a training loop follow
# one another faster than that, and waking a thread took 60 to 350 microseconds on the virtual machines where
# it was measured.
READS_BEFORE_SLEEP = 3_000_000

_thread_count: int | None = None


def get_num_threads() -> int:
    """How many threads kernels use at most.

    What `set_num_threads` said, else the environment's ``NUMBARNN_NUM_THREADS``, else its
    ``NUMBA_NUM_THREADS`` (set by joblib in its workers), else the processors that this process may use, by
    its affinity and by the quota of its group (of a container).

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
    if named is not None:
        if not named.isdecimal() or int(named) < 1:
            raise ValueError(f"NUMBARNN_NUM_THREADS must be a whole number from 1 on, not {named!r}")
        return int(named)
    # Set by pools of processes, so that their workers together have one thread a processor.
    of_numba = os.environ.get("NUMBA_NUM_THREADS", "")
    if of_numba.isdecimal() and int(of_numba) >= 1:
        return int(of_numba)
    return processor_count()


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
    """A thread that serves the team's board while it is awake.

    An interrupt may come at any place where the worker is woken: only the worker itself says that it sleeps,
    and to be woken twice does no harm.
    """

    def __init__(self, board: np.ndarray, number: int) -> None:
        self.board = board
        self.number = number
        self.asleep = True  # its thread starts when it is first woken
        self._wake = threading.Lock()
        self._wake.acquire()  # released by who wakes it
        self._thread = threading.Thread(target=self._live, name="numbarnn", daemon=True)

    def _live(self) -> None:
        while True:
            self.asleep = False
            serve(self.board, self.number, READS_BEFORE_SLEEP)
            self.asleep = True
            self._wake.acquire()

    def wake(self) -> None:
        """Have the worker serve. One that is just falling asleep misses this job, which is no harm."""
        if self._thread.ident is None:
            with contextlib.suppress(RuntimeError):  # another thread was faster
                self._thread.start()
        elif self._wake.locked():
            with contextlib.suppress(RuntimeError):  # another thread was faster
                self._wake.release()


class _Team:
    """The workers of this process."""

    def __init__(self) -> None:
        self.board: np.ndarray | None = None  # made when it is first used
        self.workers: list[_Worker] = []
        self._making = threading.Lock()

    def wake(self, count: int) -> np.ndarray:
        """Have this many workers take part; the board to call them by."""
        board = self.board
        if board is None or len(self.workers) < count:
            board = self._make(count)
        for worker in self.workers[:count]:
            if worker.asleep:
                worker.wake()
        return board

    def _make(self, count: int) -> np.ndarray:
        with self._making:
            if self.board is None:
                self.board, self._runner = make_board()
            board = self.board
            while len(self.workers) < count:
                self.workers.append(_Worker(board, len(self.workers)))
            return board


_team = _Team()


def _forget_team() -> None:
    """A forked child has none of its parent's threads."""
    global _team
    _team = _Team()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_team)


def run(kernel: Callable, parts: int, *arguments: Any) -> Any:
    """Call ``kernel(team, *arguments)`` with a team for this many parts.

    The team is `ALONE` for one part.
    """
    return kernel(team_of(parts) if parts > 1 else ALONE, *arguments)


def team_of(parts: int) -> np.ndarray:
    """A team for two or more parts, whose workers are awake."""
    return _team.wake(parts - 1)


@functools.lru_cache(maxsize=256)
def even_cuts(count: int, parts: int) -> np.ndarray:
    """``range(count)`` in `parts` pieces of nearly equal size: piece p goes from cut p to cut p + 1."""
    return count * np.arange(parts + 1) // parts
