"""How a stack of recurrent layers runs: packed weights, buffers, and the recorded calls of the scan."""

from typing import Any, NamedTuple

import numpy as np

from numbarnn.engine import scan
from numbarnn.engine.host import padded
from numbarnn.engine.program import Program, make_ports, record, record_together
from numbarnn.engine.random import drop, seed_of
from numbarnn.engine.rows import read_rows, write_rows
from numbarnn.engine.states import add_to_state, clear, copy_states, hand_out_states, take_in_states
from numbarnn.engine.threads import even_cuts, get_num_threads
from numbarnn.layers.bands import Bands
from numbarnn.layers.passes import Pass

# Recurrent weights that a core's second-level cache holds beside all else: each thread reads all of them for
# its rows. Of larger ones each thread takes a share, for all rows, and meets the others at every step.
WEIGHTS_BYTES_FOR_ALL_ROWS = 384 * 1024
OPERATIONS_WORTH_A_MEETING = 1_000_000


class Inputs(NamedTuple):
    """What a level reads: a matrix, and where the inputs of each step stand in it."""

    matrix: np.ndarray
    offset: np.ndarray  # int64 (bands, at least T): the first row of each band at each step
    in_bands: bool  # whether those of a band follow one another from step to step
    rows: np.ndarray  # int64 (N,): the row of each step in packed order


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
        self.placed: Any = None
        self.placed_backward = self.placed_form = self.placed_form_backward = None
        self.recorded_threads = 0

    # ---- forward -----------------------------------------------------------------------------------------

    def prepare(self, layout, x, seed):
        # A loop over batches of one layout finds everything in its place.
        if (
            self.recorded_threads != get_num_threads()
            or self.placed[0] is not layout
            or self.placed[1] is not x
        ):
            self._place(layout, x, self.layer.return_sequences)
        self._begin(seed)
        return (layout, self.output) if self.sequence else (layout.last, self.last)

    def _begin(self, seed):
        """What differs from call to call."""
        layer = self.layer
        if seed is not None and layer.dropout > 0.0:
            self.seeds[:] = [seed_of(seed, level) for level in range(layer.num_layers)]
        layer.packed(self.training)

    def _place(self, layout, x, sequence):
        """Find room for everything that forward writes, and record it.

        `x` is the matrix of the inputs in packed order, or None for one of our own, in bands.
        """
        layer, buffers = self.layer, self.buffers
        self.packed = layer.packed(self.training)
        self.begin(layout, 2 * layout.total * layer.flat_values.size)
        self.sequence = sequence
        self.units = padded(layer.hidden_size, layer.dtype)
        # Two directions on two threads share nothing; the rows of one do, in the lines of the caches.
        self.by_directions = layer.directions == 2 and self.threads == 2
        self.by_units = not self.by_directions and self._works_by_units()
        by_rows = not (self.by_directions or self.by_units)
        self.scan_cuts = self.cuts if by_rows else layout.row_cuts(1)
        self.bands = Bands(layout, self.scan_cuts)
        if self.training:
            kept_rows = layout.total
        else:
            kept_rows = layout.rows if self.by_units else 0
        self.states = []
        self.gates = []
        for k in range(self.count):
            states = tuple(
                buffers.matrix((name, k), layout.rows + layout.total, self.units)
                for name in layer.cell.states
            )
            self.states.append(states)
            self.gates.append(buffers.matrix(("gates", k), kept_rows, layer.cell.slots * self.units))
        self.inputs = [self._own_inputs() if x is None else self._packed_inputs(x)]
        self.inputs += [self._inputs_from(level) for level in range(layer.num_layers - 1)]
        if sequence:
            self.output = self._output_matrix(layer.num_layers - 1)
        else:
            self.last = buffers.matrix("last", layout.rows, padded(self._width, layer.dtype))
        for k, states in enumerate(self.states):
            for state in states:
                state[self._first_rows(k)] = 0.0  # other batches may have left something there
        self.forward_calls = self._forward_calls()
        self.forward_program = Program(self.forward_calls + self._last_calls())
        self.placed, self.recorded_threads = (layout, x), get_num_threads()
        self.placed_backward = self.placed_form = None

    def _works_by_units(self):
        """Whether threads share out the hidden units, and not the rows."""
        recurrent = self.packed[0].weights.recurrent
        operations = 2 * self.layout.total // self.layout.steps * recurrent.size
        return (
            self.threads > 1
            and recurrent.nbytes > WEIGHTS_BYTES_FOR_ALL_ROWS
            and operations // self.threads > OPERATIONS_WORTH_A_MEETING
        )

    @property
    def _width(self):
        """Features of a level's output."""
        return self.layer.directions * self.layer.hidden_size

    def _first_rows(self, k):
        """Rows of the initial state among the states."""
        reverse = k % self.layer.directions
        return self.bands.last_state_rows if reverse else self.bands.first_state_rows

    def _final_rows(self, k):
        """Rows of the final state among the states."""
        reverse = k % self.layer.directions
        return self.bands.first_state_rows if reverse else self.bands.last_state_rows

    def _drops(self, level):
        """Whether the outputs of a level go through dropout."""
        return level < self.layer.num_layers - 1 and self.training and self.layer.dropout > 0.0

    def _packed_inputs(self, x):
        bands = self.bands
        return Inputs(x, bands.packed_offset, bands.count == 1, np.arange(self.layout.total))

    def _own_inputs(self):
        layer, bands = self.layer, self.bands
        x = self.buffers.matrix("x", self.layout.total, padded(layer.known_input_size, layer.dtype))
        return Inputs(x, bands.gate_offset, True, bands.gate_rows)

    def _inputs_from(self, level):
        """What the level above reads: the states themselves, without a copy, where they are all there is."""
        bands = self.bands
        if self.layer.directions == 2:
            return self._packed_inputs(self._output_matrix(level))
        if self._drops(level):
            left = self.buffers.matrix(("output", level), self.layout.total, self.units)
            return Inputs(left, bands.gate_offset, True, bands.gate_rows)
        return Inputs(self.states[level][0], bands.next_slot, True, bands.next_slot_rows)

    def _output_matrix(self, level):
        """Outputs of a level in packed order; those of one direction and band stand so by themselves."""
        layer, layout = self.layer, self.layout
        if self._stands_packed():
            return self.states[level][0][layout.rows :]
        return self.buffers.matrix(("output", level), layout.total, padded(self._width, layer.dtype))

    def _stands_packed(self):
        return self.layer.directions == 1 and self.bands.count == 1

    def _forward_calls(self):
        layer, calls = self.layer, []
        for level in range(layer.num_layers):
            is_last = level == layer.num_layers - 1
            chains = [[self._scan_call(k)] for k in self._numbers(level)]
            if layer.directions == 2 and (self.sequence or not is_last):
                target = self.output if is_last else self.inputs[level + 1].matrix
                for k, chain in zip(self._numbers(level), chains, strict=True):
                    chain.append(self._join_call(k, target))
            calls += self._side_by_side(chains)
            if self._drops(level):
                calls.append(self._drop_outputs_call(level))
        return calls

    def _numbers(self, level):
        """The numbers k of the directions of a level."""
        return range(level * self.layer.directions, (level + 1) * self.layer.directions)

    def _drop_outputs_call(self, level):
        target = self.inputs[level + 1]
        if self.layer.directions == 2:
            return self._drop_packed_call(level, target.matrix)
        h, bands = self.states[level][0], self.bands
        return self._drop_call(level, h, target.matrix, bands.cuts, bands.next_slot, target.offset)

    def _drop_packed_call(self, level, matrix):
        """Dropout in place, in a matrix in packed order."""
        cuts, offsets = self._packed_order()
        return self._drop_call(level, matrix, matrix, cuts, offsets, offsets)

    def _last_calls(self):
        """What brings the last level's outputs, where that is still to be done, or its final states to the
        next layer."""
        layer = self.layer
        last = self._numbers(layer.num_layers - 1)
        if self.sequence:
            is_there = layer.directions == 2 or self._stands_packed()
            return [] if is_there else [self._join_call(k, self.output) for k in last]
        calls = []
        for direction, k in enumerate(last):
            h, rows = self.states[k][0], self._final_rows(k)
            calls.append(
                record(copy_states, h, rows, self.last, direction * layer.hidden_size, layer.hidden_size)
            )
        return calls

    def _side_by_side(self, chains):
        """The calls of the directions of one level: each on a thread of its own, where that is how threads
        are used."""
        if self.by_directions:
            return [record_together(chains)]
        return [call for chain in chains for call in chain]

    def _scan_call(self, k):
        layer, layout, bands = self.layer, self.layout, self.bands
        level, direction = divmod(k, layer.directions)
        inputs = self.inputs[level]
        arguments = (
            self.packed[k].weights, inputs.matrix, inputs.offset, inputs.in_bands, self.states[k],
            self.gates[k], self.training, layout.active, bands.gate_offset, bands.slot, direction == 1,
        )  # fmt: skip
        if self.by_units:
            return record(scan.forward_by_units, self._unit_cuts(self.packed[k].blocks), *arguments)
        return record(scan.forward, self.scan_cuts, *arguments)

    def _unit_cuts(self, panels):
        return even_cuts(panels, min(self.threads, panels))

    def _join_call(self, k, target):
        """What brings the outputs of a direction to their place in packed order."""
        layer, layout, bands = self.layer, self.layout, self.bands
        direction = k % layer.directions
        return self.record(
            scan.copy_outputs, bands.cuts, self.states[k][0], target, direction * layer.hidden_size,
            layer.hidden_size, layout.active, layout.offset, bands.slot, direction == 1,
        )  # fmt: skip

    def _drop_call(self, level, source, target, band_cuts, source_offsets, target_offsets):
        layout, seed = self.layout, self.seeds[level : level + 1]
        return self.record(
            drop, band_cuts, source, source_offsets, target, target_offsets, self._width, self.layer.dropout,
            seed, layout.order, layout.active,
        )  # fmt: skip

    def forward(self):
        self.forward_program.run()

    def forward_on(self, form, seed, initial_state, flat_x, flat_y, states):
        """All of `prepare` and `forward`, from the caller's matrix of steps to another one and to the final
        states (S, L * D, B, H). `initial_state` is a pair of arrays (L * D, B, H), or of empty ones.

        Returns
        -------
        int
            The first row of `flat_x` that is not finite, or `FAULT_IN_STATE`; then nothing else was done.
        """
        if self.placed_form is not form or self.recorded_threads != get_num_threads():
            self._place_for_caller(form)
        self._begin(seed)
        return self.caller_program.run_on(self.ports, flat_x, flat_y, states, initial_state)

    def _place_for_caller(self, form):
        layer, layout = self.layer, form.layout
        self._place(layout, None, sequence=True)
        bands, x = self.bands, self.inputs[0].matrix
        rows = self._rows_arguments(form, layer.known_input_size)
        calls = [self.record(read_rows, *rows, bands.cuts, bands.gate_offset, x)]
        for k in range(self.count):
            calls.append(self._states_call(take_in_states, k, self.states[k], self._first_rows(k)))
        calls += self.forward_calls
        rows = self._rows_arguments(form, self._width)
        if layer.directions == 1:
            # The outputs are the states: from there to the caller, without a matrix between.
            calls.append(self.record(write_rows, *rows, bands.cuts, bands.next_slot, self.states[-1][0]))
        else:
            calls += self._last_calls()
            calls.append(self.record(write_rows, *rows, *self._packed_order(), self.output))
        for k in range(self.count):
            calls.append(self._states_call(hand_out_states, k, self.states[k], self._final_rows(k)))
        self.caller_program = Program(calls)
        self.placed_form = form

    def _rows_arguments(self, form, size):
        layout = self.layout
        return self.ports, size, form.flat_rows, form.starts, layout.order, layout.active

    def _packed_order(self):
        """A matrix in packed order, as the one band that it is."""
        return self.layout.row_cuts(1), self.layout.offset[None]

    def _states_call(self, kernel, k, states, rows):
        """Between the caller's states and these rows of ours, given in the order of the layout."""
        layout = self.layout
        rows = rows[layout.places]
        return record(kernel, self.ports, states, rows, k, self.count, self.layer.hidden_size)

    # ---- backward ----------------------------------------------------------------------------------------

    def prepare_backward(self, dy, need_dx):
        placed = self.placed_backward
        if placed is None or placed[0] is not dy or placed[1] != need_dx:
            self._place_backward(dy, need_dx)
        return self.dinputs[0]

    def _place_backward(self, dy, need_dx):
        """Find room for everything that backward writes, and record it."""
        layer, layout, buffers = self.layer, self.layout, self.buffers
        self.dy = dy
        self.carries = [
            tuple(
                buffers.matrix(("d" + name, k), self.bands.carry_count, self.units)
                for name in layer.cell.states
            )
            for k in range(self.count)
        ]
        for part in (part for carry in self.carries for part in carry):
            part[...] = 0.0  # for the padding, which nothing else clears
        self.dinputs: list[Any] = []
        for level in range(layer.num_layers):
            columns = padded(layer.known_input_size if level == 0 else self._width, layer.dtype)
            wanted = level > 0 or need_dx
            self.dinputs.append(buffers.matrix(("dx", level), layout.total, columns) if wanted else None)
        self.backward_calls = []
        for level in reversed(range(layer.num_layers)):
            self.backward_calls += self._backward_calls(level)
        clear_calls = [record(clear, carry) for carry in self.carries]
        self.backward_program = Program(clear_calls + self.backward_calls)
        self.placed_backward, self.placed_form_backward = (dy, need_dx), None

    def _backward_calls(self, level):
        layer = self.layer
        last = level == layer.num_layers - 1
        has_dy = self.sequence or not last
        dy = self.dy if last else self.dinputs[level + 1]
        calls = [self._drop_packed_call(level, dy)] if self._drops(level) else []
        numbers = self._numbers(level)
        if not has_dy:
            for k in numbers:
                column = k % layer.directions * layer.hidden_size
                rows = self.bands.carry_rows
                calls.append(record(add_to_state, self.carries[k][0], rows, dy, column, layer.hidden_size))
        calls += self._side_by_side(
            [[self._scan_backward_call(k, dy, has_dy), self._weight_gradients_call(k)] for k in numbers]
        )
        if self.dinputs[level] is not None:
            calls += [self._input_gradients_call(k) for k in numbers]
        return calls

    def _scan_backward_call(self, k, dy, has_dy):
        layer, layout, bands, packed = self.layer, self.layout, self.bands, self.packed[k]
        direction = k % layer.directions
        arguments = (
            packed.weights, packed.recurrent_back, self.states[k], self.gates[k], dy,
            direction * layer.hidden_size, has_dy, self.carries[k],
            layout.active, layout.offset, bands.gate_offset, bands.slot, bands.carry, direction == 1,
        )  # fmt: skip
        if self.by_units:
            return record(scan.backward_by_units, self._unit_cuts(len(packed.recurrent_back)), *arguments)
        return record(scan.backward, self.scan_cuts, *arguments)

    def _input_gradients_call(self, k):
        layer, layout, packed = self.layer, self.layout, self.packed[k]
        level, direction = divmod(k, layer.directions)
        dx = self.dinputs[level]
        # The second direction adds to what the first one wrote.
        start, stride = (dx, dx.shape[1]) if direction else (layer.zeros_for(dx.shape[1]), 0)
        return record(
            scan.input_gradients, self.scan_cuts, packed.weights, packed.input_back, self.gates[k], start,
            stride, dx, layout.active, layout.offset, self.bands.gate_offset,
        )  # fmt: skip

    def _weight_gradients_call(self, k):
        layer, bands, packed = self.layer, self.bands, self.packed[k]
        level, direction = divmod(k, layer.directions)
        inputs = self.inputs[level]
        parts = 1 if self.by_directions else min(self.threads, packed.blocks)
        return record(
            scan.weight_gradients, even_cuts(packed.blocks, parts), packed.weights,
            inputs.matrix, inputs.rows, self.states[k][0], self.gates[k],
            bands.next_slot_rows if direction else bands.slot_rows, bands.gate_rows,
            self._packed_gradients(k),
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
        inputs, unless it is None, and to those of the initial states (S, L * D, B, H); `dstate` and the
        result are as in `forward_on`."""
        need_dx = flat_dx is not None
        dy = self.buffers.matrix("dy", self.layout.total, padded(self._width, self.layer.dtype))
        self.prepare_backward(dy, need_dx)
        if self.placed_form_backward is not form:
            rows = self._rows_arguments(form, self._width)
            calls = [self.record(read_rows, *rows, *self._packed_order(), dy)]
            for k, carry in enumerate(self.carries):
                calls.append(self._states_call(take_in_states, k, carry, self.bands.carry_rows))
            calls += self.backward_calls
            if need_dx:
                rows = self._rows_arguments(form, self.layer.known_input_size)
                calls.append(self.record(write_rows, *rows, *self._packed_order(), self.dinputs[0]))
            for k, carry in enumerate(self.carries):
                calls.append(self._states_call(hand_out_states, k, carry, self.bands.carry_rows))
            self.caller_backward_program = Program(calls)
            self.placed_form_backward = form
        return self.caller_backward_program.run_on(
            self.ports, flat_dy, flat_dx if need_dx else dstates, dstates, dstate
        )
