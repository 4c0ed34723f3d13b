"""Guards: any number of threads read the parameters of a layer, or one thread changes them.

A guard is an int64 array of `make_guard`. Its first three words are a lock, first come, first served, so that
neither a fit nor those who predict meanwhile wait for ever. Who comes takes a ticket; a reader waits until it
is its turn to read, and lets the next reader in; a writer waits until it is its turn to write, when all who
came before have left.

The other words count the changes of the parameters, and say which change the packed weights were made of.
They are written in compiled code together with what they describe: no interrupt comes between.

Compiled code takes and leaves a guard within one call (see ``program.py``). Python does so with a `Hold`,
for what takes more than one call. Before the process forks all guards are taken, so that the child finds
nothing half done.
"""

import os
import sys
import threading
import time
import weakref
from collections.abc import Iterable
from types import FrameType

import llvmlite.binding.ffi
import numpy as np
from numba.core import types
from numba.core.compiler_lock import global_compiler_lock
from numba.extending import overload

from numbarnn.engine.barrier import READS_BEFORE_YIELD, yield_processor
from numbarnn.jit.addresses import array_at
from numbarnn.jit.atomics import atomic_add, atomic_load
from numbarnn.jit.compile_cache import INLINED_OPTIONS, inlined, kernel

TICKET, READ_TURN, WRITE_TURN, CHANGES, PACKED, PACKED_TRANSPOSED = range(6)
GUARD_WORDS = 8
# What a `Hold` does.
READ, WRITE, LET_READERS_IN, LEAVE = range(4)
WayOut = tuple[np.ndarray, int, np.ndarray]  # arguments of `use_guards`: addresses, what to do, the state
MOST_NOTES = 256  # of what a thread held, before those of the past are dropped
# A thread that has waited this often for another one's part of time, about half a millisecond, sleeps.
YIELDS_BEFORE_SLEEP = 200
SLEEP_MICROSECONDS = 50


def make_guard() -> np.ndarray:
    """A guard of parameters that were never packed."""
    guard = np.zeros(GUARD_WORDS, np.int64)
    guard[CHANGES] = 1
    return guard


def rest(yields):
    """Let other threads have the processor; longer, where that has not helped for a while."""
    time.sleep(SLEEP_MICROSECONDS * 1e-6)


if sys.platform == "win32":
    _sleep = types.ExternalFunction("Sleep", types.void(types.uint32))
    _SHORTEST_SLEEP = 1  # milliseconds
else:
    _sleep = types.ExternalFunction("usleep", types.int32(types.uint32))
    _SHORTEST_SLEEP = SLEEP_MICROSECONDS


@overload(rest, jit_options=INLINED_OPTIONS)
def _overload_rest(yields):
    def rest_in_compiled_code(yields):
        if yields < YIELDS_BEFORE_SLEEP:
            yield_processor()
        else:
            _sleep(_SHORTEST_SLEEP)

    return rest_in_compiled_code


@inlined
def _wait_for_turn(guard, turn, ticket):
    reads = yields = 0
    while atomic_load(guard, turn) != ticket:
        reads += 1
        if reads == READS_BEFORE_YIELD:
            reads = 0
            yields += 1
            rest(yields)


@inlined
def begin_reading(guard):
    """Wait until nobody writes, and keep writers out."""
    _wait_for_turn(guard, READ_TURN, atomic_add(guard, TICKET, 1))
    atomic_add(guard, READ_TURN, 1)


@inlined
def end_reading(guard):
    """Leave a guard that is read."""
    atomic_add(guard, WRITE_TURN, 1)


@inlined
def begin_writing(guard):
    """Wait until nobody reads or writes, and keep all others out."""
    _wait_for_turn(guard, WRITE_TURN, atomic_add(guard, TICKET, 1))


@inlined
def end_writing(guard):
    """Leave a guard that is written."""
    atomic_add(guard, READ_TURN, 1)
    atomic_add(guard, WRITE_TURN, 1)


@kernel
def use_guards(addresses, action, held):
    """Take the guards at these addresses, or leave them; held[0] says how they are held, `LEAVE` if not."""
    for i in range(addresses.size):
        guard = array_at(addresses[i], 1, GUARD_WORDS, addresses)[0]
        if action == READ:
            begin_reading(guard)
        elif action == WRITE:
            begin_writing(guard)
        elif held[0] == WRITE:
            atomic_add(guard, READ_TURN, 1)  # the next one may read
            if action == LEAVE:
                end_reading(guard)
        elif held[0] == READ and action == LEAVE:
            end_reading(guard)
    held[0] = READ if action == LET_READERS_IN else action


_NOT_TAKEN = np.array([LEAVE])


class _Mine(threading.local):
    """What the present thread holds: for the address of each guard, the `Hold` and its way out."""

    def __init__(self) -> None:
        self.held: dict[int, tuple[weakref.ref[Hold], WayOut]] = {}

    def how(self, address: int) -> int:
        """How a guard is held of which there is a note."""
        reference, way_out = self.held[address]
        state = way_out[-1]
        if state[0] != LEAVE:
            hold = reference()
            if hold is None or not hold.is_in_use():
                use_guards(*way_out)
        if state[0] == LEAVE:
            del self.held[address]
        return int(state[0])

    def note(self, hold: "Hold", keys: list[int]) -> None:
        """These guards are in a hold now."""
        if len(self.held) > MOST_NOTES:
            self.held = {key: note for key, note in self.held.items() if note[1][-1][0] != LEAVE}
        note = weakref.ref(hold), hold.way_out
        for key in keys:
            self.held[key] = note


_mine = _Mine()


class Guards:
    """Guards that are taken together.

    Parameters
    ----------
    guards : dict of int to int64 array
        From `make_guard`, by their addresses.
    """

    def __init__(self, guards: dict[int, np.ndarray]) -> None:
        self.guards = guards
        # In one order for all threads, so that none waits for another one in a circle.
        self.keys = sorted(guards)
        self.addresses = np.array(self.keys, np.int64)

    @classmethod
    def of(cls, guard: np.ndarray) -> "Guards":
        """One guard."""
        return cls({guard.ctypes.data: guard})

    @classmethod
    def together(cls, parts: "Iterable[Guards]") -> "Guards":
        """All guards of these."""
        guards: dict[int, np.ndarray] = {}
        for part in parts:
            guards |= part.guards
        return cls(guards)

    def are_mine(self) -> bool:
        """Whether the present thread holds one of them."""
        held = _mine.held
        if held:
            for key in self.keys:
                if key in held and _mine.how(key) != LEAVE:
                    return True
        return False


class Hold:
    """Guards held by a thread, for as long as several calls take::

        hold = Hold(guards)
        try:
            hold.take(WRITE)
            ...
        finally:
            use_guards(*hold.way_out)

    An interrupt may come at any place here. Compiled code notes in the hold that it has taken the guards; the
    way out is one call into it, and does nothing where nothing was taken. What the thread holds already
    stays as it is.
    """

    def __init__(self, guards: Guards) -> None:
        self._guards = guards
        self.way_out: WayOut = (guards.addresses, LEAVE, _NOT_TAKEN.copy())
        self._frame = id(sys._getframe(1))

    def is_in_use(self) -> bool:
        """Whether the call that made it goes on, on this thread. A debugger may have ended it right before
        its way out."""
        frame: FrameType | None = sys._getframe()
        while frame is not None and id(frame) != self._frame:
            frame = frame.f_back
        return frame is not None

    def take(self, how: int) -> None:
        """Take the guards, to `READ` or to `WRITE`.

        Raises
        ------
        RuntimeError
            If the thread itself reads what it wants to write.
        """
        taken, keys, (_, _, state) = self._guards.addresses, self._guards.keys, self.way_out
        if self._guards.are_mine():
            held = [_mine.how(key) if key in _mine.held else LEAVE for key in keys]
            if how == WRITE and READ in held:
                raise RuntimeError("parameters cannot be changed in the midst of a prediction with them")
            taken = taken[np.array(held) == LEAVE]
            keys = taken.tolist()
        self.way_out = taken, LEAVE, state
        _mine.note(self, keys)
        use_guards(taken, how, state)

    def let_readers_in(self) -> None:
        """Only read, from now on."""
        taken, _, state = self.way_out
        use_guards(taken, LET_READERS_IN, state)


# ---- forks of the process --------------------------------------------------------------------------------

_all_guards: "list[weakref.ref[Guards]]" = []
_before_fork: list[Hold] = []
_tidy_beyond = 1000


def register(guards: Guards) -> None:
    """Have guards taken before the process forks: those of one layer."""
    global _tidy_beyond
    _all_guards.append(weakref.ref(guards))
    if len(_all_guards) > _tidy_beyond:
        _all_guards[:] = [other for other in _all_guards if other() is not None]
        _tidy_beyond = 2 * len(_all_guards) + 1000


def _registered() -> list[Guards]:
    return [guards for guards in [other() for other in _all_guards] if guards is not None]


def _prepare_fork() -> None:
    """Wait until nobody changes parameters, compiles or talks to LLVM, and keep all from it."""
    if getattr(use_guards, "signatures", True):  # nobody holds anything before it is compiled
        hold = Hold(Guards.together(_registered()))
        _before_fork.append(hold)
        hold.take(READ)
    # In this order: who holds a guard may have to compile before it leaves.
    global_compiler_lock.acquire()
    llvmlite.binding.ffi.lib._lock._lock.acquire()


def _release_locks() -> None:
    llvmlite.binding.ffi.lib._lock._lock.release()
    global_compiler_lock.release()


def _after_fork_in_parent() -> None:
    _release_locks()
    while _before_fork:
        use_guards(*_before_fork.pop().way_out)


def _after_fork_in_child() -> None:
    """Only this thread is left: nobody holds anything."""
    _release_locks()
    _before_fork.clear()
    for _, (_, _, state) in _mine.held.values():
        state[0] = LEAVE
    _mine.held.clear()
    for guards in _registered():
        for guard in guards.guards.values():
            guard[:CHANGES] = 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_prepare_fork,
        after_in_parent=_after_fork_in_parent,
        after_in_child=_after_fork_in_child,
    )
