"""Sums over many rows: none adds one small number after the other to a large one.

In float32 a plain sum of a million equal numbers is off by a per cent. So sums of more than `LEVEL_ROWS` rows
are added up in *blocks*, each as short sums are, and then the blocks. Every `LEVEL_ROWS` rows these sums go
over into two numbers that have twice the precision together, `high` and `low`: the second one gets what
rounding takes from the first (D. E. Knuth, The Art of Computer Programming, volume 2, section 4.2.2, theorem
B). They stand one and two *levels* behind: a level is an array as large as the sums. Where a block ends
depends on the number of rows alone. Kernels for so many rows are compiled when they are first needed.

The gradients of a cell's vectors have the same levels, which take in each block of `SUMMED_AT_ONCE` steps.
"""

from numbarnn.engine.tile import WEIGHT_CHUNK_ROWS
from numbarnn.jit.compile_cache import inlined, noinline
from numbarnn.jit.vector_memory import load, store
from numbarnn.jit.vectors import absolute, lane_count, select, zero_like

# Up to this number of rows biases are added up row by row, beyond it chunk by chunk.
ONE_BLOCK_ROWS = 1024
# A block of a matrix product is a chunk of its rows. Added one by one they are off by 4e-6 at worst, where
# all numbers are alike. Up to this number of rows there is one level, and each product is added to the sums
# at once.
LEVEL_ROWS = 8192 // WEIGHT_CHUNK_ROWS * WEIGHT_CHUNK_ROWS
LEVELS = 3
# Numbers that are added one by one where a block costs next to nothing: off by 1e-6 at worst.
SUMMED_AT_ONCE = 64


def level_count(rows: int) -> int:
    """Levels of a sum of at most so many rows."""
    return LEVELS if rows > LEVEL_ROWS else 1


@inlined
def move_block(values, i, level_size):
    """The vector at `i` is added to the levels behind it and begins anew."""
    block, high = load(values, i), load(values, i + level_size)
    total = high + block
    of_block = total - high
    rounded_off = (high - (total - of_block)) + (block - of_block)
    store(values, i, zero_like(block))
    store(values, i + level_size, total)
    store(values, i + 2 * level_size, load(values, i + 2 * level_size) + rounded_off)


@noinline
def end_level(values, first, stop, level_size, is_first):
    """`move_block` of the elements `first` to `stop`. The first time the levels behind are cleared before."""
    for i in range(first, stop, lane_count(values)):
        if is_first:
            store(values, i + level_size, zero_like(load(values, i)))
            store(values, i + 2 * level_size, zero_like(load(values, i)))
        move_block(values, i, level_size)


@noinline
def end_sum(values, first, stop, level_size):
    """The elements `first` to `stop` become the sums of all their levels."""
    for i in range(first, stop, lane_count(values)):
        low = load(values, i + 2 * level_size)
        # Of an infinite sum `low` is NaN; the sum stays infinite.
        low = select(absolute(low) >= 0.0, low, 0.0)
        store(values, i, load(values, i + level_size) + (load(values, i) + low))


@inlined
def clear_block(block):
    """Zeros in all of an array, before the first block."""
    for i in range(0, block.size, lane_count(block)):
        store(block, i, zero_like(load(block, i)))


@noinline
def add_block(values, first, stop, block):
    """The elements `first` to `stop` get those of `block` added, which begins anew."""
    for i in range(first, stop, lane_count(values)):
        value = load(block, i - first)
        store(values, i, load(values, i) + value)
        store(block, i - first, zero_like(value))
