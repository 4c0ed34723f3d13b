"""Barriers: parts of one fork that need each other's results round after round.

A part that waits for another one must be sure that the other one runs. Whether it does is not known when a
kernel forks (see ``fork.py``): a worker may sleep, and without a team parts run one after the other. So
the first one to arrive, the *leader*, runs all parts of a round, until every part has a thread; from then on
each thread runs its own part and waits for the others between rounds::

    done = arrive(barrier, part)
    while done < rounds:
        first, stop = next_round(barrier, part, done)
        ...                                # the parts from `first` to `stop` of round number `done`
        done += 1
    leave(barrier, done)

The cost of a barrier depends on the cores that the threads run on: a tenth of a microsecond on cores that
share a cache, one microsecond on cores far apart. Where rounds are that short, a run every few milliseconds
is a *trial*: some of its rounds are timed with the leader alone, some with all threads. Its other rounds, and
the runs up to the next trial, use what was faster.

A barrier is an int64 array of `make_barrier`.
"""

import sys
import time

import numpy as np
from numba.core import types
from numba.extending import overload

from numbarnn.jit.atomics import atomic_add, atomic_load, atomic_store, relax
from numbarnn.jit.compile_cache import INLINED_OPTIONS, inlined

# Words of a barrier. On a cache line of its own each: how many parts have begun, one more than the first
# round that all have arrived for, how many have left, and from PROGRESS on the round that each part is in.
# Between runs they are 0. On two more lines are the leader's notes, which stay.
LINE_WORDS = 8
ARRIVED, TOGETHER, LEFT, NOTES = range(0, 4 * LINE_WORDS, LINE_WORDS)
PROGRESS = NOTES + 2 * LINE_WORDS
NEXT_TRIAL, LEADER, ON_TRIAL, BEGAN, ALONE_TOOK, BETTER_ALONE, CLOCK = range(NOTES, NOTES + 7)
CLOCK_ADDRESS, APART = NOTES + LINE_WORDS, NOTES + LINE_WORDS + 1
WORD_BYTES = 8

# A trial times as many rounds alone as together.
ALONE_FROM, ALONE_TO, TOGETHER_FROM, TOGETHER_TO = 1, 9, 11, 19
BETWEEN_TRIALS = 0.02  # seconds
NO_TRIALS = np.iinfo(np.int64).max  # in NEXT_TRIAL
DISMISSED = np.iinfo(np.int64).max  # in TOGETHER: no round of this run is for all
WORTH_SHARING = 7 / 8  # of the time alone: other threads may have other work

# Reads of a word before a thread relaxes, and before the processor is offered to another thread: the
# system may have put the very thread that we wait for on our own core, and NumPy's threads want to work
# between our kernels.
READS_BEFORE_RELAXING = 200
READS_BEFORE_YIELD = 1000


def make_barrier(parts: int, trials: bool) -> np.ndarray:
    """A barrier of `parts` parts; with trials, or always together."""
    barrier = np.zeros(PROGRESS + parts * LINE_WORDS, np.int64)
    barrier[CLOCK_ADDRESS] = barrier.ctypes.data + CLOCK * WORD_BYTES
    barrier[NEXT_TRIAL] = 0 if trials else NO_TRIALS
    return barrier


def read_clock(barrier):
    """The time, in a unit that depends on the system."""
    return time.perf_counter_ns()


if sys.platform == "win32":
    yield_processor = types.ExternalFunction("SwitchToThread", types.int32())
    _read = types.ExternalFunction("QueryPerformanceCounter", types.int32(types.intp))
    CLOCK_PAUSE = int(BETWEEN_TRIALS * 1e7)  # it counts ten million a second

    @overload(read_clock, jit_options=INLINED_OPTIONS)
    def _overload_read_clock(barrier):
        def count(barrier):
            _read(barrier[CLOCK_ADDRESS])
            return barrier[CLOCK]

        return count
else:
    yield_processor = types.ExternalFunction("sched_yield", types.int32())
    _read = types.ExternalFunction("clock_gettime", types.int32(types.int32, types.intp))
    _MONOTONIC = time.CLOCK_MONOTONIC
    NANOSECONDS = 1_000_000_000
    CLOCK_PAUSE = int(BETWEEN_TRIALS * NANOSECONDS)

    @overload(read_clock, jit_options=INLINED_OPTIONS)
    def _overload_read_clock(barrier):
        def nanoseconds(barrier):
            _read(_MONOTONIC, barrier[CLOCK_ADDRESS])
            return barrier[CLOCK] * NANOSECONDS + barrier[CLOCK + 1]

        return nanoseconds


@inlined
def wait_for(words, index, least):
    """Wait until a number of a shared array has grown to `least`."""
    reads = 0
    while atomic_load(words, index) < least:
        reads += 1
        if reads > READS_BEFORE_RELAXING:
            relax()
            if reads == READS_BEFORE_YIELD:
                reads = 0
                yield_processor()


@inlined
def _parts(barrier):
    return (barrier.size - PROGRESS) // LINE_WORDS


@inlined
def arrive(barrier, part):
    """The first round for this part."""
    if atomic_add(barrier, ARRIVED, 1) == 0:
        barrier[LEADER], barrier[APART] = part, 0
        if barrier[NEXT_TRIAL] != NO_TRIALS:
            now = read_clock(barrier)
            barrier[ON_TRIAL] = 1 if now > barrier[NEXT_TRIAL] else 0
            if barrier[ON_TRIAL]:
                barrier[NEXT_TRIAL] = now + CLOCK_PAUSE
        if barrier[BETTER_ALONE] and not barrier[ON_TRIAL]:
            atomic_store(barrier, TOGETHER, DISMISSED)
        return 0
    wait_for(barrier, TOGETHER, 1)
    return atomic_load(barrier, TOGETHER) - 1


@inlined
def next_round(barrier, part, done):
    """Begin a round, all parts having done the ones before; which parts to run: all, one or none."""
    parts, leads = _parts(barrier), barrier[LEADER] == part
    if barrier[ON_TRIAL] and leads and done <= TOGETHER_TO:
        _time_round(barrier, done)
    if atomic_load(barrier, TOGETHER) == DISMISSED:
        return 0, parts
    if atomic_load(barrier, TOGETHER) == 0:
        if (barrier[ON_TRIAL] and done != ALONE_TO) or atomic_load(barrier, ARRIVED) < parts:
            return 0, parts
        atomic_store(barrier, TOGETHER, done + 1)
    if barrier[APART] == 0 or done <= barrier[APART]:
        atomic_store(barrier, PROGRESS + part * LINE_WORDS, done)
        for other in range(parts):
            wait_for(barrier, PROGRESS + other * LINE_WORDS, done)
    # The leader said so before it began this round, if it did.
    if barrier[APART] == 0 or done < barrier[APART]:
        return part, part + 1
    return (0, parts) if leads else (part, part)


@inlined
def _time_round(barrier, done):
    if done == ALONE_FROM or done == TOGETHER_FROM:
        barrier[BEGAN] = read_clock(barrier)
    elif done == ALONE_TO:
        barrier[ALONE_TOOK] = read_clock(barrier) - barrier[BEGAN]
        # A run may end before it is known what together takes.
        barrier[BETTER_ALONE] = 1 if atomic_load(barrier, ARRIVED) < _parts(barrier) else 0
    elif done == TOGETHER_TO and atomic_load(barrier, TOGETHER) > 0:
        took = read_clock(barrier) - barrier[BEGAN]
        barrier[BETTER_ALONE] = 1 if took > WORTH_SHARING * barrier[ALONE_TOOK] else 0
        if barrier[BETTER_ALONE]:
            barrier[APART] = done


@inlined
def leave(barrier, done):
    """A part has seen its last round."""
    if atomic_load(barrier, TOGETHER) == 0:
        atomic_store(barrier, TOGETHER, done + 1)
    if atomic_add(barrier, LEFT, 1) == _parts(barrier) - 1:
        barrier[:NOTES] = 0
        barrier[PROGRESS:] = 0
