"""The one layout of a batch that kernels see.

They see a matrix of N rows, one for each valid step, ordered by time and within a time by falling length of
the sequence: no padding, no mask.
"""

import functools

import numpy as np

from numbarnn.engine.fork import ALONE, fork
from numbarnn.engine.program import Call, record
from numbarnn.engine.rows import unpack_rows
from numbarnn.jit.compile_cache import inlined, kernel

LAYOUTS_CACHED = 16  # shapes of full arrays whose layouts are made once


@inlined
def _lay_out_rows(part, lengths, order, sorted_lengths, inverse_order, active, offset):
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


@kernel
def _lay_out(team, lengths, order, sorted_lengths, inverse_order, active, offset):
    """Fill in the arrays of `Layout`, which names them, by a counting sort; equal lengths keep their
    order. Where `active` is longer than the longest row, no row is active at the steps that are left over."""
    fork(team, 1, _lay_out_rows, lengths, order, sorted_lengths, inverse_order, active, offset)


@inlined
def _find_cuts(part, sizes, cuts):
    parts, total = cuts.size - 1, 0
    for size in sizes:
        total += size
    cuts[0], cuts[parts] = 0, sizes.size
    found, before = 1, 0
    for row in range(sizes.size):
        # A row in which one share ends and the next begins goes to the one that has more of it.
        while found < parts and before + sizes[row] / 2 >= total * found / parts:
            cuts[found] = row
            found += 1
        before += sizes[row]
    for left in range(found, parts):
        cuts[left] = sizes.size


@kernel
def find_cuts(team, sizes, cuts):
    """Cuts that divide rows of these sizes evenly: part p goes from cut p to cut p + 1."""
    fork(team, 1, _find_cuts, sizes, cuts)


def cuts_between(sizes: np.ndarray, parts: int) -> np.ndarray:
    """Cuts that divide rows of these sizes evenly: part p goes from cut p to cut p + 1."""
    cuts = np.empty(parts + 1, np.int64)
    find_cuts(ALONE, sizes, cuts)
    return cuts


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
        self._make(int(lengths.size), int(lengths.max()))
        _lay_out(ALONE, lengths, *self._arrays())
        self.total = int(self.offset[-1])

    def _make(self, rows: int, steps: int) -> None:
        self.rows, self.steps = rows, steps
        self.order, self.lengths, self.inverse_order = np.empty((3, rows), np.int64)
        self.active = np.empty(steps, np.int64)
        self.offset = np.empty(steps + 1, np.int64)
        self._cuts: dict[int, np.ndarray] = {1: np.array([0, rows])}

    def _arrays(self) -> tuple[np.ndarray, ...]:
        return self.order, self.lengths, self.inverse_order, self.active, self.offset

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


class LayoutInPlace(Layout):
    """A layout whose arrays take one batch after the other: what was recorded with them stays valid.

    Parameters
    ----------
    lengths : int64 array (B,)
        Lengths of the first batch. Every batch has as many rows.
    steps, total : int
        The largest T and N that a batch may have. The attributes `steps` and `total` are these, so that
        buffers are made for them; no row is active at the steps that a batch does not have.

    Attributes
    ----------
    given : int64 array (B,)
        The lengths of the present batch, in the caller's order: to be written before `refill_calls` run.
    """

    def __init__(self, lengths: np.ndarray, steps: int, total: int) -> None:
        self._make(int(lengths.size), steps)
        self.total = total
        self.given = lengths.copy()
        _lay_out(ALONE, self.given, *self._arrays())

    def refill_calls(self) -> list[Call]:
        """What fills all arrays for the lengths in `given`, with the cuts that were asked for so far."""
        calls = [record(_lay_out, self.given, *self._arrays())]
        return calls + [
            record(find_cuts, self.lengths, cuts) for cuts in self._cuts.values() if cuts.size > 2
        ]


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
