"""How threads share the work of a recurrent pass: by rows, by directions or by hidden units."""

from typing import Any, NamedTuple

import numpy as np

from numbarnn.layers.passes import Pass
from numbarnn.sequences.layout import Layout

# Up to this many bytes of recurrent weights each thread reads all of them for its rows. Of larger ones each
# thread takes a part of them, for all rows, with a barrier at every step. With 1 MB the two were level, until
# cores stood far apart: then threads with barriers took 1.15 times as long.
WEIGHTS_BYTES_FOR_ALL_ROWS = 1536 * 1024
OPERATIONS_WORTH_A_BARRIER = 1_000_000
# A step of fewer rows than threads leaves no choice but to divide the units. Threads that wait at a barrier
# every 60 to 250 nanoseconds gained from this number of operations a step on.
FEW_ROWS_OPERATIONS_WORTH_A_BARRIER = 10_000


class Sharing(NamedTuple):
    """How threads share a batch; by rows if neither by directions nor by units."""

    threads: int
    by_directions: bool
    by_units: bool
    partial_count: int  # partial sums of the rows in which weight gradients are computed

    @property
    def by_rows(self) -> bool:
        """Whether each thread has rows, and a band, of its own."""
        return not (self.by_directions or self.by_units)


def sharing_of(layer: Any, layout: Layout, store: Any) -> Sharing:
    """How threads share a batch of a layer with these parameters."""
    recurrent = store.panels[0].weights.recurrent
    threads = Pass.threads_for(2 * layout.total * store.flat_values.size)
    # Two directions on two threads share nothing; the rows of one do, in the lines of the caches.
    by_directions = layer.directions == 2 and threads == 2
    by_units = not by_directions and _pays_by_units(layout, threads, recurrent)
    return Sharing(threads, by_directions, by_units, _partial_count(layer, layout, recurrent))


def _pays_by_units(layout: Layout, threads: int, recurrent: np.ndarray) -> bool:
    operations = 2 * layout.total // layout.steps * recurrent.size // max(1, threads)
    if threads > layout.rows:
        return operations > FEW_ROWS_OPERATIONS_WORTH_A_BARRIER
    large = recurrent.nbytes > WEIGHTS_BYTES_FOR_ALL_ROWS
    return threads > 1 and large and operations > OPERATIONS_WORTH_A_BARRIER


def _partial_count(layer: Any, layout: Layout, recurrent: np.ndarray) -> int:
    """Partial sums of the rows for weight gradients. Their number must not depend on the threads: sums do.

    With two of them two threads need not read what the other one wrote. Two directions have a thread each,
    and of large weights a thread has a part of its own.
    """
    small = recurrent.nbytes <= WEIGHTS_BYTES_FOR_ALL_ROWS
    return 2 if layer.directions == 1 and small and layout.rows > 1 else 1
