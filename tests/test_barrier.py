"""Parts that need each other's results round after round, on as many threads as there are."""

import time

import numpy as np
import pytest

from numbarnn.engine.barrier import (
    ALONE_TO,
    BETTER_ALONE,
    BETWEEN_TRIALS,
    LINE_WORDS,
    NEXT_TRIAL,
    NO_TRIALS,
    NOTES,
    ON_TRIAL,
    PROGRESS,
    TOGETHER_TO,
    arrive,
    leave,
    make_barrier,
    next_round,
)
from numbarnn.engine.fork import ALONE, fork
from numbarnn.engine.threads import run
from numbarnn.jit.compile_cache import inlined, kernel

MODULUS = 1009  # the sums grow with every round


@inlined
def _sum_part(part, barrier, sums, runs_of_parts):
    rounds, parts = sums.shape[0] - 1, sums.shape[1]
    done = arrive(barrier, part)
    while done < rounds:
        first, stop = next_round(barrier, part, done)
        for here in range(first, stop):
            runs_of_parts[done, here] += 1
            for i in range(parts):
                sums[done + 1, here] += sums[done, i] * (1 + (here + i) % 3)
            sums[done + 1, here] %= MODULUS
        done += 1
    leave(barrier, done)


@kernel
def sum_in_rounds(team, barrier, sums, runs_of_parts):
    """Each part of a round needs what every part of the round before wrote."""
    fork(team, sums.shape[1], _sum_part, barrier, sums, runs_of_parts)


def expected_sums(rounds, parts):
    expected = np.ones((rounds + 1, parts), np.int64)
    part = np.arange(parts)
    factors = 1 + (part[:, None] + part) % 3
    for done in range(rounds):
        expected[done + 1] = factors @ expected[done] % MODULUS
    return expected


def check_one_run(barrier, rounds, parts, alone=False):
    sums = np.zeros((rounds + 1, parts), np.int64)
    sums[0] = 1
    runs_of_parts = np.zeros((rounds, parts), np.int64)
    if alone:
        sum_in_rounds(ALONE, barrier, sums, runs_of_parts)
    else:
        run(sum_in_rounds, parts, barrier, sums, runs_of_parts)
    np.testing.assert_array_equal(runs_of_parts, 1)
    np.testing.assert_array_equal(sums, expected_sums(rounds, parts))
    # Ready for the next run; a trial's notes stay.
    assert not barrier[:NOTES].any() and not barrier[PROGRESS:].any()


@pytest.mark.parametrize("parts", [1, 2, 3, 5, 32, 40])
@pytest.mark.parametrize("rounds", [1, 8, TOGETHER_TO + 5])
@pytest.mark.parametrize("trials", [False, True])
def test_rounds_wait_for_each_other(parts, rounds, trials):
    """With more parts than cores, and more than are offered at a time."""
    barrier = make_barrier(parts, trials)
    for _ in range(50):
        check_one_run(barrier, rounds, parts)
    assert (barrier[NEXT_TRIAL] == NO_TRIALS) == (not trials)


def test_every_run_a_trial():
    barrier = make_barrier(2, trials=True)
    for _ in range(200):
        barrier[NEXT_TRIAL] = 0
        check_one_run(barrier, 2 * TOGETHER_TO, 2)
        assert barrier[ON_TRIAL] == 1


def test_trials_are_now_and_then():
    barrier, trials = make_barrier(2, trials=True), 0
    began = time.perf_counter()
    for _ in range(2000):
        check_one_run(barrier, 2, 2)
        trials += barrier[ON_TRIAL]
    assert 1 <= trials <= 1 + (time.perf_counter() - began) / BETWEEN_TRIALS


@pytest.mark.parametrize("better_alone", [0, 1])
def test_either_way_does_the_same(better_alone):
    barrier = make_barrier(2, trials=True)
    for _ in range(100):
        barrier[BETTER_ALONE] = better_alone
        check_one_run(barrier, 2 * TOGETHER_TO, 2)


@pytest.mark.parametrize("rounds", [1, ALONE_TO, ALONE_TO + 1, TOGETHER_TO])
def test_trial_that_ends_too_soon_says_nothing(rounds):
    barrier = make_barrier(1, trials=True)  # one part is always there
    check_one_run(barrier, rounds, 1)
    assert barrier[ON_TRIAL] == 1
    assert barrier[BETTER_ALONE] == 0


def test_parts_one_after_the_other():
    barrier = make_barrier(3, trials=True)
    for _ in range(100):
        barrier[NEXT_TRIAL] = 0
        check_one_run(barrier, 2 * TOGETHER_TO, 3, alone=True)
        assert barrier[BETTER_ALONE] == 1  # nobody came


def test_flags_of_threads_share_no_cache_line():
    assert NOTES % LINE_WORDS == PROGRESS % LINE_WORDS == 0
    assert make_barrier(3, trials=True).size == PROGRESS + 3 * LINE_WORDS
