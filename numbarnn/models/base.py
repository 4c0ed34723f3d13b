"""Model: what all models share, whatever the order of their layers: fit, evaluate, predict."""

import operator
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from numbarnn import arguments
from numbarnn.jit.compile_cache import compile_clock
from numbarnn.layers.base import Layer
from numbarnn.layers.latest import Latest
from numbarnn.layers.parameters import LARGEST_SPARE_BYTES
from numbarnn.models.connected_layers import ConnectedLayers
from numbarnn.models.own_loop import ModelPass
from numbarnn.training.callbacks import Callback, History
from numbarnn.training.data import LabelledSamples
from numbarnn.training.fit import check_kernels_of, evaluate, fit, fit_alone
from numbarnn.training.losses import Loss, get_loss
from numbarnn.training.optimizers import Optimizer, OptimizerState, get_optimizer

_NOT_COPIED = ("_spare", "_latest", "_updates")


class Model(ConnectedLayers):
    """Base of all models.

    Any number of threads may predict while another one trains or sets parameters: each result, over all
    layers and batches, is of one consistent set of weights. A layer takes part in one fit at a time.

    A subclass says how its layers are connected; see `ConnectedLayers` for what it has to say.

    Parameters
    ----------
    layers : sequence of Layer
        Different layers; one that is used twice stands here once.
    device : {"cpu", "cuda"}, optional
        Where all layers work from now on. By default where they do.

    Attributes
    ----------
    layers : list of Layer
        The layers.
    dtype : dtype
        That of all layers.
    """

    def __init__(self, layers: Sequence[Layer], device: str | None = None) -> None:
        super().__init__(layers, device)
        self._loss: Loss | None = None
        self._forget_passes()

    def _forget_passes(self) -> None:
        self._spare: dict[bool, list[ModelPass]] = {True: [], False: []}  # of own loops, by training
        self._latest = Latest()
        self._updates: tuple[Optimizer, list[np.ndarray], OptimizerState] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles take none of the buffers."""
        return {name: value for name, value in vars(self).items() if name not in _NOT_COPIED}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._forget_passes()

    # ---- a loop of one's own -----------------------------------------------------------------------------

    def forward(self, x: Any, training: bool = False, seed: int | None = None) -> Any:
        """Compute the output. The layers build themselves at the first use.

        Parameters
        ----------
        x
            As in `fit`.
        training : bool
            Keep what `backward` needs, and apply dropout.
        seed : int, optional
            Fixes the dropout numbers of this call.

        Returns
        -------
        array (B, K), or in the form of `x` where the output is a sequence

        Raises
        ------
        TypeError, ValueError
            If an argument does not fit.
        """
        training, seed = arguments.flag("training", training), arguments.seed("seed", seed)
        self._settle()
        steps = self._read(x, "x")
        features = self._features(steps)
        size = self._size_of_output(features)
        if not self._is_built_for(features):
            self.build(features)
        run = self._acquire_pass(training)
        y = run.forward(
            self._samples(steps), self._leading(steps), self._gives_sequence(steps), size, seed or 0
        )
        for free in self._latest.remember(run) if training else (run,):
            self._keep_pass(free)
        return y

    def _acquire_pass(self, training: bool) -> ModelPass:
        """A pass that is not in use, with the buffers of an earlier call where there is one."""
        try:
            run = self._spare[training].pop()
        except IndexError:
            return ModelPass(self.new_graph(training), self.layers, training)
        return run if run.fits(self.layers) else ModelPass(self.new_graph(training), self.layers, training)

    def _keep_pass(self, run: ModelPass) -> None:
        """A pass is free for another call."""
        if run.training or run.nbytes <= LARGEST_SPARE_BYTES:
            self._spare[run.training] = [run]

    def backward(self, dy: Any, input_gradient: bool = True) -> Any:
        """Gradients of the latest ``forward(training=True)``; those of the layers are overwritten.

        Parameters
        ----------
        dy : array or list of arrays
            Gradient of the output, in its form. An array on the GPU is brought to the host.
        input_gradient : bool
            False spares the work of dx.

        Returns
        -------
        array or list of arrays, or None
            Gradient of the input, in its form; of several inputs a tuple. None where it is tokens.

        Raises
        ------
        RuntimeError
            If there was no such forward; each allows one backward.
        ValueError
            If `dy` does not have the form of the output.
        """
        input_gradient = arguments.flag("input_gradient", input_gradient)
        self._settle()
        run: ModelPass = self._latest.take()
        try:
            gradients = run.backward(self._on_host(dy, "dy"), input_gradient)
        except (TypeError, ValueError):
            self._latest.put_back(run)
            raise
        self._keep_pass(run)
        return gradients[0] if len(gradients) == 1 else tuple(gradients)

    def updates_of(self, optimizer: Optimizer) -> tuple[list[Layer], OptimizerState]:
        """The layers that an optimiser trains, and what it remembers of its earlier steps on them."""
        self._require_built("a step of an optimizer")
        layers = [layer for layer in self.layers if layer.count_parameters()]
        values = [layer.flat_values for layer in layers]
        if self._updates is not None:
            latest, known, state = self._updates
            same = len(known) == len(values) and all(map(operator.is_, known, values))
            if same and latest == optimizer:
                return layers, state
        state = optimizer.start(values)
        self._updates = optimizer, values, state
        return layers, state

    # ---- fitting -----------------------------------------------------------------------------------------

    def fit(
        self,
        x: Any,
        y: Any,
        loss: str | Loss = "cross_entropy",
        optimizer: str | Optimizer = "adam",
        epochs: int = 20,
        batch_size: int = 32,
        validation_data: tuple[Any, Any] | None = None,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        sample_weight: Any = None,
        class_weight: Any = None,
        shuffle: bool = True,
        seed: int | None = 0,
        callbacks: Iterable[Callback] = (),
        verbose: bool | int = True,
    ) -> History:
        """Fit the parameters; fitting again goes on from where they are, with a fresh optimiser.

        Parameters
        ----------
        x : array (B, T, I) or list of arrays (T_i, I); for tokens (B, T) or list of (T_i,) integers
            Sequences, all of their steps valid. With ``device="cuda"`` an array may be on the GPU already
            (CuPy's, PyTorch's, JAX's); it stays on the GPU.
        y : array or list
            Targets: one a sequence, or one a step where the model's output is a sequence. Integer labels for
            ``"cross_entropy"`` and ``"binary_cross_entropy"``, numbers for the others; labels may have a
            last axis of one, as in (B, 1). With
            ``device="cuda"`` an array on the GPU is brought to the host once, wherever x is.
        loss : {"cross_entropy", "binary_cross_entropy", "mse", "mae", "huber"} or Loss
            The mean over rows (or valid steps), weighted by the weights.
        optimizer : {"sgd", "rmsprop", "adam", "adamw"} or Optimizer
            With its learning rate or schedule.
        epochs, batch_size : int
            Passes over the data, and rows of a batch.
        validation_data : (x, y), optional
            Evaluated after every epoch. Both may be on the GPU as above.
        clip_norm : float, optional
            Largest norm of the whole gradient, which is projected onto that ball.
        clip_value : float, optional
            Largest magnitude of a gradient's entry.
        sample_weight : array-like (B,), optional
            A weight for every sequence; on the GPU or not, as y. The loss of a batch is the weighted mean:
            weights count only against the others of the same batch, and with ``batch_size=1`` not at all.
        class_weight : dict of int to float, or "balanced", optional
            A weight for every label.
        shuffle : bool
            Draw a new order of rows for every epoch.
        seed : int or None
            Fixes first parameters, order and dropout: the same seed gives the same bits. A loop of
            ``fit(epochs=1)`` draws the same order and dropout at every call, unless it passes another seed
            each time or None, which draws one anew.
        callbacks : iterable of Callback
            For example `EarlyStopping`.
        verbose : bool, 0, 1 or 2
            Show progress: a bar with tqdm installed, otherwise lines. 0 is False, 1 and 2 are True.

        Returns
        -------
        History
            ``history.history`` is a dict of lists, one entry an epoch.

        Raises
        ------
        TypeError, ValueError
            If an argument does not fit; it is named, and the model is unchanged.
        FloatingPointError
            If the loss or its gradient becomes NaN or infinite.
        RuntimeError
            If another call of fit is training one of the layers.
        """
        compiled_before = compile_clock.seconds
        chosen_loss, chosen_optimizer = get_loss(loss), get_optimizer(optimizer)
        epochs, batch_size = arguments.count("epochs", epochs), arguments.count("batch_size", batch_size)
        shuffle, verbose = arguments.flag("shuffle", shuffle), arguments.verbosity("verbose", verbose)
        clip_norm, clip_value = _check_limit(clip_norm, "clip_norm"), _check_limit(clip_value, "clip_value")
        seed = arguments.seed("seed", seed)
        callbacks = _check_callbacks(callbacks)
        self._settle()
        steps = self._read(x, "x")
        features = self._features(steps)
        size = self._size_of_output(features)
        samples = self._label(steps, y, chosen_loss, size, sample_weight, class_weight)
        validation = self._read_validation(validation_data, features, chosen_loss, size)
        names = ["loss", chosen_loss.metric, "grad_norm", "learning_rate", "seconds"]
        if validation is not None:
            names[2:2] = ["val_loss", f"val_{chosen_loss.metric}"]
        for callback in callbacks:
            callback.check_numbers(names)
        check_kernels_of(self.device, chosen_loss, samples, chosen_optimizer)
        for callback in callbacks:
            if vars(callback).get("stop"):
                callback.stop = False
        self.build(features, seed)
        self._loss = chosen_loss
        history = fit_alone(
            self,
            callbacks,
            lambda: fit(
                self, samples, validation, chosen_loss, size, chosen_optimizer, epochs, batch_size,
                clip_norm, clip_value, shuffle, seed, callbacks, verbose,
            ),
        )  # fmt: skip
        history.compile_seconds = compile_clock.seconds - compiled_before
        return history

    def _read_validation(self, pair: Any, features: Any, loss: Loss, size: int) -> LabelledSamples | None:
        if pair is None:
            return None
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise ValueError("validation_data must be a pair (x, y)")
        try:
            return self._label(self._read(pair[0], "x", features), pair[1], loss, size)
        except (TypeError, ValueError, MemoryError) as error:
            raise type(error)(f"validation_data {error}") from None

    def evaluate(self, x: Any, y: Any, loss: str | Loss | None = None) -> dict[str, float]:
        """Mean loss, and accuracy or mean absolute error, over all rows or valid steps.

        Parameters
        ----------
        x, y
            As in `fit`.
        loss : str or Loss, optional
            By default the loss of the latest fit.

        Returns
        -------
        dict
            ``{"loss": ..., "accuracy": ...}``, for regression ``"mae"`` in place of accuracy.
        """
        self._require_built("evaluate")
        chosen = self._known_loss("evaluate") if loss is None else get_loss(loss)
        steps = self._read(x, "x")
        features = self._features(steps)
        size = self._size_of_output(features)
        if not self._is_built_for(features):
            self.build(features)
        return evaluate(self, self._label(steps, y, chosen, size), chosen, size)

    def predict(self, x: Any, batch_size: int = 256) -> Any:
        """The last layer's output.

        Parameters
        ----------
        x
            As in `fit`.
        batch_size : int
            Rows computed at a time. On the CPU results do not depend on it, on a GPU not beyond rounding.

        Returns
        -------
        array (B, K), or in the form of `x` where the output is a sequence
            For a classifier with `Dense` last, the logits. Of an `x` on the GPU they are CuPy's and stay
            on the GPU; the host does not wait for them, nor does it check that `x` is finite.

        Raises
        ------
        TypeError, ValueError
            If an argument does not fit; it is named.
        """
        self._require_built("predict")
        batch_size = arguments.count("batch_size", batch_size)
        steps = self._read(x, "x")
        samples, leading, per_step = self._samples(steps), self._leading(steps), self._gives_sequence(steps)
        features = self._features(steps)
        size = self._size_of_output(features)
        if not self._is_built_for(features):
            self.build(features)
        run = self._acquire_pass(training=False)
        y = run.predict(samples, leading, per_step, size, batch_size)
        self._keep_pass(run)
        return y

    def predict_proba(self, x: Any, batch_size: int = 256) -> Any:
        """Probabilities: softmax or sigmoid of `predict`, as the loss of the latest fit says.

        Of an `x` on the GPU they stay on the GPU as well.

        Raises
        ------
        ValueError
            If the model was fitted as a regression.
        RuntimeError
            If it was not fitted.
        """
        loss = self._known_loss("predict_proba")
        outputs = self.predict(x, batch_size)
        if isinstance(outputs, list):
            return [loss.probabilities(row) for row in outputs]
        return loss.probabilities(outputs)

    def _is_built_for(self, features: Any) -> bool:
        """Whether nothing is to be built: layers without parameters take inputs of any width."""
        return self.built and any(layer.fixes_width for layer in self.layers)

    def _known_loss(self, what: str) -> Loss:
        if self._loss is None:
            raise RuntimeError(f"{what} needs to know the loss: fit the model first")
        return self._loss


def _check_limit(value: Any, name: str) -> float | None:
    return None if value is None else arguments.positive(name, value)


def _check_callbacks(callbacks: Any) -> list[Callback]:
    if isinstance(callbacks, Callback) or not isinstance(callbacks, Iterable):
        raise TypeError(f"callbacks must be a list of callbacks, not {type(callbacks).__name__}")
    listed: list[Callback] = list(callbacks)
    for i, callback in enumerate(listed):
        if not isinstance(callback, Callback):
            raise TypeError(f"callbacks[{i}] must be a Callback, not {type(callback).__name__}")
    return listed
