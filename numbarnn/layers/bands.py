"""Where the gates and states of a batch stand in memory when several threads work on its rows.

In packed order the rows of all threads follow one another at every step. The processor fetches ahead, beyond
the end of a thread's rows into lines that the next thread is writing, which cost a third of the time of a
small layer. So what a pass alone sees is kept in *bands*, one for each thread: a band holds the steps of its
rows in packed order, apart from all others.
"""

import functools

import numpy as np

from numbarnn.engine.compile_cache import kernel
from numbarnn.sequences import Layout

GAP_ROWS = 64  # between the bands of an array with one row a sequence


@kernel
def _place_bands(cuts, active, lengths, gate_offset, slot, gate_rows, slot_rows, next_slot_rows,
                 first_state_rows, last_state_rows, carry_rows):  # fmt: skip
    """Fill in the arrays of `Bands`, which names them."""
    begin = 0
    for band in range(cuts.size - 1):
        first, count = cuts[band], cuts[band + 1] - cuts[band]
        slot[band, 0] = begin + first
        done = 0
        for t in range(active.size):
            gate_offset[band, t] = begin + done
            slot[band, t + 1] = begin + first + count + done
            done += min(max(active[t] - first, 0), count)
        gate_offset[band, active.size] = begin + done
        begin += done
        for b in range(first, first + count):
            carry_rows[b] = b + GAP_ROWS * band
            first_state_rows[b] = slot[band, 0] + b - first
            last_state_rows[b] = slot[band, lengths[b]] + b - first
    n = 0
    for t in range(active.size):
        for band in range(cuts.size - 1):
            for b in range(cuts[band], min(cuts[band + 1], active[t])):
                gate_rows[n] = gate_offset[band, t] + b - cuts[band]
                slot_rows[n] = slot[band, t] + b - cuts[band]
                next_slot_rows[n] = slot[band, t + 1] + b - cuts[band]
                n += 1


class Bands:
    """The bands of a batch.

    Parameters
    ----------
    layout : Layout
        The batch.
    cuts : int64 array (bands + 1,)
        Band p has the places from cut p to cut p + 1.

    Attributes
    ----------
    count : int
        How many bands there are.
    gate_offset : int64 array (bands, T + 1)
        Step t of the first place of band p is row ``gate_offset[p, t]`` of a matrix of N rows.
    slot : int64 array (bands, T + 1)
        Where slot s of band p begins in a matrix of B + N states; see ``engine/scan.py``.
    gate_rows, slot_rows, next_slot_rows : int64 arrays (N,)
        For each step in packed order, its row among the gates, and those of its slots t and t + 1 among the
        states.
    first_state_rows, last_state_rows : int64 arrays (B,)
        For each place, its rows in slot 0 and in the slot of its length.
    carry : int64 array (bands,)
        The first row of band p in a matrix of `carry_count` rows, one for each place and gaps between.
    carry_rows : int64 array (B,)
        Each place's row in such a matrix.
    """

    def __init__(self, layout: Layout, cuts: np.ndarray) -> None:
        self.layout, self.cuts = layout, cuts
        self.count = cuts.size - 1
        rows, steps, total = layout.rows, layout.steps, layout.total
        self.gate_offset = np.empty((self.count, steps + 1), np.int64)
        self.slot = np.empty((self.count, steps + 1), np.int64)
        self.gate_rows, self.slot_rows, self.next_slot_rows = np.empty((3, total), np.int64)
        self.first_state_rows, self.last_state_rows, self.carry_rows = np.empty((3, rows), np.int64)
        _place_bands(
            cuts, layout.active, layout.lengths, self.gate_offset, self.slot, self.gate_rows, self.slot_rows,
            self.next_slot_rows, self.first_state_rows, self.last_state_rows, self.carry_rows,
        )  # fmt: skip
        self.carry = cuts[:-1] + GAP_ROWS * np.arange(self.count)
        self.carry_count = rows + GAP_ROWS * (self.count - 1)

    @functools.cached_property
    def next_slot(self) -> np.ndarray:
        """`slot` without slot 0: where the outputs of each step stand, forward in time, int64 (bands, T)."""
        return np.ascontiguousarray(self.slot[:, 1:])

    @functools.cached_property
    def packed_offset(self) -> np.ndarray:
        """Where step t of band p begins in a matrix in packed order, int64 (bands, T)."""
        return self.layout.offset[:-1] + self.cuts[:-1, None]
