"""Moves between the wires of a graph, as work to be run now or to be recorded.

On the CPU kernels do it (``engine/moves.py``). On a GPU arrays are assigned to one another, which is never
recorded.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from numbarnn.engine.moves import AS_THEY_STAND, add_to, find_positions, put_rows, take_rows
from numbarnn.engine.program import Call, Work, record
from numbarnn.layers.passes import Pass
from numbarnn.sequences.layout import Layout


class GpuWork(NamedTuple):
    """The counterpart of `Work` on a GPU: it can be run, and not be recorded."""

    function: Callable[..., None]
    arguments: tuple

    def run(self) -> None:
        """Launch it."""
        self.function(*self.arguments)


class RowOrder:
    """From the order of rows in one layout to that in another one: they are sorted by different lengths.

    Parameters
    ----------
    source, target : Layout
        Of the same rows. Where they have several steps, rows have the same lengths in both, and so one order.
    carrier : Pass
        Knows where matrices are.
    """

    def __init__(self, source: Layout, target: Layout, carrier: Pass) -> None:
        self._source, self._target, self._on_gpu = source, target, works_on_gpu(carrier)
        self.positions: Any = AS_THEY_STAND  # of the target's rows in the source
        if source.order is not target.order and source.steps == 1:
            positions = source.inverse_order[target.order]
            if not self._on_gpu:
                self.positions = positions
            elif not np.array_equal(positions, np.arange(positions.size)):
                self.positions = carrier.to_device(positions, 1)

    def record_positions(self) -> list[Call]:
        """What finds the positions for the batch that the layouts hold then."""
        if self.positions is AS_THEY_STAND:
            return []
        return [record(find_positions, self._source.inverse_order, self._target.order, self.positions)]

    def take(self, source: Any, first: int, target: Any, target_first: int, columns: int) -> Any:
        """The work of bringing columns of the source's rows into those of the target."""
        if self._on_gpu:
            wanted = target[:, target_first : target_first + columns]
            return GpuWork(_take, (source[:, first : first + columns], self.positions, wanted))
        return Work(take_rows, 1, (source, first, self.positions, target, target_first, columns))

    def put_back(self, given: Any, first: int, out: Any, out_first: int, columns: int) -> Any:
        """The work of bringing columns of the target's rows into those of the source."""
        if self._on_gpu:
            wanted = out[:, out_first : out_first + columns]
            return GpuWork(_put, (given[:, first : first + columns], self.positions, wanted))
        return Work(put_rows, 1, (given, first, self.positions, out, out_first, columns))


def _take(source: Any, positions: Any, target: Any) -> None:
    target[...] = source if positions is AS_THEY_STAND else source[positions]


def _put(source: Any, positions: Any, target: Any) -> None:
    if positions is AS_THEY_STAND:
        target[...] = source
    else:
        target[positions] = source


def _add(source: Any, target: Any) -> None:
    target += source


def works_on_gpu(carrier: Pass) -> bool:
    """Whether the matrices of a pass are in the GPU's memory."""
    return bool(carrier.layer.device == "cuda")


def copy_work(source: Any, target: Any, carrier: Pass) -> Any:
    """The work of copying a matrix into one of the same shape."""
    if works_on_gpu(carrier):
        return GpuWork(_take, (source, AS_THEY_STAND, target))
    return Work(take_rows, 1, (source, 0, AS_THEY_STAND, target, 0, target.shape[1]))


def add_work(source: Any, target: Any, carrier: Pass) -> Any:
    """The work of adding a matrix to another one."""
    return GpuWork(_add, (source, target)) if works_on_gpu(carrier) else Work(add_to, 1, (source, target))
