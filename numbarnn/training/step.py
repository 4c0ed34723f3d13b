"""FlatBatch of gradient descent on the CPU: loss, gradients, clipping and the optimiser's update."""

import math
from typing import Any

import numpy as np

from numbarnn.layers.passes import Buffers
from numbarnn.training.clipping import clipping_of, global_norm
from numbarnn.training.data import Batch, LabelledSamples
from numbarnn.training.loss_kernels import add_up
from numbarnn.training.losses import Loss
from numbarnn.training.optimizers import Optimizer


class RunningMetrics:
    """Sums of losses and scores over batches."""

    def __init__(self) -> None:
        self.loss = self.weight = self.score = 0.0
        self.count = 0

    def add(self, losses: np.ndarray, scores: np.ndarray, batch: Batch) -> float:
        """Take the losses and scores of a batch; return its weighted sum of losses."""
        loss, score = add_up(losses, scores, batch.weights)
        self.loss += loss
        self.weight += batch.total_weight
        self.score += score
        self.count += losses.size
        return float(loss)

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
    """One step of gradient descent after the other, on buffers that are allocated once.

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
        self.samples, self.loss, self.size = samples, loss, size
        self.optimizer, self.clip_norm, self.clip_value = optimizer, clip_norm, clip_value
        self.graph = model.new_graph(training=True)
        self.buffers = Buffers(model.dtype)
        self.trained = [layer for layer in model.layers if layer.count_parameters()]
        self.gradients = [layer.flat_gradients for layer in self.trained]
        self.values = [layer.flat_values for layer in self.trained]
        self.state = optimizer.start(self.values)
        self._begin_epoch()

    def _begin_epoch(self) -> None:
        self.metrics, self.norms, self.steps = RunningMetrics(), 0.0, 0

    def step(self, rows: np.ndarray, seed: int, learning_rate: float, place: str) -> None:
        """A step on the batch of these rows; `place` says where in the fit, for errors.

        Raises
        ------
        FloatingPointError
            If the loss or its gradient is not finite; then no parameter changes.
        """
        loss = self._compute(self.samples.batch(rows), seed)
        norm = global_norm(self.gradients)
        check_for_divergence(loss, norm, place, learning_rate)
        clipping = clipping_of(self.gradients, norm, self.clip_norm, self.clip_value)
        self.optimizer.update(self.state, self.values, self.gradients, learning_rate, *clipping)
        for layer in self.trained:
            layer.version += 1
        self.norms += norm
        self.steps += 1

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

    def leave(self) -> None:
        """The fit ends, as it should or not. The parameters that steps change are the layers' own."""

    def end_epoch(self) -> tuple[dict[str, float], float]:
        """Mean loss and score since the last epoch's end, and the mean norm of the gradients."""
        result = self.metrics.logs(self.loss.metric), self.norms / self.steps
        self._begin_epoch()
        return result
