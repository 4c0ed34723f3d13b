"""Where the gates and states of a batch stand in memory when several threads work on its rows.

In packed order the rows of all threads follow one another at every step. The processor fetches ahead, beyond
the end of a thread's rows into lines that the next thread is writing, which cost a third of the time of a
small layer. So what a pass alone sees is kept in *bands*, one for each thread: a band holds the steps of its
rows in packed order, apart from all others.
"""

from typing import NamedTuple

import numpy as np

from numbarnn.jit.compile_cache import kernel
from numbarnn.sequences.layout import Layout

GAP_ROWS = 64  # between the bands of an array with one row a sequence


@kernel
def _place_bands(cuts, share_cuts, batch_active, lengths, active, offset, packed_offset, gate_offset, slot,
                 next_slot, share_offset, packed_rows, gate_rows, slot_rows, next_slot_rows, first_state_rows,
                 last_state_rows, carry, carry_rows):  # fmt: skip
    """Fill in the arrays of `Bands`, which names them."""
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
        # The last band's slot 0 has the places that are left over too.
        behind = (first_state_rows.size if band == cuts.size - 2 else cuts[band + 1]) + begin
        slot[band, 0] = begin + first
        done = 0
        for t in range(active.size):
            packed_offset[band, t] = offset[t] + first
            gate_offset[band, t] = begin + done
            slot[band, t + 1] = next_slot[band, t] = behind + done
            done += min(max(active[t] - first, 0), count)
        gate_offset[band, active.size] = begin + done
        begin += done
        carry[band] = first + GAP_ROWS * band
        for b in range(first, first + count):
            carry_rows[b] = b + GAP_ROWS * band
            first_state_rows[b] = slot[band, 0] + b - first
            last_state_rows[b] = slot[band, lengths[b]] + b - first
    n = 0
    for share in range(share_cuts.size - 1):
        share_offset[share] = n
        for t in range(steps):
            for band in range(cuts.size - 1):
                first = max(cuts[band], share_cuts[share])
                for b in range(first, min(cuts[band + 1], share_cuts[share + 1], active[t])):
                    packed_rows[n] = offset[t] + b
                    gate_rows[n] = gate_offset[band, t] + b - cuts[band]
                    slot_rows[n] = slot[band, t] + b - cuts[band]
                    next_slot_rows[n] = slot[band, t + 1] + b - cuts[band]
                    n += 1
    share_offset[share_cuts.size - 1] = n


class Room(NamedTuple):
    """The largest batch that arrays are made for."""

    rows: int
    steps: int
    total: int


NO_ROOM = Room(0, 0, 0)


class Bands:
    """The bands of a batch, and what kernels read of its layout.

    The arrays have room for more rows and steps than the batch has: another batch can move in, and what was
    recorded with these arrays (see ``engine/program.py``) holds for that one. No row is active at the steps
    that are left over.

    Parameters
    ----------
    layout : Layout
        The batch.
    cuts : int64 array (bands + 1,)
        Band p has the places from cut p to cut p + 1.
    share_cuts : int64 array (shares + 1,)
        The places of each share: weight gradients are summed share by share.
    room : Room, optional
        The largest sizes to have room for; by default those of the batch.

    Attributes
    ----------
    count : int
        How many bands there are.
    room : Room
        Below as B, T and N, where shapes are meant.
    cuts : int64 array (bands + 1,)
        The cuts of the batch that is in.
    active, offset, order : int64 arrays (T,), (T + 1,), (B,)
        Those of the layout.
    packed_offset : int64 array (bands, T)
        Where step t of band p begins in a matrix in packed order.
    gate_offset : int64 array (bands, T + 1)
        Step t of the first place of band p is row ``gate_offset[p, t]`` of a matrix of N rows; the last of
        all is the number of valid steps.
    slot : int64 array (bands, T + 1)
        Where slot s of band p begins in a matrix of B + N states; see ``engine/scan.py``.
    next_slot : int64 array (bands, T)
        `slot` without slot 0: where the outputs of each step stand, forward in time.
    share_offset : int64 array (shares + 1,)
        How many steps the shares before each one have.
    packed_rows, gate_rows, slot_rows, next_slot_rows : int64 arrays (N,)
        For each step, share by share and each share by time, its row in packed order, its row among the
        gates, and those of its slots t and t + 1 among the states.
    first_state_rows, last_state_rows : int64 arrays (B,)
        For each place, its rows in slot 0 and in the slot of its length.
    carry : int64 array (bands,)
        The first row of band p in a matrix of `carry_count` rows, one for each place and gaps between.
    carry_rows : int64 array (B,)
        Each place's row in such a matrix.
    """

    def __init__(
        self,
        layout: Layout,
        cuts: np.ndarray,
        share_cuts: np.ndarray,
        room: Room = NO_ROOM,
    ) -> None:
        self.count = cuts.size - 1
        sizes = zip(room, (layout.rows, layout.steps, layout.total), strict=True)
        self.room = Room(*(max(pair) for pair in sizes))
        rows, steps, total = self.room
        self.cuts, self.carry = np.empty(self.count + 1, np.int64), np.empty(self.count, np.int64)
        self.active, self.offset = np.empty(steps, np.int64), np.empty(steps + 1, np.int64)
        self.gate_offset, self.slot = np.empty((2, self.count, steps + 1), np.int64)
        self.packed_offset, self.next_slot = np.empty((2, self.count, steps), np.int64)
        self.share_offset = np.empty(share_cuts.size, np.int64)
        self.packed_rows, self.gate_rows, self.slot_rows, self.next_slot_rows = np.empty((4, total), np.int64)
        self.order, self.first_state_rows, self.last_state_rows, self.carry_rows = np.empty(
            (4, rows), np.int64
        )
        self.carry_count = rows + GAP_ROWS * (self.count - 1)
        self.move_in(layout, cuts, share_cuts)

    def move_in(self, layout: Layout, cuts: np.ndarray, share_cuts: np.ndarray) -> None:
        """Take a batch for which there is room, in as many bands and shares."""
        self.cuts[:], self.order[: layout.rows] = cuts, layout.order
        _place_bands(
            self.cuts, share_cuts, layout.active, layout.lengths, self.active, self.offset,
            self.packed_offset, self.gate_offset, self.slot, self.next_slot, self.share_offset,
            self.packed_rows, self.gate_rows, self.slot_rows, self.next_slot_rows, self.first_state_rows,
            self.last_state_rows, self.carry, self.carry_rows,
        )  # fmt: skip
