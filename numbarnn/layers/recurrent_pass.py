"""How a stack of recurrent layers runs: packed weights, buffers, and the recorded calls of the scan."""

from typing import Any

import numpy as np

from numbarnn.cells.contract import Cell
from numbarnn.engine import scan
from numbarnn.engine.host import lanes, padded
from numbarnn.engine.packing import aligned_zeros, gate_map, pack_recurrent, pack_recurrent_back, panels_for
from numbarnn.engine.program import Call, Program, make_ports, record
from numbarnn.engine.random import drop, seed_of
from numbarnn.engine.rows import read_rows, write_rows
from numbarnn.engine.states import add_to_state, clear, copy_states, hand_out_states
from numbarnn.engine.threads import even_cuts, get_num_threads
from numbarnn.engine.tile import PANEL_VECTORS
from numbarnn.layers.passes import Pass

PACKED_NUMBERS_WORTH_A_THREAD = 100_000


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
        self.groups = units // lanes(dtype)
        groups_at_once = max(1, vectors // cell.slots)
        self.blocks = -(-self.groups // groups_at_once)

    def pack_calls(self, parameters, with_back: bool) -> list[Call]:
        """What packs the weights that forward reads and, if wanted, those that backward reads."""
        numbers = sum(array.size for array in parameters)
        parts = max(1, min(get_num_threads(), numbers // PACKED_NUMBERS_WORTH_A_THREAD))
        cell, maps = self.cell, (self.input_map, self.recurrent_map)
        calls = [
            record(
                pack_recurrent, even_cuts(self.groups, parts), parameters, *maps, cell.slots, *self.weights
            )
        ]
        if with_back:
            cuts = even_cuts(self.input_map.size, parts)
            calls.append(
                record(pack_recurrent_back, cuts, parameters, *maps, self.input_back, self.recurrent_back)
            )
        return calls


class RecurrentPass(Pass):
    """Buffers of one forward and backward through a stack of layers.

    States, gates and gradients of layer l and direction d stand under the index ``k = l * D + d``.

    Everything is recorded as a program when the batch has another layout than the one before; for a batch of
    the same layout that finds all buffers in their places, a pass is a single call into compiled code.
    """

    def __init__(self, layer, training):
        super().__init__(layer, training)
        self.count = layer.num_layers * layer.directions
        self.ports = make_ports()
        self.seeds = np.zeros(layer.num_layers, np.uint64)
        # What the programs were recorded for; None where they are not.
        self.placed = self.placed_backward = self.placed_form = self.placed_form_backward = None
        self.recorded_threads = 0

    # ---- forward -----------------------------------------------------------------------------------------

    def prepare(self, layout, x, seed, initial_state=None, sequence=None):
        """As `Pass.prepare`.

        `initial_state` holds (L * D, B, H) arrays in the order of the layout's rows; `sequence` says whether
        the output is the sequence or the final state, by default as the layer says.
        """
        sequence = self.layer.return_sequences if sequence is None else sequence
        # A loop over batches of one layout finds everything in its place.
        placed = self.placed
        if placed is None or placed[0] is not layout or placed[1] is not x or placed[2] != sequence:
            self._place(layout, x, sequence)
        elif self.recorded_threads != get_num_threads():
            self._place(layout, x, sequence)
        self._begin(seed, initial_state)
        if sequence:
            return layout, self.inputs[-1]
        return layout.last, self.last

    def _begin(self, seed, initial_state):
        """What differs from call to call."""
        layer = self.layer
        if seed is not None and layer.dropout > 0.0:
            self.seeds[:] = [seed_of(seed, level) for level in range(layer.num_layers)]
        layer.packed(self.training)
        if initial_state is not None or self.has_initial_state:
            self._set_initial_state(initial_state)

    def _place(self, layout, x, sequence):
        """Find room for everything that forward writes, and record it."""
        layer, buffers = self.layer, self.buffers
        self.packed = layer.packed(self.training)
        self.begin(layout, 2 * layout.total * layer.flat_values.size)
        self.sequence = sequence
        self.units = padded(layer.hidden_size, layer.dtype)
        kept_rows = layout.total if self.training else 0
        self.states = []
        self.gates = []
        for k in range(self.count):
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
        self.has_initial_state = True  # or whatever earlier batches left there
        self.forward_calls = self._forward_calls()
        self.forward_program = Program(self.forward_calls)
        self.placed, self.recorded_threads = (layout, x, sequence), get_num_threads()
        self.placed_backward = self.placed_form = None

    def _set_initial_state(self, initial_state):
        for k, states in enumerate(self.states):
            rows = self._first_rows(k)
            for s, state in enumerate(states):
                if initial_state is None:
                    state[rows] = 0.0
                else:
                    state[rows, : self.layer.hidden_size] = initial_state[s][k]
        self.has_initial_state = initial_state is not None

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

    def _forward_calls(self):
        layer, layout = self.layer, self.layout
        calls = []
        for k in range(self.count):
            level, direction = divmod(k, layer.directions)
            calls.append(self._scan_call(k))
            last_direction = direction == layer.directions - 1
            if last_direction and (level < layer.num_layers - 1 or self.sequence):
                calls += self._join_calls(level)
        if not self.sequence:
            for direction in range(layer.directions):
                k = self.count - layer.directions + direction
                h, rows = self.states[k][0], layout.row_numbers(self._final_rows(k))
                calls.append(
                    record(copy_states, h, rows, self.last, direction * layer.hidden_size, layer.hidden_size)
                )
        return calls

    def _scan_call(self, k):
        layer, layout = self.layer, self.layout
        level, direction = divmod(k, layer.directions)
        return self.record(
            scan.forward, self.packed[k].weights, self.inputs[level], self.states[k], self.gates[k],
            self.training, layout.active, layout.offset, layout.slot, direction == 1,
        )  # fmt: skip

    def _join_calls(self, level):
        """What brings the outputs of a level, where they are not the states, to the next."""
        layer, layout, target = self.layer, self.layout, self.inputs[level + 1]
        source = self.states[level * layer.directions][0][layout.rows :]
        calls = []
        if layer.directions == 2:
            for direction in range(2):
                call = self.record(
                    scan.copy_outputs, self.states[level * 2 + direction][0], target,
                    direction * layer.hidden_size, layer.hidden_size,
                    layout.active, layout.offset, layout.slot, direction == 1,
                )  # fmt: skip
                calls.append(call)
            source = target
        if self._drops(level):
            calls.append(self._drop_call(level, source, target))
        return calls

    def _drop_call(self, level, source, target):
        layout, seed = self.layout, self.seeds[level : level + 1]
        return self.record(
            drop, source, target, self._width, self.layer.dropout, seed, layout.order, layout.active,
            layout.offset,
        )  # fmt: skip

    def forward(self):
        self.forward_program.run()

    def forward_on(self, form, seed, initial_state, flat_x, flat_y, states):
        """All of `prepare` and `forward`, from the caller's matrix of steps to another one and to the final
        states (S, L * D, B, H).

        Returns
        -------
        int
            The first row of `flat_x` that is not finite; where there is one, nothing else was done.
        """
        if self.placed_form is not form or self.recorded_threads != get_num_threads():
            self._place_for_caller(form)
        self._begin(seed, initial_state)
        return self.caller_program.run_on(self.ports, flat_x, flat_y, states)

    def _place_for_caller(self, form):
        layer, layout = self.layer, form.layout
        x = self.buffers.matrix("x", layout.total, padded(layer.known_input_size, layer.dtype))
        self._place(layout, x, sequence=True)
        calls = [
            self._read_call(form, layer.known_input_size, x),
            *self.forward_calls,
            self._write_call(form, self._width, self.inputs[-1]),
        ]
        for k, states in enumerate(self.states):
            rows = layout.row_numbers(self._final_rows(k))[layout.places]
            calls.append(self._hand_out_call(k, states, rows))
        self.caller_program = Program(calls)
        self.placed_form = form

    def _read_call(self, form, size, packed):
        layout = self.layout
        return self.record(
            read_rows, self.ports, size, form.flat_rows, form.starts, layout.order, layout.active,
            layout.offset, packed,
        )  # fmt: skip

    def _write_call(self, form, size, packed):
        layout = self.layout
        return self.record(
            write_rows, self.ports, size, form.flat_rows, form.starts, layout.order, layout.active,
            layout.offset, packed,
        )  # fmt: skip

    def _hand_out_call(self, k, states, rows):
        return record(hand_out_states, self.ports, states, rows, k, self.count, self.layer.hidden_size)

    # ---- backward ----------------------------------------------------------------------------------------

    def prepare_backward(self, dy, need_dx, dstate=None):
        """As `Pass.prepare_backward`; `dstate` holds (L * D, B, H) arrays in the order of the rows."""
        placed = self.placed_backward
        has_dstate = dstate is not None
        if placed is None or placed[0] is not dy or placed[1:] != (need_dx, has_dstate):
            self._place_backward(dy, need_dx, has_dstate)
            self.placed_backward = (dy, need_dx, has_dstate)
            self.placed_form_backward = None
        if dstate is not None:
            for k, carry in enumerate(self.carries):
                for s, part in enumerate(carry):
                    part[...] = 0.0
                    part[:, : self.layer.hidden_size] = dstate[s][k]
        return self.dinputs[0]

    def _place_backward(self, dy, need_dx, has_dstate):
        """Find room for everything that backward writes, and record it."""
        layer, layout, buffers = self.layer, self.layout, self.buffers
        self.dy = dy
        self.carries = [
            tuple(buffers.matrix(("d" + name, k), layout.rows, self.units) for name in layer.cell.states)
            for k in range(self.count)
        ]
        self.dinputs: list[Any] = []
        for level in range(layer.num_layers):
            columns = padded(layer.known_input_size if level == 0 else self._width, layer.dtype)
            wanted = level > 0 or need_dx
            self.dinputs.append(buffers.matrix(("dx", level), layout.total, columns) if wanted else None)
        self.backward_calls = [] if has_dstate else [record(clear, carry) for carry in self.carries]
        for level in reversed(range(layer.num_layers)):
            self.backward_calls += self._backward_calls(level)
        self.backward_calls += [self._weight_gradients_call(k) for k in range(self.count)]
        self.backward_program = Program(self.backward_calls)

    def _backward_calls(self, level):
        layer = self.layer
        last = level == layer.num_layers - 1
        has_dy = self.sequence or not last
        dy = self.dy if last else self.dinputs[level + 1]
        calls = [self._drop_call(level, dy, dy)] if self._drops(level) else []
        for direction in range(layer.directions):
            k = level * layer.directions + direction
            if not has_dy:
                column = direction * layer.hidden_size
                calls.append(record(add_to_state, self.carries[k][0], dy, column, layer.hidden_size))
            calls += self._direction_calls(k, dy, has_dy)
        return calls

    def _direction_calls(self, k, dy, has_dy):
        layer, layout, packed = self.layer, self.layout, self.packed[k]
        level, direction = divmod(k, layer.directions)
        scan_call = self.record(
            scan.backward, packed.weights, packed.recurrent_back, self.states[k], self.gates[k], dy,
            direction * layer.hidden_size, has_dy, self.carries[k],
            layout.active, layout.offset, layout.slot, direction == 1,
        )  # fmt: skip
        dx = self.dinputs[level]
        if dx is None:
            return [scan_call]
        # The second direction adds to what the first one wrote.
        start, stride = (dx, dx.shape[1]) if direction else (layer.zeros_for(dx.shape[1]), 0)
        input_call = self.record(
            scan.input_gradients, packed.weights, packed.input_back, self.gates[k], start, stride, dx,
            layout.active, layout.offset,
        )  # fmt: skip
        return [scan_call, input_call]

    def _weight_gradients_call(self, k):
        layer, layout, packed = self.layer, self.layout, self.packed[k]
        level, direction = divmod(k, layer.directions)
        parts = min(self.threads, packed.blocks)
        return record(
            scan.weight_gradients, even_cuts(packed.blocks, parts), packed.weights,
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

    def backward(self):
        self.backward_program.run()

    def backward_on(self, form, dstate, flat_dy, flat_dx, dstates):
        """All of `prepare_backward` and `backward`, from the caller's gradient of the outputs to that of the
        inputs, unless it is None, and to those of the initial states (S, L * D, B, H); returns as
        `forward_on` does."""
        need_dx = flat_dx is not None
        dy = self.buffers.matrix("dy", self.layout.total, padded(self._width, self.layer.dtype))
        self.prepare_backward(dy, need_dx, dstate)
        if self.placed_form_backward is not form:
            calls = [self._read_call(form, self._width, dy), *self.backward_calls]
            if need_dx:
                calls.append(self._write_call(form, self.layer.known_input_size, self.dinputs[0]))
            calls += [
                self._hand_out_call(k, carry, self.layout.places) for k, carry in enumerate(self.carries)
            ]
            self.caller_backward_program = Program(calls)
            self.placed_form_backward = form
        return self.caller_backward_program.run_on(
            self.ports, flat_dy, flat_dx if need_dx else dstates, dstates
        )
