"""Meetings: parts of one fork that need each other's results round after round.

A part that waits for another one must be sure that the other one runs. Whether it does is not known when a
kernel forks (see ``fork.py``): a worker may sleep, and without a team parts run one after the other. So
whoever comes first, the *leader*, runs all parts of a round, until every part has a thread; from then on
each thread runs its own part and waits for the others between rounds::

    done = arrive(meeting, part)
    while done < rounds:
        first, stop = take_round(meeting, part, done)
        ...                                # the parts from `first` to `stop` of round number `done`
        done += 1
    leave(meeting, done)

What a meeting costs depends on where the system has put the threads: a tenth of a microsecond on cores that
share a cache, one microsecond on cores far apart. So every now and then a run is a trial: some rounds of it
are timed alone, some together, and the runs up to the next trial go the way that was faster.

A meeting is an int64 array of `make_meeting`.
"""

import sys
import time

import numpy as np
from numba.core import types
from numba.extending import overload

from numbarnn.engine.atomics import atomic_add, atomic_load, atomic_store
from numbarnn.engine.compile_cache import INLINED_OPTIONS, inlined

# Words of a meeting. On a cache line of its own each: how many parts have begun, one more than the first
# round that all are there for, how many have left, and from PROGRESS on the round that each part is in.
# Between runs they are 0. On one more line are the leader's notes, which stay.
LINE_WORDS = 8
ARRIVED, TOGETHER, LEFT, NOTES, PROGRESS = range(0, 5 * LINE_WORDS, LINE_WORDS)
RUNS, LEADER, BEGAN, ALONE_TOOK, BETTER_ALONE, CLOCK_ADDRESS, CLOCK = range(NOTES, NOTES + 7)
WORD_BYTES = 8

# A trial times as many rounds alone as together. The first run of all finds nothing in the caches.
RUNS_A_TRIAL, FIRST_TRIAL = 64, 3
ALONE_FROM, ALONE_TO, TOGETHER_FROM, TOGETHER_TO = 1, 9, 11, 19
WORTH_MEETING = 7 / 8  # of the time alone, for other threads have something better to do

# Looks at a word before the processor is offered to another thread: the system may have put the very
# thread that we wait for on our own core, and NumPy's threads want to work between our kernels.
LOOKS_BEFORE_YIELD = 1000


def make_meeting(parts: int) -> np.ndarray:
    """A meeting of so many parts."""
    meeting = np.zeros(PROGRESS + parts * LINE_WORDS, np.int64)
    meeting[CLOCK_ADDRESS] = meeting.ctypes.data + CLOCK * WORD_BYTES
    return meeting


def read_clock(meeting):
    """The time, in a unit that depends on the system."""
    return time.perf_counter_ns()


if sys.platform == "win32":
    yield_processor = types.ExternalFunction("SwitchToThread", types.int32())
    _read = types.ExternalFunction("QueryPerformanceCounter", types.int32(types.intp))

    @overload(read_clock, jit_options=INLINED_OPTIONS)
    def _overload_read_clock(meeting):
        def count(meeting):
            _read(meeting[CLOCK_ADDRESS])
            return meeting[CLOCK]

        return count
else:
    yield_processor = types.ExternalFunction("sched_yield", types.int32())
    _read = types.ExternalFunction("clock_gettime", types.int32(types.int32, types.intp))
    _MONOTONIC = time.CLOCK_MONOTONIC
    NANOSECONDS = 1_000_000_000

    @overload(read_clock, jit_options=INLINED_OPTIONS)
    def _overload_read_clock(meeting):
        def nanoseconds(meeting):
            _read(_MONOTONIC, meeting[CLOCK_ADDRESS])
            return meeting[CLOCK] * NANOSECONDS + meeting[CLOCK + 1]

        return nanoseconds


@inlined
def wait_for(words, index, least):
    """Wait until a number of a shared array has grown to `least`."""
    looks = 0
    while atomic_load(words, index) < least:
        looks += 1
        if looks == LOOKS_BEFORE_YIELD:
            looks = 0
            yield_processor()


@inlined
def _parts(meeting):
    return (meeting.size - PROGRESS) // LINE_WORDS


@inlined
def arrive(meeting, part):
    """The first round for this part."""
    if atomic_add(meeting, ARRIVED, 1) == 0:
        meeting[RUNS] += 1
        meeting[LEADER] = part
        return 0
    wait_for(meeting, TOGETHER, 1)
    return atomic_load(meeting, TOGETHER) - 1


@inlined
def take_round(meeting, part, done):
    """Begin a round, all parts having done the ones before; which parts to run."""
    parts = _parts(meeting)
    if done <= TOGETHER_TO and meeting[LEADER] == part and meeting[RUNS] % RUNS_A_TRIAL == FIRST_TRIAL:
        _time_round(meeting, done)
    if atomic_load(meeting, TOGETHER) == 0:
        if not _may_meet(meeting, done) or atomic_load(meeting, ARRIVED) < parts:
            return 0, parts
        atomic_store(meeting, TOGETHER, done + 1)
    atomic_store(meeting, PROGRESS + part * LINE_WORDS, done)
    for other in range(parts):
        wait_for(meeting, PROGRESS + other * LINE_WORDS, done)
    return part, part + 1


@inlined
def _may_meet(meeting, done):
    if meeting[RUNS] % RUNS_A_TRIAL == FIRST_TRIAL:
        return done >= ALONE_TO
    return meeting[BETTER_ALONE] == 0


@inlined
def _time_round(meeting, done):
    if done == ALONE_FROM or done == TOGETHER_FROM:
        meeting[BEGAN] = read_clock(meeting)
    elif done == ALONE_TO:
        meeting[ALONE_TOOK] = read_clock(meeting) - meeting[BEGAN]
    elif done == TOGETHER_TO and atomic_load(meeting, TOGETHER) == ALONE_TO + 1:
        took = read_clock(meeting) - meeting[BEGAN]
        meeting[BETTER_ALONE] = 1 if took > WORTH_MEETING * meeting[ALONE_TOOK] else 0


@inlined
def leave(meeting, done):
    """A part has seen its last round."""
    if atomic_load(meeting, TOGETHER) == 0:
        atomic_store(meeting, TOGETHER, done + 1)
    if atomic_add(meeting, LEFT, 1) == _parts(meeting) - 1:
        meeting[:NOTES] = 0
        meeting[PROGRESS:] = 0
