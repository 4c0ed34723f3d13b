"""How a stack of recurrent layers runs: packed weights, buffers, and the recorded calls of the scan."""

from typing import Any, NamedTuple

import numpy as np
from numba.core import config

from numbarnn.engine import scan
from numbarnn.engine.barrier import make_barrier
from numbarnn.engine.fork import MOST_PARTS
from numbarnn.engine.program import Program, address_of, make_bindings, record, record_together
from numbarnn.engine.random import drop, seed_of
from numbarnn.engine.rows import check_rows, clear_rows, read_rows, write_rows
from numbarnn.engine.states import add_to_state, clear, copy_states, export_states, import_states
from numbarnn.engine.threads import even_cuts, get_num_threads
from numbarnn.jit.cpu import PANEL_VECTORS, lanes, padded
from numbarnn.layers.bands import NO_CAPACITY, Bands
from numbarnn.layers.passes import Pass
from numbarnn.sequences.layout import cuts_between, find_cuts

# Up to this many bytes of recurrent weights each thread reads all of them for its rows. Of larger ones each
# thread takes a part of them, for all rows, with a barrier at every step. With 1 MB the two were level, until
# cores stood far apart: then threads with barriers took 1.15 times as long.
WEIGHTS_BYTES_FOR_ALL_ROWS = 1536 * 1024
OPERATIONS_WORTH_A_BARRIER = 1_000_000
# A step of fewer rows than threads leaves no choice but to divide the units. Threads that wait at a barrier
# every 60 to 250 nanoseconds gained from this number of operations a step on.
FEW_ROWS_OPERATIONS_WORTH_A_BARRIER = 10_000
# Gates, states and outputs of this many bytes are no longer in a cache when they are used, and kernels
# prefetch them a step ahead. Where they are, asking costs 2 % of a step, and 20 % of a small one.
PREFETCH_FROM_BYTES = 4 * 1024 * 1024
# A batch uses buffers of at most this many times its steps: kernels walk over all of them.
LARGEST_STEPS_RATIO = 2
NOWHERE = np.empty(0, np.int64)  # where no outputs begin


def _buffer_key(matrix):
    """What identifies a buffer: matrices that agree in it are the same but for the number of rows."""
    return None if matrix is None else (address_of(matrix), matrix.shape[1])


class Inputs(NamedTuple):
    """What a level reads: a matrix, and where the inputs of each step stand in it."""

    matrix: np.ndarray
    offset: np.ndarray  # int64 (bands, at least T): the first row of each band at each step
    in_bands: bool  # whether those of a band follow one another from step to step
    rows: np.ndarray  # int64 (N,): the row of each step, by partial sums (see `Bands`)


class RecurrentPass(Pass):
    """Buffers of one forward and backward through a stack of layers.

    States, gates and gradients of layer l and direction d stand under the index ``k = l * D + d``.

    Everything is recorded as a program. A batch that fits (no more rows and steps than the
    buffers have, matrices where they were) uses what was recorded: a pass is one call into compiled code.
    """

    def __init__(self, layer, training):
        super().__init__(layer, training)
        self.count = layer.num_layers * layer.directions
        self.bindings = make_bindings()
        self.seeds = np.zeros(layer.num_layers, np.uint64)
        # What the programs were recorded for; None where they are not.
        self.planned: Any = None
        self.bands: Any = None
        self.planned_backward = self.planned_form = None
        self.recorded_threads = 0

    # ---- forward -----------------------------------------------------------------------------------------

    def prepare(self, layout, x, seed):
        if not self._fits(layout, x):
            self._plan(layout, x, self.layer.return_sequences)
        elif layout is not self.layout:
            self._rebind(layout)
        self._begin(seed)
        return (layout, self.output[: layout.total]) if self.sequence else (layout.last, self.last)

    @property
    def draws(self):
        return self.training and self.layer.num_layers > 1 and self.layer.dropout > 0.0

    def _fits(self, layout, x):
        """Whether what was recorded holds for this batch. One of far fewer steps is planned anew.

        Without compiled code a matrix is as long as it was when it was recorded: only the same batch fits.
        """
        return (
            self.planned == _buffer_key(x)
            and self.recorded_threads == get_num_threads()
            and (layout is self.layout or (self._sizes_fit(layout) and not config.DISABLE_JIT))
        )

    def _sizes_fit(self, layout):
        capacity = self.bands.capacity
        # Without sequences what is recorded reads and writes as many final states as there were rows.
        enough_rows = layout.rows <= capacity.rows if self.sequence else layout.rows == capacity.rows
        enough_steps = layout.steps <= capacity.steps <= LARGEST_STEPS_RATIO * layout.steps
        enough = enough_rows and enough_steps and layout.total <= capacity.total
        return enough and self._sharing(layout) == self.sharing

    def _begin(self, seed):
        """What differs from call to call."""
        layer = self.layer
        if self.draws:
            self.reseed(seed)
        layer.packed(self.training)

    def reseed(self, seed):
        self.seeds[:] = [seed_of(seed, level) for level in range(self.layer.num_layers)]

    def _plan(self, layout, x, sequence, form=None):
        """Allocate everything that forward writes, and record the calls.

        `x` is the matrix of the inputs in packed order, or None for one of our own, in bands. With a `form`
        the outputs of a single direction go straight to the caller.
        """
        layer, buffers = self.layer, self.buffers
        self.packed = layer.packed(self.training)
        self.sequence = sequence
        self.units = padded(layer.hidden_size, layer.dtype)
        capacity = NO_CAPACITY
        follows_a_batch = x is not None and self.planned is not None
        if follows_a_batch and self.bands.capacity.steps <= LARGEST_STEPS_RATIO * layout.steps:
            capacity = self.bands.capacity if sequence else self.bands.capacity._replace(rows=0)
        self.layout, self.sharing = layout, self._sharing(layout)
        self.threads, self.by_directions, self.by_units, self.partial_count = self.sharing
        self.cuts = layout.row_cuts(min(self.threads, layout.rows)).copy()
        self.bands = Bands(layout, self._band_cuts(), layout.row_cuts(self.partial_count), capacity)
        rows, _, total = self.bands.capacity
        if self.training:
            saved_rows = total
        else:
            saved_rows = max(rows, scan.ROWS_PROJECTED_AT_ONCE) if self.by_units else 0
        self.states = []
        self.gates = []
        for k in range(self.count):
            states = tuple(buffers.matrix((name, k), rows + total, self.units) for name in layer.cell.states)
            self.states.append(states)
            self.gates.append(buffers.matrix(("gates", k), saved_rows, layer.cell.slots * self.units))
        self._clear_first_states()
        self.inputs = [self._own_inputs() if x is None else self._packed_inputs(x)]
        self.inputs += [self._inputs_from(level) for level in range(layer.num_layers - 1)]
        if sequence:
            self.output = self._output_matrix(layer.num_layers - 1)
        else:
            self.last = buffers.matrix("last", rows, padded(self._width, layer.dtype))
        self.forward_calls = self._forward_calls(form)
        self.forward_program = Program(self.forward_calls + self._last_calls())
        self.planned, self.recorded_threads = _buffer_key(x), get_num_threads()
        self.planned_backward = self.planned_form = None

    def _rebind(self, layout):
        """Take a batch for which all that was recorded holds."""
        self.layout = layout
        self.cuts[:] = layout.row_cuts(self.cuts.size - 1)
        self.bands.rebind(layout, self._band_cuts(), layout.row_cuts(self.partial_count))
        self._clear_first_states()
        self.planned_form = None

    def _sharing(self, layout):
        """How threads share the work: how many there are, whether by directions, whether by hidden units (if
        neither, they share the rows), and in how many partial sums weight gradients are computed."""
        threads = self.threads_for(2 * layout.total * self.layer.flat_values.size)
        # Two directions on two threads share nothing; the rows of one do, in the lines of the caches.
        by_directions = self.layer.directions == 2 and threads == 2
        by_units = not by_directions and self._works_by_units(layout, threads)
        return threads, by_directions, by_units, self._partial_count(layout)

    def _band_cuts(self):
        return self.layout.row_cuts(1) if self.by_directions or self.by_units else self.cuts

    def _partial_count(self, layout):
        """Partial sums of the rows for weight gradients. Their number must not depend on the
        threads: sums do.

        With two of them two threads need not read what the other one wrote. Two directions have a thread
        each, and of large weights a thread has a part of its own.
        """
        small = self.packed[0].weights.recurrent.nbytes <= WEIGHTS_BYTES_FOR_ALL_ROWS
        return 2 if self.layer.directions == 1 and small and layout.rows > 1 else 1

    def _clear_first_states(self):
        """Zeros for initial states: other batches may have left other values."""
        for k, states in enumerate(self.states):
            for state in states:
                state[self._first_rows(k)[: self.layout.rows]] = 0.0

    def _works_by_units(self, layout, threads):
        recurrent = self.packed[0].weights.recurrent
        operations = 2 * layout.total // layout.steps * recurrent.size // max(1, threads)
        if threads > layout.rows:
            return operations > FEW_ROWS_OPERATIONS_WORTH_A_BARRIER
        large = recurrent.nbytes > WEIGHTS_BYTES_FOR_ALL_ROWS
        return threads > 1 and large and operations > OPERATIONS_WORTH_A_BARRIER

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
        return self.draws and level < self.layer.num_layers - 1

    def _packed_inputs(self, x):
        bands = self.bands
        return Inputs(x, bands.packed_offset, bands.count == 1, bands.packed_rows)

    def _own_inputs(self):
        layer, bands = self.layer, self.bands
        x = self.buffers.matrix("x", bands.capacity.total, padded(layer.known_input_size, layer.dtype))
        return Inputs(x, bands.gate_offset, True, bands.gate_rows)

    def _inputs_from(self, level):
        """What the level above reads: the states themselves, without a copy, where nothing else has to be
        read."""
        bands = self.bands
        if self.layer.directions == 2:
            return self._packed_inputs(self._output_matrix(level))
        if self._drops(level):
            left = self.buffers.matrix(("output", level), bands.capacity.total, self.units)
            return Inputs(left, bands.gate_offset, True, bands.gate_rows)
        return Inputs(self.states[level][0], bands.output_offset, True, bands.next_state_rows)

    def _output_matrix(self, level):
        """Outputs of a level in packed order; those of one direction and band stand so by themselves."""
        layer = self.layer
        if self._stands_packed():
            return self.states[level][0][self.bands.capacity.rows :]
        columns = padded(self._width, layer.dtype)
        return self.buffers.matrix(("output", level), self.bands.capacity.total, columns)

    def _stands_packed(self):
        return self.layer.directions == 1 and self.bands.count == 1

    def _forward_calls(self, form):
        layer, calls = self.layer, []
        for level in range(layer.num_layers):
            is_last = level == layer.num_layers - 1
            to_caller = form if is_last and layer.directions == 1 else None
            chains = [[self._scan_call(k, to_caller)] for k in self._numbers(level)]
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
            cuts, offsets = self._packed_order()
            return self._drop_call(level, target.matrix, target.matrix, cuts, offsets, offsets)
        h, bands = self.states[level][0], self.bands
        return self._drop_call(level, h, target.matrix, bands.cuts, bands.output_offset, target.offset)

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

    def _scan_call(self, k, to_caller):
        layer, bands = self.layer, self.bands
        y_rows, y_starts = 0, NOWHERE
        if to_caller is not None:
            y_rows, y_starts = to_caller.flat_rows, to_caller.starts[bands.order]
        level, direction = divmod(k, layer.directions)
        inputs = self.inputs[level]
        arguments = (
            self.packed[k].weights, inputs.matrix, inputs.offset, inputs.in_bands, self.states[k],
            self.gates[k], self.training, bands.active, bands.gate_offset, bands.state_offset, direction == 1,
            self.bindings, y_rows, y_starts,
        )  # fmt: skip
        if self.by_units:
            return self._record_by_units(scan.forward_by_units, self.packed[k].blocks, 1, *arguments)
        return record(scan.forward, bands.cuts, self._prefetches(), *arguments)

    def _prefetches(self):
        """Whether kernels fetch what one step needs while the step before runs."""
        cell = self.layer.cell
        vectors = len(cell.states) + 1 + (cell.slots if self.training else 0)
        row_bytes = self.units * self.layer.dtype.itemsize
        return vectors * self.layout.total * row_bytes > PREFETCH_FROM_BYTES

    def _record_by_units(self, kernel, pieces, size, *arguments):
        """A kernel that divides the units among threads, in pieces of this size."""
        parts = min(self.threads, pieces, MOST_PARTS)
        # FlatBatch of many rows take so long that barriers always pay.
        barrier = make_barrier(parts, trials=self.layout.rows < self.threads)
        return record(kernel, barrier, size * even_cuts(pieces, parts), *arguments)

    def _join_call(self, k, target):
        """What copies the outputs of a direction into packed order."""
        layer, bands = self.layer, self.bands
        direction = k % layer.directions
        return self.record(
            scan.copy_outputs, bands.cuts, self.states[k][0], target, direction * layer.hidden_size,
            layer.hidden_size, bands.active, bands.offset, bands.state_offset, direction == 1,
        )  # fmt: skip

    def _drop_call(self, level, source, target, band_cuts, source_offsets, target_offsets):
        bands, seed = self.bands, self.seeds[level : level + 1]
        return self.record(
            drop, band_cuts, source, source_offsets, target, target_offsets, self._width, self.layer.dropout,
            seed, bands.order, bands.active,
        )  # fmt: skip

    def forward(self):
        self.forward_program.run()

    def record_forward(self):
        calls = [record(find_cuts, self.layout.lengths, self.cuts)] if self.cuts.size > 2 else []
        calls += self.bands.rebind_calls(self.layout)
        calls += [record(clear, states, self._first_rows(k)) for k, states in enumerate(self.states)]
        calls += self.layer.packing_program(self.training, get_num_threads()).calls
        return calls + self.forward_program.calls

    def forward_on(self, form, seed, initial_state, flat_x, flat_y, states):
        """All of `prepare` and `forward`, from the caller's matrix of steps to another one and to the final
        states (S, L * D, B, H). `initial_state` is a pair of arrays (L * D, B, H), or of empty ones.

        Returns
        -------
        int
            The first row of `flat_x` that is not finite, or `FAULT_IN_STATE`; then nothing else was done.
        """
        if self.planned_form is not form or self.recorded_threads != get_num_threads():
            self._plan_for_caller(form)
        self._begin(seed)
        return self.caller_program.run_on(self.bindings, flat_x, flat_y, states, initial_state)

    def _plan_for_caller(self, form):
        layer, layout = self.layer, form.layout
        self._plan(layout, None, sequence=True, form=form)
        bands, x = self.bands, self.inputs[0].matrix
        rows = self._rows_arguments(form, layer.known_input_size)
        calls = [self.record(read_rows, *rows, bands.cuts, bands.gate_offset, x)]
        for k in range(self.count):
            calls.append(self._states_call(import_states, k, self.states[k], self._first_rows(k)))
        calls += self.forward_calls
        if layer.directions == 2:
            rows = self._rows_arguments(form, self._width)
            calls.append(self.record(write_rows, *rows, *self._packed_order(), self.output))
        calls += self._clear_rows_calls(form, self._width)
        for k in range(self.count):
            calls.append(self._states_call(export_states, k, self.states[k], self._final_rows(k)))
        self.caller_program = Program(calls)
        self.planned_form = form

    def _rows_arguments(self, form, size):
        return self.bindings, size, form.flat_rows, form.starts, self.bands.order, self.bands.active

    def _clear_rows_calls(self, form, size):
        """Zeros behind the rows of an array with lengths, in the caller's matrix of this many features."""
        if form.is_full or form.is_list:
            return []
        begins = form.starts + form.lengths
        # Where steps are few zeros are many: each thread gets a part of these.
        cuts = cuts_between(form.ends - begins, self.cuts.size - 1)
        like = self.states[0][0]
        return [record(clear_rows, cuts, self.bindings, size, form.flat_rows, begins, form.ends, like)]

    def _packed_order(self):
        """A matrix in packed order, as the one band that it is."""
        return self.layout.row_cuts(1), self.bands.offset[None]

    def _states_call(self, kernel, k, states, rows):
        """Between the caller's states and these rows of ours, given in the order of the layout."""
        layout = self.layout
        rows = rows[layout.inverse_order]
        return record(kernel, self.bindings, states, rows, k, self.count, self.layer.hidden_size)

    # ---- backward ----------------------------------------------------------------------------------------

    def prepare_backward(self, dy, need_dx):
        wanted = _buffer_key(dy), need_dx
        if self.planned_backward != wanted:
            self._plan_backward(dy, need_dx)
            self.planned_backward = wanted
        return self.dinputs[0][: self.layout.total] if need_dx else None

    def _plan_backward(self, dy, need_dx, form=None):
        """Allocate everything that backward writes, and record the calls.

        `dy` is the gradient of the outputs in packed order, and that of the inputs will be so too. Without it
        the one is the caller's, of this form, and the other in bands, as those between levels are.
        """
        layer, bands, buffers = self.layer, self.bands, self.buffers
        self.dy, self.dy_form = dy, form
        self.outer_offset = bands.packed_offset if form is None else bands.gate_offset
        self.outer_in_bands = form is not None or bands.count == 1
        self.dstates = [
            tuple(
                buffers.matrix(("d" + name, k), bands.dstate_row_count, self.units)
                for name in layer.cell.states
            )
            for k in range(self.count)
        ]
        for part in (part for own in self.dstates for part in own):
            part[...] = 0.0  # for the padding, which nothing else clears
        self.dinputs: list[Any] = []
        for level in range(layer.num_layers):
            columns = padded(layer.known_input_size if level == 0 else self._width, layer.dtype)
            wanted = level > 0 or need_dx
            self.dinputs.append(
                buffers.matrix(("dx", level), bands.capacity.total, columns) if wanted else None
            )
        self.backward_calls = []
        for level in reversed(range(layer.num_layers)):
            self.backward_calls += self._backward_calls(level)
        all_rows = np.arange(bands.dstate_row_count)
        clear_calls = [record(clear, own, all_rows) for own in self.dstates]
        self.backward_program = Program(clear_calls + self.backward_calls)

    def _backward_calls(self, level):
        layer = self.layer
        last = level == layer.num_layers - 1
        has_dy = self.sequence or not last
        dy = self.dy if last else self.dinputs[level + 1]
        bands = self.bands
        calls = []
        if self._drops(level):
            calls.append(self._drop_call(level, dy, dy, bands.cuts, bands.gate_offset, bands.gate_offset))
        numbers = self._numbers(level)
        if not has_dy:
            for k in numbers:
                column = k % layer.directions * layer.hidden_size
                rows = bands.dstate_rows
                calls.append(record(add_to_state, self.dstates[k][0], rows, dy, column, layer.hidden_size))
        calls += self._side_by_side(
            [[self._scan_backward_call(k, dy, has_dy), *self._weight_gradients_calls(k)] for k in numbers]
        )
        if self.dinputs[level] is not None:
            calls += [self._input_gradients_call(k) for k in numbers]
        return calls

    def _scan_backward_call(self, k, dy, has_dy):
        layer, bands, packed = self.layer, self.bands, self.packed[k]
        direction = k % layer.directions
        arguments = (
            packed.weights, packed.recurrent_transposed, self.states[k], self.gates[k],
            self._output_gradient(direction, dy, has_dy), self.bindings, self.dstates[k], bands.active,
            bands.gate_offset, bands.state_offset, bands.dstate_offset, direction == 1,
        )  # fmt: skip
        if self.by_units:
            vectors = PANEL_VECTORS if self.layout.rows > 1 else scan.HALF_PANEL
            pieces = -(-self.units // lanes(layer.dtype) // vectors)
            return self._record_by_units(scan.backward_by_units, pieces, vectors, *arguments)
        return record(scan.backward, bands.cuts, self._prefetches(), *arguments)

    def _output_gradient(self, direction, dy, has_dy):
        """What a direction finds in `dy`, or, where that is None, in what the caller brings."""
        bands, column = self.bands, direction * self.layer.hidden_size
        if dy is None:
            form = self.dy_form
            like = np.empty((0, self._width), self.layer.dtype)
            starts = form.starts[bands.order]
            return scan.OutputGradient(like, column, bands.gate_offset, True, form.flat_rows, starts)
        offset = self.outer_offset if dy is self.dy else bands.gate_offset
        return scan.OutputGradient(dy, column, offset, has_dy, 0, NOWHERE)

    def _input_gradients_call(self, k):
        layer, bands, packed = self.layer, self.bands, self.packed[k]
        level, direction = divmod(k, layer.directions)
        dx = self.dinputs[level]
        offset, in_bands = (bands.gate_offset, True) if level else (self.outer_offset, self.outer_in_bands)
        # The second direction adds to what the first one wrote.
        start, stride = (dx, dx.shape[1]) if direction else (layer.zeros_for(dx.shape[1]), 0)
        return record(
            scan.input_gradients, self.cuts if in_bands else bands.cuts, packed.weights,
            packed.input_transposed, self.gates[k], start,
            stride, dx, offset, in_bands, bands.active, bands.gate_offset,
        )  # fmt: skip

    def _weight_gradients_calls(self, k):
        layer, bands, packed = self.layer, self.bands, self.packed[k]
        level, direction = divmod(k, layer.directions)
        inputs = self.inputs[level]
        threads = 1 if self.by_directions else self.threads
        ranges = min(-(-threads // self.partial_count), packed.blocks)
        jobs = self.partial_count * ranges
        gradients = self._packed_gradients(k)
        sums = record(
            scan.weight_gradients, even_cuts(jobs, min(threads, jobs)),
            even_cuts(packed.blocks, ranges), packed.weights, inputs.matrix, inputs.rows, self.states[k][0],
            self.gates[k], bands.partial_offset, bands.next_state_rows if direction else bands.state_rows,
            bands.gate_rows, gradients,
        )  # fmt: skip
        collected = record(
            scan.collect_gradients, even_cuts(packed.blocks, min(threads, packed.blocks)), packed.weights,
            gradients, packed.input_map, packed.recurrent_map, layer.direction_gradients[k],
        )  # fmt: skip
        return [sums, collected]

    def _packed_gradients(self, k):
        """Gradients in the form of the packed weights, one partial sum after the other: input, recurrent,
        bias."""
        weights, partials = self.packed[k].weights, self.partial_count
        dinput, drecurrent = (
            self.buffers.matrix((name, k), partials * len(panels), panels[0].size).reshape(
                -1, *panels.shape[1:]
            )
            for name, panels in (("dinput", weights.input), ("drecurrent", weights.recurrent))
        )
        return dinput, drecurrent, self.buffers.matrix(("dbias", k), 1, partials * weights.bias.size)[0]

    def backward(self):
        self.backward_program.run()

    def record_backward(self):
        return self.backward_program.calls

    def backward_on(self, form, dstate, flat_dy, flat_dx, dstates):
        """All of `prepare_backward` and `backward`, from the caller's gradient of the outputs to that of the
        inputs, unless it is None, and to those of the initial states (S, L * D, B, H); `dstate` and the
        result are as in `forward_on`."""
        need_dx = flat_dx is not None
        wanted = None, need_dx
        if self.planned_backward != wanted:
            self._plan_backward(None, need_dx, form)
            self.planned_backward = wanted
            bands = self.bands
            rows = self.bindings, self._width, form.flat_rows, form.starts, bands.order, form.lengths
            calls = [self.record(check_rows, *rows, self.states[0][0])]
            for k, own in enumerate(self.dstates):
                calls.append(self._states_call(import_states, k, own, bands.dstate_rows))
            calls += self.backward_calls
            if need_dx:
                size = self.layer.known_input_size
                rows = self._rows_arguments(form, size)
                calls.append(self.record(write_rows, *rows, bands.cuts, bands.gate_offset, self.dinputs[0]))
                calls += self._clear_rows_calls(form, size)
            for k, own in enumerate(self.dstates):
                calls.append(self._states_call(export_states, k, own, bands.dstate_rows))
            self.caller_backward_program = Program(calls)
        return self.caller_backward_program.run_on(
            self.bindings, flat_dy, flat_dx if need_dx else dstates, dstates, dstate
        )
