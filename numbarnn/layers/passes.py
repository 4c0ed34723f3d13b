"""Passes: the buffers and the calls of one forward and backward through a layer.

A layer holds parameters. A pass belongs to a call or to a fit, so that two threads may predict with one
layer. The public methods and `Sequential.fit` drive passes in the same way:

    prepare           set up for a batch, return the matrix of the output
    forward           fill it
    prepare_backward  take the matrix of the output's gradient, return that of the input's
    backward          fill that, and the gradients of the parameters
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from numbarnn.engine.packing import aligned_zeros
from numbarnn.engine.program import Call, Work, record
from numbarnn.engine.threads import get_num_threads
from numbarnn.sequences.layout import Layout

# About 30 microseconds of work for each thread. A fork costs a few, but what one core wrote and another one
# reads next has to travel between them: with 500,000 a training step of one row of 100 steps took longer on
# two threads.
OPERATIONS_WORTH_A_THREAD = 2_000_000


class Buffers:
    """Named arrays that grow when a larger batch comes and are otherwise used again."""

    def __init__(self, dtype: DTypeLike) -> None:
        self.dtype = np.dtype(dtype)
        self._arrays: dict[Any, np.ndarray] = {}
        self._views: dict[Any, np.ndarray] = {}
        self.nbytes = 0

    def make(self, rows: int, columns: int) -> np.ndarray:
        """Zeros."""
        return aligned_zeros((rows, columns), self.dtype)

    def matrix(self, key: Any, rows: int, columns: int) -> np.ndarray:
        """A contiguous (rows, columns) array; what it holds is left from earlier use, or 0.

        Who asks for the same shape again gets the same object.
        """
        view = self._views.get(key)
        if view is not None and view.shape == (rows, columns):
            return view
        array = self._arrays.get(key)
        if array is None or array.shape[0] < rows or array.shape[1] != columns:
            array = self._arrays[key] = self.make(rows, columns)
            self.nbytes = sum(array.nbytes for array in self._arrays.values())
        view = self._views[key] = array if array.shape[0] == rows else array[:rows]
        return view


class Pass:
    """One forward and backward through a layer, with its buffers.

    Attributes
    ----------
    layout : Layout
        The present batch's.
    store : ParameterStore
        The parameters. Another one may take its place in the layer; the pass keeps this one.
    threads : int
        How many the batch uses.
    cuts : int64 array
        How they share the rows.
    """

    def __init__(self, layer: Any, training: bool) -> None:
        self.layer = layer
        self.training = training
        self.use_store(layer.store)

    def use_store(self, store: Any) -> None:
        """Have the parameters, sizes and dtype of this `ParameterStore`."""
        self.store = store
        self.buffers = Buffers(store.dtype)

    @property
    def needs_seed(self) -> bool:
        """Whether `prepare` needs a seed for random numbers."""
        return False

    def begin(self, layout: Layout, operations: int) -> None:
        """Take a batch that costs this many multiplications and additions."""
        self.layout = layout
        self.threads = self.threads_for(operations)
        self.cuts = layout.row_cuts(min(self.threads, layout.rows))

    @staticmethod
    def threads_for(operations: int) -> int:
        """How many threads pay for this number of multiplications and additions."""
        return max(1, min(get_num_threads(), operations // OPERATIONS_WORTH_A_THREAD))

    def to_device(self, matrix: np.ndarray, columns: int) -> Any:
        """A matrix of the host in packed order, of which `columns` columns count, or a vector of tokens: to
        the device of this pass."""
        return matrix

    def to_host(self, matrix: Any) -> Any:
        """`to_device` in the other direction: a matrix of this pass as one of the host, its rows padded to
        whole vectors."""
        return matrix

    def export_gradients(self) -> None:
        """The gradients of the parameters that backward left are those of the layer from now on."""

    def record(self, kernel: Callable[..., None], *arguments: Any) -> Call:
        """A kernel that works on parts of the rows, recorded for a program."""
        return record(kernel, self.cuts, *arguments)

    def prepare(self, layout: Layout, x: np.ndarray, seed: int | None) -> tuple[Layout, np.ndarray]:
        """Take a batch; return the layout and the matrix that `forward` will fill."""
        raise NotImplementedError

    def reseed(self, seed: int) -> None:
        """Other random numbers from now on, for a pass that `needs_seed`."""

    def forward_work(self) -> list[Work]:
        """What `forward` runs, kernel by kernel."""
        raise NotImplementedError

    def backward_work(self) -> list[Work]:
        """What `backward` runs, kernel by kernel."""
        raise NotImplementedError

    def forward(self) -> None:
        """Compute the output."""
        for work in self.forward_work():
            work.run()

    def record_forward(self) -> list[Call]:
        """`forward` of the batch that the layout and the parameters hold when the calls run.

        The calls stay valid while the arrays of the layout (a `LayoutInPlace`), of the inputs and of the
        parameters stay where they are.
        """
        return [work.record() for work in self.forward_work()]

    def prepare_backward(self, dy: np.ndarray, need_dx: bool) -> np.ndarray | None:
        """Take the gradient of the output, to be filled later; return the input's, if wanted."""
        raise NotImplementedError

    def backward(self) -> None:
        """Compute the input gradient and the gradients of the parameters."""
        for work in self.backward_work():
            work.run()

    def record_backward(self) -> list[Call]:
        """`backward`, as `record_forward`."""
        return [work.record() for work in self.backward_work()]
