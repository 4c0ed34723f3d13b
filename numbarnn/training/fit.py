"""The training loop: batches, gradients, clipping, optimiser, history."""

import math
import threading
import time
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from numbarnn.engine.compile_cache import compile_clock
from numbarnn.engine.random import seed_of
from numbarnn.layers.base import Layer
from numbarnn.layers.chain import Chain
from numbarnn.layers.passes import Buffers
from numbarnn.training.callbacks import Callback, History
from numbarnn.training.clipping import clipping_of, global_norm
from numbarnn.training.data import Batch, LabelledSamples
from numbarnn.training.loss_kernels import add_up
from numbarnn.training.losses import Loss
from numbarnn.training.optimizers import Optimizer
from numbarnn.training.progress import Progress

EVALUATION_BATCH = 256


class Scored:
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
        return loss

    def logs(self, metric: str, prefix: str = "") -> dict[str, float]:
        # No weight at all in these batches: the loss is 0, as its gradient was.
        mean = self.loss / self.weight if self.weight > 0.0 else 0.0
        return {f"{prefix}loss": mean, f"{prefix}{metric}": self.score / self.count}


class TrainingStep:
    """One step of gradient descent after the other, on buffers that are allocated once."""

    def __init__(self, layers: Sequence[Layer], loss: Loss, size: int) -> None:
        self.loss, self.size = loss, size
        self.dtype = layers[0].dtype
        self.chain = Chain(layers, training=True)
        self.buffers = Buffers(self.dtype)
        self.trained = [layer for layer in layers if layer.count_parameters()]
        self.gradients = [layer.flat_gradients for layer in self.trained]
        self.values = [layer.flat_values for layer in self.trained]

    def compute(self, batch: Batch, seed: int, scored: Scored) -> float:
        """Loss and gradients of one batch; returns the loss."""
        layout, y = self.chain.prepare(batch.layout, batch.x, seed)
        dy = self.buffers.matrix("dy", y.shape[0], y.shape[1])
        losses, scores = np.empty(layout.total), np.empty(layout.total)
        scale = 1.0 / batch.total_weight if batch.total_weight > 0.0 else 0.0
        self.chain.prepare_backward(dy)
        self.chain.forward()
        self.loss.rows(
            y, self.size, batch.targets, batch.weights, scale, losses, scores, dy,
            layout.active, layout.offset, 0, layout.rows,
        )  # fmt: skip
        self.chain.backward()
        return scored.add(losses, scores, batch) * scale

    def changed(self) -> None:
        """Tell the layers that their parameters have changed."""
        for layer in self.trained:
            layer.version += 1


def evaluate(layers: Sequence[Layer], samples: LabelledSamples, loss: Loss, size: int, prefix: str = ""):
    """Mean loss and score over all samples."""
    chain, scored = Chain(layers, training=False), Scored()
    for rows in batches(np.arange(samples.rows), EVALUATION_BATCH):
        batch = samples.batch(rows)
        layout, y = chain.prepare(batch.layout, batch.x, 0)
        losses, scores = np.empty(layout.total), np.empty(layout.total)
        chain.forward()
        # There is no use for the gradient: it may overwrite the outputs.
        loss.rows(
            y, size, batch.targets, batch.weights, 0.0, losses, scores, y,
            layout.active, layout.offset, 0, layout.rows,
        )  # fmt: skip
        scored.add(losses, scores, batch)
    return scored.logs(loss.metric, prefix)


def batches(order: np.ndarray, batch_size: int) -> list[np.ndarray]:
    """Consecutive pieces of `order`, the last one possibly shorter."""
    return [order[first : first + batch_size] for first in range(0, len(order), batch_size)]


def fit(
    model: Any,
    layers: Sequence[Layer],
    samples: LabelledSamples,
    validation: LabelledSamples | None,
    loss: Loss,
    size: int,
    optimizer: Optimizer,
    epochs: int,
    batch_size: int,
    clip_norm: float | None,
    clip_value: float | None,
    shuffle: bool,
    seed: int,
    callbacks: Iterable[Callback],
    verbose: bool,
) -> History:
    """The loop behind `Sequential.fit`, whose arguments are checked by now."""
    history = History()
    callbacks = list(callbacks)
    step = TrainingStep(layers, loss, size)
    state, schedule = optimizer.start(step.values), optimizer.schedule
    rng = np.random.default_rng(int(seed_of(seed, 1)))
    compiled_before, began = compile_clock.seconds, time.perf_counter()
    steps_done = 0
    with Progress(epochs, verbose) as progress:
        announce = _CompileNotice(progress)
        compile_clock.on_start.append(announce)
        try:
            for callback in callbacks:
                callback.on_fit_begin(model)
            for epoch in range(epochs):
                epoch_began, compiled = time.perf_counter(), compile_clock.seconds
                order = rng.permutation(samples.rows) if shuffle else np.arange(samples.rows)
                pieces = batches(order, batch_size)
                scored, norms = Scored(), 0.0
                for i, rows in enumerate(pieces):
                    rate = schedule.at(epoch + i / len(pieces), epochs)
                    value = step.compute(samples.batch(rows), int(seed_of(seed, 2, steps_done)), scored)
                    norm = global_norm(step.gradients)
                    if not (math.isfinite(value) and math.isfinite(norm)):
                        raise FloatingPointError(
                            f"the loss is {value} and its gradient's norm {norm} in epoch {epoch + 1}, step"
                            f" {i + 1} of {len(pieces)}, at a learning rate of {rate:g}: training has"
                            " diverged. Lower the learning rate, set clip_norm, or scale the inputs"
                        )
                    clipping = clipping_of(step.gradients, norm, clip_norm, clip_value)
                    optimizer.update(state, step.values, step.gradients, rate, *clipping)
                    step.changed()
                    norms += norm
                    steps_done += 1
                logs = scored.logs(loss.metric)
                if validation is not None:
                    logs |= evaluate(layers, validation, loss, size, prefix="val_")
                logs["grad_norm"] = norms / len(pieces)
                logs["learning_rate"] = rate
                logs["seconds"] = _without_compiling(epoch_began, compiled)
                history.add(logs)
                progress.epoch_done(logs)
                for callback in callbacks:
                    callback.on_epoch_end(model, epoch, logs)
                if any(callback.stop for callback in callbacks):
                    break
            if not all(np.isfinite(values).all() for values in step.values):
                raise FloatingPointError(
                    "the last step left parameters that are not finite: training has diverged. Lower the"
                    " learning rate, set clip_norm, or scale the inputs"
                )
            for callback in callbacks:
                callback.on_fit_end(model)
        finally:
            compile_clock.on_start.remove(announce)
    history.fit_seconds = _without_compiling(began, compiled_before)
    return history


def _without_compiling(began: float, compiled_before: float) -> float:
    """Seconds since `began` in which nothing was compiled."""
    seconds, compiling = time.perf_counter() - began, compile_clock.seconds - compiled_before
    # Another thread may have begun to compile before, and is counted when it is done.
    return max(0.0, seconds - compiling)


class _CompileNotice:
    """Says once that kernels are being compiled, so that nobody wonders about the wait.

    What other threads compile (a warm-up in the background) is not what this fit's user waits for.
    """

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.thread = threading.get_ident()
        self.said = False

    def __call__(self) -> None:
        if not self.said and threading.get_ident() == self.thread:
            self.said = True
            self.progress.message(
                "numbarnn: compiling kernels for this machine; they are kept for the next time"
            )
