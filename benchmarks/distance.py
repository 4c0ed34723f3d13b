"""How far apart the cores of two threads are: how long it takes them to meet.

Where the system has put the threads decides it, and may change from minute to minute: two hyperthreads of a
core, two cores that share a cache, or two that do not. Work in which threads read what others wrote is then
fast or slow, whoever does it.
"""

import math
import statistics
import time

import numpy as np

from numbarnn.engine.barrier import arrive, leave, make_meeting, take_round
from numbarnn.engine.fork import fork
from numbarnn.engine.threads import run
from numbarnn.jit.compile_cache import inlined, kernel

MEETINGS, ENOUGH, RUNS = 2000, 1000, 100


@inlined
def _meet_part(part, arguments):
    (meeting, together) = arguments
    together[part] = 0
    done = arrive(meeting, part)
    while done < MEETINGS:
        first, stop = take_round(meeting, part, done)
        together[part] += stop - first == 1
        done += 1
    leave(meeting, done)


@kernel
def meet(team, meeting, together):
    """Two threads meet round after round, and do nothing between; counts how often they met."""
    fork(team, 2, _meet_part, (meeting, together))


def meeting_nanoseconds() -> float:
    """How long two threads take to meet, in the middle of many runs; NaN where the second one never came."""
    meeting, together = make_meeting(2, trials=False), np.zeros(2, np.int64)
    taken = []
    for _ in range(RUNS):
        began = time.perf_counter()
        run(meet, 2, meeting, together)
        seconds = time.perf_counter() - began
        if together.min() >= ENOUGH:
            taken.append(1e9 * seconds / together.min())
    return statistics.median(taken) if taken else math.nan
