"""A training step recorded once, and run by one call into compiled code for one batch after the other.

What differs from step to step is written into small arrays before the call: the rows of the batch and their
lengths, the seeds, the learning rate. All other arrays stay where they are, and have room for the largest
batch (see `LayoutInPlace`).
"""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from numbarnn.engine.program import (
    FAULT,
    NO_FAULT,
    Call,
    Program,
    make_bindings,
    record,
)
from numbarnn.engine.rows import gather_rows, pack_rows
from numbarnn.engine.threads import get_num_threads
from numbarnn.jit.cpu import padded
from numbarnn.layers.chain import Chain
from numbarnn.layers.passes import Buffers, Pass
from numbarnn.sequences.layout import Layout, LayoutInPlace, flat_rows
from numbarnn.training.step_kernels import OUTCOME_WORDS, SCALE, WEIGHT, clip_by_value, judge, weigh
from numbarnn.training.update_kernels import count_blocks, cuts_of, sum_blocks

if TYPE_CHECKING:
    from numbarnn.training.step import TrainingStep

# A logit costs about as much as this many multiplications and additions: an exponential or more.
OPERATIONS_OF_A_LOGIT = 64


class RecordedStep:
    """Steps on batches of as many rows, up to a number of steps.

    Parameters
    ----------
    fit : TrainingStep
        The layers, samples, loss and optimiser.
    lengths : int64 array (B,)
        Those of the first batch.
    steps, total : int
        The largest number of steps of a row, and of all rows together, that there is room for.

    Attributes
    ----------
    outcome : float64 array
        What the last step gave; its words are those of ``step_kernels.py``.
    count : int
        How many targets it had.
    """

    def __init__(self, fit: "TrainingStep", lengths: np.ndarray, steps: int, total: int) -> None:
        self.fit, self.total, self.threads = fit, total, get_num_threads()
        self.layout = LayoutInPlace(lengths, steps, total)
        self.rows, self.starts = np.zeros((2, lengths.size), np.int64)
        self.bindings, self.outcome = make_bindings(), np.zeros(OUTCOME_WORDS)
        self.buffers = Buffers(fit.dtype)
        self.loss_kernel = fit.loss_kernel()
        self.chain = Chain(fit.layers, training=True)
        self.count = 0
        self.stages: list[Callable[[], None]] = []
        self._calls: list[Call] = []
        self._plan()

    def _plan(self) -> None:
        """Set up for batches, and record the calls."""
        fit, chain = self.fit, self.chain
        x, batch_calls = self._inputs()
        self.out_layout, self.y = chain.prepare(self.layout, x, 0)
        self.dy = self.buffers.matrix("dy", *self.y.shape)
        chain.prepare_backward(self.dy)
        count = self.out_layout.total
        self.losses, self.scores = np.zeros((2, count))
        self.weights = np.ones(count)
        batch_calls += self._weight_calls()
        forward_calls, loss_calls = chain.record_forward(), self._loss_calls()
        # The layout's calls come first, and are recorded when all have said how they divide the rows.
        self._record([*self.layout.refill_calls(), *batch_calls, *forward_calls, *loss_calls])
        if not loss_calls:
            self._run_between(self._run_own_loss)
        self._record(chain.record_backward() + self._judging_calls())
        if fit.update_kernel is not None:
            self._record(self._update_calls(fit.update_kernel.kernel))
        self._end_program()

    def _record(self, calls: list[Call]) -> None:
        self._calls += calls

    def _end_program(self) -> None:
        """The calls so far are a program."""
        program, bindings = Program(self._calls), self.bindings
        self.stages.append(lambda: program.run(bindings))
        self._calls = []

    def _run_between(self, call: Callable[[], None]) -> None:
        """What cannot be recorded comes between two programs."""
        self._end_program()
        self.stages.append(call)

    # ---- the batch ---------------------------------------------------------------------------------------

    def _inputs(self) -> tuple[np.ndarray, list[Call]]:
        """The array of a batch's inputs in packed order, and the calls that fill it."""
        samples, layout = self.fit.samples, self.layout
        values = samples.steps.values
        if samples.tokens:
            x = np.zeros(layout.total, values.dtype)
            return x, self._gather_calls(values, x, self.starts, layout)
        x = self.buffers.matrix("x", layout.total, padded(values.shape[1], values.dtype))
        cuts = layout.row_cuts(self._parts(layout.total * values.shape[1]))
        places = self.starts, layout.order, layout.active, layout.offset
        return x, [record(pack_rows, cuts, values, *places, x)]

    def _parts(self, operations: int) -> int:
        """How many threads share the rows."""
        return min(Pass.threads_for(operations), self.layout.rows)

    def _gather_calls(
        self, source: np.ndarray, target: np.ndarray, starts: np.ndarray, layout: Layout
    ) -> list[Call]:
        """Rows of an array of numbers into packed order."""
        source, target = source.reshape(len(source), -1), target.reshape(len(target), -1)
        places = starts, layout.order, layout.active, layout.offset
        return [record(gather_rows, layout.row_cuts(1), source, *places, target)]

    @property
    def _target_starts(self) -> np.ndarray:
        """Where the targets of each row begin."""
        return self.starts if self.fit.samples.per_step else self.rows

    def _weight_calls(self) -> list[Call]:
        """What brings the weights into packed order, where they are not all 1."""
        samples, layout = self.fit.samples, self.out_layout
        if not samples.weighs:
            return []
        places = self._target_starts, layout.order, layout.active, layout.offset
        return [record(weigh, samples.weights, *places, self.weights, self.outcome)]

    # ---- the loss ----------------------------------------------------------------------------------------

    def _loss_calls(self) -> list[Call]:
        """The targets and the loss; none where the loss is the user's own."""
        if self.loss_kernel is None:
            return []
        kernel, settings = self.loss_kernel
        samples, layout, size = self.fit.samples, self.out_layout, self.fit.size
        targets = np.zeros((layout.total, *samples.targets.shape[1:]), samples.targets.dtype)
        calls = self._gather_calls(samples.targets, targets, self._target_starts, layout)
        self.loss_parts = self._parts(OPERATIONS_OF_A_LOGIT * layout.total * size)
        cuts = layout.row_cuts(self.loss_parts)
        work = kernel.work(
            cuts, *settings, self.y, size, targets, self.weights, self.outcome[SCALE:], self.losses,
            self.scores, self.dy, layout.active, layout.offset,
        )  # fmt: skip
        return [*calls, work.record()]

    def _run_own_loss(self) -> None:
        """The user's loss, with arrays of the size of the batch."""
        samples, layout = self.fit.samples, self.out_layout
        rows, lengths = layout.rows, layout.lengths
        count, steps = int(layout.offset[-1]), int(lengths[0])
        if samples.per_step:
            places = flat_rows(self.starts, layout)[:count]
        else:
            places = self.rows[layout.order]
        self.fit.loss.rows(
            self.y[:count], self.fit.size, samples.targets.take(places, axis=0), self.weights[:count],
            float(self.outcome[SCALE]), self.losses[:count], self.scores[:count], self.dy[:count],
            layout.active[:steps], layout.offset[: steps + 1], 0, rows,
        )  # fmt: skip

    # ---- the update --------------------------------------------------------------------------------------

    def _judging_calls(self) -> list[Call]:
        """The norm of the gradients, and whether and how they are used."""
        fit = self.fit
        block_counts = [count_blocks(gradient.size) for gradient in fit.gradients]
        ends = np.cumsum([0, *block_counts])
        block_sums = np.zeros(ends[-1])
        calls = self._norm_calls(fit.gradients, block_sums, ends)
        clipped_sums = np.zeros(0)
        if fit.clip_norm is not None and fit.clip_value is not None:
            clipped_sums = np.zeros(ends[-1])
            clipped = [np.zeros_like(gradient) for gradient in fit.gradients]
            for gradient, target in zip(fit.gradients, clipped, strict=True):
                cuts = cuts_of(gradient.size)
                calls.append(record(clip_by_value, cuts, gradient, float(fit.clip_value), target))
            calls += self._norm_calls(clipped, clipped_sums, ends)
        radius = math.inf if fit.clip_norm is None else float(fit.clip_norm)
        positions = self.losses, self.scores, self.weights, self.out_layout.offset
        rest = ends, radius, self.outcome, fit.numbers, self.bindings
        return [*calls, record(judge, *positions, block_sums, clipped_sums, *rest)]

    @staticmethod
    def _norm_calls(arrays: list[np.ndarray], block_sums: np.ndarray, ends: np.ndarray) -> list[Call]:
        return [
            record(sum_blocks, cuts_of(array.size), array, block_sums[first:stop])
            for array, first, stop in zip(arrays, ends[:-1], ends[1:], strict=True)
        ]

    def _update_calls(self, kernel: Callable[..., None]) -> list[Call]:
        fit = self.fit
        return [
            record(kernel, cuts_of(values.size), values, gradients, *averages, fit.numbers)
            for values, gradients, averages in zip(fit.values, fit.gradients, fit.state.averages, strict=True)
        ]

    # ---- a step ------------------------------------------------------------------------------------------

    def is_valid(self, total: int) -> bool:
        """Whether a batch of so many steps fits, and all is as it was recorded."""
        return (
            total <= self.total
            and self.threads == get_num_threads()
            and self.loss_kernel == self.fit.loss_kernel()
        )

    def run(self, rows: np.ndarray, lengths: np.ndarray, total: int, seed: int) -> bool:
        """A step on a batch that fits, of `total` steps.

        False if the loss or its gradient is not finite: then no parameter has changed.
        """
        self.rows[:], self.layout.given[:] = rows, lengths
        self.fit.samples.steps.form.starts.take(rows, out=self.starts, mode="clip")
        self.chain.reseed(seed)
        self.count = total if self.fit.samples.per_step else rows.size
        if not self.fit.samples.weighs:
            self.outcome[WEIGHT], self.outcome[SCALE] = self.count, 1.0 / self.count
        self.bindings[FAULT] = NO_FAULT
        for stage in self.stages:
            stage()
        return bool(self.bindings[FAULT] == NO_FAULT)
