"""Sequential: layers one after the other, with fit, predict and evaluate."""

from collections.abc import Iterator, Sequence
from typing import Any

from numbarnn import arguments
from numbarnn.engine.random import seed_of
from numbarnn.layers.base import Layer
from numbarnn.layers.chain import Chain
from numbarnn.models.base import Model
from numbarnn.sequences.reading import FlatBatch
from numbarnn.training.data import LabelledSamples, Samples
from numbarnn.training.losses import Loss


class Sequential(Model):
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
        self._check_layers(layers)
        super().__init__(layers, device)

    def _check_layers(self, layers: Sequence[Layer]) -> None:
        for i, layer in enumerate(layers):
            if not isinstance(layer, Layer):
                raise TypeError(f"layer {i} must be a layer, not {type(layer).__name__}")
        if not layers:
            raise ValueError("a Sequential needs at least one layer")
        if len({id(layer) for layer in layers}) < len(layers):
            raise ValueError("a layer may stand in a Sequential only once")
        self._check_order(layers)

    def _check_order(self, layers: Sequence[Layer]) -> None:
        needs_time = sequence = not layers[0].takes_vectors
        for i, layer in enumerate(layers):
            if layer.takes_tokens and i > 0:
                raise ValueError(f"layer {i} ({layer!r}) takes tokens: it can only be the first")
            if not layer.takes_vectors and i > 0 and not sequence:
                if not needs_time and all(below.takes_vectors for below in layers[:i]):
                    needs_time = sequence = True  # only layers below that take sequences as well
                else:
                    raise ValueError(
                        f"layer {i} ({layer!r}) needs sequences, and layer {i - 1} ({layers[i - 1]!r})"
                        " gives one vector a row; set return_sequences=True in that layer"
                    )
            sequence = layer.gives_sequence(sequence)
        self._needs_time = needs_time

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
        self._settle()
        self._size_of_output(size)
        for i, layer in enumerate(self.layers):
            layer.build_once(size, seed=int(seed_of(seed, 0, i)))
            layer.store_for(size, self.dtype)  # one without parameters takes any width
            size = layer.output_size(size)

    @property
    def output_size(self) -> int:
        """Features of the output of a built model."""
        self._require_built("output_size")
        last = self.layers[-1]
        assert last.input_size is not None
        return last.output_size(last.input_size)

    def _describe_layers(self) -> Iterator[tuple[Layer, bool, int]]:
        sequence = self._needs_time
        for layer in self.layers:
            sequence = layer.gives_sequence(sequence)
            yield layer, sequence, layer.output_size(layer.input_size or 0)

    def __repr__(self) -> str:
        return f"Sequential({', '.join(map(repr, self.layers))})"

    # ---- what a model says of itself ---------------------------------------------------------------------

    def new_graph(self, training: bool) -> Chain:
        """The passes of all layers."""
        return Chain(self.layers, training)

    def _read(self, x: Any, name: str, features: int | None = None) -> FlatBatch:
        return self._read_input(x, name, self._needs_time, [self.layers[0]], self._known_width() or features)

    def _known_width(self) -> int | None:
        """Features of the input where a layer fixes them, be it behind others that keep the width."""
        for layer in self.layers:
            if layer.fixes_width:
                return layer.input_size
            if layer.input_size is None or layer.output_size(layer.input_size) != layer.input_size:
                break
        return None

    def _features(self, steps: FlatBatch) -> int:
        return steps.width()

    def _leading(self, steps: FlatBatch) -> FlatBatch:
        return steps

    def _samples(self, steps: FlatBatch) -> Samples:
        return Samples(steps, self.layers[0].takes_tokens)

    def _size_of_output(self, size: int) -> int:
        """Features of the output for an input of this many, if all layers fit one another."""
        for i, layer in enumerate(self.layers):
            if layer.fixes_width and not layer.takes_tokens and layer.input_size != size:
                raise ValueError(
                    f"layer {i} ({layer!r}) was built for {layer.input_size} features, not {size}"
                )
            size = layer.output_size(size)
        return size

    def _gives_sequence(self, steps: FlatBatch) -> bool:
        sequence = steps.form.has_time
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
        per_step, tokens = self._gives_sequence(steps), self.layers[0].takes_tokens
        self._check_on_gpu(steps, tokens, "x")
        y, sample_weight = self._on_host(y, "y"), self._on_host(sample_weight, "sample_weight")
        return LabelledSamples(
            steps, tokens, y, per_step, loss, size, self.dtype, sample_weight, class_weight
        )
