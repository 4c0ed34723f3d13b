"""Dense: an affine map of every step or row, with an optional nonlinearity."""

from typing import Any

import numpy as np

from numbarnn import arguments
from numbarnn.engine.dense import (
    ACTIVATIONS,
    dense_backward,
    dense_forward,
    dense_weight_gradients,
    dense_weight_gradients_of_many_rows,
)
from numbarnn.engine.packing import aligned_zeros, identity_map, pack_matrix, panels_for
from numbarnn.engine.program import Call, Work, by_cuts
from numbarnn.engine.sums import level_count
from numbarnn.engine.threads import even_cuts
from numbarnn.jit.cpu import PANEL_VECTORS, padded
from numbarnn.layers.initializers import WEIGHT_INITIALIZERS, initial_matrix
from numbarnn.layers.parameters import ParameterStore
from numbarnn.layers.passes import Pass
from numbarnn.layers.stateless import StatelessLayer
from numbarnn.sequences.layout import Layout


class DenseParameters(ParameterStore):
    """The parameters of a built layer, and the panels that kernels read."""

    def __init__(self, layer: "Dense", input_size: int, rng: np.random.Generator, dtype: np.dtype) -> None:
        super().__init__(layer, input_size, rng, dtype)
        self.column_map = identity_map(layer.units, dtype)
        self.panels = panels_for(self.column_map.size, input_size, PANEL_VECTORS, dtype)
        self.panels_transposed = panels_for(
            padded(input_size, dtype), self.column_map.size, PANEL_VECTORS, dtype
        )
        self.packed_bias = aligned_zeros(self.column_map.size, dtype)
        self.zeros = aligned_zeros(padded(input_size, dtype), dtype)
        self.packing = Work(
            pack_matrix, 1,
            (
                self.values["weight"], self.values["bias"], self.column_map, self.panels,
                self.panels_transposed, self.packed_bias,
            ),
        )  # fmt: skip

    def pack(self, training: bool) -> None:
        self.packing.run()


class DensePass(Pass):
    layer: "Dense"
    store: "DenseParameters"

    def prepare(self, layout: Layout, x: Any, seed: int | None) -> tuple[Layout, Any]:
        layer, store = self.layer, self.store
        self.begin(layout, 2 * layout.total * store.flat_values.size)
        self.x = x
        store.refresh(self.training)
        self.y = self.buffers.matrix("y", layout.total, padded(layer.units, layer.dtype))
        return layout, self.y

    def forward_work(self) -> list[Work]:
        store, layout = self.store, self.layout
        return [
            by_cuts(
                dense_forward, self.cuts, self.x, store.panels, store.packed_bias, self.y,
                self.layer.activation_code, layout.active, layout.offset,
            )
        ]  # fmt: skip

    def record_forward(self) -> list[Call]:
        return [self.store.packing.record(), *super().record_forward()]

    def prepare_backward(self, dy: Any, need_dx: bool) -> Any:
        rows = self.layout.total
        self.dy = dy
        self.dsums = self.buffers.matrix("dsums", rows, self.y.shape[1])
        columns = padded(self.store.input_size, self.store.dtype)
        self.dx = self.buffers.matrix("dx", rows if need_dx else 0, columns)
        return self.dx if need_dx else None

    def backward_work(self) -> list[Work]:
        store, layout = self.store, self.layout
        panels = store.panels.shape[0]
        parts = min(self.threads, panels)
        levels = level_count(layout.total)
        dpanels = self.buffers.matrix("dpanels", levels * panels, store.panels[0].size)
        dpanels = dpanels.reshape(-1, *store.panels.shape[1:])
        dbias = self.buffers.matrix("dbias", levels, self.y.shape[1]).reshape(-1)
        return [
            by_cuts(
                dense_backward, self.cuts, self.y, self.dy, self.dsums, self.layer.activation_code,
                store.panels_transposed, store.zeros, self.dx, layout.active, layout.offset,
            ),
            by_cuts(
                dense_weight_gradients if levels == 1 else dense_weight_gradients_of_many_rows,
                even_cuts(panels, parts), self.x, self.dsums, layout.offset, dpanels,
                dbias, store.column_map, store.gradients["weight"], store.gradients["bias"],
            ),
        ]  # fmt: skip


class Dense(StatelessLayer):
    """Affine map ``activation(x @ weight.T + bias)`` of every step, or of one vector a row.

    Parameters
    ----------
    units : int
        Features of the output.
    activation : {None, "tanh", "relu", "sigmoid"}
        The nonlinearity. A classifier's last layer has none: the losses take logits.
    dtype : {"float32", "float64"}
        What parameters and results are made of.
    weight_initializer : {"glorot_uniform", "orthogonal", "pytorch"}
        First values of the weights; with ``"pytorch"`` of the bias too.
    device : {"cpu", "cuda"}
        Where the layer works; "cuda" is an NVIDIA GPU.

    Notes
    -----
    Parameters: ``weight (units, I)`` and ``bias (units,)``.

    Examples
    --------
    >>> import numpy as np
    >>> import numbarnn
    >>> numbarnn.Dense(4, activation="relu").forward(np.ones((2, 3))).shape
    (2, 4)
    """

    pass_class = DensePass
    store_class = DenseParameters
    cuda_pass = "stateless", "DenseCuda"

    def __init__(
        self,
        units: int,
        activation: str | None = None,
        *,
        dtype: str = "float32",
        weight_initializer: str = "glorot_uniform",
        device: str = "cpu",
    ) -> None:
        super().__init__(dtype, device)
        self.units = arguments.count("units", units)
        if activation is not None:
            arguments.one_of("activation", activation, [name for name in ACTIVATIONS if name])
        self.activation = activation
        self.activation_code = ACTIVATIONS[activation]
        self.weight_initializer = arguments.one_of(
            "weight_initializer", weight_initializer, WEIGHT_INITIALIZERS
        )

    def __repr__(self) -> str:
        return f"Dense({self.units}{f', activation={self.activation!r}' if self.activation else ''})"

    def output_size(self, input_size: int) -> int:
        return self.units

    def parameter_shapes(self, input_size: int) -> dict[str, tuple[int, ...]]:
        return {"weight": (self.units, input_size), "bias": (self.units,)}

    def initialize(
        self, name: str, shape: tuple[int, ...], input_size: int, rng: np.random.Generator
    ) -> np.ndarray:
        if name == "weight":
            return initial_matrix(self.weight_initializer, shape[0], shape[1], rng, units=input_size)
        if self.weight_initializer == "pytorch":
            return initial_matrix("pytorch", 1, shape[0], rng, units=input_size).reshape(shape)
        return np.zeros(shape)
