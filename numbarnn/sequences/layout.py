"""The one layout of a batch that kernels see.

They see a matrix of N rows, one for each valid step, ordered by time and within a time by falling length of
the sequence: no padding, no mask.
"""

import functools

import numpy as np

from numbarnn.engine.rows import unpack_rows
from numbarnn.jit.compile_cache import kernel

LAYOUTS_CACHED = 16  # shapes of full arrays whose layouts are made once


@kernel
def _lay_out(lengths, order, sorted_lengths, inverse_order, active, offset):
    """Fill in the arrays of `Layout`, which names them, by a counting sort; equal lengths keep their
    order."""
    steps = active.size
    count = np.zeros(steps + 1, np.int64)
    for length in lengths:
        count[length] += 1
    place = np.empty(steps + 1, np.int64)  # where the next row of each length goes
    longer = 0
    for length in range(steps, -1, -1):
        place[length] = longer
        longer += count[length]
    for row in range(lengths.size):
        length = lengths[row]
        order[place[length]] = row
        sorted_lengths[place[length]] = length
        inverse_order[row] = place[length]
        place[length] += 1
    running, done = lengths.size, 0
    for t in range(steps):
        active[t] = running
        offset[t] = done
        done += running
        running -= count[t + 1]
    offset[steps] = done


def cuts_between(sizes: np.ndarray, parts: int) -> np.ndarray:
    """Cuts that divide rows of these sizes evenly: part p goes from cut p to cut p + 1."""
    # A row in which one share ends and the next begins goes to the one that has more of it.
    before_middle = np.cumsum(sizes) - sizes / 2
    inner = np.searchsorted(before_middle, sizes.sum() * np.arange(1, parts) / parts)
    return np.concatenate([[0], inner, [sizes.size]])


class Layout:
    """Where the steps of a batch are in memory.

    Parameters
    ----------
    lengths : int64 array (B,)
        Length of every sequence, in the caller's order, each at least 1.

    Attributes
    ----------
    rows, steps, total : int
        B, T (the longest length) and N (the sum of the lengths).
    order : int64 array (B,)
        The caller's row at each position: rows are sorted by falling length.
    inverse_order : int64 array (B,)
        The position of each of the caller's rows.
    lengths : int64 array (B,)
        The lengths in that order.
    active : int64 array (T,)
        Rows that still run at step t; they are the first ones.
    offset : int64 array (T + 1,)
        Step t of the row at position b is row ``offset[t] + b`` of a matrix of N rows.
    """

    def __init__(self, lengths: np.ndarray) -> None:
        self.rows = int(lengths.size)
        self.steps = int(lengths.max())
        self.order, self.lengths, self.inverse_order = np.empty((3, self.rows), np.int64)
        self.active = np.empty(self.steps, np.int64)
        self.offset = np.empty(self.steps + 1, np.int64)
        _lay_out(lengths, self.order, self.lengths, self.inverse_order, self.active, self.offset)
        self.total = int(self.offset[-1])
        self._cuts: dict[int, np.ndarray] = {1: np.array([0, self.rows])}

    @functools.cached_property
    def last(self) -> "Layout":
        """The layout of one value a sequence, in the same order of rows."""
        layout = Layout.__new__(Layout)
        vars(layout).update(
            vars(full_layout(self.rows, 1)), order=self.order, inverse_order=self.inverse_order
        )
        return layout

    def row_cuts(self, parts: int) -> np.ndarray:
        """Cuts between positions that divide the steps evenly: part p goes from cut p to cut p + 1."""
        cuts = self._cuts.get(parts)
        if cuts is None:
            cuts = self._cuts[parts] = cuts_between(self.lengths, parts)
        return cuts


@functools.lru_cache(maxsize=LAYOUTS_CACHED)
def full_layout(rows: int, steps: int) -> Layout:
    """The layout of rows that all have this many steps, made once for its shape."""
    return Layout(np.full(rows, steps, np.int64))


@kernel
def _find_rows(starts, order, active, offset, rows):
    """For each of the N packed steps, its row in the caller's flat matrix."""
    for t in range(active.size):
        for b in range(active[t]):
            rows[offset[t] + b] = starts[order[b]] + t


def flat_rows(starts: np.ndarray, layout: Layout) -> np.ndarray:
    """For each of the N packed steps, its row in the caller's flat matrix, int64 (N,)."""
    rows = np.empty(layout.total, np.int64)
    _find_rows(starts, layout.order, layout.active, layout.offset, rows)
    return rows


def scatter_steps(packed: np.ndarray, starts: np.ndarray, layout: Layout, flat: np.ndarray) -> None:
    """Write the rows of a packed matrix to their rows in a flat one."""
    unpack_rows(packed, starts, layout.order, layout.active, layout.offset, flat)
