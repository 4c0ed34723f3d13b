"""Dropout's random numbers: a function of where they are used, not of when.

Each number is a hash of (seed, the caller's row, t, unit), so that it does not depend on how rows are
sorted, padded, batched in memory or divided among threads, and backward computes it again instead of
keeping a mask. The hash is the finaliser of SplitMix64 (Steele, Lea and Flood, "Fast Splittable Pseudorandom
Number Generators", OOPSLA 2014).
"""

import numpy as np

from numbarnn.engine.fork import fork
from numbarnn.jit.compile_cache import inlined, kernel
from numbarnn.jit.vector_memory import load, store
from numbarnn.jit.vectors import lane_count, select, zero_like

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
FIRST_FACTOR = np.uint64(0xBF58476D1CE4E5B9)
SECOND_FACTOR = np.uint64(0x94D049BB133111EB)
SHIFTS = (np.uint64(30), np.uint64(27), np.uint64(31))
HALF = np.uint64(32)
MASK = 0xFFFFFFFFFFFFFFFF


@inlined
def mix(bits):
    """A 64-bit hash."""
    bits = (bits ^ (bits >> SHIFTS[0])) * FIRST_FACTOR
    bits = (bits ^ (bits >> SHIFTS[1])) * SECOND_FACTOR
    return bits ^ (bits >> SHIFTS[2])


def seed_of(*parts: int) -> np.uint64:
    """One 64-bit seed from several integers (the seed of a fit, the step, the layer, ...)."""
    seed = 0
    for part in parts:
        seed = with_part(seed, part)
    return np.uint64(seed)


def with_part(seed: int, part: int) -> int:
    """The seed of the parts that a seed was made of (see `seed_of`), and of one more."""
    return mix_integer(seed ^ (int(part) + int(GOLDEN)))


def mix_integer(bits: int) -> int:
    """`mix` on Python's integers, which is faster than on single NumPy numbers."""
    bits &= MASK
    bits = ((bits ^ bits >> int(SHIFTS[0])) * int(FIRST_FACTOR)) & MASK
    bits = ((bits ^ bits >> int(SHIFTS[1])) * int(SECOND_FACTOR)) & MASK
    return bits ^ bits >> int(SHIFTS[2])


@inlined
def _drop_rows(part, cuts, band_cuts, x, x_offsets, y, y_offsets, size, rate, seed, order, active):
    threshold = np.uint64(rate * 4294967296.0)
    scale, zero = x.dtype.type(1.0 / (1.0 - rate)), x.dtype.type(0.0)
    width, x_stride, y_stride = lane_count(x), x.shape[1], y.shape[1]
    factors = np.zeros(x_stride, x.dtype)
    for band in range(band_cuts.size - 1):
        begin = band_cuts[band]
        for t in range(active.size):
            source, target = x_offsets[band, t] - begin, y_offsets[band, t] - begin
            for b in range(max(cuts[part], begin), min(cuts[part + 1], band_cuts[band + 1], active[t])):
                key = mix(mix(seed[0] + GOLDEN * np.uint64(order[b])) + GOLDEN * np.uint64(t))
                for j in range(size):
                    bits = mix(key + GOLDEN * np.uint64(j)) >> HALF
                    factors[j] = scale if bits >= threshold else zero
                # Apart from the loop above: LLVM would not make vectors of that where x is y itself, and
                # one number at a time is a branch that cannot be predicted.
                source_index, target_index = (source + b) * x_stride, (target + b) * y_stride
                for j in range(0, size, width):
                    factor, values = load(factors, j), load(x, source_index + j)
                    store(y, target_index + j, select(factor > 0.0, values * factor, zero_like(values)))


@kernel
def drop(team, cuts, band_cuts, x, x_offsets, y, y_offsets, size, rate, seed, order, active):
    """y = x with numbers dropped at `rate` and the others scaled by 1 / (1 - rate).

    The rows from ``band_cuts[p]`` to ``band_cuts[p + 1]`` stand from row ``x_offsets[p, t]`` of x on, and
    from ``y_offsets[p, t]`` of y; in packed order there is one band. The seed comes as an array of one
    number, so that a recorded call can get a new one. Rows are whole vectors; y may be x.
    """
    fork(team, cuts.size - 1, _drop_rows, cuts, band_cuts, x, x_offsets, y, y_offsets, size, rate, seed,
         order, active)  # fmt: skip
