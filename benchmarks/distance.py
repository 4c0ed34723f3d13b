"""How far apart the cores of two threads are: how long it takes them to meet.

Where the system has put the threads decides it, and may change from minute to minute: two hyperthreads of a
core, two cores that share a cache, or two that do not. Work in which threads read what others wrote is then
fast or slow, whoever does it.
"""

import math
import statistics
import time

import numpy as np

from numbarnn.engine.barrier import arrive, leave, make_barrier, next_round
from numbarnn.engine.fork import fork
from numbarnn.engine.threads import run
from numbarnn.jit.compile_cache import inlined, kernel

ROUNDS, ENOUGH, RUNS = 2000, 1000, 100


@inlined
def _rounds_of_part(part, barrier, together):
    together[part] = 0
    done = arrive(barrier, part)
    while done < ROUNDS:
        first, stop = next_round(barrier, part, done)
        together[part] += stop - first == 1
        done += 1
    leave(barrier, done)


@kernel
def pass_barrier(team, barrier, together):
    """Two threads meet round after round, and do nothing between; counts how often they met."""
    fork(team, 2, _rounds_of_part, barrier, together)


def barrier_nanoseconds() -> float:
    """How long two threads take to meet, in the middle of many runs; NaN where the second one never came."""
    barrier, together = make_barrier(2, trials=False), np.zeros(2, np.int64)
    taken = []
    for _ in range(RUNS):
        began = time.perf_counter()
        run(pass_barrier, 2, barrier, together)
        seconds = time.perf_counter() - began
        if together.min() >= ENOUGH:
            taken.append(1e9 * seconds / together.min())
    return statistics.median(taken) if taken else math.nan
