"""A training step recorded once, and run by one call into compiled code for one batch after the other.

What differs from step to step is written into small arrays before the call: the rows of the batch and their
lengths, the seeds, the learning rate. All other arrays stay where they are, and have room for the largest
batch (see `LayoutInPlace`).
"""

import math
from collections.abc import Callable, Sequence
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
from numbarnn.engine.threads import get_num_threads
from numbarnn.layers.passes import Buffers
from numbarnn.sequences.layout import flat_rows
from numbarnn.training.recorded_input import RecordedInput, gather_call, parts_of
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
    inputs : sequence of RecordedInput
        Those of the batches, one for each input of the model.

    Attributes
    ----------
    outcome : float64 array
        What the last step gave; its words are those of ``step_kernels.py``.
    count : int
        How many targets it had.
    """

    def __init__(self, fit: "TrainingStep", inputs: Sequence[RecordedInput]) -> None:
        self.fit, self.inputs, self.threads = fit, inputs, get_num_threads()
        self.leading = inputs[fit.samples.leading]
        self.rows = np.zeros(self.leading.layout.rows, np.int64)
        self.bindings, self.outcome = make_bindings(), np.zeros(OUTCOME_WORDS)
        self.buffers = Buffers(fit.dtype)
        self.loss_kernel = fit.loss_kernel()
        self.graph = fit.model.new_graph(training=True)
        self.count = 0
        self.stages: list[Callable[[], None]] = []
        self._calls: list[Call] = []
        self._plan()

    def _plan(self) -> None:
        """Set up for batches, and record the calls."""
        fit, graph, join = self.fit, self.graph, self.fit.samples.join
        layouts, x = join([each.layout for each in self.inputs]), join([each.x for each in self.inputs])
        self.out_layout, self.y = graph.prepare(layouts, x, 0)
        self.dy = self.buffers.matrix("dy", *self.y.shape)
        graph.prepare_backward(self.dy)
        count = self.out_layout.total
        self.losses, self.scores = np.zeros((2, count))
        self.weights = np.ones(count)
        weight_calls, forward_calls, loss_calls = (
            self._weight_calls(), graph.record_forward(), self._loss_calls(),
        )  # fmt: skip
        batch_calls = [call for each in self.inputs for call in each.calls()]
        self._record([*batch_calls, *weight_calls, *forward_calls, *loss_calls])
        if not loss_calls:
            self._run_between(self._run_own_loss)
        self._record(graph.record_backward() + self._judging_calls())
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

    # ---- the loss ----------------------------------------------------------------------------------------

    @property
    def _target_starts(self) -> np.ndarray:
        """Where the targets of each row begin."""
        return self.leading.starts if self.fit.samples.per_step else self.rows

    def _weight_calls(self) -> list[Call]:
        """What brings the weights into packed order, where they are not all 1."""
        samples, layout = self.fit.samples, self.out_layout
        if not samples.weighs:
            return []
        places = self._target_starts, layout.order, layout.active, layout.offset
        return [record(weigh, samples.weights, *places, self.weights, self.outcome)]

    def _loss_calls(self) -> list[Call]:
        """The targets and the loss; none where the loss is the user's own."""
        if self.loss_kernel is None:
            return []
        kernel, settings = self.loss_kernel
        samples, layout, size = self.fit.samples, self.out_layout, self.fit.size
        targets = np.zeros((layout.total, *samples.targets.shape[1:]), samples.targets.dtype)
        calls = [gather_call(samples.targets, targets, self._target_starts, layout)]
        self.loss_parts = parts_of(layout, OPERATIONS_OF_A_LOGIT * layout.total * size)
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
            places = flat_rows(self.leading.starts, layout)[:count]
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

    def is_valid(self, totals: Sequence[int]) -> bool:
        """Whether a batch fits whose inputs have so many steps, and all is as it was recorded."""
        return (
            all(map(RecordedInput.fits, self.inputs, totals))
            and self.threads == get_num_threads()
            and self.loss_kernel == self.fit.loss_kernel()
        )

    def run(self, rows: np.ndarray, lengths: Sequence[np.ndarray], seed: int) -> bool:
        """A step on a batch that fits, whose inputs have these lengths.

        False if the loss or its gradient is not finite: then no parameter has changed.
        """
        self.rows[:] = rows
        for each, own in zip(self.inputs, lengths, strict=True):
            each.fill(rows, own)
        self.graph.reseed(seed)
        samples = self.fit.samples
        self.count = int(lengths[samples.leading].sum()) if samples.per_step else rows.size
        if not samples.weighs:
            self.outcome[WEIGHT], self.outcome[SCALE] = self.count, 1.0 / self.count
        self.bindings[FAULT] = NO_FAULT
        for stage in self.stages:
            stage()
        return bool(self.bindings[FAULT] == NO_FAULT)
