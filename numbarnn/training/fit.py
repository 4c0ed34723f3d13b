"""The training loop: batches, steps, validation, callbacks, history."""

import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from numbarnn.arguments import nonnegative
from numbarnn.engine.guards import Hold, use_guards
from numbarnn.engine.random import seed_of, with_part
from numbarnn.jit.compile_cache import compile_clock
from numbarnn.layers.parameters import hold_packed
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
    hold = Hold(graph.guards)
    try:
        hold_packed(hold, graph.stores, training=False)
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
    finally:
        use_guards(*hold.way_out)
    return metrics.logs(loss.metric, prefix)


def batches(order: np.ndarray, batch_size: int) -> list[np.ndarray]:
    """Consecutive pieces of `order`, the last one possibly shorter."""
    return [order[first : first + batch_size] for first in range(0, len(order), batch_size)]


class _Claim:
    """The layers that a fit trains, which nobody else may train or build meanwhile."""

    def __init__(self, model: Any) -> None:
        self._owner = os.getpid(), threading.get_ident()
        self._layers = list(model.layers)
        self._stores = [layer.store for layer in self._layers]

    def take(self) -> None:
        """Have the layers.

        Raises
        ------
        RuntimeError
            If another fit has one of them.
        """
        for layer, store in zip(self._layers, self._stores, strict=True):
            store.claim(self)
            if layer.store is not store:
                raise RuntimeError("fit: another thread has built a layer of this model anew")

    def is_running(self) -> bool:
        """Whether the fit goes on: in a forked child only the thread that forked does."""
        process, thread = self._owner
        return process == os.getpid() or thread == threading.get_ident()

    def release(self) -> None:
        """Leave them to others."""
        for store in self._stores:
            store.release(self)


def fit_alone(model: Any, callbacks: Sequence[Callback], run: Callable[[], History]) -> History:
    """Run a fit that no other call disturbs, and tell its callbacks of an error or an interrupt."""
    claim = _Claim(model)
    try:
        claim.take()
        try:
            return run()
        except BaseException as error:  # also where the user interrupts: callbacks keep their promises
            _tell(callbacks, model, error)
            raise
    finally:
        claim.release()


def _tell(callbacks: Sequence[Callback], model: Any, error: BaseException) -> None:
    """Tell all callbacks of an error, also where one of them raises another."""
    if callbacks:
        try:
            callbacks[0].on_exception(model, error)
        finally:
            _tell(callbacks[1:], model, error)


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
        try:
            compile_clock.on_start.append(announce)
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
            if announce in compile_clock.on_start:
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
