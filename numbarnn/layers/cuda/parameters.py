"""The parameters of a layer on the GPU."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from numbarnn.engine.cuda.arrays import arrays, on_host


class CudaParameters:
    """The parameters of a built layer on the GPU, and their gradients.

    The layer's own arrays, in the host's memory, are what users see. Here is a copy of them that `refresh`
    brings up to date, or that a training step changes and `publish` brings back.

    Parameters
    ----------
    layer : Layer
        The layer, built.

    Attributes
    ----------
    flat_values, flat_gradients : arrays (n,)
        All parameters of the layer one after the other, and their gradients.
    values, gradients : dict of str to array
        Views of them by name.
    """

    def __init__(self, layer: Any) -> None:
        self.layer = layer
        size = layer.flat_values.size
        self.stand_in(*(arrays().zeros(size, layer.dtype) for _ in range(2)))

    def stand_in(self, flat_values: Any, flat_gradients: Any) -> None:
        """Stand in these arrays from now on."""
        self.flat_values, self.flat_gradients = flat_values, flat_gradients
        self.values, self.gradients = self._by_name(flat_values), self._by_name(flat_gradients)
        self._version, self.gradients_are_new = -1, False

    def _by_name(self, flat: Any) -> dict[str, Any]:
        views, end = {}, 0
        for name, values in self.layer.values.items():
            begin, end = end, end + values.size
            views[name] = flat[begin:end].reshape(values.shape)
        return views

    def refresh(self) -> None:
        """Take the layer's parameters, where they changed."""
        if self._version != self.layer.version:
            self.flat_values[...] = arrays().asarray(self.layer.flat_values)
            self._version = self.layer.version

    def forget(self) -> None:
        """What a training step made of the parameters and did not publish is lost."""
        self._version = -1

    def publish(self) -> None:
        """Give the layer what a training step made of its parameters."""
        values = on_host(self.flat_values)
        self.layer.count_change()
        self.layer.flat_values[...] = values
        self._version = self.layer.version

    def publish_gradients(self) -> None:
        """Give the layer the gradients, where a call of it has left new ones."""
        if self.gradients_are_new:
            self.layer.flat_gradients[...] = on_host(self.flat_gradients)
            self.gradients_are_new = False


def join(parts: Sequence[CudaParameters]) -> tuple[Any, Any]:
    """Have the parameters of several layers stand one behind the other, for kernels that work on all of them.

    Returns
    -------
    values, gradients : arrays (n,)
    """
    sizes = [part.flat_values.size for part in parts]
    ends = np.cumsum(sizes)
    values, gradients = (arrays().zeros(int(sum(sizes)), parts[0].layer.dtype) for _ in range(2))
    for part, end, size in zip(parts, ends.tolist(), sizes, strict=True):
        here = slice(end - size, end)
        part.stand_in(values[here], gradients[here])
        part.refresh()
    return values, gradients
