"""How a model predicts, and forward and backward of it for a training loop of the user's own."""

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

from numbarnn.engine.guards import WRITE, Hold, use_guards
from numbarnn.layers.base import Layer
from numbarnn.layers.parameters import hold_packed
from numbarnn.layers.passes import Buffers
from numbarnn.sequences.layout import Layout, scatter_steps
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
from numbarnn.training.fit import batches


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
        self._samples: Any = None  # of a forward that may have a backward
        self._buffers: list[Buffers] | None = None

    @property
    def nbytes(self) -> int:
        """How much memory the buffers take."""
        passes = [run.buffers for run in self.graph.passes]
        return sum(buffers.nbytes for buffers in [*passes, self.graph.buffers, *(self._buffers or ())])

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
        self._take(samples)
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

    def predict(
        self, samples: Samples, leading: FlatBatch, per_step: bool, size: int, batch_size: int
    ) -> Any:
        """`forward` without a backward, so many rows at a time, all by the same weights."""
        if leading.rows <= batch_size:
            return self.forward(samples, leading, per_step, size, seed=0)
        self._take(samples)
        graph, form = self.graph, leading.form if per_step else vector_form(leading.rows)
        make = _gpu_arrays() if leading.on_gpu else np
        flat = make.zeros((form.flat_rows, size), graph.buffers.dtype)
        hold = Hold(graph.guards)
        try:
            hold_packed(hold, graph.stores, self.training)
            for rows in batches(np.arange(leading.rows), batch_size):
                layouts, x = samples.inputs(rows)
                layout, y = graph.prepare(layouts, graph.to_device(x, samples.features), 0)
                graph.forward()
                self._scatter(y, form.starts[rows], layout, flat, leading.on_gpu)
        finally:
            use_guards(*hold.way_out)
        return in_form(flat, form)

    def _take(self, samples: Samples) -> None:
        """Samples in the buffers of earlier ones; they are kept, and with them the user's arrays, only where
        a backward asks for them."""
        if self._buffers is not None:
            samples.take_buffers(self._buffers)
        self._buffers = samples.buffers
        self._samples = samples if self.training else None

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
        flat = _gpu_arrays().zeros((form.flat_rows, size), np.dtype(packed.dtype))
        self._scatter(packed, form.starts, layout, flat, on_gpu)
        return in_form(flat, form)

    def _scatter(self, packed: Any, starts: np.ndarray, layout: Layout, flat: Any, on_gpu: bool) -> None:
        """Rows of a packed matrix to where their sequences start in a matrix in the caller's order."""
        if on_gpu:
            from numbarnn.layers.cuda import passes as cuda_passes  # where there is a GPU, not before

            cuda_passes.scatter_steps(packed, starts, layout, flat)
        else:
            scatter_steps(self.graph.to_host(packed), starts, layout, flat)


def _gpu_arrays() -> Any:
    from numbarnn.engine.cuda.arrays import arrays  # where there is a GPU, not before

    return arrays()
