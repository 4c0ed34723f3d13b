"""One input of the batches of a recorded step, brought into packed order by recorded calls."""

import numpy as np

from numbarnn.engine.program import Call, record
from numbarnn.engine.rows import gather_rows, pack_rows
from numbarnn.jit.cpu import padded
from numbarnn.layers.passes import Buffers, Pass
from numbarnn.sequences.layout import Layout, LayoutInPlace
from numbarnn.training.data import Samples


class RecordedInput:
    """An input of batches of as many rows, up to a number of steps.

    Parameters
    ----------
    samples : Samples
        What batches are drawn from.
    lengths : int64 array (B,)
        Those of the first batch.
    steps, total : int
        The largest number of steps of a row, and of all rows together, that there is room for.

    Attributes
    ----------
    layout : LayoutInPlace
        That of the present batch.
    starts : int64 array (B,)
        Where its rows begin among all samples.
    x : array (N, features padded to whole vectors), or tokens (N,)
        The inputs in packed order.
    """

    def __init__(self, samples: Samples, lengths: np.ndarray, steps: int, total: int) -> None:
        self._samples = samples
        self.layout = LayoutInPlace(lengths, steps, total)
        self.starts = np.zeros(lengths.size, np.int64)
        values = samples.steps.values
        if samples.tokens:
            self.x = np.zeros(total, values.dtype)
        else:
            self.x = Buffers(values.dtype).make(total, padded(values.shape[1], values.dtype))
            self._cuts = self.layout.row_cuts(parts_of(self.layout, total * values.shape[1]))

    def fits(self, total: int) -> bool:
        """Whether there is room for a batch of so many steps."""
        return total <= self.layout.total

    def fill(self, rows: np.ndarray, lengths: np.ndarray) -> None:
        """Say which rows the next batch has, and their lengths."""
        self.layout.given[:] = lengths
        self._samples.steps.form.starts.take(rows, out=self.starts, mode="clip")

    def calls(self) -> list[Call]:
        """What lays out the batch and packs its inputs. They are recorded when all have said how they divide
        the rows."""
        layout, values = self.layout, self._samples.steps.values
        calls = layout.refill_calls()
        if self._samples.tokens:
            return [*calls, gather_call(values, self.x, self.starts, layout)]
        places = self.starts, layout.order, layout.active, layout.offset
        return [*calls, record(pack_rows, self._cuts, values, *places, self.x)]


def parts_of(layout: Layout, operations: int) -> int:
    """How many threads share the rows of a batch."""
    return min(Pass.threads_for(operations), layout.rows)


def gather_call(source: np.ndarray, target: np.ndarray, starts: np.ndarray, layout: Layout) -> Call:
    """Rows of an array of numbers into packed order."""
    source, target = source.reshape(len(source), -1), target.reshape(len(target), -1)
    places = starts, layout.order, layout.active, layout.offset
    return record(gather_rows, layout.row_cuts(1), source, *places, target)
