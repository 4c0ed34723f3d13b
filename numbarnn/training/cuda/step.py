"""FlatBatch of gradient descent on a GPU, without a word from it until an epoch ends."""

from typing import Any, NamedTuple

import numpy as np

from numbarnn.engine.cuda.arrays import arrays, free_bytes, on_host
from numbarnn.engine.cuda.matmul import multiply_over_rows
from numbarnn.engine.guards import WRITE, Hold, use_guards
from numbarnn.layers.cuda.parameters import join
from numbarnn.layers.cuda.passes import CudaBuffers, sum_rows
from numbarnn.sequences.layout import flat_rows
from numbarnn.training.cuda import loss_kernels as losses_cuda
from numbarnn.training.cuda import update_kernels as updates_cuda
from numbarnn.training.cuda.data import Resident, Streamed
from numbarnn.training.cuda.update_kernels import Updates, clipping_factor, norm_of
from numbarnn.training.data import LabelledSamples
from numbarnn.training.losses import Loss
from numbarnn.training.optimizers import Optimizer
from numbarnn.training.step import check_for_divergence

SHARE_FOR_DATA = 0.5  # of the GPU's free memory, that a fit's data may take


class CudaBatch(NamedTuple):
    """One batch in packed order, on the GPU."""

    layout: Any  # a tuple where there are several inputs, as x
    x: Any
    targets: Any
    factors: Any  # of the gradients, one a target: their sum is 1, or 0
    total_weight: float


class CudaSamples:
    """Samples whose inputs are on the GPU, where there is room for them, or come batch by batch.

    Parameters
    ----------
    samples : LabelledSamples
        The samples. Their targets and weights are in the host's memory.
    """

    def __init__(self, samples: LabelledSamples) -> None:
        self.samples = samples
        parts = [(part.on_gpu, part.steps.values) for part in samples.parts]
        fits = sum(values.nbytes for on_gpu, values in parts if not on_gpu) <= SHARE_FOR_DATA * free_bytes()
        self.inputs = [Resident(values) if on_gpu or fits else Streamed(values) for on_gpu, values in parts]

    def batch(self, rows: np.ndarray) -> CudaBatch:
        """The batch of these rows, for the step that is launched before the next call."""
        xp, samples = arrays(), self.samples
        forms = [part.form_of(rows) for part in samples.parts]
        x_rows = [flat_rows(form.starts, form.layout) for form in forms]
        x = samples.join([inputs.take(own) for inputs, own in zip(self.inputs, x_rows, strict=True)])
        layout = samples.join([form.layout for form in forms])
        leading = samples.leading
        places = x_rows[leading] if samples.per_step else rows[forms[leading].layout.order]
        weights = samples.weights[places]
        total = float(weights.sum())
        factors = (weights / total if total > 0.0 else weights).astype(samples.dtype)
        return CudaBatch(layout, x, xp.asarray(samples.targets[places]), xp.asarray(factors), total)


class Taken(NamedTuple):
    """A step whose results are still on the GPU."""

    place: str
    learning_rate: float
    total_weight: float
    targets: int
    outcome: Any  # loss, sum of the scores, norm of the gradient


def check_kernels(loss: Loss, samples: LabelledSamples, optimizer: Optimizer) -> None:
    """Raise a ValueError where a loss or an optimiser is the user's own, and has no kernel for the GPU."""
    losses_cuda.kernel_for(loss, samples.targets, samples.dtype)
    updates_cuda.kernel_for(optimizer)


class CudaTrainingStep:
    """The counterpart of `TrainingStep`, whose parameters it takes.

    The host launches step after step. Whether one diverged is asked at the end of an epoch; the layers'
    parameters are then still those of the epoch before.
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
        self.loss, self.clip_norm, self.clip_value = loss, clip_norm, clip_value
        trained = [layer for layer in model.layers if layer.count_parameters()]
        self.values = [layer.flat_values for layer in trained]
        self.kernel = losses_cuda.kernel_for(loss, samples.targets, samples.dtype)
        self.parts = [layer.cuda_parameters() for layer in trained]
        flat_values, self.gradients = join(self.parts)
        for layer in model.layers:
            layer.drop_passes()
        self.updates = Updates(optimizer, flat_values, self.gradients)
        self.samples = CudaSamples(samples)
        self.graph = model.new_graph(training=True)
        self.buffers = CudaBuffers(samples.dtype)
        self.taken: list[Taken] = []

    def step(self, rows: np.ndarray, seed: int, learning_rate: float, place: str) -> None:
        """A step on the batch of these rows; `place` says where in the fit, for errors."""
        hold = Hold(self.graph.guards)
        try:
            hold.take(WRITE)
            self._launch(rows, seed, learning_rate, place)
        finally:
            use_guards(*hold.way_out)

    def _launch(self, rows: np.ndarray, seed: int, learning_rate: float, place: str) -> None:
        xp, batch = arrays(), self.samples.batch(rows)
        layout, y = self.graph.prepare(batch.layout, batch.x, seed)
        dy = self.buffers.matrix("dy", *y.shape)
        losses, scores = xp.empty((2, layout.total), y.dtype)
        self.graph.prepare_backward(dy)
        self.graph.forward()
        losses_cuda.run(self.kernel, y, batch.targets, batch.factors, losses, scores, dy)
        self.graph.backward()
        norm = norm_of(self.gradients)
        factor = clipping_factor(self.gradients, norm, self.clip_norm, self.clip_value)
        limit = np.inf if self.clip_value is None else self.clip_value
        self.updates.update(learning_rate, limit, factor)
        outcome = xp.empty(3, y.dtype)
        multiply_over_rows(losses.reshape(-1, 1), batch.factors.reshape(-1, 1), outcome[0:1].reshape(1, 1))
        sum_rows(self.buffers, scores.reshape(-1, 1), outcome[1:2])
        outcome[2:3] = norm
        self.taken.append(Taken(place, learning_rate, batch.total_weight, layout.total, outcome))

    def leave(self) -> None:
        """The fit ends, as it should or not: the layers' own parameters count from now on."""
        for part in self.parts:
            part.forget()

    def end_epoch(self) -> tuple[dict[str, float], float]:
        """Mean loss and score since the last epoch's end, and the mean norm of the gradients.

        Raises
        ------
        FloatingPointError
            If the loss of a step or its gradient is not finite.
        """
        taken, self.taken = self.taken, []
        outcomes = on_host(arrays().stack([step.outcome for step in taken])).astype(np.float64)
        for step, (loss, _, norm) in zip(taken, outcomes.tolist(), strict=True):
            check_for_divergence(loss, norm, step.place, step.learning_rate)
        hold = Hold(self.graph.guards)
        try:
            hold.take(WRITE)
            for part in self.parts:
                part.publish()
                part.gradients_are_new = True
        finally:
            use_guards(*hold.way_out)
        losses, scores, norms = outcomes.T
        weights = np.array([step.total_weight for step in taken])
        total = weights.sum()
        # No weight at all in these batches: the loss is 0, as its gradient was.
        loss = float(losses @ weights / total) if total > 0.0 else 0.0
        score = float(scores.sum()) / sum(step.targets for step in taken)
        return {"loss": loss, self.loss.metric: score}, float(norms.mean())
