"""The kernels at the end of a step: the norm of the gradients, and the optimisers' updates.

They work on flat arrays, one for each layer. `cuts` divides an array among threads: part p has the
elements from cut p to cut p + 1, in whole blocks, so that no sum depends on the number of threads.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from numbarnn.engine.fork import fork
from numbarnn.engine.threads import even_cuts, get_num_threads
from numbarnn.jit.compile_cache import inlined, kernel

# Sums kept side by side, so that additions do not wait for each other. From this number on the compiler
# makes a vector loop of them (measured: 0.10 ns an element, against 0.28 to 0.33 with 8 to 32 sums).
PARTIAL_SUMS = 64

# Elements whose squares are summed up by themselves; the sums of the blocks are added in their order.
BLOCK = 128 * PARTIAL_SUMS

# What one core wrote, the other one fetches slowly: with 65,536 elements an update on two threads took 16
# microseconds, not 26, and the fit around it 1.7 times as long. Threads pay once the arrays are too large to
# stay in a core's cache (1.2 million elements: 200 and 410 microseconds).
BLOCKS_WORTH_A_THREAD = 64


def cuts_of(size: int) -> np.ndarray:
    """How an array of this size is divided among the threads that pay."""
    return _cuts(size, get_num_threads())


@functools.lru_cache(maxsize=256)
def _cuts(size: int, threads: int) -> np.ndarray:
    blocks = -(-size // BLOCK)
    parts = max(1, min(threads, blocks // BLOCKS_WORTH_A_THREAD))
    return np.minimum(even_cuts(blocks, parts) * BLOCK, size)


@inlined
def _sum_blocks(part, cuts, array, block_sums):
    sums = np.empty(PARTIAL_SUMS)
    for start in range(cuts[part], cuts[part + 1], BLOCK):
        block = array[start : min(start + BLOCK, array.size)]
        for k in range(PARTIAL_SUMS):
            sums[k] = 0.0
        whole = block.size // PARTIAL_SUMS * PARTIAL_SUMS
        runs = block[:whole].reshape(-1, PARTIAL_SUMS)
        for i in range(runs.shape[0]):
            run = runs[i]
            for k in range(PARTIAL_SUMS):
                value = np.float64(run[k])
                sums[k] += value * value
        rest = block[whole:]
        for k in range(rest.size):
            value = np.float64(rest[k])
            sums[k] += value * value
        total = 0.0
        for k in range(PARTIAL_SUMS):
            total += sums[k]
        block_sums[start // BLOCK] = total


@kernel
def sum_blocks(team, cuts, array, block_sums):
    """Sums of the squares of a 1-D array, block by block, in float64; which element goes where depends on its
    place alone."""
    fork(team, cuts.size - 1, _sum_blocks, cuts, array, block_sums)


def count_blocks(size: int) -> int:
    """Blocks of an array of this size."""
    return -(-size // BLOCK)


class UpdateKernel:
    """A compiled update: called with the arguments of `Optimizer.update_kernel`, or recorded.

    Parameters
    ----------
    kernel : callable
        ``kernel(team, cuts, values, gradients, averages..., numbers)``, where `numbers` is an array of the
        limit, the factor and the optimiser's numbers, so that a recorded call can get other ones.
    averages_kept : int
        How many running averages there are.
    """

    def __init__(self, kernel: Callable[..., None], averages_kept: int) -> None:
        self.kernel = kernel
        self.array_count = 2 + averages_kept  # with values and gradients

    def __call__(self, team: np.ndarray, cuts: np.ndarray, *arguments: Any) -> None:
        arrays, numbers = arguments[: self.array_count], arguments[self.array_count :]
        self.kernel(team, cuts, *arrays, np.array(numbers, np.float64))


# In the updates: `limit` and `factor` clip the gradients on the way, an element is brought into
# [-limit, limit] and then multiplied by the factor. `real` rounds a setting to the arrays' dtype once, or a
# float32 loop would run in float64; 1 - x is taken before, while x still has all its digits.


@inlined
def within(value, limit):
    """`value` brought into [-limit, limit]; NaN stays."""
    return limit if value > limit else (-limit if value < -limit else value)


@inlined
def _sgd_part(part, cuts, values, gradients, velocities, numbers):
    limit, factor, learning_rate, momentum = numbers[0], numbers[1], numbers[2], numbers[3]
    nesterov, weight_decay = numbers[4] != 0.0, numbers[5]
    real = values.dtype.type
    bound, share = real(limit), real(factor)
    rate, kept, decay = real(learning_rate), real(momentum), real(weight_decay)
    here = slice(cuts[part], cuts[part + 1])
    values, gradients, velocities = values[here], gradients[here], velocities[here]
    for i in range(values.size):
        gradient = share * within(gradients[i], bound) + decay * values[i]
        velocity = kept * velocities[i] + gradient
        velocities[i] = velocity
        step = gradient + kept * velocity if nesterov else velocity
        values[i] -= rate * step


@kernel
def _sgd(team, cuts, values, gradients, velocities, numbers):
    fork(team, cuts.size - 1, _sgd_part, cuts, values, gradients, velocities, numbers)


sgd = UpdateKernel(_sgd, averages_kept=1)


@inlined
def _rmsprop_part(part, cuts, values, gradients, squares, velocities, numbers):
    limit, factor, learning_rate, alpha = numbers[0], numbers[1], numbers[2], numbers[3]
    eps, momentum, weight_decay = numbers[4], numbers[5], numbers[6]
    real = values.dtype.type
    bound, share = real(limit), real(factor)
    rate, kept, decay, floor = real(learning_rate), real(momentum), real(weight_decay), real(eps)
    old, new = real(alpha), real(1.0 - alpha)
    here = slice(cuts[part], cuts[part + 1])
    values, gradients = values[here], gradients[here]
    squares, velocities = squares[here], velocities[here]
    for i in range(values.size):
        gradient = share * within(gradients[i], bound) + decay * values[i]
        square = old * squares[i] + new * gradient * gradient
        squares[i] = square
        velocity = kept * velocities[i] + gradient / (math.sqrt(square) + floor)
        velocities[i] = velocity
        values[i] -= rate * velocity


@kernel
def _rmsprop(team, cuts, values, gradients, squares, velocities, numbers):
    fork(team, cuts.size - 1, _rmsprop_part, cuts, values, gradients, squares, velocities, numbers)


rmsprop = UpdateKernel(_rmsprop, averages_kept=2)


@inlined
def _adam_part(part, cuts, values, gradients, means, squares, numbers):
    limit, factor, step_size, beta1, beta2 = numbers[0], numbers[1], numbers[2], numbers[3], numbers[4]
    root_scale, eps, weight_decay, shrink = numbers[5], numbers[6], numbers[7], numbers[8]
    real = values.dtype.type
    bound, share = real(limit), real(factor)
    rate, scale, floor = real(step_size), real(root_scale), real(eps)
    decay, kept = real(weight_decay), real(shrink)
    old1, new1, old2, new2 = real(beta1), real(1.0 - beta1), real(beta2), real(1.0 - beta2)
    here = slice(cuts[part], cuts[part + 1])
    values, gradients, means, squares = values[here], gradients[here], means[here], squares[here]
    for i in range(values.size):
        gradient = share * within(gradients[i], bound) + decay * values[i]
        mean = old1 * means[i] + new1 * gradient
        square = old2 * squares[i] + new2 * gradient * gradient
        means[i] = mean
        squares[i] = square
        values[i] = kept * values[i] - rate * mean / (scale * math.sqrt(square) + floor)


@kernel
def _adam(team, cuts, values, gradients, means, squares, numbers):
    fork(team, cuts.size - 1, _adam_part, cuts, values, gradients, means, squares, numbers)


adam = UpdateKernel(_adam, averages_kept=2)
