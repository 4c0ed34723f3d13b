"""Sums over many rows, in blocks: none adds one small number after the other to a large one.

In float32 a plain sum of a million equal numbers is off by a per cent. So a sum of rows is kept in up to
three *levels*, arrays that follow one another: level 0 takes the rows of a block, level 1 the sums of blocks,
level 2 the sums of `BLOCKS_AT_ONCE` blocks. At the end the levels are added up. When a block ends depends on
the number of rows alone, and a sum that fits one level is the same where there are three.
"""

from numbarnn.engine.tile import WEIGHT_CHUNK_ROWS
from numbarnn.jit.compile_cache import inlined, noinline
from numbarnn.jit.vector_memory import load, store
from numbarnn.jit.vectors import lane_count, zero_like

# A block is a few of the chunks that rows come in. Its rows are added one by one: off by 4e-6 at worst.
BLOCK_ROWS = max(1, 256 // WEIGHT_CHUNK_ROWS) * WEIGHT_CHUNK_ROWS
BLOCKS_AT_ONCE = 32
# Up to here one block is enough: small batches pay for no levels.
ONE_BLOCK_ROWS = 4 * BLOCK_ROWS
# Numbers added one by one in plain loops: off by 1e-6 at worst.
SUMMED_AT_ONCE = 64


def level_count(rows: int) -> int:
    """Levels of a sum of at most so many rows."""
    return 1 + (rows > ONE_BLOCK_ROWS) + (rows > BLOCKS_AT_ONCE * BLOCK_ROWS)


@inlined
def blocks_ended(rows, total):
    """How many blocks there are when so many rows of all are added, if one ends there and more rows follow;
    else 0."""
    if total <= ONE_BLOCK_ROWS or rows >= total or rows % BLOCK_ROWS != 0:
        return 0
    return rows // BLOCK_ROWS


@inlined
def _move(values, first, stop, distance):
    for i in range(first, stop, lane_count(values)):
        value = load(values, i)
        store(values, distance + i, load(values, distance + i) + value)
        store(values, i, zero_like(value))


@noinline
def end_block(values, first, stop, level_size, blocks):
    """The elements `first` to `stop` of level 0 are added to those of level 1, `level_size` elements on,
    and begin anew; where `blocks` blocks fill level 1, so does that with level 2."""
    _move(values, first, stop, level_size)
    if blocks % BLOCKS_AT_ONCE == 0:
        _move(values, level_size + first, level_size + stop, level_size)


@inlined
def add_up(values, size, first, stop):
    """The elements from `first` to `stop` of the first `size` get the sum of themselves and of what is
    `size`, 2 `size` ... elements behind them."""
    for begin in range(size, values.size, size):
        for i in range(first, stop, lane_count(values)):
            store(values, i, load(values, i) + load(values, begin + i))
