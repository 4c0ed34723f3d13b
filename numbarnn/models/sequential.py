"""Sequential: layers one after the other, with fit, predict and evaluate."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from numbarnn import arguments
from numbarnn.devices import is_on_gpu
from numbarnn.engine.random import seed_of
from numbarnn.jit.compile_cache import compile_clock
from numbarnn.layers.base import Layer
from numbarnn.layers.chain import Chain
from numbarnn.sequences.layout import Layout, scatter_steps
from numbarnn.sequences.reading import BatchForm, FlatBatch, in_form, vector_form
from numbarnn.training.callbacks import Callback, History
from numbarnn.training.data import LabelledSamples, Samples, read_samples
from numbarnn.training.fit import batches, check_kernels_of, evaluate, fit
from numbarnn.training.losses import Loss, get_loss
from numbarnn.training.optimizers import Optimizer, get_optimizer


class Sequential:
    """Layers one after the other.

    Parameters
    ----------
    *layers : Layer
        In the order of computation. They build themselves at the first fit or prediction, or in `build`.
    device : {"cpu", "cuda"}, optional
        Where all layers work from now on; "cuda" is an NVIDIA GPU. By default where they do.

    Attributes
    ----------
    layers : list of Layer
        The layers.

    Raises
    ------
    TypeError
        If an argument is not a layer.
    ValueError
        If the layers do not fit one another.

    Examples
    --------
    >>> import numpy as np
    >>> import numbarnn
    >>> rng = np.random.default_rng(0)
    >>> x = [rng.standard_normal((length, 3)) for length in (4, 7, 5, 6)]
    >>> model = numbarnn.Sequential(numbarnn.LSTM(8), numbarnn.Dense(2))
    >>> history = model.fit(x, [0, 1, 0, 1], epochs=2, verbose=False)
    >>> model.predict(x).shape
    (4, 2)
    """

    def __init__(self, *layers: Layer, device: str | None = None) -> None:
        for i, layer in enumerate(layers):
            if not isinstance(layer, Layer):
                raise TypeError(f"layer {i} must be a layer, not {type(layer).__name__}")
        if not layers:
            raise ValueError("a Sequential needs at least one layer")
        if len({id(layer) for layer in layers}) < len(layers):
            raise ValueError("a layer may stand in a Sequential only once")
        self.layers = list(layers)
        self._settle_dtype()
        self._check_order()
        if device is not None:
            self.to(device)
        self._check_devices()
        self._loss: Loss | None = None

    def _settle_dtype(self) -> None:
        dtypes = {layer.dtype for layer in self.layers if not layer.follows_input_dtype}
        if len(dtypes) > 1:
            said = ", ".join(f"{layer!r}: {layer.dtype}" for layer in self.layers)
            raise ValueError(f"all layers must have one dtype; {said}")
        self.dtype = dtypes.pop() if dtypes else np.dtype("float32")
        for layer in self.layers:
            if layer.follows_input_dtype:
                layer.use_dtype(self.dtype)
                layer.follows_input_dtype = False  # from now on it has the model's

    def _check_devices(self) -> None:
        devices = [layer.device for layer in self.layers]
        if len(set(devices)) > 1:
            raise ValueError(f"all layers must work on one device, not on {devices}")

    @property
    def device(self) -> str:
        """Where the layers work."""
        return self.layers[0].device

    def to(self, device: str) -> "Sequential":
        """Work on another device from now on.

        Parameters
        ----------
        device : {"cpu", "cuda"}
            "cuda" is an NVIDIA GPU.

        Returns
        -------
        Sequential
            The model itself.

        Raises
        ------
        ValueError
            If there is no such device.
        RuntimeError
            If there is no GPU. Nothing is changed then.
        """
        for layer in self.layers:
            layer.to(device)
        return self

    def _check_order(self) -> None:
        sequence = not self.layers[0].takes_vectors
        self._needs_time = sequence
        for i, layer in enumerate(self.layers):
            if layer.takes_tokens and i > 0:
                raise ValueError(f"layer {i} ({layer!r}) takes tokens: it can only be the first")
            if not layer.takes_vectors and i > 0 and not sequence:
                if not self._needs_time and all(below.takes_vectors for below in self.layers[:i]):
                    self._needs_time = sequence = True  # only layers below that take sequences as well
                else:
                    raise ValueError(
                        f"layer {i} ({layer!r}) needs sequences, and layer {i - 1} ({self.layers[i - 1]!r})"
                        " gives one vector a row; set return_sequences=True in that layer"
                    )
            sequence = layer.gives_sequence(sequence)

    # ---- parameters --------------------------------------------------------------------------------------

    def build(self, input_size: int, seed: int | None = None) -> None:
        """Build all layers that are not built.

        Parameters
        ----------
        input_size : int
            Features of the input; for tokens it is not used.
        seed : int, optional
            Fixes the first values of the parameters.
        """
        size = arguments.count("input_size", input_size)
        seed = arguments.seed("seed", seed)
        self._size_of_output(size)
        for i, layer in enumerate(self.layers):
            if not layer.built:
                layer.build(size, seed=int(seed_of(seed, 0, i)))
            size = layer.output_size(size)

    @property
    def built(self) -> bool:
        """Whether all layers have their parameters."""
        return all(layer.built for layer in self.layers)

    @property
    def output_size(self) -> int:
        """Features of the output of a built model."""
        last = self.layers[-1]
        self._require_built("output_size")
        assert last.input_size is not None
        return last.output_size(last.input_size)

    @property
    def parameters(self) -> dict[str, np.ndarray]:
        """Read-only views of all parameters, named ``"<layer>.<parameter>"``."""
        return {
            f"{i}.{name}": values
            for i, layer in enumerate(self.layers)
            for name, values in layer.parameters.items()
        }

    def set_parameters(self, parameters: Mapping[str, Any]) -> None:
        """Replace all parameters.

        Parameters
        ----------
        parameters : mapping of str to array
            Every parameter, named as in `parameters`.

        Raises
        ------
        ValueError
            If a name is missing or unknown, or a value does not fit. Nothing is changed then.
        """
        self._require_built("set_parameters")
        if not isinstance(parameters, Mapping):
            raise TypeError(f"parameters must be a dict of arrays, not {type(parameters).__name__}")
        names = list(self.parameters)
        unknown = [name for name in parameters if name not in names]
        if unknown:
            raise ValueError(f"parameters must be exactly {names}; unknown: {', '.join(map(repr, unknown))}")
        split: list[dict[str, Any]] = [{} for _ in self.layers]
        for name, values in parameters.items():
            number, _, short = name.partition(".")
            split[int(number)][short] = values
        for i, layer in enumerate(self.layers):
            layer.check_parameters(split[i], owner=f"layer {i}: ")
        for layer, own in zip(self.layers, split, strict=True):
            layer.set_parameters(own)

    def snapshot(self) -> list[np.ndarray]:
        """A copy of all parameters, for `restore`."""
        return [layer.flat_values.copy() for layer in self.layers]

    def restore(self, snapshot: Sequence[np.ndarray]) -> None:
        """Go back to the parameters of a `snapshot`."""
        sizes = [layer.flat_values.size for layer in self.layers]
        if [np.size(values) for values in snapshot] != sizes:
            raise ValueError(f"snapshot must be one of this model, with parts of {sizes} numbers")
        for layer, values in zip(self.layers, snapshot, strict=True):
            layer.flat_values[...] = values
            layer.version += 1

    def count_parameters(self) -> int:
        """How many numbers all parameters hold."""
        self._require_built("count_parameters")
        return sum(layer.count_parameters() for layer in self.layers)

    def summary(self) -> None:
        """Print a table of the layers, their outputs and their numbers of parameters."""
        self._require_built("summary")
        rows = [("layer", "output", "parameters")]
        sequence = self._needs_time
        for layer in self.layers:
            sequence = layer.gives_sequence(sequence)
            size = layer.output_size(layer.input_size or 0)
            rows.append(
                (
                    repr(layer),
                    f"(B, T, {size})" if sequence else f"(B, {size})",
                    f"{layer.count_parameters():,}",
                )
            )
        rows.append(("total", "", f"{self.count_parameters():,}"))
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        rule = "  ".join("-" * width for width in widths)
        for i, (name, output, count) in enumerate(rows):
            if i in (1, len(rows) - 1):
                print(rule)
            print(f"{name:<{widths[0]}}  {output:<{widths[1]}}  {count:>{widths[2]}}")

    def _require_built(self, what: str) -> None:
        if not self.built:
            raise RuntimeError(f"{what} needs a built model: fit it, or call build(input_size) first")

    def __repr__(self) -> str:
        return f"Sequential({', '.join(map(repr, self.layers))})"

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
        size = self._size_of_output(steps.width())
        samples = self._label(steps, y, chosen_loss, size, sample_weight, class_weight)
        validation = self._read_validation(validation_data, steps.width(), chosen_loss, size)
        names = ["loss", chosen_loss.metric, "grad_norm", "learning_rate", "seconds"]
        if validation is not None:
            names[2:2] = ["val_loss", f"val_{chosen_loss.metric}"]
        for callback in callbacks:
            callback.check_numbers(names)
        check_kernels_of(self.device, chosen_loss, samples, chosen_optimizer)
        self.build(steps.width(), seed)
        self._loss = chosen_loss
        history = fit(
            self, self.layers, samples, validation, chosen_loss, size, chosen_optimizer, epochs, batch_size,
            clip_norm, clip_value, shuffle, seed, callbacks, verbose,
        )  # fmt: skip
        history.compile_seconds = compile_clock.seconds - compiled_before
        return history

    def _read_validation(self, pair: Any, features: int, loss: Loss, size: int) -> LabelledSamples | None:
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
        size = self._size_of_output(steps.width())
        return evaluate(self.layers, self._label(steps, y, chosen, size), chosen, size)

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
        samples = Samples(steps, self.layers[0].takes_tokens)
        per_step = self._gives_sequence(steps.form)
        form = steps.form if per_step else vector_form(steps.rows)
        total = steps.values.shape[0] if per_step else steps.rows
        shape = total, self._size_of_output(steps.width())
        if steps.on_gpu:
            from numbarnn.engine.cuda.arrays import arrays  # where there is a GPU, not before
            from numbarnn.layers.cuda import passes as cuda_passes

            flat = arrays().zeros(shape, self.dtype)
        else:
            flat = np.zeros(shape, self.dtype)
        chain = Chain(self.layers, training=False)
        for rows in batches(np.arange(steps.rows), batch_size):
            batch_form = samples.form_of(rows)
            layout = batch_form.layout
            x_packed = chain.to_device(samples.pack(batch_form, layout), steps.width())
            out_layout, y = chain.prepare(layout, x_packed, 0)
            chain.forward()
            if steps.on_gpu:
                cuda_passes.scatter_steps(y, form.starts[rows], out_layout, flat)
            else:
                scatter_steps(chain.to_host(y), form.starts[rows], out_layout, flat)
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

    def _read(self, x: Any, name: str, features: int | None = None) -> FlatBatch:
        first = self.layers[0]
        read = _cuda_calls().read_steps if self._is_on_gpu(x, name) else read_samples
        steps = read(x, self.dtype, name, time=self._needs_time, tokens=first.takes_tokens)
        wanted = first.input_size if first.built else features
        if not first.takes_tokens and wanted is not None and steps.width() != wanted:
            raise ValueError(f"{name} must have {wanted} features, not {steps.width()}")
        if first.takes_tokens:
            if steps.on_gpu:
                _cuda_calls().check_tokens(first, steps, name)
            else:
                first.pack_input(steps, Layout(steps.lengths))  # checks the range of the tokens
        return steps

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

    def _size_of_output(self, size: int) -> int:
        """Features of the output for an input of this many, if all layers fit one another."""
        for i, layer in enumerate(self.layers):
            if layer.built and not layer.takes_tokens and layer.input_size != size:
                raise ValueError(
                    f"layer {i} ({layer!r}) was built for {layer.input_size} features, not {size}"
                )
            size = layer.output_size(size)
        return size

    def _gives_sequence(self, form: BatchForm) -> bool:
        sequence = form.has_time
        for layer in self.layers:
            sequence = layer.gives_sequence(sequence)
        return sequence

    def _label(
        self,
        steps: FlatBatch,
        y: Any,
        loss: Loss,
        size: int,
        sample_weight: Any = None,
        class_weight: Any = None,
    ) -> LabelledSamples:
        per_step = self._gives_sequence(steps.form)
        tokens = self.layers[0].takes_tokens
        if steps.on_gpu and not tokens:
            _cuda_calls().check_finite(steps, "x")  # `_read` does not wait for the GPU
        y, sample_weight = self._on_host(y, "y"), self._on_host(sample_weight, "sample_weight")
        return LabelledSamples(
            steps, tokens, y, per_step, loss, size, self.dtype, sample_weight, class_weight
        )


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
