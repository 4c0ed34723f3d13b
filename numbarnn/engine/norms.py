"""Norms of several arrays together, from the sums of their blocks."""

import math

from numbarnn.jit.compile_cache import inlined


@inlined
def norm_of(block_sums, ends):
    """The root of the sum of squares of several arrays: blocks ``ends[i]`` to ``ends[i + 1]`` are of array i,
    and are added up first."""
    total = 0.0
    for i in range(ends.size - 1):
        of_array = 0.0
        for block in range(ends[i], ends[i + 1]):
            of_array += block_sums[block]
        total += of_array
    return math.sqrt(total)
