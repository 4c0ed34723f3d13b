"""Batch of gradient descent on the CPU: loss, gradients, clipping and the optimiser's update."""

import math
from typing import Any

import numpy as np

from numbarnn.engine.guards import WRITE, Guards, Hold, use_guards
from numbarnn.layers.chain import Chain
from numbarnn.layers.passes import Buffers
from numbarnn.training.clipping import clipping_of, global_norm
from numbarnn.training.data import Batch, LabelledSamples
from numbarnn.training.loss_kernels import LossKernel
from numbarnn.training.losses import Loss
from numbarnn.training.optimizers import Optimizer
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
        self.layers, self.samples, self.loss, self.size = model.layers, samples, loss, size
        self.optimizer, self.clip_norm, self.clip_value = optimizer, clip_norm, clip_value
        self.dtype = model.dtype
        self.trained = [layer for layer in self.layers if layer.count_parameters()]
        self.gradients = [layer.flat_gradients for layer in self.trained]
        self.values = [layer.flat_values for layer in self.trained]
        self.stores = [layer.store for layer in self.layers]
        self.guards = Guards.together(store.guards for store in self.stores)
        self.state = optimizer.start(self.values)
        self.update_kernel = self._update_kernel()
        self.numbers = np.ones(2 + MOST_NUMBERS)
        self.numbers[0] = math.inf if clip_value is None else clip_value
        self.recorded: dict[tuple[int, int], RecordedStep] = {}
        # A model whose layers are not one behind the other is not recorded: its passes run one by one.
        graph = model.new_graph(training=True)
        self.graph: Any = None if isinstance(graph, Chain) else graph
        if self.graph is None:
            self.longest = int(samples.steps.lengths.max())
        self.buffers = Buffers(self.dtype)
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
            if self.graph is None:
                norm = self._run_recorded(rows, seed, learning_rate, place)
            else:
                norm = self._run_graph(rows, seed, learning_rate, place)
        finally:
            use_guards(*hold.way_out)
        self.norms += norm
        self.steps += 1

    def _run_recorded(self, rows: np.ndarray, seed: int, learning_rate: float, place: str) -> float:
        """`step` by a recorded program; the norm of the gradient."""
        lengths = self.samples.steps.lengths.take(rows)
        total = int(lengths.sum())
        recorded = self._recorded_for(lengths, total)
        if self.update_kernel is not None:
            numbers = self.optimizer.numbers_at(self.state.step + 1, learning_rate)
            self.numbers[2 : 2 + len(numbers)] = numbers
        self._count_change()
        is_finite = recorded.run(rows, lengths, total, seed)
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

    def _run_graph(self, rows: np.ndarray, seed: int, learning_rate: float, place: str) -> float:
        """`step` pass by pass; the norm of the gradient."""
        loss = self._compute(self.samples.batch(rows), seed)
        norm = global_norm(self.gradients)
        check_for_divergence(loss, norm, place, learning_rate)
        clipping = clipping_of(self.gradients, norm, self.clip_norm, self.clip_value)
        self._count_change()
        self.optimizer.update(self.state, self.values, self.gradients, learning_rate, *clipping)
        return norm

    def _count_change(self) -> None:
        """The parameters change: right before they do, for an interrupt may come right after."""
        for store in self.stores:
            store.count_change()

    def _compute(self, batch: Batch, seed: int) -> float:
        """Loss and gradients of one batch; returns the loss."""
        layout, y = self.graph.prepare(batch.layout, batch.x, seed)
        dy = self.buffers.matrix("dy", y.shape[0], y.shape[1])
        losses, scores = np.empty(layout.total), np.empty(layout.total)
        scale = 1.0 / batch.total_weight if batch.total_weight > 0.0 else 0.0
        self.graph.prepare_backward(dy)
        self.graph.forward()
        self.loss.rows(
            y, self.size, batch.targets, batch.weights, scale, losses, scores, dy,
            layout.active, layout.offset, 0, layout.rows,
        )  # fmt: skip
        self.graph.backward()
        return self.metrics.add(losses, scores, batch) * scale

    def _recorded_for(self, lengths: np.ndarray, total: int) -> RecordedStep:
        """What was recorded for batches like this one, or is recorded now.

        Kernels walk over all steps that there is room for: at most twice those of the batch.
        """
        steps = int(lengths.max())
        steps = min(1 << (steps - 1).bit_length(), self.longest)
        key = lengths.size, steps
        recorded = self.recorded.get(key)
        if recorded is None or not recorded.is_valid(total):
            room = min(total + int(ROOM * total), lengths.size * steps)
            recorded = self.recorded[key] = RecordedStep(self, lengths, steps, room)
        return recorded

    def leave(self) -> None:
        """The fit ends, as it should or not. The parameters that steps change are the layers' own."""

    def end_epoch(self) -> tuple[dict[str, float], float]:
        """Mean loss and score since the last epoch's end, and the mean norm of the gradients."""
        result = self.metrics.logs(self.loss.metric), self.norms / self.steps
        self._begin_epoch()
        return result
