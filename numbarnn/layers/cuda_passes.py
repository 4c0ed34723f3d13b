"""What the passes of all layers share on a GPU; see `Pass` for the four calls that drive them.

Matrices are in packed order as on the CPU, with as many columns as there are features.
"""

import weakref
from typing import Any, NamedTuple

import numpy as np

from numbarnn.engine.cuda_arrays import arrays, on_host
from numbarnn.engine.host import padded
from numbarnn.engine.packing import aligned_zeros
from numbarnn.layers.passes import Buffers, Pass
from numbarnn.sequences import Layout


class CudaBuffers(Buffers):
    """Buffers in the GPU's memory."""

    def make(self, rows: int, columns: int) -> Any:
        return arrays().zeros((rows, columns), self.dtype)


class Rows(NamedTuple):
    """A batch, for kernels: arrays of its layout on the GPU."""

    layout: Layout
    offset: Any
    lengths: Any
    order: Any


_rows: weakref.WeakKeyDictionary[Layout, Any] = weakref.WeakKeyDictionary()


def rows_of(layout: Layout) -> Rows:
    """The arrays of a layout on the GPU, which all layers of a pass read."""
    on_gpu = _rows.get(layout)
    if on_gpu is None:
        on_gpu = _rows[layout] = tuple(map(arrays().asarray, (layout.offset, layout.lengths, layout.order)))
    return Rows(layout, *on_gpu)


class CudaPass(Pass):
    """One way forward and back through a layer on the GPU.

    Attributes
    ----------
    rows : Rows
        The present batch.
    parameters : CudaParameters
        The layer's.
    """

    def __init__(self, layer: Any, training: bool) -> None:
        super().__init__(layer, training)
        self.buffers = CudaBuffers(layer.dtype)
        self.parameters = layer.cuda_parameters()

    def bring(self, matrix, columns):
        return arrays().asarray(matrix if matrix.ndim == 1 else np.ascontiguousarray(matrix[:, :columns]))

    def fetch(self, matrix):
        rows, columns = matrix.shape
        padded_rows = aligned_zeros((rows, padded(columns, matrix.dtype)), matrix.dtype)
        padded_rows[:, :columns] = on_host(matrix)
        return padded_rows

    def hand_out_gradients(self):
        self.parameters.publish_gradients()

    def take(self, layout: Layout) -> None:
        """Take a batch."""
        self.layout, self.rows = layout, rows_of(layout)
        self.parameters.refresh()
