"""Batch of gradient descent on the CPU: loss, gradients, clipping and the optimiser's update."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from numbarnn.engine.guards import WRITE, Guards, Hold, use_guards
from numbarnn.training.clipping import clipping_of
from numbarnn.training.data import Batch, LabelledSamples
from numbarnn.training.loss_kernels import LossKernel
from numbarnn.training.losses import Loss
from numbarnn.training.optimizers import Optimizer
from numbarnn.training.recorded_input import RecordedInput
from numbarnn.training.recorded_step import RecordedStep
from numbarnn.training.update_kernels import UpdateKernel

# Room for steps that later batches may have more than the first one: a share of its own.
ROOM = 1 / 8
MOST_NUMBERS = 8  # of an optimiser of this library


class RunningMetrics:
    """Sums of losses and scores over batches."""

    def __init__(self) -> None:
        self.loss = self.weight = self.score = 0.0
        self.count = 0

    def add(self, losses: np.ndarray, scores: np.ndarray, batch: Batch) -> float:
        """Take the losses and scores of a batch; return its weighted sum of losses."""
        # One after the other, as in a step: `sum` would add them in another order.
        with np.errstate(all="ignore"):
            weighted = losses * batch.weights
        loss, score = (float(np.cumsum(values)[-1]) for values in (weighted, scores))
        self.add_sums(loss, batch.total_weight, score, losses.size)
        return loss

    def add_sums(self, loss: float, weight: float, score: float, count: int) -> None:
        """Take the weighted sum of losses, the weight, the sum of the scores and how many there are."""
        self.loss += loss
        self.weight += weight
        self.score += score
        self.count += count

    def logs(self, metric: str, prefix: str = "") -> dict[str, float]:
        # No weight at all in these batches: the loss is 0, as its gradient was.
        mean = self.loss / self.weight if self.weight > 0.0 else 0.0
        return {f"{prefix}loss": mean, f"{prefix}{metric}": self.score / self.count}


def check_for_divergence(loss: float, norm: float, place: str, learning_rate: float) -> None:
    """Raise a FloatingPointError where the loss of a step or its gradient's norm is not finite."""
    if not (math.isfinite(loss) and math.isfinite(norm)):
        raise FloatingPointError(
            f"the loss is {loss} and its gradient's norm {norm} in {place}, at a learning rate of"
            f" {learning_rate:g}: training has diverged. Lower the learning rate, set clip_norm, or scale the"
            " inputs"
        )


class TrainingStep:
    """One step of gradient descent after the other, each recorded once for batches like it.

    Parameters
    ----------
    model : Model
        The model, built.
    samples : LabelledSamples
        What batches are drawn from.
    loss, size
        The loss, and features of the output.
    optimizer, clip_norm, clip_value
        As in `Model.fit`.

    Attributes
    ----------
    update_kernel : UpdateKernel or None
        What updates the parameters; None where the optimiser's own `update` does.
    numbers : float64 array
        What the updates read: the limit and the factor of clipping, and the optimiser's numbers.
    """

    def __init__(
        self,
        model: Any,
        samples: LabelledSamples,
        loss: Loss,
        size: int,
        optimizer: Optimizer,
        clip_norm: float | None,
        clip_value: float | None,
    ) -> None:
        self.model, self.samples, self.loss, self.size = model, samples, loss, size
        self.optimizer, self.clip_norm, self.clip_value = optimizer, clip_norm, clip_value
        self.dtype = model.dtype
        trained = [layer for layer in model.layers if layer.count_parameters()]
        self.gradients = [layer.flat_gradients for layer in trained]
        self.values = [layer.flat_values for layer in trained]
        self.stores = [layer.store for layer in model.layers]
        self.guards = Guards.together(store.guards for store in self.stores)
        self.state = optimizer.start(self.values)
        self.update_kernel = self._update_kernel()
        self.numbers = np.ones(2 + MOST_NUMBERS)
        self.numbers[0] = math.inf if clip_value is None else clip_value
        self.recorded: dict[tuple[int, ...], RecordedStep] = {}
        self.longest = [int(part.steps.lengths.max()) for part in samples.parts]
        self._begin_epoch()

    def loss_kernel(self) -> tuple[LossKernel, tuple[float, ...]] | None:
        """The kernel of the loss and its settings; None where it cannot be recorded."""
        if type(self.loss).rows is not Loss.rows:
            return None
        kernel, settings = self.loss.kernel_for(self.samples.targets)
        return (kernel, settings) if isinstance(kernel, LossKernel) else None

    def _update_kernel(self) -> UpdateKernel | None:
        """The kernel of the updates; None where they cannot be recorded."""
        if type(self.optimizer).update is not Optimizer.update:
            return None
        kernel = self.optimizer.update_kernel
        return kernel if isinstance(kernel, UpdateKernel) else None

    def _begin_epoch(self) -> None:
        self.metrics, self.norms, self.steps = RunningMetrics(), 0.0, 0

    def step(self, rows: np.ndarray, seed: int, learning_rate: float, place: str) -> None:
        """A step on the batch of these rows; `place` says where in the fit, for errors.

        Raises
        ------
        FloatingPointError
            If the loss or its gradient is not finite; then no parameter changes.
        """
        hold = Hold(self.guards)
        try:
            hold.take(WRITE)
            norm = self._run(rows, seed, learning_rate, place)
        finally:
            use_guards(*hold.way_out)
        self.norms += norm
        self.steps += 1

    def _run(self, rows: np.ndarray, seed: int, learning_rate: float, place: str) -> float:
        """`step` with the guards; the norm of the gradient."""
        lengths = [part.steps.lengths.take(rows) for part in self.samples.parts]
        recorded = self._recorded_for(lengths)
        if self.update_kernel is not None:
            numbers = self.optimizer.numbers_at(self.state.step + 1, learning_rate)
            self.numbers[2 : 2 + len(numbers)] = numbers
        self._count_change()
        is_finite = recorded.run(rows, lengths, seed)
        loss, score, scale, weight, norm = recorded.outcome.tolist()
        if not is_finite:
            check_for_divergence(loss * scale, norm, place, learning_rate)
        if self.update_kernel is not None:
            self.state.step += 1
        else:
            clipping = clipping_of(self.gradients, norm, self.clip_norm, self.clip_value)
            self.optimizer.update(self.state, self.values, self.gradients, learning_rate, *clipping)
        self.metrics.add_sums(loss, weight, score, recorded.count)
        return norm

    def _count_change(self) -> None:
        """The parameters change: right before they do, for an interrupt may come right after."""
        for store in self.stores:
            store.count_change()

    def _recorded_for(self, lengths: Sequence[np.ndarray]) -> RecordedStep:
        """What was recorded for batches like this one, or is recorded now.

        Kernels walk over all steps that there is room for: at most twice those of the batch.
        """
        counts = [
            min(1 << (int(own.max()) - 1).bit_length(), longest)
            for own, longest in zip(lengths, self.longest, strict=True)
        ]
        totals = [int(own.sum()) for own in lengths]
        key = lengths[0].size, *counts
        recorded = self.recorded.get(key)
        if recorded is None or not recorded.is_valid(totals):
            inputs = [
                RecordedInput(part, own, steps, min(total + int(ROOM * total), own.size * steps))
                for part, own, steps, total in zip(self.samples.parts, lengths, counts, totals, strict=True)
            ]
            recorded = self.recorded[key] = RecordedStep(self, inputs)
        return recorded

    def leave(self) -> None:
        """The fit ends, as it should or not. The parameters that steps change are the layers' own."""

    def end_epoch(self) -> tuple[dict[str, float], float]:
        """Mean loss and score since the last epoch's end, and the mean norm of the gradients."""
        result = self.metrics.logs(self.loss.metric), self.norms / self.steps
        self._begin_epoch()
        return result
