"""What a graph consists of: wires between nodes, and nodes that run a pass.

A stateless pass takes one matrix and gives one; its node takes and gives one wire. A recurrent layer's node
takes x and, where there are any, its initial states, and gives y and the final states. All have the calls of
a pass (see ``passes.py``), with tuples of wires for matrices:

    prepare           set up for a batch, return the wires of the outputs
    forward           fill them
    prepare_backward  take the matrices of the outputs' gradients, return those of the inputs that are needed
    backward          fill these, and the gradients of the parameters
    record_forward, record_backward
                      both as recorded calls, on the CPU
"""

import importlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from numbarnn.engine.program import Call
from numbarnn.jit.cpu import padded
from numbarnn.layers.base import Layer
from numbarnn.layers.moves import RowOrder, copy_work
from numbarnn.layers.passes import Buffers, Pass
from numbarnn.layers.state_wires import StatefulPass
from numbarnn.sequences.layout import Layout


class Wire(NamedTuple):
    """What goes from one pass to the next: a matrix in packed order, and where its rows stand.

    A wire of one vector a row has a layout of one step, whose order is that of the batch that it comes from.
    """

    layout: Layout
    values: Any  # array (N, at least as many columns as features); tokens are a vector (N,)


class Node(NamedTuple):
    """One use of a layer in a graph, or, without a layer, a place where vectors are put side by side.

    Wires have numbers: first the inputs of the graph, then the outputs of each node.
    """

    layer: Layer | None
    inputs: tuple[int | None, ...]  # x and the initial states, None for zeros; or what stands side by side
    outputs: tuple[int | None, ...]  # y and the final states, None for what nothing reads
    sizes: tuple[int, ...] = ()  # features of the inputs that stand side by side


class LayerNode:
    """A pass of one wire in and one out."""

    def __init__(self, node: Node, training: bool) -> None:
        assert node.layer is not None
        self.run: Any = node.layer.new_pass(training)

    @property
    def needs_seed(self) -> bool:
        """Whether `prepare` needs a seed."""
        return bool(self.run.needs_seed)

    def prepare(self, inputs: Sequence[Any], seed: int | None) -> tuple[Any, ...]:
        return (Wire(*self.run.prepare(*inputs[0], seed)),)

    def reseed(self, seed: int) -> None:
        """Other random numbers from now on."""
        self.run.reseed(seed)

    def forward(self) -> None:
        self.run.forward()

    def record_forward(self) -> list[Call]:
        calls: list[Call] = self.run.record_forward()
        return calls

    def prepare_backward(self, doutputs: Sequence[Any], needed: Sequence[bool]) -> tuple[Any, ...]:
        return (self.run.prepare_backward(doutputs[0], need_dx=needed[0]),)

    def backward(self) -> None:
        self.run.backward()

    def record_backward(self) -> list[Call]:
        calls: list[Call] = self.run.record_backward()
        return calls


class RecurrentNode(LayerNode):
    """A recurrent pass with wires for its states."""

    def __init__(self, node: Node, training: bool) -> None:
        layer: Any = node.layer
        states = len(layer.cell.states)
        reads = [number is not None for number in node.inputs[1:]] or [False] * states
        gives = [number is not None for number in node.outputs[1:]]
        pass_class: Any = StatefulPass
        if layer.device == "cuda":
            # Where a GPU is asked for, not before.
            pass_class = importlib.import_module("numbarnn.layers.cuda.state_wires").StatefulCuda
        self.run = pass_class(layer, training, reads, gives)
        self.buffers = type(self.run.buffers)(layer.dtype)

    def prepare(self, inputs: Sequence[Any], seed: int | None) -> tuple[Any, ...]:
        run, (x, *self.states) = self.run, inputs
        prepared = Wire(*run.prepare(*x, seed))
        self.orders = [wire and RowOrder(wire.layout, x.layout, run) for wire in self.states]
        self.imports = [
            order.take(wire.values, 0, initial, 0, initial.shape[1])
            for wire, order, initial in zip(self.states, self.orders, run.initial, strict=False)
            if wire is not None
        ]
        finals = (values if values is None else Wire(x.layout.last, values) for values in run.final)
        return prepared, *finals

    def forward(self) -> None:
        _run_all(self.imports)
        self.run.forward()

    def record_forward(self) -> list[Call]:
        return [*_record_moves(self.orders, self.imports), *super().record_forward()]

    def prepare_backward(self, doutputs: Sequence[Any], needed: Sequence[bool]) -> tuple[Any, ...]:
        run = self.run
        dx = run.prepare_backward(doutputs[0], need_dx=needed[0])
        self.dimports = [
            copy_work(given, dfinal, run)
            for given, dfinal in zip(doutputs[1:], run.dfinal, strict=True)
            if dfinal is not None
        ]
        dstates: list[Any] = []
        self.dexports = []
        states = zip(self.states, self.orders, run.dinitial, needed[1:], strict=False)
        for s, (wire, order, dinitial, is_needed) in enumerate(states):
            dstates.append(self.buffers.matrix(s, *wire.values.shape) if is_needed else None)
            if is_needed:
                self.dexports.append(order.put_back(dinitial, 0, dstates[-1], 0, dinitial.shape[1]))
        return dx, *dstates

    def backward(self) -> None:
        _run_all(self.dimports)
        self.run.backward()
        _run_all(self.dexports)

    def record_backward(self) -> list[Call]:
        return [*_record_all(self.dimports), *super().record_backward(), *_record_all(self.dexports)]


class SideBySide:
    """Vectors of several wires side by side, in the order of the first one's rows.

    Parameters
    ----------
    node : Node
        Without a layer.
    carrier : Pass
        Any pass of the graph: it knows where matrices are.
    """

    needs_seed = False

    def __init__(self, node: Node, carrier: Pass) -> None:
        self.carrier, self.sizes = carrier, node.sizes
        self.buffers: Buffers = type(carrier.buffers)(carrier.buffers.dtype)
        self.firsts: list[int] = np.cumsum([0, *node.sizes[:-1]]).tolist()  # columns

    def prepare(self, inputs: Sequence[Wire], seed: int | None) -> tuple[Any, ...]:
        self.inputs, layout = inputs, inputs[0].layout
        self.orders = [RowOrder(wire.layout, layout, self.carrier) for wire in inputs]
        width = sum(self.sizes)
        columns = padded(width, self.buffers.dtype) if self.carrier.layer.device == "cpu" else width
        y = self.buffers.matrix("y", layout.total, columns)
        self.moves = [
            order.take(wire.values, 0, y, first, size)
            for wire, order, first, size in zip(inputs, self.orders, self.firsts, self.sizes, strict=True)
        ]
        return (Wire(layout, y),)

    def forward(self) -> None:
        _run_all(self.moves)

    def record_forward(self) -> list[Call]:
        return _record_moves(self.orders, self.moves)

    def prepare_backward(self, doutputs: Sequence[Any], needed: Sequence[bool]) -> tuple[Any, ...]:
        dinputs: list[Any] = []
        self.dmoves = []
        parts = zip(self.inputs, self.orders, self.firsts, self.sizes, needed, strict=True)
        for i, (wire, order, first, size, is_needed) in enumerate(parts):
            dinputs.append(self.buffers.matrix(("dx", i), *wire.values.shape) if is_needed else None)
            if is_needed:
                self.dmoves.append(order.put_back(doutputs[0], first, dinputs[-1], 0, size))
        return tuple(dinputs)

    def backward(self) -> None:
        _run_all(self.dmoves)

    def record_backward(self) -> list[Call]:
        return _record_all(self.dmoves)


def _run_all(moves: Sequence[Any]) -> None:
    for move in moves:
        move.run()


def _record_all(moves: Sequence[Any]) -> list[Call]:
    return [move.record() for move in moves]


def _record_moves(orders: Sequence[RowOrder | None], moves: Sequence[Any]) -> list[Call]:
    """The moves, and before them what finds the orders of their rows."""
    found = [call for order in orders if order is not None for call in order.record_positions()]
    return found + _record_all(moves)
