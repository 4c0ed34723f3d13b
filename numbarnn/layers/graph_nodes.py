"""What a graph consists of: wires between nodes, and nodes that run a pass.

A stateless pass takes one matrix and gives one; its node takes and gives one wire. A recurrent layer's node
takes x and, where there are any, its initial states, and gives y and the final states. All have the calls of
a pass (see ``passes.py``), with tuples of wires for matrices:

    prepare           set up for a batch, return the wires of the outputs
    forward           fill them
    prepare_backward  take the matrices of the outputs' gradients, return those of the inputs that are needed
    backward          fill these, and the gradients of the parameters
"""

import importlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from numbarnn.jit.cpu import padded
from numbarnn.layers.base import Layer
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


class RowOrder:
    """From the order of rows in one layout to that in another one: they are sorted by different lengths.

    Parameters
    ----------
    source, target : Layout
        Of the same rows.
    carrier : Pass
        Knows where matrices are.
    """

    def __init__(self, source: Layout, target: Layout, carrier: Pass) -> None:
        self.positions: Any = None  # of the target's rows in the source; None where both have one order
        if source.order is not target.order:
            positions = source.inverse_order[target.order]
            if not np.array_equal(positions, np.arange(positions.size)):
                self.positions = carrier.to_device(positions, 1)

    def forward(self, values: Any, out: Any) -> None:
        """Rows of the source in the order of the target."""
        out[...] = values if self.positions is None else values[self.positions]

    def backward(self, dvalues: Any, out: Any) -> None:
        """Rows of the target in the order of the source."""
        if self.positions is None:
            out[...] = dvalues
        else:
            out[self.positions] = dvalues


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

    def forward(self) -> None:
        self.run.forward()

    def prepare_backward(self, doutputs: Sequence[Any], needed: Sequence[bool]) -> tuple[Any, ...]:
        return (self.run.prepare_backward(doutputs[0], need_dx=needed[0]),)

    def backward(self) -> None:
        self.run.backward()


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
        finals = (values if values is None else Wire(x.layout.last, values) for values in run.final)
        return prepared, *finals

    def forward(self) -> None:
        for wire, order, initial in zip(self.states, self.orders, self.run.initial, strict=False):
            if wire is not None:
                order.forward(wire.values, initial)
        self.run.forward()

    def prepare_backward(self, doutputs: Sequence[Any], needed: Sequence[bool]) -> tuple[Any, ...]:
        dx = self.run.prepare_backward(doutputs[0], need_dx=needed[0])
        self.dfinals = doutputs[1:]
        self.dstates = [
            self.buffers.matrix(s, *wire.values.shape) if is_needed else None
            for s, (wire, is_needed) in enumerate(zip(self.states, needed[1:], strict=True))
        ]
        return dx, *self.dstates

    def backward(self) -> None:
        run = self.run
        for given, dfinal in zip(self.dfinals, run.dfinal, strict=True):
            if dfinal is not None:
                dfinal[...] = given
        run.backward()
        for out, order, dinitial in zip(self.dstates, self.orders, run.dinitial, strict=False):
            if out is not None:
                order.backward(dinitial, out)


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
        ends = np.cumsum(node.sizes).tolist()
        self.columns = [slice(end - size, end) for end, size in zip(ends, node.sizes, strict=True)]

    def prepare(self, inputs: Sequence[Wire], seed: int | None) -> tuple[Any, ...]:
        self.inputs, layout = inputs, inputs[0].layout
        self.orders = [RowOrder(wire.layout, layout, self.carrier) for wire in inputs]
        width = self.columns[-1].stop
        columns = padded(width, self.buffers.dtype) if self.carrier.layer.device == "cpu" else width
        self.y = self.buffers.matrix("y", layout.total, columns)
        return (Wire(layout, self.y),)

    def forward(self) -> None:
        for wire, order, columns, size in zip(
            self.inputs, self.orders, self.columns, self.sizes, strict=True
        ):
            order.forward(wire.values[:, :size], self.y[:, columns])

    def prepare_backward(self, doutputs: Sequence[Any], needed: Sequence[bool]) -> tuple[Any, ...]:
        self.dy = doutputs[0]
        self.dinputs = [
            self.buffers.matrix(("dx", i), *wire.values.shape) if is_needed else None
            for i, (wire, is_needed) in enumerate(zip(self.inputs, needed, strict=True))
        ]
        return tuple(self.dinputs)

    def backward(self) -> None:
        for dx, order, columns, size in zip(self.dinputs, self.orders, self.columns, self.sizes, strict=True):
            if dx is not None:
                order.backward(self.dy[:, columns], dx[:, :size])
