"""The recorder of forward: from the plan of a batch to the calls that run it."""

from numbarnn.engine.program import Call, record
from numbarnn.engine.rows import read_rows, write_rows
from numbarnn.engine.scan import forward
from numbarnn.engine.states import copy_states, export_states, import_states
from numbarnn.layers.recorder import Recorder


class ForwardRecorder(Recorder):
    """Records a forward pass through a stack of layers."""

    def calls(self) -> list[Call]:
        """All of forward: from inputs in packed order to outputs in packed order or to final states."""
        return self._all_levels() + self._last_calls()

    def caller_calls(self) -> list[Call]:
        """All of forward: from the caller's inputs and initial states to its outputs and final states."""
        plan, layer, bands, form = self.plan, self.layer, self.bands, self.form
        given = self.caller_matrix(form, self.plan.store.input_size)
        order, active, x = bands.order, bands.active, plan.inputs[0].matrix
        calls = [self.record(read_rows, given, order, active, bands.cuts, bands.gate_offset, x)]
        for k, states in enumerate(plan.states):
            calls.append(self.states_call(import_states, k, states, plan.first_rows(k)))
        calls += self._all_levels()
        if layer.directions == 2:
            wanted = self.caller_matrix(form, plan.width)
            calls.append(self.record(write_rows, wanted, order, active, *plan.packed_order(), plan.output))
        calls += self.clear_rows_calls(form, plan.width)
        for k, states in enumerate(plan.states):
            calls.append(self.states_call(export_states, k, states, plan.final_rows(k)))
        return calls

    def _all_levels(self):
        plan, layer, calls = self.plan, self.layer, []
        for level in range(layer.num_layers):
            is_last = level == layer.num_layers - 1
            to_caller = self.form if is_last and layer.directions == 1 else None
            chains = [[self._scan_call(k, to_caller)] for k in plan.numbers(level)]
            if layer.directions == 2 and (plan.sequence or not is_last):
                target = plan.output if is_last else plan.inputs[level + 1].matrix
                for k, chain in zip(plan.numbers(level), chains, strict=True):
                    chain.append(self._join_call(k, target))
            calls += self.side_by_side(chains)
            if plan.drops(level):
                calls.append(self._drop_outputs_call(level))
        return calls

    def _scan_call(self, k, to_caller):
        plan, bands = self.plan, self.bands
        level, direction = divmod(k, self.layer.directions)
        caller = self.caller_matrix_by_position(to_caller, self.layer.hidden_size)
        arguments = (
            plan.packed[k].weights, plan.inputs[level], plan.states[k], plan.gates[k], plan.training,
            bands.index, direction == 1, caller,
        )  # fmt: skip
        if plan.sharing.by_units:
            return self.record_by_units(forward.forward_by_units, plan.packed[k].blocks, 1, *arguments)
        return record(forward.forward, bands.cuts, plan.prefetches, *arguments)

    def _join_call(self, k, target):
        """What copies the outputs of a direction into packed order."""
        layer, bands = self.layer, self.bands
        direction = k % layer.directions
        return self.record(
            forward.copy_outputs, bands.cuts, self.plan.states[k][0], target, direction * layer.hidden_size,
            layer.hidden_size, bands.index, direction == 1,
        )  # fmt: skip

    def _drop_outputs_call(self, level):
        target = self.plan.inputs[level + 1]
        if self.layer.directions == 2:
            cuts, offsets = self.plan.packed_order()
            return self.drop_call(level, target.matrix, target.matrix, cuts, offsets, offsets)
        h, bands = self.plan.states[level][0], self.bands
        return self.drop_call(level, h, target.matrix, bands.cuts, bands.output_offset, target.offset)

    def _last_calls(self):
        """What brings the last level's outputs, where that is still to be done, or its final states to the
        next layer."""
        plan, layer = self.plan, self.layer
        last = plan.numbers(layer.num_layers - 1)
        if plan.sequence:
            is_there = layer.directions == 2 or plan.is_packed
            return [] if is_there else [self._join_call(k, plan.output) for k in last]
        hidden = layer.hidden_size
        return [
            record(copy_states, plan.states[k][0], plan.final_rows(k), plan.last, direction * hidden, hidden)
            for direction, k in enumerate(last)
        ]
