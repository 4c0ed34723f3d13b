"""A cell's vectors on the GPU: parameters that are one number for every hidden unit.

A kernel takes them as a tuple of arrays (H,), and a thread has those of its unit in registers, as a tuple of
numbers. Their gradients are shared out among the lanes of a unit: vector v is that of lane ``v % lanes``, for
registers are what a scan has least of. A cell without vectors has empty tuples, which leave nothing in the
machine code: no argument and no instruction.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from numbarnn.cells.contract import Cell
from numbarnn.engine.cuda.device import device
from numbarnn.engine.cuda.memory import load, pick, store

Function = Callable[..., Any]


class UnitVectors(NamedTuple):
    """What a kernel does with the vectors of a cell.

    Attributes
    ----------
    forward, backward : callables
        The cell's functions, with the vectors as their last argument; `backward` returns what it adds to
        their gradients as a third tuple.
    read : callable
        ``read(arrays, index)``: a number of each array.
    zeros : callable
        ``zeros()``: the gradients of a lane, a tuple, before the first step.
    add : callable
        ``add(gradients, step, lane)``: a lane's gradients, with its part of what a step adds.
    write : callable
        ``write(arrays, index, gradients, lane)``: a lane's gradients into the arrays of its vectors.
    """

    forward: Function
    backward: Function
    read: Function
    zeros: Function
    add: Function
    write: Function


def unit_vectors(cell: Cell, dtype: str, lanes: int = 1) -> UnitVectors:
    """The functions for the vectors of a cell, or for none; `lanes` threads share a hidden unit.

    Each is made of the one for a vector less, for the compiler must know the length of every tuple.
    """
    count, of_lane = len(cell.vectors), -(-len(cell.vectors) // lanes)
    zeros = (np.dtype(dtype).type(0.0),) * of_lane
    read = device(lambda arrays, index: ())
    write = device(lambda arrays, index, gradients, lane: None)
    for v in range(count):
        read, write = _read_one_more(read, v), _write_one_more(write, v, lanes)
    add = device(lambda gradients, step, lane: ())
    for q in range(of_lane):
        add = _add_one_more(add, q, lanes, count - 1)
    forward, backward = device(cell.forward), device(cell.backward)
    if not cell.vectors:
        forward, backward = _without_vectors(forward, backward)
    return UnitVectors(forward, backward, read, device(lambda: zeros), add, write)


def _without_vectors(forward: Function, backward: Function) -> tuple[Function, Function]:
    """The functions of a cell that has none, with the arguments and results of one that has."""

    @device
    def forward_alone(sums, states, vectors):
        return forward(sums, states)

    @device
    def backward_alone(saved, previous, new, dstates, vectors):
        dsums, dprevious = backward(saved, previous, new, dstates)
        return dsums, dprevious, ()

    return forward_alone, backward_alone


def _read_one_more(others: Function, v: int) -> Function:
    return device(lambda arrays, index: others(arrays, index) + (load(arrays[v], index),))  # noqa: RUF005


def _add_one_more(others: Function, q: int, lanes: int, last: int) -> Function:
    @device
    def add(gradients, step, lane):
        v = min(lane + q * lanes, last)  # a lane that is left over adds up what it does not write
        return others(gradients, step, lane) + (gradients[q] + pick(step, v),)  # noqa: RUF005

    return add


def _write_one_more(others: Function, v: int, lanes: int) -> Function:
    @device
    def write(arrays, index, gradients, lane):
        others(arrays, index, gradients, lane)
        if v % lanes == lane:
            store(arrays[v], index, gradients[v // lanes])

    return write
