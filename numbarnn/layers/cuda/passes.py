"""What the passes of all layers share on a GPU; see `Pass` for the four calls that drive them.

Matrices are in packed order as on the CPU, with as many columns as there are features.
"""

import weakref
from typing import Any, NamedTuple

import numpy as np

from numbarnn.engine.cuda.arrays import arrays, on_host
from numbarnn.engine.cuda.matmul import ROWS_AT_ONCE, multiply
from numbarnn.engine.cuda.pointwise import add_up_blocks, gather, scatter
from numbarnn.engine.packing import aligned_zeros
from numbarnn.engine.sums import SUMMED_AT_ONCE
from numbarnn.jit.cpu import padded
from numbarnn.layers.passes import Buffers, Pass
from numbarnn.sequences.layout import Layout, flat_rows
from numbarnn.sequences.reading import BatchForm


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
    places: Any


_rows: weakref.WeakKeyDictionary[Layout, Any] = weakref.WeakKeyDictionary()


def rows_of(layout: Layout) -> Rows:
    """The arrays of a layout on the GPU, which all layers of a pass read."""
    on_gpu = _rows.get(layout)
    if on_gpu is None:
        parts = (layout.offset, layout.lengths, layout.order, layout.inverse_order)
        together = arrays().asarray(np.concatenate(parts))  # one transfer
        ends = np.cumsum([part.size for part in parts]).tolist()
        on_gpu = _rows[layout] = tuple(
            together[end - part.size : end] for part, end in zip(parts, ends, strict=True)
        )
    return Rows(layout, *on_gpu)


def _packed_rows(form: BatchForm) -> Any:
    """For each packed step its row in the caller's flat matrix, on the GPU; kept with the form."""
    kept = vars(form)
    if "packed_rows_on_gpu" not in kept:
        kept["packed_rows_on_gpu"] = arrays().asarray(flat_rows(form.starts, form.layout))
    return kept["packed_rows_on_gpu"]


def to_packed(flat: Any, form: BatchForm, out: Any = None) -> Any:
    """The caller's flat matrix, or vector of tokens, in packed order; all on the GPU."""
    rows = _packed_rows(form)
    if flat.ndim == 1:
        return flat[rows]
    packed = arrays().empty((len(rows), flat.shape[1]), flat.dtype) if out is None else out
    gather(rows, flat, packed)
    return packed


def to_flat(packed: Any, form: BatchForm) -> Any:
    """`to_packed` undone; behind the end of a row there are zeros."""
    make = arrays().empty if len(packed) == form.flat_rows else arrays().zeros
    flat = make((form.flat_rows, packed.shape[1]), packed.dtype)
    scatter(_packed_rows(form), packed, flat)
    return flat


def scatter_steps(packed: Any, starts: np.ndarray, layout: Layout, flat: Any) -> None:
    """The one of ``sequences.py``, with both matrices on the GPU."""
    scatter(arrays().asarray(flat_rows(starts, layout)), packed, flat)


def sum_rows(buffers: Buffers, matrix: Any, out: Any) -> None:
    """out (n,) = the sum of the rows of a matrix (N, n), in full precision, whatever the layer's.

    More than `ROWS_AT_ONCE` are added up in blocks, and so are the sums of these.
    """
    if len(matrix) <= ROWS_AT_ONCE:
        ones = buffers.matrix("ones", len(matrix), 1)
        ones[...] = 1.0
        multiply(ones.reshape(1, -1), matrix, out.reshape(1, -1))
        return
    columns, times = matrix.shape[1], 0
    while len(matrix) > SUMMED_AT_ONCE:
        times += 1
        sums = buffers.matrix(("sums", columns, times), -(-len(matrix) // SUMMED_AT_ONCE), columns)
        add_up_blocks(matrix, sums)
        matrix = sums
    add_up_blocks(matrix, out.reshape(1, -1))


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
        self.parameters = layer.cuda_parameters()

    def use_store(self, store):
        self.store = store
        self.buffers = CudaBuffers(store.dtype)

    def to_device(self, matrix, columns):
        if not isinstance(matrix, np.ndarray):
            return matrix  # the caller's data were on the GPU already
        return arrays().asarray(matrix if matrix.ndim == 1 else np.ascontiguousarray(matrix[:, :columns]))

    def to_host(self, matrix):
        rows, columns = matrix.shape
        padded_rows = aligned_zeros((rows, padded(columns, matrix.dtype)), matrix.dtype)
        padded_rows[:, :columns] = on_host(matrix)
        return padded_rows

    def export_gradients(self):
        self.parameters.gradients_are_new = True

    def begin(self, layout: Layout, operations: int = 0) -> None:
        """Take a batch; a GPU has threads enough for any."""
        self.layout, self.rows = layout, rows_of(layout)
        self.parameters.refresh()
