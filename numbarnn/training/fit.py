"""The training loop: batches, steps, validation, callbacks, history."""

import threading
import time
from collections.abc import Iterable
from typing import Any

import numpy as np

from numbarnn.arguments import nonnegative
from numbarnn.engine.random import seed_of, with_part
from numbarnn.jit.compile_cache import compile_clock
from numbarnn.training.callbacks import Callback, History
from numbarnn.training.data import LabelledSamples
from numbarnn.training.losses import Loss
from numbarnn.training.optimizers import Optimizer
from numbarnn.training.progress import Progress
from numbarnn.training.step import RunningMetrics, TrainingStep

EVALUATION_BATCH = 256


def evaluate(
    model: Any, samples: LabelledSamples, loss: Loss, size: int, prefix: str = ""
) -> dict[str, float]:
    """Mean loss and score over all samples."""
    graph, metrics = model.new_graph(training=False), RunningMetrics()
    for rows in batches(np.arange(samples.rows), EVALUATION_BATCH):
        batch = samples.batch(rows)
        layout, y = graph.prepare(batch.layout, graph.to_device(batch.x, samples.features), 0)
        losses, scores = np.empty(layout.total), np.empty(layout.total)
        graph.forward()
        y = graph.to_host(y)
        # There is no use for the gradient: it may overwrite the outputs.
        loss.rows(
            y, size, batch.targets, batch.weights, 0.0, losses, scores, y,
            layout.active, layout.offset, 0, layout.rows,
        )  # fmt: skip
        metrics.add(losses, scores, batch)
    return metrics.logs(loss.metric, prefix)


def batches(order: np.ndarray, batch_size: int) -> list[np.ndarray]:
    """Consecutive pieces of `order`, the last one possibly shorter."""
    return [order[first : first + batch_size] for first in range(0, len(order), batch_size)]


def fit(
    model: Any,
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
    """The loop behind `Model.fit`, whose arguments are checked by now."""
    history = History()
    callbacks = list(callbacks)
    trainer = _step_class(model.device)(model, samples, loss, size, optimizer, clip_norm, clip_value)
    schedule = optimizer.schedule
    rng = np.random.default_rng(int(seed_of(seed, 1)))
    compiled_before, began = compile_clock.seconds, time.perf_counter()
    steps_done, seed_of_steps = 0, int(seed_of(seed, 2))
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
                for i, rows in enumerate(pieces):
                    rate = nonnegative("learning_rate", schedule.at(epoch + i / len(pieces), epochs))
                    place = f"epoch {epoch + 1}, step {i + 1} of {len(pieces)}"
                    trainer.step(rows, with_part(seed_of_steps, steps_done), rate, place)
                    steps_done += 1
                logs, grad_norm = trainer.end_epoch()
                if validation is not None:
                    logs |= evaluate(model, validation, loss, size, prefix="val_")
                logs["grad_norm"] = grad_norm
                logs["learning_rate"] = rate
                logs["seconds"] = _without_compiling(epoch_began, compiled)
                history.add(logs)
                progress.epoch_done(logs)
                for callback in callbacks:
                    callback.on_epoch_end(model, epoch, logs)
                if any(callback.stop for callback in callbacks):
                    break
            if not all(np.isfinite(values).all() for values in trainer.values):
                raise FloatingPointError(
                    "the last step left parameters that are not finite: training has diverged. Lower the"
                    " learning rate, set clip_norm, or scale the inputs"
                )
            for callback in callbacks:
                callback.on_fit_end(model)
        finally:
            trainer.leave()
            compile_clock.on_start.remove(announce)
    history.fit_seconds = _without_compiling(began, compiled_before)
    return history


def check_kernels_of(device: str, loss: Loss, samples: LabelledSamples, optimizer: Optimizer) -> None:
    """Raise a ValueError if a fit on this device cannot be with these, before anything is changed."""
    if device == "cuda":
        from numbarnn.training.cuda.step import check_kernels  # where a GPU is asked for, not before

        check_kernels(loss, samples, optimizer)


def _step_class(device: str) -> Any:
    if device == "cpu":
        return TrainingStep
    from numbarnn.training.cuda.step import CudaTrainingStep  # where a GPU is asked for, not before

    return CudaTrainingStep


def _without_compiling(began: float, compiled_before: float) -> float:
    """Seconds since `began` in which nothing was compiled."""
    seconds, compiling = time.perf_counter() - began, compile_clock.seconds - compiled_before
    # Another thread may have begun to compile before, and is counted when it is done.
    return max(0.0, seconds - compiling)


class _CompileNotice:
    """Says once that kernels are being compiled, which explains the wait.

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
