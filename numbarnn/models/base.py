"""Model: what all models share, whatever the order of their layers: fit, evaluate, predict."""

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from numbarnn import arguments
from numbarnn.devices import is_on_gpu
from numbarnn.jit.compile_cache import compile_clock
from numbarnn.layers.base import Layer
from numbarnn.models.layer_collection import LayerCollection
from numbarnn.sequences.layout import Layout, scatter_steps
from numbarnn.sequences.reading import FlatBatch, in_form, vector_form
from numbarnn.training.callbacks import Callback, History
from numbarnn.training.data import LabelledSamples, Samples, read_samples
from numbarnn.training.fit import batches, check_kernels_of, evaluate, fit
from numbarnn.training.losses import Loss, get_loss
from numbarnn.training.optimizers import Optimizer, get_optimizer


class Model(LayerCollection):
    """Base of all models.

    A subclass says how its layers are connected, in the methods below "what a model says of itself". What
    they call *steps* is what `_read` made of the user's x: a `FlatBatch`, or one for each input.

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

    # ---- what a model says of itself ---------------------------------------------------------------------

    @abstractmethod
    def new_graph(self, training: bool) -> Any:
        """The passes of all layers, a `Chain` or a `Graph`; the layers are built."""

    @abstractmethod
    def build(self, input_size: Any, seed: int | None = None) -> None:
        """Build all layers that are not built; `input_size` is as `_features` gives it."""

    @abstractmethod
    def _read(self, x: Any, name: str, features: Any = None) -> Any:
        """Check the user's x; return its steps. `features` are those that it must have, where known."""

    @abstractmethod
    def _features(self, steps: Any) -> Any:
        """Features of the input, of several inputs a tuple."""

    @abstractmethod
    def _size_of_output(self, features: Any) -> int:
        """Features of the output for an input of these, if all layers fit one another."""

    @abstractmethod
    def _leading(self, steps: Any) -> FlatBatch:
        """The input whose rows, and where it is a sequence whose steps, the output has."""

    @abstractmethod
    def _gives_sequence(self, steps: Any) -> bool:
        """Whether the output has one vector a step (and not one a row)."""

    @abstractmethod
    def _samples(self, steps: Any) -> Samples:
        """The steps as samples that batches are drawn from."""

    @abstractmethod
    def _label(
        self,
        steps: Any,
        y: Any,
        loss: Loss,
        size: int,
        sample_weight: Any = None,
        class_weight: Any = None,
    ) -> LabelledSamples:
        """The steps and their targets, checked."""

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
        seed: int = 0,
        callbacks: Iterable[Callback] = (),
        verbose: bool = True,
    ) -> History:
        """Fit the parameters; fitting again goes on from where they are, with a fresh optimiser.

        Parameters
        ----------
        x : array (B, T, I) or list of arrays (T_i, I); for tokens (B, T) or list of (T_i,) integers
            Sequences, all of their steps valid. With ``device="cuda"`` an array may be on the GPU already
            (CuPy's, PyTorch's, JAX's); it stays on the GPU.
        y : array or list
            Targets: one a sequence, or one a step where the model's output is a sequence. Integer labels for
            ``"cross_entropy"`` and ``"binary_cross_entropy"``, numbers for the others. With
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
            A weight for every sequence; on the GPU or not, as y.
        class_weight : dict of int to float, or "balanced", optional
            A weight for every label.
        shuffle : bool
            Draw a new order of rows for every epoch.
        seed : int
            Fixes first parameters, order and dropout: the same seed gives the same bits.
        callbacks : iterable of Callback
            For example `EarlyStopping`.
        verbose : bool
            Show progress: a bar with tqdm installed, otherwise lines.

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
        """
        compiled_before = compile_clock.seconds
        chosen_loss, chosen_optimizer = get_loss(loss), get_optimizer(optimizer)
        epochs, batch_size = arguments.count("epochs", epochs), arguments.count("batch_size", batch_size)
        shuffle, verbose = arguments.flag("shuffle", shuffle), arguments.flag("verbose", verbose)
        clip_norm, clip_value = _check_limit(clip_norm, "clip_norm"), _check_limit(clip_value, "clip_value")
        if seed is None:
            raise TypeError("seed must be an integer, not None")
        seed = arguments.seed("seed", seed)
        callbacks = _check_callbacks(callbacks)
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
        self.build(features, seed)
        self._loss = chosen_loss
        history = fit(
            self, samples, validation, chosen_loss, size, chosen_optimizer, epochs, batch_size,
            clip_norm, clip_value, shuffle, seed, callbacks, verbose,
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
        except (TypeError, ValueError) as error:
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
        size = self._size_of_output(self._features(steps))
        return evaluate(self, self._label(steps, y, chosen, size), chosen, size)

    def predict(self, x: Any, batch_size: int = 256) -> Any:
        """The last layer's output.

        Parameters
        ----------
        x
            As in `fit`.
        batch_size : int
            Rows computed at a time; results do not depend on it beyond rounding.

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
        form = leading.form if per_step else vector_form(leading.rows)
        total = leading.values.shape[0] if per_step else leading.rows
        shape = total, self._size_of_output(self._features(steps))
        if leading.on_gpu:
            from numbarnn.engine.cuda.arrays import arrays  # where there is a GPU, not before
            from numbarnn.layers.cuda import passes as cuda_passes

            flat = arrays().zeros(shape, self.dtype)
        else:
            flat = np.zeros(shape, self.dtype)
        graph = self.new_graph(training=False)
        for rows in batches(np.arange(leading.rows), batch_size):
            layout, x_packed = samples.inputs(rows)
            out_layout, y = graph.prepare(layout, graph.to_device(x_packed, samples.features), 0)
            graph.forward()
            if leading.on_gpu:
                cuda_passes.scatter_steps(y, form.starts[rows], out_layout, flat)
            else:
                scatter_steps(graph.to_host(y), form.starts[rows], out_layout, flat)
        return in_form(flat, form)

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

    def _known_loss(self, what: str) -> Loss:
        if self._loss is None:
            raise RuntimeError(f"{what} needs to know the loss: fit the model first")
        return self._loss

    def _read_input(
        self, x: Any, name: str, time: bool, readers: Sequence[Layer], features: int | None
    ) -> FlatBatch:
        """Check one input, which these layers read; it must have so many features, where that is known."""
        tokens = any(layer.takes_tokens for layer in readers)
        read = _cuda_calls().read_steps if self._is_on_gpu(x, name) else read_samples
        steps: FlatBatch = read(x, self.dtype, name, time=time, tokens=tokens)
        if not tokens and features is not None and steps.width() != features:
            raise ValueError(f"{name} must have {features} features, not {steps.width()}")
        for layer in readers if tokens else ():
            if steps.on_gpu:
                _cuda_calls().check_tokens(layer, steps, name)
            else:
                layer.pack_input(steps, Layout(steps.lengths))  # checks the range of the tokens
        return steps

    @staticmethod
    def _check_on_gpu(steps: FlatBatch, tokens: bool, name: str) -> None:
        """Numbers that are not finite, in an input on the GPU: `_read_input` does not wait for the GPU."""
        if steps.on_gpu and not tokens:
            _cuda_calls().check_finite(steps, name)

    def _is_on_gpu(self, given: Any, name: str) -> bool:
        """Whether an argument is on the GPU already; a TypeError where it cannot be."""
        is_list = isinstance(given, (list, tuple)) and len(given) > 0
        array = given[0] if is_list else given
        if not is_on_gpu(array):
            return False
        kind = f"{type(array).__module__}.{type(array).__qualname__}"
        if self.device == "cpu":
            raise TypeError(
                f'{name} must be in the host\'s memory for a model on device="cpu", not a {kind} on a GPU;'
                ' copy it to the host, or move the model with to("cuda")'
            )
        if is_list:
            raise TypeError(f"{name} must be one array where it is on the GPU, not a list of {kind}")
        return True

    def _on_host(self, given: Any, name: str) -> Any:
        """Targets or weights, which are checked on the host: those on the GPU are copied, once a call."""
        return _cuda_calls().copy_to_host(given) if self._is_on_gpu(given, name) else given


def _cuda_calls() -> Any:
    from numbarnn.layers.cuda import calls as cuda_calls  # where there is a GPU, not before

    return cuda_calls


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
