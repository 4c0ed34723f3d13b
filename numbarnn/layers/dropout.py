"""Dropout: numbers left out at random while training."""

from typing import Any

import numpy as np

from numbarnn import arguments
from numbarnn.engine.program import Work, by_cuts
from numbarnn.engine.random import drop, seed_of
from numbarnn.layers.passes import Pass
from numbarnn.layers.stateless import StatelessLayer
from numbarnn.sequences.layout import Layout


class DropoutPass(Pass):
    layer: "Dropout"

    @property
    def needs_seed(self) -> bool:
        return self.training and self.layer.rate > 0.0

    def prepare(self, layout: Layout, x: Any, seed: int | None) -> tuple[Layout, Any]:
        self.begin(layout, layout.total * x.shape[1])
        self.x = x
        self.y = self.buffers.matrix("y", *x.shape) if self.needs_seed else x
        self.seed = np.array([] if seed is None else [seed_of(seed)], np.uint64)
        return layout, self.y

    def reseed(self, seed: int) -> None:
        self.seed[:] = seed_of(seed)

    def forward_work(self) -> list[Work]:
        return self._drop(self.x, self.y)

    def _drop(self, x: Any, y: Any) -> list[Work]:
        if not self.needs_seed:
            return []
        layout, layer = self.layout, self.layer
        size = self.store.input_size
        offsets = layout.offset[None]
        return [
            by_cuts(
                drop, self.cuts, layout.row_cuts(1), x, offsets, y, offsets, size, layer.rate, self.seed,
                layout.order, layout.active,
            )
        ]  # fmt: skip

    def prepare_backward(self, dy: Any, need_dx: bool) -> Any:
        self.dy = dy
        self.dx = self.buffers.matrix("dx", *dy.shape) if self.needs_seed else dy
        return self.dx if need_dx else None

    def backward_work(self) -> list[Work]:
        return self._drop(self.dy, self.dx)


class Dropout(StatelessLayer):
    """Sets numbers to 0 at random while training, and scales the others so that the mean stays.

    Parameters
    ----------
    rate : float
        The share to drop, in [0, 1).
    dtype : {"float32", "float64"}, optional
        What results are made of; by default float64 where the input is, else float32.
    device : {"cpu", "cuda"}
        Where the layer works; "cuda" is an NVIDIA GPU.

    Notes
    -----
    Srivastava et al., "Dropout: A Simple Way to Prevent Neural Networks from Overfitting", JMLR 15, 2014. The
    numbers depend on the seed, the row as the caller counts, the step and the unit alone.

    Examples
    --------
    >>> import numpy as np
    >>> import numbarnn
    >>> sorted(set(numbarnn.Dropout(0.5).forward(np.ones((8, 8)), training=True, seed=0).ravel().tolist()))
    [0.0, 2.0]
    """

    pass_class = DropoutPass
    cuda_pass = "stateless", "DropoutCuda"
    follows_input_dtype = True

    def __init__(self, rate: float, *, dtype: str | None = None, device: str = "cpu") -> None:
        super().__init__(dtype or "float32", device)
        self.follows_input_dtype = dtype is None
        self.rate = arguments.fraction("rate", rate)

    def __repr__(self) -> str:
        return f"Dropout({self.rate})"
