"""The small kernels of a recorded training step: the weight of a batch, and whether the step may be taken.

They are kernels so that a whole step can be recorded (``engine/program.py``), not for their work.
"""

import math

import numpy as np

from numbarnn.engine.fork import fork
from numbarnn.engine.norms import norm_of
from numbarnn.engine.program import FAULT
from numbarnn.jit.compile_cache import inlined, kernel

# Words of the outcome of a step: the weighted sum of the losses, the sum of the scores, the factor of the
# gradients (1 over the weight), the weight, and the norm of the gradients.
LOSS, SCORE, SCALE, WEIGHT, NORM = range(5)
OUTCOME_WORDS = 5
DIVERGED = 0  # in the bindings' FAULT

# As in NumPy's `sum`: up to so many numbers by eight sums side by side, more of them in two halves.
PAIRWISE_BLOCK = 128
SUMS_AT_ONCE = 8
LEVELS = 64  # halves of halves


@inlined
def _sum_block(values, first, stop):
    """The sum of at most `PAIRWISE_BLOCK` numbers."""
    total = 0.0
    if stop - first < SUMS_AT_ONCE:
        for i in range(first, stop):
            total += values[i]
        return total
    sums = np.empty(SUMS_AT_ONCE)
    for k in range(SUMS_AT_ONCE):
        sums[k] = values[first + k]
    whole = first + (stop - first) // SUMS_AT_ONCE * SUMS_AT_ONCE
    for i in range(first + SUMS_AT_ONCE, whole, SUMS_AT_ONCE):
        for k in range(SUMS_AT_ONCE):
            sums[k] += values[i + k]
    total = ((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7]))
    for i in range(whole, stop):
        total += values[i]
    return total


@inlined
def pairwise_sum(values, count):
    """The sum of the first numbers of an array, in the order of NumPy's `sum`."""
    # One entry for each half that is being added up: its end, and the sum of the half before it.
    stops, sums, waits = np.empty(LEVELS, np.int64), np.empty(LEVELS), np.zeros(LEVELS, np.int64)
    depth, first, stop, total = 0, 0, count, 0.0
    while True:
        while stop - first > PAIRWISE_BLOCK:
            half = (stop - first) // 2
            half -= half % SUMS_AT_ONCE
            stops[depth], waits[depth] = stop, 1
            stop = first + half
            depth += 1
        total = _sum_block(values, first, stop)
        while depth > 0 and waits[depth - 1] == 0:
            depth -= 1
            total = sums[depth] + total
        if depth == 0:
            return total
        sums[depth - 1], waits[depth - 1] = total, 0
        first, stop = stop, stops[depth - 1]


@inlined
def _weigh_all(part, given, starts, order, active, offset, weights, outcome):
    for t in range(active.size):
        for b in range(active[t]):
            weights[offset[t] + b] = given[starts[order[b]] + t]
    weight = pairwise_sum(weights, offset[offset.size - 1])
    outcome[WEIGHT] = weight
    outcome[SCALE] = 1.0 / weight if weight > 0.0 else 0.0


@kernel
def weigh(team, given, starts, order, active, offset, weights, outcome):
    """The `given` weights in packed order, as `gather_rows` brings rows there; their sum, and one over it."""
    fork(team, 1, _weigh_all, given, starts, order, active, offset, weights, outcome)


@inlined
def _judge_all(part, losses, scores, weights, offset, block_sums, clipped_sums, ends, clip_norm, outcome,
               numbers, bindings):  # fmt: skip
    loss, score = 0.0, 0.0
    for n in range(offset[offset.size - 1]):
        loss += losses[n] * weights[n]
        score += scores[n]
    outcome[LOSS], outcome[SCORE] = loss, score
    norm = norm_of(block_sums, ends)
    outcome[NORM] = norm
    if not (math.isfinite(loss * outcome[SCALE]) and math.isfinite(norm)):
        bindings[FAULT] = DIVERGED
    if clipped_sums.size > 0:
        norm = norm_of(clipped_sums, ends)
    numbers[1] = clip_norm / norm if norm > clip_norm else 1.0


@kernel
def judge(team, losses, scores, weights, offset, block_sums, clipped_sums, ends, clip_norm, outcome, numbers,
          bindings):  # fmt: skip
    """What a step gave, and whether it is taken: a loss or a norm that is not finite ends the program.

    Into `outcome` go the weighted sum of the losses and the sum of the scores, in the order of the positions,
    and the norm of the gradients; into the second number of `numbers` by which factor to clip them (see
    `clipping_of`).

    `clipped_sums` are `block_sums` of gradients clipped by value; without any the norm is that of the
    gradients themselves.
    """
    fork(team, 1, _judge_all, losses, scores, weights, offset, block_sums, clipped_sums, ends, clip_norm,
         outcome, numbers, bindings)  # fmt: skip


@inlined
def _clip_part(part, cuts, gradients, limit, clipped):
    bound = gradients.dtype.type(limit)
    for i in range(cuts[part], cuts[part + 1]):
        value = gradients[i]
        clipped[i] = bound if value > bound else (-bound if value < -bound else value)


@kernel
def clip_by_value(team, cuts, gradients, limit, clipped):
    """Gradients brought into [-limit, limit]; NaN stays."""
    fork(team, cuts.size - 1, _clip_part, cuts, gradients, limit, clipped)
