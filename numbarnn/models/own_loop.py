"""Forward and backward of a model for a training loop of the user's own."""

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

from numbarnn.engine.guards import WRITE, Hold, use_guards
from numbarnn.layers.base import Layer
from numbarnn.layers.parameters import hold_packed
from numbarnn.sequences.layout import Layout
from numbarnn.sequences.reading import (
    BatchForm,
    FlatBatch,
    check_finite,
    in_form,
    pack_steps,
    read_like,
    unpack_steps,
    vector_form,
)
from numbarnn.training.data import Samples


def _arrays_of(layer: Layer) -> tuple[Any, ...]:
    """The parameters of a layer, in the host's memory and on the GPU."""
    return layer.store, layer.cuda_parameters().flat_values if layer.device == "cuda" else None


class ModelPass:
    """The passes of a model with buffers for its inputs, for one call after the other.

    Parameters
    ----------
    graph : Chain or Graph
        The passes.
    layers : sequence of Layer
        Those of the model, built.
    training : bool
        What the passes were made for.
    """

    def __init__(self, graph: Any, layers: Sequence[Layer], training: bool) -> None:
        self.graph, self.layers, self.training = graph, list(layers), training
        self._made_for = [_arrays_of(layer) for layer in layers]
        self._samples: Any = None

    def fits(self, layers: Sequence[Layer]) -> bool:
        """Whether these are still the layers, with the arrays of parameters that the passes know."""
        if len(layers) != len(self.layers) or not all(map(operator.is_, layers, self.layers)):
            return False
        return all(
            all(map(operator.is_, _arrays_of(layer), known))
            for layer, known in zip(self.layers, self._made_for, strict=True)
        )

    def forward(self, samples: Samples, leading: FlatBatch, per_step: bool, size: int, seed: int) -> Any:
        """The output for all samples, of this many features, in the form of the leading input."""
        if self._samples is not None:
            samples.take_buffers(self._samples)
        self._samples = samples
        layouts, x = samples.whole()
        graph, training = self.graph, self.training
        hold = Hold(graph.guards)
        try:
            hold_packed(hold, graph.stores, training)
            self.layout, self.y = graph.prepare(layouts, graph.to_device(x, samples.features), seed)
            graph.forward()
            self._read_changes = [store.packed_change(training) for store in graph.stores]
        finally:
            use_guards(*hold.way_out)
        self.form = leading.form if per_step else vector_form(leading.rows)
        self.size = size
        return self._unpack(self.y, size, self.form, self.layout, leading.on_gpu)

    def backward(self, dy: Any, need_dx: bool) -> list[Any]:
        """The gradient of each input, or None, from that of the output in the host's memory."""
        graph = self.graph
        steps = FlatBatch(read_like(dy, self.form, self.size, self.y.dtype, "dy"), self.form)
        check_finite(steps, "dy")
        given = graph.passes[0].to_device(pack_steps(steps, self.layout), self.size)
        hold = Hold(graph.guards)
        try:
            hold.take(WRITE)
            for store, change in zip(graph.stores, self._read_changes, strict=True):
                store.check_unchanged(change)
            matrix = graph.buffers.matrix("dy", *self.y.shape)
            dx = graph.prepare_backward(matrix, need_dx)
            matrix[...] = given
            graph.backward()
            graph.export_gradients()
        finally:
            use_guards(*hold.way_out)
        if not need_dx:
            return [None for _ in self._samples.parts]
        return [
            None if one is None else self._unpack_input(one, part)
            for one, part in zip(dx if isinstance(dx, tuple) else (dx,), self._samples.parts, strict=True)
        ]

    def _unpack_input(self, dx: Any, part: Samples) -> Any:
        form = part.steps.form
        return self._unpack(dx, part.steps.width(), form, form.layout, part.on_gpu)

    def _unpack(self, packed: Any, size: int, form: BatchForm, layout: Layout, on_gpu: bool) -> Any:
        """A packed matrix in the caller's form, where the caller's arrays are."""
        if not on_gpu:
            return unpack_steps(self.graph.to_host(packed), size, form, layout)
        from numbarnn.engine.cuda.arrays import arrays  # where there is a GPU, not before
        from numbarnn.layers.cuda.passes import scatter_steps

        flat = arrays().zeros((form.flat_rows, size), np.dtype(packed.dtype))
        scatter_steps(packed, form.starts, layout, flat)
        return in_form(flat, form)
