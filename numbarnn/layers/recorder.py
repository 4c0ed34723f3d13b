"""What the recorders of forward and backward have in common; see ``forward_recorder.py``."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from numbarnn.engine.barrier import make_barrier
from numbarnn.engine.fork import MOST_PARTS
from numbarnn.engine.program import Call, record, record_together
from numbarnn.engine.random import drop
from numbarnn.engine.rows import CallerMatrix, clear_rows
from numbarnn.engine.threads import even_cuts
from numbarnn.layers.plan import Plan
from numbarnn.sequences.layout import cuts_between
from numbarnn.sequences.reading import BatchForm

NOWHERE = np.empty(0, np.int64)  # where no outputs begin


class Recorder:
    """Calls on the arrays of a plan.

    Parameters
    ----------
    plan : Plan
        Where everything is.
    form : BatchForm, optional
        The form of the caller's batch, if calls read and write the caller's matrices; by default they read
        and write ours, in packed order.
    """

    def __init__(self, plan: Plan, form: BatchForm | None = None) -> None:
        self.plan = plan
        self.form: Any = form  # the calls that need it are recorded only where there is one
        self.layer, self.layout, self.bands = plan.layer, plan.layout, plan.bands

    def record(self, kernel: Callable[..., None], *arguments: Any) -> Call:
        """A kernel that works on parts of the rows."""
        return record(kernel, self.plan.cuts, *arguments)

    def record_by_units(self, kernel: Callable[..., None], pieces: int, size: int, *arguments: Any) -> Call:
        """A kernel that divides the units among threads, in pieces of this size."""
        threads = self.plan.sharing.threads
        parts = min(threads, pieces, MOST_PARTS)
        # Steps of many rows take so long that barriers always pay.
        barrier = make_barrier(parts, trials=self.layout.rows < threads)
        return record(kernel, barrier, size * even_cuts(pieces, parts), *arguments)

    def side_by_side(self, chains: Sequence[Sequence[Call]]) -> list[Call]:
        """The calls of the directions of one level: each on a thread of its own, where that is how threads
        are used."""
        if self.plan.sharing.by_directions:
            return [record_together(chains)]
        return [call for chain in chains for call in chain]

    def drop_call(self, level, source, target, band_cuts, source_offsets, target_offsets) -> Call:
        """Dropout of a level's outputs, or of their gradient."""
        bands, seed = self.bands, self.plan.seeds[level : level + 1]
        return self.record(
            drop, band_cuts, source, source_offsets, target, target_offsets, self.plan.width,
            self.layer.dropout, seed, bands.order, bands.active,
        )  # fmt: skip

    # ---- the caller's arrays -----------------------------------------------------------------------------

    def caller_matrix(self, form: BatchForm, size: int) -> CallerMatrix:
        """The caller's matrix of this many features, its sequences in the caller's order."""
        return CallerMatrix(self.plan.bindings, form.flat_rows, size, form.starts)

    def caller_matrix_by_position(self, form: BatchForm | None, size: int) -> CallerMatrix:
        """The same with its sequences in the order of the layout; None stands for no matrix."""
        if form is None:
            return CallerMatrix(self.plan.bindings, 0, size, NOWHERE)
        return CallerMatrix(self.plan.bindings, form.flat_rows, size, form.starts[self.bands.order])

    def clear_rows_calls(self, form: BatchForm, size: int) -> list[Call]:
        """Zeros behind the rows of an array with lengths, in the caller's matrix of this many features."""
        if form.is_full or form.is_list:
            return []
        begins = form.starts + form.lengths
        # Where steps are few zeros are many: each thread gets a part of these.
        cuts = cuts_between(form.ends - begins, self.plan.cuts.size - 1)
        caller = self.caller_matrix(form, size)._replace(starts=begins)
        return [record(clear_rows, cuts, caller, form.ends, self.plan.states[0][0])]

    def states_call(self, kernel: Callable[..., None], k: int, states, rows) -> Call:
        """Between the caller's states and these rows of ours, given in the order of the layout."""
        rows = rows[self.layout.inverse_order]
        return record(kernel, self.plan.bindings, states, rows, k, self.plan.count, self.layer.hidden_size)
