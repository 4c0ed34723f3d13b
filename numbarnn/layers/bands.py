"""Where the gates and states of a batch are in memory when several threads work on its rows.

In packed order the rows of all threads follow one another at every step. The processor fetches ahead, beyond
the end of a thread's rows into lines that the next thread is writing, which cost a third of the time of a
small layer. So what a pass alone sees is kept in *bands*, one for each thread: a band holds the steps of its
rows in packed order, apart from all others.
"""

from typing import NamedTuple

import numpy as np

from numbarnn.engine.fork import ALONE, fork
from numbarnn.engine.program import Call, record
from numbarnn.engine.scan.arguments import BandIndex
from numbarnn.jit.compile_cache import inlined, kernel
from numbarnn.sequences.layout import Layout, LayoutInPlace, find_cuts

GAP_ROWS = 64  # between the bands of an array with one row a sequence


class BandArrays(NamedTuple):
    """All that is filled for a batch, after its cuts; `Bands` explains it."""

    cuts: np.ndarray
    partial_cuts: np.ndarray
    active: np.ndarray
    offset: np.ndarray
    # Arrays of one shape are one array, lest the kernel that fills them takes long to compile.
    offsets: np.ndarray  # gate_offset, state_offset
    step_offsets: np.ndarray  # packed_offset, output_offset
    partial_offset: np.ndarray
    dstate_offset: np.ndarray
    step_rows: np.ndarray  # packed_rows, gate_rows, state_rows, next_state_rows
    position_rows: np.ndarray  # order, first_state_rows, last_state_rows, dstate_rows


@inlined
def _fill_arrays(part, batch_order, batch_active, lengths, arrays):
    (cuts, partial_cuts, active, offset, offsets, step_offsets, partial_offset, dstate_offset, step_rows,
     position_rows) = arrays  # fmt: skip
    gate_offset, state_offset = offsets[0], offsets[1]
    packed_offset, output_offset = step_offsets[0], step_offsets[1]
    packed_rows, gate_rows, state_rows, next_state_rows = (
        step_rows[0],
        step_rows[1],
        step_rows[2],
        step_rows[3],
    )
    order, first_state_rows = position_rows[0], position_rows[1]
    last_state_rows, dstate_rows = position_rows[2], position_rows[3]
    for b in range(batch_order.size):
        order[b] = batch_order[b]
    steps = batch_active.size
    total = 0
    for t in range(active.size):
        active[t] = batch_active[t] if t < steps else 0
        offset[t] = total
        total += active[t]
    offset[active.size] = total
    begin = 0
    for band in range(cuts.size - 1):
        first, count = cuts[band], cuts[band + 1] - cuts[band]
        # The initial states of the last band have the positions that are left over too.
        behind = (first_state_rows.size if band == cuts.size - 2 else cuts[band + 1]) + begin
        state_offset[band, 0] = begin + first
        done = 0
        for t in range(active.size):
            packed_offset[band, t] = offset[t] + first
            gate_offset[band, t] = begin + done
            state_offset[band, t + 1] = output_offset[band, t] = behind + done
            done += min(max(active[t] - first, 0), count)
        gate_offset[band, active.size] = begin + done
        begin += done
        dstate_offset[band] = first + GAP_ROWS * band
        for b in range(first, first + count):
            dstate_rows[b] = b + GAP_ROWS * band
            first_state_rows[b] = state_offset[band, 0] + b - first
            last_state_rows[b] = state_offset[band, lengths[b]] + b - first
    n = 0
    for partial in range(partial_cuts.size - 1):
        partial_offset[partial] = n
        for t in range(steps):
            for band in range(cuts.size - 1):
                first = max(cuts[band], partial_cuts[partial])
                for b in range(first, min(cuts[band + 1], partial_cuts[partial + 1], active[t])):
                    packed_rows[n] = offset[t] + b
                    gate_rows[n] = gate_offset[band, t] + b - cuts[band]
                    state_rows[n] = state_offset[band, t] + b - cuts[band]
                    next_state_rows[n] = state_offset[band, t + 1] + b - cuts[band]
                    n += 1
    partial_offset[partial_cuts.size - 1] = n


@kernel
def _fill_bands(team, batch_order, batch_active, lengths, arrays):
    """Fill in the arrays of `Bands` from three of a `Layout`."""
    fork(team, 1, _fill_arrays, batch_order, batch_active, lengths, arrays)


class Capacity(NamedTuple):
    """The largest batch that arrays are made for."""

    rows: int
    steps: int
    total: int


NO_CAPACITY = Capacity(0, 0, 0)


class Bands:
    """The bands of a batch, and what kernels read of its layout.

    The arrays have capacity for more rows and steps than the batch has: they can be filled for another batch,
    and what was recorded with them (see ``engine/program.py``) holds for that one. No row is active at the
    steps that are left over.

    Parameters
    ----------
    layout : Layout
        The batch.
    cuts : int64 array (bands + 1,)
        Band p has the positions from cut p to cut p + 1.
    partial_cuts : int64 array (partials + 1,)
        The positions of each partial sum of the weight gradients.
    capacity : Capacity, optional
        The largest sizes that must fit; by default those of the batch.

    Attributes
    ----------
    count : int
        How many bands there are.
    capacity : Capacity
        Below as B, T and N, where shapes are meant.
    cuts, partial_cuts : int64 arrays (bands + 1,), (partials + 1,)
        The cuts of the batch that is in.
    active, offset, order : int64 arrays (T,), (T + 1,), (B,)
        Those of the layout.
    packed_offset : int64 array (bands, T)
        Where step t of band p begins in a matrix in packed order.
    gate_offset : int64 array (bands, T + 1)
        Step t of the first position of band p is row ``gate_offset[p, t]`` of a matrix of N rows; the last of
        all is the number of valid steps.
    state_offset : int64 array (bands, T + 1)
        Where the states number s of band p begin in a matrix of B + N rows; see ``engine/scan/__init__.py``.
    output_offset : int64 array (bands, T)
        `state_offset` without the initial states: where the outputs of each step stand, forward in time.
    index : BandIndex
        What kernels of the scan read of these.
    partial_offset : int64 array (partials + 1,)
        How many steps the partial sums before each one have.
    packed_rows, gate_rows, state_rows, next_state_rows : int64 arrays (N,)
        For each step, by partial sum and then by time, its row in packed order, its row among the gates, and
        those of its states t and t + 1 among the states.
    first_state_rows, last_state_rows : int64 arrays (B,)
        For each position, the rows of its states number 0 and number ``length``.
    dstate_offset : int64 array (bands,)
        The first row of band p in a matrix of `dstate_row_count` rows, one for each position and gaps
        between.
    dstate_rows : int64 array (B,)
        The row of each position in such a matrix.
    """

    def __init__(
        self,
        layout: Layout,
        cuts: np.ndarray,
        partial_cuts: np.ndarray,
        capacity: Capacity = NO_CAPACITY,
    ) -> None:
        self.count = cuts.size - 1
        sizes = zip(capacity, (layout.rows, layout.steps, layout.total), strict=True)
        self.capacity = Capacity(*(max(pair) for pair in sizes))
        rows, steps, total = self.capacity
        self._arrays = BandArrays(
            cuts=cuts.copy(),
            partial_cuts=partial_cuts.copy(),
            active=np.empty(steps, np.int64),
            offset=np.empty(steps + 1, np.int64),
            offsets=np.empty((2, self.count, steps + 1), np.int64),
            step_offsets=np.empty((2, self.count, steps), np.int64),
            partial_offset=np.empty(partial_cuts.size, np.int64),
            dstate_offset=np.empty(self.count, np.int64),
            step_rows=np.empty((4, total), np.int64),
            position_rows=np.empty((4, rows), np.int64),
        )
        (
            self.cuts, self.partial_cuts, self.active, self.offset, offsets, step_offsets,
            self.partial_offset, self.dstate_offset, step_rows, position_rows,
        ) = self._arrays  # fmt: skip
        self.gate_offset, self.state_offset = offsets
        self.packed_offset, self.output_offset = step_offsets
        self.packed_rows, self.gate_rows, self.state_rows, self.next_state_rows = step_rows
        self.order, self.first_state_rows, self.last_state_rows, self.dstate_rows = position_rows
        self.index = BandIndex(
            self.active, self.offset, self.gate_offset, self.state_offset, self.dstate_offset
        )
        self.dstate_row_count = rows + GAP_ROWS * (self.count - 1)
        self.rebind(layout, cuts, partial_cuts)

    def rebind(self, layout: Layout, cuts: np.ndarray, partial_cuts: np.ndarray) -> None:
        """Fill the arrays for a batch that fits, with as many bands and partial sums."""
        self.cuts[:], self.partial_cuts[:] = cuts, partial_cuts
        _fill_bands(ALONE, layout.order, layout.active, layout.lengths, self._arrays)

    def rebind_calls(self, layout: LayoutInPlace) -> list[Call]:
        """What fills the arrays for the batch that the layout has by then."""
        divided = [cuts for cuts in (self.cuts, self.partial_cuts) if cuts.size > 2]
        calls = [record(find_cuts, layout.lengths, cuts) for cuts in divided]
        return [*calls, record(_fill_bands, layout.order, layout.active, layout.lengths, self._arrays)]
