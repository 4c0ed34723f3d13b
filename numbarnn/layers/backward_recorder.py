"""The recorder of backward: from the plan of a batch to the calls that run it."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from numbarnn.engine.program import Call, record
from numbarnn.engine.rows import check_rows, write_rows
from numbarnn.engine.scan import backward, weight_gradients
from numbarnn.engine.scan.arguments import Partials
from numbarnn.engine.states import add_to_state, clear, export_states, import_states, sum_rows
from numbarnn.engine.sums import LEVELS, level_count
from numbarnn.engine.threads import even_cuts
from numbarnn.jit.cpu import PANEL_VECTORS, lanes, padded
from numbarnn.layers.plan import Plan
from numbarnn.layers.recorder import Recorder
from numbarnn.sequences.reading import BatchForm


class BackwardRecorder(Recorder):
    """Records a backward pass through a stack of layers, and allocates what it writes.

    Parameters
    ----------
    plan : Plan
        That of the forward pass.
    dy : array (N, at least D * H), (B, at least D * H) or None
        The gradient of the outputs in packed order, or of the final states; None where the caller brings it.
    need_dx : bool
        Whether the gradient of the inputs is wanted.
    form : BatchForm, optional
        The form of the caller's batch, where `dy` is None. The gradient of the inputs is then in bands, as
        those between levels are; else it is in packed order.

    Attributes
    ----------
    dstates : list of tuples of arrays (at least B, H padded)
        Gradients of the states, for each k, and each row's part of the gradients of the cell's vectors, with
        all levels of their sums.
    dinputs : list of arrays (N, I padded) or None
        Gradients of the inputs of each level.
    """

    def __init__(
        self, plan: Plan, dy: np.ndarray | None, need_dx: bool, form: BatchForm | None = None
    ) -> None:
        super().__init__(plan, form)
        layer, bands, buffers = self.layer, self.bands, plan.buffers
        self.dy = dy
        self.outer_offset = bands.packed_offset if form is None else bands.gate_offset
        self.outer_in_bands = form is not None or bands.count == 1
        self.dstates = [
            tuple(
                buffers.matrix(("d" + name, k), levels * bands.dstate_row_count, plan.units)
                for names, levels in ((layer.cell.states, 1), (layer.cell.vectors, LEVELS))
                for name in names
            )
            for k in range(plan.count)
        ]
        self.state_count = len(layer.cell.states)
        for part in (part for own in self.dstates for part in own):
            part[...] = 0.0  # for the padding, which nothing else clears
        self.dinputs: list[Any] = []
        for level in range(layer.num_layers):
            columns = padded(plan.store.input_size if level == 0 else plan.width, layer.dtype)
            wanted = level > 0 or need_dx
            self.dinputs.append(
                buffers.matrix(("dx", level), bands.capacity.total, columns) if wanted else None
            )

    def calls(self, imports: Sequence[Call] = ()) -> list[Call]:
        """All of backward: from the gradient of the outputs, or final states, to that of the inputs.
        `imports` add gradients of the final states."""
        count = self.state_count
        clears = [self._clear_call(own[:count]) for own in self.dstates]
        if self.layer.cell.vectors:
            clears += [self._clear_call(own[count:]) for own in self.dstates]
        return [*clears, *imports, *self._all_levels()]

    @staticmethod
    def _clear_call(arrays: Sequence[np.ndarray]) -> Call:
        """Zeros in all rows of a tuple of gradients, which have as many."""
        return record(clear, arrays, np.arange(len(arrays[0])))

    def caller_calls(self) -> list[Call]:
        """All of backward: from the caller's gradients of outputs and final states to those of inputs and
        initial states."""
        plan, bands, form = self.plan, self.bands, self.form
        given, like = self.caller_matrix(form, plan.width), plan.states[0][0]
        calls = [self.record(check_rows, given, bands.order, form.lengths, like)]
        for k, own in enumerate(self.dstates):
            calls.append(self.states_call(import_states, k, own[: self.state_count], bands.dstate_rows))
            if self.layer.cell.vectors:
                calls.append(self._clear_call(own[self.state_count :]))
        calls += self._all_levels()
        dx = self.dinputs[0]
        if dx is not None:
            size = plan.store.input_size
            rows = self.caller_matrix(form, size), bands.order, bands.active
            calls.append(self.record(write_rows, *rows, bands.cuts, bands.gate_offset, dx))
            calls += self.clear_rows_calls(form, size)
        for k, own in enumerate(self.dstates):
            calls.append(self.states_call(export_states, k, own[: self.state_count], bands.dstate_rows))
        return calls

    def _all_levels(self):
        return [call for level in reversed(range(self.layer.num_layers)) for call in self._level_calls(level)]

    def _level_calls(self, level):
        layer, plan, bands = self.layer, self.plan, self.bands
        last = level == layer.num_layers - 1
        has_dy = plan.sequence or not last
        dy = self.dy if last else self.dinputs[level + 1]
        calls = []
        if plan.drops(level):
            calls.append(self.drop_call(level, dy, dy, bands.cuts, bands.gate_offset, bands.gate_offset))
        numbers = plan.numbers(level)
        if not has_dy:
            for k in numbers:
                column = k % layer.directions * layer.hidden_size
                rows = bands.dstate_rows
                calls.append(record(add_to_state, self.dstates[k][0], rows, dy, column, layer.hidden_size))
        calls += self.side_by_side(
            [[self._scan_call(k, dy, has_dy), *self._weight_gradients_calls(k)] for k in numbers]
        )
        if self.dinputs[level] is not None:
            calls += [self._input_gradients_call(k) for k in numbers]
        return calls

    def _scan_call(self, k, dy, has_dy):
        plan, bands, packed = self.plan, self.bands, self.plan.packed[k]
        direction = k % self.layer.directions
        caller = self.caller_matrix_by_position(self.form if dy is None else None, plan.width)
        arguments = (
            packed.weights, packed.recurrent_transposed, plan.states[k], plan.gates[k],
            self._output_gradient(direction, dy, has_dy), caller, self.dstates[k], bands.index,
            direction == 1,
        )  # fmt: skip
        if plan.sharing.by_units:
            vectors = PANEL_VECTORS if self.layout.rows > 1 else backward.HALF_PANEL
            pieces = -(-plan.units // lanes(self.layer.dtype) // vectors)
            return self.record_by_units(backward.backward_by_units, pieces, vectors, *arguments)
        return record(backward.backward, bands.cuts, plan.prefetches, *arguments)

    def _output_gradient(self, direction, dy, has_dy):
        """What a direction finds in `dy`, or, where that is None, in what the caller brings."""
        bands, column = self.bands, direction * self.layer.hidden_size
        if dy is None:
            like = np.empty((0, self.plan.width), self.layer.dtype)
            return backward.OutputGradient(like, column, bands.gate_offset, True)
        offset = self.outer_offset if dy is self.dy else bands.gate_offset
        return backward.OutputGradient(dy, column, offset, has_dy)

    def _input_gradients_call(self, k):
        layer, bands, packed = self.layer, self.bands, self.plan.packed[k]
        level, direction = divmod(k, layer.directions)
        dx = self.dinputs[level]
        offset, in_bands = (bands.gate_offset, True) if level else (self.outer_offset, self.outer_in_bands)
        # The second direction adds to what the first one wrote.
        start, stride = (dx, dx.shape[1]) if direction else (layer.zeros_for(dx.shape[1]), 0)
        return record(
            backward.input_gradients, self.plan.cuts if in_bands else bands.cuts, packed.weights,
            packed.input_transposed, self.plan.gates[k], start, stride, dx, offset, in_bands, bands.index,
        )  # fmt: skip

    def _weight_gradients_calls(self, k):
        layer, plan, bands, packed = self.layer, self.plan, self.bands, self.plan.packed[k]
        level, direction = divmod(k, layer.directions)
        inputs, sharing = plan.inputs[level], plan.sharing
        threads = 1 if sharing.by_directions else sharing.threads
        ranges = min(-(-threads // sharing.partial_count), packed.blocks)
        jobs = sharing.partial_count * ranges
        gradients, partial_sums = self._packed_gradients(k)
        previous_rows = bands.next_state_rows if direction else bands.state_rows
        kernel = weight_gradients.weight_gradients
        if level_count(bands.capacity.total) > 1:
            kernel = weight_gradients.weight_gradients_of_many_rows
        sums = record(
            kernel, even_cuts(jobs, min(threads, jobs)), even_cuts(packed.blocks, ranges), packed.weights,
            inputs, plan.states[k][0], plan.gates[k],
            Partials(bands.partial_offset, previous_rows, bands.gate_rows), gradients,
        )  # fmt: skip
        collected = record(
            weight_gradients.collect_gradients, even_cuts(packed.blocks, min(threads, packed.blocks)),
            packed.weights, partial_sums, packed.input_map, packed.recurrent_map,
            plan.store.direction_gradients[k],
        )  # fmt: skip
        if not layer.cell.vectors:
            return [sums, collected]
        parts, dvectors = self.dstates[k][self.state_count :], self.plan.store.direction_vector_gradients[k]
        return [sums, collected, record(sum_rows, parts, dvectors)]

    def _packed_gradients(self, k):
        """Gradients in the form of the packed weights, one partial sum after the other: input, recurrent,
        bias. With the levels that so many steps need, and without the others."""
        weights, partials = self.plan.packed[k].weights, self.plan.sharing.partial_count
        levels, buffers = level_count(self.bands.capacity.total), self.plan.buffers
        dinput, drecurrent = (
            buffers.matrix((name, k), levels * partials * len(panels), panels[0].size).reshape(
                -1, *panels.shape[1:]
            )
            for name, panels in (("dinput", weights.input), ("drecurrent", weights.recurrent))
        )
        dbias = buffers.matrix(("dbias", k), levels * partials, weights.bias.size).reshape(-1)
        gradients = dinput, drecurrent, dbias
        return gradients, tuple(array[: len(array) // levels] for array in gradients)
