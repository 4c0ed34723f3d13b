"""How a stack of recurrent layers runs: packed weights, buffers, and the calls of the scan."""

from typing import Any

import numpy as np

from numbarnn.cells.contract import Cell
from numbarnn.engine import scan
from numbarnn.engine.host import lanes, padded
from numbarnn.engine.packing import aligned_zeros, gate_map, pack_recurrent, pack_recurrent_back, panels_for
from numbarnn.engine.random import drop, seed_of
from numbarnn.engine.threads import even_cuts, run
from numbarnn.engine.tile import PANEL_VECTORS
from numbarnn.layers.passes import Pass


class PackedDirection:
    """The weights of one layer and direction as the scan reads them."""

    def __init__(self, cell: Cell, input_size: int, hidden_size: int, dtype) -> None:
        self.cell = cell
        self.input_map = gate_map(cell.input_gates, hidden_size, dtype)
        self.recurrent_map = gate_map(cell.recurrent_gates, hidden_size, dtype)
        vectors = cell.window if cell.apart else PANEL_VECTORS
        units = padded(hidden_size, dtype)
        self.weights = cell.weights(
            panels_for(self.input_map.size, input_size, vectors, dtype),
            panels_for(self.recurrent_map.size, hidden_size, vectors, dtype),
            aligned_zeros(cell.slots * units, dtype),
        )
        self.input_back = panels_for(padded(input_size, dtype), self.input_map.size, PANEL_VECTORS, dtype)
        self.recurrent_back = panels_for(units, self.recurrent_map.size, PANEL_VECTORS, dtype)
        groups_at_once = max(1, vectors // cell.slots)
        self.blocks = -(-(units // lanes(dtype)) // groups_at_once)

    def pack(self, weight_ih, weight_hh, bias_ih, bias_hh) -> None:
        """Pack what forward reads."""
        pack_recurrent(
            weight_ih, weight_hh, bias_ih, bias_hh, self.input_map, self.recurrent_map, self.cell.slots,
            *self.weights,
        )  # fmt: skip

    def pack_back(self, weight_ih, weight_hh) -> None:
        """Pack what backward reads."""
        pack_recurrent_back(
            weight_ih, weight_hh, self.input_map, self.recurrent_map, self.input_back, self.recurrent_back
        )


class RecurrentPass(Pass):
    """Buffers of one forward and backward through a stack of layers.

    States, gates and gradients of layer l and direction d stand under the index ``k = l * D + d``.
    """

    placed: tuple | None = None  # the layout and the inputs that all buffers were found for

    def prepare(self, layout, x, seed, initial_state=None, sequence=None):
        """As `Pass.prepare`.

        `initial_state` holds (L * D, B, H) arrays in the order of the layout's rows; `sequence` says whether
        the output is the sequence or the final state, by default as the layer says.
        """
        layer = self.layer
        sequence = layer.return_sequences if sequence is None else sequence
        self.seed = seed
        self.packed = layer.packed(self.training)
        # A loop over batches of one shape finds everything in its place.
        placed = self.placed is not None and self.placed[0] is layout and self.placed[1] is x
        if not placed or sequence != self.sequence:
            self._place_buffers(layout, x, sequence)
            self.placed = (layout, x)
        for k, states in enumerate(self.states):
            first_rows = self._first_rows(k)
            for s, state in enumerate(states):
                state[first_rows] = 0.0
                if initial_state is not None:
                    state[first_rows, : layer.hidden_size] = initial_state[s][k]
        if sequence:
            return layout, self.inputs[-1]
        return layout.last, self.last

    def _place_buffers(self, layout, x, sequence):
        """Find room for everything that forward writes."""
        layer, buffers = self.layer, self.buffers
        self.begin(layout, 2 * layout.total * layer.flat_values.size)
        self.sequence = sequence
        self.units = padded(layer.hidden_size, layer.dtype)
        kept_rows = layout.total if self.training else 0
        self.states = []
        self.gates = []
        for k in range(layer.num_layers * layer.directions):
            states = tuple(
                buffers.matrix((name, k), layout.rows + layout.total, self.units)
                for name in layer.cell.states
            )
            self.states.append(states)
            self.gates.append(buffers.matrix(("gates", k), kept_rows, layer.cell.slots * self.units))
        self.inputs = [x]
        for level in range(layer.num_layers):
            if level < layer.num_layers - 1 or sequence:
                self.inputs.append(self._output_matrix(level))
        if not sequence:
            self.last = buffers.matrix("last", layout.rows, padded(self._width, layer.dtype))

    @property
    def _width(self):
        """Features of a level's output."""
        return self.layer.directions * self.layer.hidden_size

    def _first_rows(self, k):
        """Rows of the initial state among the states."""
        reverse = k % self.layer.directions
        return self.layout.last_state_rows if reverse else self.layout.first_state_rows

    def _final_rows(self, k):
        """Rows of the final state among the states."""
        reverse = k % self.layer.directions
        return self.layout.first_state_rows if reverse else self.layout.last_state_rows

    def _drops(self, level):
        """Whether the outputs of a level go through dropout."""
        return level < self.layer.num_layers - 1 and self.training and self.layer.dropout > 0.0

    def _output_matrix(self, level):
        """Outputs of a level. Of a single direction they are the states themselves, without a copy."""
        if self.layer.directions == 1 and not self._drops(level):
            return self.states[level][0][self.layout.rows :]
        return self.buffers.matrix(
            ("output", level), self.layout.total, padded(self._width, self.layer.dtype)
        )

    def forward(self):
        layer, layout = self.layer, self.layout
        for k, packed in enumerate(self.packed):
            level, direction = divmod(k, layer.directions)
            self.run(
                scan.forward, packed.weights, self.inputs[level], self.states[k], self.gates[k],
                self.training, layout.active, layout.offset, layout.slot, direction == 1,
            )  # fmt: skip
            last_direction = direction == layer.directions - 1
            if last_direction and (level < layer.num_layers - 1 or self.sequence):
                self._join_outputs(level)
        if not self.sequence:
            for direction in range(layer.directions):
                k = (layer.num_layers - 1) * layer.directions + direction
                final = self.states[k][0][self._final_rows(k), : layer.hidden_size]
                self.last[:, self._columns(direction)] = final

    def _columns(self, direction):
        """A direction's columns in the output."""
        return slice(direction * self.layer.hidden_size, (direction + 1) * self.layer.hidden_size)

    def _join_outputs(self, level):
        """Bring the outputs of a level, where they are not the states, to the next."""
        layer, layout, target = self.layer, self.layout, self.inputs[level + 1]
        source = self.states[level * layer.directions][0][layout.rows :]
        if layer.directions == 2:
            for direction in range(2):
                h = self.states[level * 2 + direction][0]
                self.run(
                    scan.copy_outputs, h, target, direction * layer.hidden_size, layer.hidden_size,
                    layout.active, layout.offset, layout.slot, direction == 1,
                )  # fmt: skip
            source = target
        if self._drops(level):
            self._drop(level, source, target)

    def _drop(self, level, source, target):
        layout, seed = self.layout, seed_of(self.seed, level)
        self.run(
            drop, source, target, self._width, self.layer.dropout, seed, layout.order, layout.active,
            layout.offset,
        )  # fmt: skip

    def prepare_backward(self, dy, need_dx, dstate=None):
        """As `Pass.prepare_backward`; `dstate` holds (L * D, B, H) arrays in the order of the rows."""
        layer, layout, buffers = self.layer, self.layout, self.buffers
        self.dy = dy
        self.carries = []
        for k in range(layer.num_layers * layer.directions):
            carry = tuple(
                buffers.matrix(("d" + name, k), layout.rows, self.units) for name in layer.cell.states
            )
            for s, part in enumerate(carry):
                part[...] = 0.0
                if dstate is not None:
                    part[:, : layer.hidden_size] = dstate[s][k]
            self.carries.append(carry)
        self.dinputs: list[Any] = []
        for level in range(layer.num_layers):
            columns = padded(layer.known_input_size if level == 0 else self._width, layer.dtype)
            wanted = level > 0 or need_dx
            self.dinputs.append(buffers.matrix(("dx", level), layout.total, columns) if wanted else None)
        return self.dinputs[0]

    def backward(self):
        layer = self.layer
        for level in reversed(range(layer.num_layers)):
            last = level == layer.num_layers - 1
            has_dy = self.sequence or not last
            dy = self.dy if last else self.dinputs[level + 1]
            if self._drops(level):
                self._drop(level, dy, dy)
            for direction in range(layer.directions):
                k = level * layer.directions + direction
                if not has_dy:
                    self.carries[k][0][:, : layer.hidden_size] += dy[:, self._columns(direction)]
                self._backward_direction(k, dy, has_dy)

    def _backward_direction(self, k, dy, has_dy):
        layer, layout, packed = self.layer, self.layout, self.packed[k]
        level, direction = divmod(k, layer.directions)
        self.run(
            scan.backward, packed.weights, packed.recurrent_back, self.states[k], self.gates[k], dy,
            direction * layer.hidden_size, has_dy, self.carries[k],
            layout.active, layout.offset, layout.slot, direction == 1,
        )  # fmt: skip
        dx = self.dinputs[level]
        if dx is not None:
            # The second direction adds to what the first one wrote.
            start, stride = (dx, dx.shape[1]) if direction else (layer.zeros_for(dx.shape[1]), 0)
            self.run(
                scan.input_gradients, packed.weights, packed.input_back, self.gates[k], start, stride, dx,
                layout.active, layout.offset,
            )  # fmt: skip

    def weight_gradients(self):
        layer, layout = self.layer, self.layout
        for k, packed in enumerate(self.packed):
            level, direction = divmod(k, layer.directions)
            parts = min(self.threads, packed.blocks)
            run(
                scan.weight_gradients, parts, even_cuts(packed.blocks, parts), packed.weights,
                self.inputs[level], self.states[k][0], self.gates[k],
                layout.next_slot_rows if direction else layout.slot_rows, self._packed_gradients(k),
                packed.input_map, packed.recurrent_map, layer.direction_gradients[k],
            )  # fmt: skip

    def _packed_gradients(self, k):
        """Room for gradients in the form of the packed weights: input, recurrent, bias."""
        weights = self.packed[k].weights
        dinput, drecurrent = (
            self.buffers.matrix((name, k), len(panels), panels[0].size).reshape(panels.shape)
            for name, panels in (("dinput", weights.input), ("drecurrent", weights.recurrent))
        )
        return dinput, drecurrent, self.buffers.matrix(("dbias", k), 1, weights.bias.size)[0]

    def final_states(self):
        """Tuple of (L * D, B, H) arrays, one a state, in the caller's order of rows."""
        return self._in_callers_order(
            [[state[self._final_rows(k)] for state in states] for k, states in enumerate(self.states)]
        )

    def initial_gradients(self):
        """Tuple of (L * D, B, H) arrays: gradients of the initial states, in the caller's order of rows."""
        return self._in_callers_order(self.carries)

    def _in_callers_order(self, parts):
        """For every state its (L * D, B, H) array, from a (B, H padded) matrix a direction and state."""
        layer, layout = self.layer, self.layout
        result = []
        for s in range(len(layer.cell.states)):
            joined = np.empty((len(parts), layout.rows, layer.hidden_size), layer.dtype)
            for k, of_direction in enumerate(parts):
                rows = of_direction[s] if layout.in_order else of_direction[s][layout.places]
                joined[k] = rows[:, : layer.hidden_size]
            result.append(joined)
        return tuple(result)
