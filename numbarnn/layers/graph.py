"""Graph: layers that are connected in any way as one pass, as `Chain` is for a stack of layers."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from numbarnn.engine.guards import Guards
from numbarnn.engine.program import Call
from numbarnn.engine.random import seed_of
from numbarnn.layers.graph_nodes import LayerNode, Node, RecurrentNode, SideBySide, Wire
from numbarnn.layers.moves import add_work, copy_work
from numbarnn.sequences.layout import Layout


class Graph:
    """One forward and backward through layers that are connected by wires, with all buffers.

    The calls are those of `Chain`, with a tuple of layouts and matrices, one for each input. The gradients of
    a wire that several nodes read are added up, and so are those of a layer that several nodes use.

    Parameters
    ----------
    nodes : sequence of Node
        In an order of computation. Their layers are built, and the output needs each of them.
    inputs : int
        How many inputs there are: the wires from 0 on.
    output : int
        The wire of the output.
    training : bool
        Keep what backward needs, and apply dropout.
    """

    def __init__(self, nodes: Sequence[Node], inputs: int, output: int, training: bool) -> None:
        self.nodes, self.input_count, self.output = list(nodes), inputs, output
        of_layers: dict[int, Any] = {}
        for i, node in enumerate(self.nodes):
            if node.layer is not None:
                has_states = any(number is not None for number in node.inputs[1:] + node.outputs[1:])
                of_layers[i] = (RecurrentNode if has_states else LayerNode)(node, training)
        self.carrier = next(iter(of_layers.values())).run  # all passes have one device and dtype
        self.runs: list[Any] = [
            of_layers.get(i) or SideBySide(node, self.carrier) for i, node in enumerate(self.nodes)
        ]
        self.passes = [run.run for run in of_layers.values()]
        self.stores = [run.store for run in self.passes]
        self.guards = Guards.together(store.guards for store in self.stores)
        self.buffers = type(self.carrier.buffers)(self.carrier.buffers.dtype)
        self._drawing = [i for i, run in enumerate(self.runs) if run.needs_seed]
        self.steps: list[tuple[list[Any], Any, list[Any]]] = []

    def prepare(
        self, layouts: Sequence[Layout], inputs: Sequence[np.ndarray], seed: int
    ) -> tuple[Layout, np.ndarray]:
        """Take a batch; return the layout and the matrix that `forward` will fill."""
        wires: dict[int | None, Any] = dict(enumerate(map(Wire, layouts, inputs)))
        wires[None] = None
        self.given = []  # what each node gives, whether it is read or not
        for i, (node, run) in enumerate(zip(self.nodes, self.runs, strict=True)):
            outputs = run.prepare(
                [wires[number] for number in node.inputs], int(seed_of(seed, i)) if run.needs_seed else None
            )
            self.given.append(outputs)
            wires.update(zip(node.outputs, outputs, strict=False))
            wires[None] = None
        layout, values = wires[self.output]
        return layout, values

    def reseed(self, seed: int) -> None:
        """Other random numbers from now on, as `prepare` would draw them."""
        for i in self._drawing:
            self.runs[i].reseed(int(seed_of(seed, i)))

    def to_device(self, inputs: Sequence[np.ndarray], columns: Sequence[int]) -> tuple[Any, ...]:
        """A batch of the host, to where the layers work; see `Pass.to_device`."""
        return tuple(map(self.carrier.to_device, inputs, columns))

    def to_host(self, y: Any) -> Any:
        """The output, in the host's memory."""
        return self.carrier.to_host(y)

    def forward(self) -> None:
        """Compute the output."""
        for run in self.runs:
            run.forward()

    def record_forward(self) -> list[Call]:
        """`forward`, as `Pass.record_forward`."""
        return [call for run in self.runs for call in run.record_forward()]

    def prepare_backward(self, dy: np.ndarray, need_dx: bool = False) -> tuple[Any, ...]:
        """Take the matrix that will hold the gradient of the output; return those of the inputs, if wanted,
        with None for tokens."""
        needed = self._needed(need_dx)
        parts: dict[int | None, list[Any]] = {self.output: [dy]}  # of the gradient of each wire
        done: set[int] = set()  # layers whose gradients hold those of an earlier node
        self.steps = []  # what comes before the backward of a run, the run, and what comes behind it
        for i in reversed(range(len(self.nodes))):
            node, run = self.nodes[i], self.runs[i]
            wanted = [number in needed for number in node.inputs]
            if not (any(wanted) or _has_parameters(node)):
                continue
            before: list[Any] = []
            doutputs = [self._total(number, parts, before) for number in node.outputs]
            if node.outputs[0] is None:
                # Nothing reads y, and its states alone have a gradient.
                doutputs[0] = self.buffers.matrix(("zeros", i), *self.given[i][0].values.shape)
            dinputs = run.prepare_backward(doutputs, wanted)
            behind: list[Any] = []
            if _has_parameters(node):
                if id(node.layer) in done:
                    gradients = _gradients_of(node.layer).reshape(1, -1)
                    earlier = self.buffers.matrix(("gradients", i), *gradients.shape)
                    before.append(copy_work(gradients, earlier, self.carrier))
                    behind.append(add_work(earlier, gradients, self.carrier))
                done.add(id(node.layer))
            self.steps.append((before, run, behind))
            for number, dx in zip(node.inputs, dinputs, strict=False):
                if dx is not None:
                    parts.setdefault(number, []).append(dx)
        self.last_sums: list[Any] = []
        return tuple(self._total(i, parts, self.last_sums) for i in range(self.input_count))

    def _needed(self, need_dx: bool) -> set[int | None]:
        """The wires whose gradients are needed: inputs, if so, and all behind which there are parameters."""
        needed: set[int | None] = set()
        if need_dx:
            tokens = {
                number
                for node in self.nodes
                if node.layer is not None and node.layer.takes_tokens
                for number in node.inputs
            }
            needed.update(number for number in range(self.input_count) if number not in tokens)
        for node in self.nodes:
            if _has_parameters(node) or not needed.isdisjoint(node.inputs):
                needed.update(node.outputs)
            needed.discard(None)
        return needed

    def _total(self, number: int | None, parts: dict[int | None, list[Any]], works: list[Any]) -> Any:
        """The matrix of a wire's gradient; where it is a sum, the work of that is noted in `works`."""
        own = parts.get(number, [])
        if number is None or not own:
            return None
        if len(own) == 1:
            return own[0]
        total = self.buffers.matrix(("sum", number), *own[0].shape)
        works.append(copy_work(own[0], total, self.carrier))
        works += [add_work(part, total, self.carrier) for part in own[1:]]
        return total

    def backward(self) -> None:
        """Compute the gradients of all parameters."""
        for before, run, behind in self.steps:
            for work in before:
                work.run()
            run.backward()
            for work in behind:
                work.run()
        for work in self.last_sums:
            work.run()

    def record_backward(self) -> list[Call]:
        """`backward`, as `Pass.record_backward`."""
        calls: list[Call] = []
        for before, run, behind in self.steps:
            calls += [work.record() for work in before]
            calls += run.record_backward()
            calls += [work.record() for work in behind]
        return calls + [work.record() for work in self.last_sums]

    def export_gradients(self) -> None:
        """The gradients of the parameters that backward left are those of the layers from now on."""
        for run in self.passes:
            run.export_gradients()


def _has_parameters(node: Node) -> bool:
    return node.layer is not None and node.layer.count_parameters() > 0


def _gradients_of(layer: Any) -> Any:
    """The gradients that the passes of a layer write."""
    return layer.flat_gradients if layer.device == "cpu" else layer.cuda_parameters().flat_gradients
