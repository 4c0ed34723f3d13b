"""A stack of layers as one pass: what a model's training step and prediction drive."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from numbarnn.engine.guards import Guards
from numbarnn.engine.program import Call
from numbarnn.engine.random import seed_of
from numbarnn.layers.base import Layer
from numbarnn.layers.passes import Pass
from numbarnn.sequences.layout import Layout


class Chain:
    """One forward and backward through a list of layers, with all its buffers.

    Parameters
    ----------
    layers : sequence of Layer
        Built layers that fit one another.
    training : bool
        Keep what backward needs, and apply dropout.

    Attributes
    ----------
    stores, guards : list of ParameterStore, Guards
        The parameters. Who drives the passes has their guards: see `hold_packed`.
    """

    def __init__(self, layers: Sequence[Layer], training: bool) -> None:
        self.passes: list[Pass] = [layer.new_pass(training) for layer in layers]
        self.stores = [run.store for run in self.passes]
        self.guards = Guards(store.guard for store in self.stores)
        self.buffers = type(self.passes[0].buffers)(layers[0].dtype)  # for who drives the passes
        self._drawing = [i for i, run in enumerate(self.passes) if run.needs_seed]
        trained = [i for i, layer in enumerate(layers) if layer.count_parameters()]
        # Below the first layer with parameters nothing asks for a gradient.
        self.first_trained = self.lowest = trained[0] if trained else len(layers)

    def prepare(self, layout: Layout, x: np.ndarray, seed: int) -> tuple[Layout, np.ndarray]:
        """Take a batch; return the layout and the matrix that `forward` will fill."""
        for i, run in enumerate(self.passes):
            layout, x = run.prepare(layout, x, int(seed_of(seed, i)) if run.needs_seed else None)
        return layout, x

    def reseed(self, seed: int) -> None:
        """Other random numbers from now on, as `prepare` would draw them."""
        for i in self._drawing:
            self.passes[i].reseed(int(seed_of(seed, i)))

    def to_device(self, x: np.ndarray, columns: int) -> Any:
        """A batch of the host, to where the layers work; see `Pass.to_device`."""
        return self.passes[0].to_device(x, columns)

    def to_host(self, y: Any) -> Any:
        """The output, in the host's memory."""
        return self.passes[-1].to_host(y)

    def forward(self) -> None:
        """Compute the output."""
        for run in self.passes:
            run.forward()

    def record_forward(self) -> list[Call]:
        """`forward`, as `Pass.record_forward`."""
        return [call for run in self.passes for call in run.record_forward()]

    def record_backward(self) -> list[Call]:
        """`backward`, as `Pass.record_backward`."""
        return [call for run in reversed(self.passes[self.lowest :]) for call in run.record_backward()]

    def prepare_backward(self, dy: np.ndarray, need_dx: bool = False) -> Any:
        """Take the matrix that will hold the gradient of the output; return that of the input, if wanted,
        with None for tokens."""
        self.lowest = 0 if need_dx else self.first_trained
        dx: Any = dy
        for i in range(len(self.passes) - 1, self.lowest - 1, -1):
            wanted = i > self.lowest or need_dx
            dx = self.passes[i].prepare_backward(dx, need_dx=wanted)
        return dx if need_dx else None

    def backward(self) -> None:
        """Compute the gradients of all parameters."""
        for run in reversed(self.passes[self.lowest :]):
            run.backward()

    def export_gradients(self) -> None:
        """The gradients of the parameters that backward left are those of the layers from now on."""
        for run in self.passes:
            run.export_gradients()
