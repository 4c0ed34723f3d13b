"""How fast this processor can multiply and add at all: chains of fused multiply-adds in registers."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from numbarnn.jit.compile_cache import kernel
from numbarnn.jit.cpu import lanes
from numbarnn.jit.vector_memory import load_run, store_run
from numbarnn.jit.vectors import fma

# Processors start up to two a cycle and finish each four or five cycles later. Many more chains than these
# would not fit the 16 registers of AVX2.
CHAINS = 12
LENGTH = 500_000


@kernel
def run_chains(numbers, length):
    """Every register of `numbers` becomes ``length`` times half of itself plus one, which goes to two."""
    half, one = np.float32(0.5), np.float32(1.0)
    a, b, c, d, e, f, g, h, i, j, k, m = load_run(numbers, 0, 12)
    for _ in range(length):
        a, b, c = fma(a, half, one), fma(b, half, one), fma(c, half, one)
        d, e, f = fma(d, half, one), fma(e, half, one), fma(f, half, one)
        g, h, i = fma(g, half, one), fma(h, half, one), fma(i, half, one)
        j, k, m = fma(j, half, one), fma(k, half, one), fma(m, half, one)
    store_run(numbers, 0, (a, b, c, d, e, f, g, h, i, j, k, m))


class Peak:
    """The chains on several threads at once, float32.

    Attributes
    ----------
    operations : int
        Multiplications and additions in a call of `run`.
    """

    def __init__(self, threads: int) -> None:
        self.pool = ThreadPoolExecutor(threads)
        size = CHAINS * lanes("float32")
        self.numbers = [np.random.default_rng(n).random(size, dtype=np.float32) for n in range(threads)]
        self.operations = 2 * threads * size * LENGTH
        self.run()
        for numbers in self.numbers:
            np.testing.assert_array_equal(numbers, 2.0)

    def run(self) -> None:
        list(self.pool.map(run_chains, self.numbers, [LENGTH] * len(self.numbers)))
