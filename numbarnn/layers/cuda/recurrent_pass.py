"""How a stack of recurrent layers runs on a GPU: buffers, matrix products and the launches of the scan.

`RecurrentCuda` is the twin of the pass in ``recurrent_pass.py``.
"""

import math
from typing import Any

import numpy as np

from numbarnn.cells.contract import Cell
from numbarnn.engine.cuda import scan as scan_cuda
from numbarnn.engine.cuda import scan_by_steps as steps_cuda
from numbarnn.engine.cuda import scan_by_teams as teams_cuda
from numbarnn.engine.cuda import teams as cuda_teams
from numbarnn.engine.cuda import weights as cuda_weights
from numbarnn.engine.cuda.arrays import arrays, on_host
from numbarnn.engine.cuda.device import blocks_together, shared_memory
from numbarnn.engine.cuda.launch import CapturedLaunches, buffer_key, launch, launch_each
from numbarnn.engine.cuda.matmul import multiply, multiply_over_rows
from numbarnn.engine.cuda.pointwise import drop, order_states
from numbarnn.engine.program import FAULT_IN_STATE, NO_FAULT
from numbarnn.engine.random import seed_of
from numbarnn.engine.rows import first_fault
from numbarnn.layers.cuda.passes import CudaBuffers, CudaPass, Rows, sum_rows, to_flat, to_packed
from numbarnn.layers.cuda.runs import Run, runs_of
from numbarnn.sequences.reading import BatchForm


class CudaDirection:
    """One layer and direction: what a forward leaves for backward.

    Parameters
    ----------
    cell : Cell
        The cell.
    parameters, gradients : tuples of arrays
        weight_ih, weight_hh, bias_ih and bias_hh on the GPU, and where their gradients go; biases of size 0
        stand for none.
    vectors, dvectors : tuples of arrays (H,)
        The cell's vectors on the GPU, and where their gradients go.
    direction : int
        1: time runs backwards.
    precision : str
        The layer's.
    """

    def __init__(
        self,
        cell: Cell,
        parameters: tuple[Any, ...],
        gradients: tuple[Any, ...],
        vectors: tuple[Any, ...],
        dvectors: tuple[Any, ...],
        direction: int,
        precision: str,
    ) -> None:
        self.cell, self.direction = cell, direction
        self.tf32 = precision != "float32"
        self.weight_ih, self.weight_hh, *biases = parameters
        # The kernels take arrays of the GPU, also where they do not look at them.
        self.bias_ih, self.bias_hh = (
            bias if bias.size > 0 else arrays().zeros(0, bias.dtype) for bias in biases
        )
        self.gradients, self.vectors, self.dvectors = gradients, vectors, dvectors
        self.dtype = self.weight_hh.dtype
        self.hidden = self.weight_hh.shape[1]
        self.input_runs = runs_of(cell.input_gates, 0)
        self.recurrent_runs = runs_of(cell.recurrent_gates, cell.sum_count - cell.product_width)
        self.buffers = CudaBuffers(self.dtype)
        # The kernels of a whole scan are those of these.
        self.kind = cell, self.hidden, str(self.dtype), "float16" if precision == "float16" else None
        self.plan = cuda_weights.plan_for(*self.kind)
        self.fits = self.plan.fits(shared_memory())
        self.most_blocks = blocks_together()
        self.team = None
        if cuda_teams.IN_USE and not self.fits:
            self.team = cuda_teams.team_for(*self.kind, shared_memory(), self.most_blocks)
        if self.team is not None:
            counters = self.most_blocks // self.team.blocks * cuda_teams.COUNTER_STRIDE
            self.meetings = arrays().zeros(counters, np.int64)

    def _multiply(self, a: Any, b: Any, out: Any, add: bool = False) -> None:
        """A product in this layer's precision."""
        multiply(a, b, out, add, self.tf32)

    def _add_up_biases(self) -> None:
        """The bias of each slot, from those of the parameters."""
        self.bias = self.buffers.matrix("bias", 1, self.cell.sum_count * self.hidden)[0]
        if self.bias_ih.size > 0:
            self.bias[...] = 0.0
            for runs, values in ((self.input_runs, self.bias_ih), (self.recurrent_runs, self.bias_hh)):
                for run in runs:
                    self.bias[run.of_sums(self.hidden)] += values[run.of_parameter(self.hidden)]

    def forward(self, x: Any, rows: Rows, states: Any, outputs: Any, save: bool) -> None:
        """All time steps of all rows.

        Parameters
        ----------
        x : array (N, I)
            Inputs.
        rows : Rows
            The batch.
        states : array (2, S, B, H)
            Initial states in, final states out.
        outputs : array (N, D * H)
            h, out, in the columns of this direction.
        save : bool
            Whether `backward` will follow.
        """
        hidden = self.hidden
        self.x, self.rows, self.states, self.outputs = x, rows, states, outputs
        self.sums = self.buffers.matrix("sums", len(x), self.cell.sum_count * hidden)
        self.saved_states = self.buffers.matrix(
            "saved_states", len(x) if save else 0, len(self.cell.states) * hidden
        )
        for run in self.input_runs:
            weight = self.weight_ih[run.of_parameter(hidden)]
            self._multiply(x, weight.T, self.sums[:, run.of_sums(hidden)])
        if self.fits:
            launch(
                scan_cuda.forward(*self.kind), rows.layout.rows, self.plan.threads, self.plan.shared_bytes,
                rows.offset, rows.lengths, self.direction, self.direction * hidden, outputs.shape[1], save,
                self.bias_ih.size > 0, self.weight_hh, self.bias_ih, self.bias_hh, self.vectors, states,
                self.sums, outputs, self.saved_states,
            )  # fmt: skip
        elif self._takes_a_team():
            self._launch_teams(
                teams_cuda.forward, outputs.shape[1], save, self.bias_ih.size > 0, self.weight_hh,
                self.bias_ih, self.bias_hh, self.vectors, states, self.sums, outputs, self.saved_states,
            )  # fmt: skip
        else:
            self._forward_by_steps(save)

    def _takes_a_team(self) -> bool:
        """Whether teams of blocks go through the present batch."""
        return self.team is not None and self.team.takes(self.rows.layout.rows, self.most_blocks)

    def _launch_teams(self, kernel_of: Any, *arguments: Any) -> None:
        team, rows = self.team, self.rows
        assert team is not None
        teams = team.teams(rows.layout.rows, self.most_blocks)
        self.meetings[...] = 0
        launch(
            kernel_of(*self.kind, team), teams * team.blocks, team.plan.threads, team.plan.shared_bytes,
            self.meetings, teams, rows.offset, rows.lengths, self.direction, self.direction * self.hidden,
            *arguments, together=team.blocks > 1,
        )  # fmt: skip

    def _product_of_steps(self) -> Any:
        """Room for the recurrent product of a step."""
        rows = self.rows.layout.rows
        return self.buffers.matrix("product", rows, self.cell.product_width * self.hidden)

    def _forward_by_steps(self, save: bool) -> None:
        self._add_up_biases()
        hidden, layout, product = self.hidden, self.rows.layout, self._product_of_steps()
        running = self.states[scan_cuda.LAST]
        kernel = steps_cuda.forward(self.cell, str(self.dtype))
        running[...] = self.states[scan_cuda.FIRST]
        for t in reversed(range(layout.steps)) if self.direction else range(layout.steps):
            first, count = int(layout.offset[t]), int(layout.active[t])
            for run in self.recurrent_runs:
                weight = self.weight_hh[run.of_parameter(hidden)]
                self._multiply(running[0, :count], weight.T, product[:count, self._of_product(run)])
            launch_each(
                kernel, count * hidden, first, count, self.direction * hidden, save, self.bias, self.vectors,
                running, product, self.sums, self.outputs, self.saved_states,
            )  # fmt: skip

    def _of_product(self, run: Run) -> slice:
        """The columns of a run among the recurrent sums."""
        first_slot = self.cell.sum_count - self.cell.product_width
        return run._replace(slot=run.slot - first_slot).of_sums(self.hidden)

    def backward(self, doutputs: Any, dstates: Any, dx: Any) -> None:
        """The latest `forward` undone; it fills in the gradients of the parameters.

        Parameters
        ----------
        doutputs : array (N, D * H)
            The gradient of the outputs.
        dstates : array (2, S, B, H)
            Gradients of the final states in, of the initial states out.
        dx : array (N, I) or None
            The gradient of the inputs is added to it.
        """
        parts = self._vector_parts()
        if self.fits:
            launch(
                scan_cuda.backward(*self.kind), self.rows.layout.rows, self.plan.threads,
                self.plan.shared_bytes, self.rows.offset, self.rows.lengths, self.direction,
                self.direction * self.hidden, doutputs.shape[1], self.weight_hh, self.vectors, self.states,
                self.sums, doutputs, self.saved_states, self.outputs, dstates, parts,
            )  # fmt: skip
        elif self._takes_a_team():
            self._launch_teams(
                teams_cuda.backward, doutputs.shape[1], self.weight_hh, self.vectors, self.states, self.sums,
                doutputs, self.saved_states, self.outputs, dstates, parts,
            )  # fmt: skip
        else:
            self._backward_by_steps(doutputs, dstates, parts)
        self._parameter_gradients(dx)
        for part, dvector in zip(parts, self.dvectors, strict=True):
            sum_rows(self.buffers, part, dvector)

    def _vector_parts(self) -> tuple[Any, ...]:
        """For each vector zeros (B, H): each row adds up its part of the gradient there."""
        shape = self.rows.layout.rows, self.hidden
        parts = tuple(self.buffers.matrix(("dvector", v), *shape) for v in range(len(self.dvectors)))
        for part in parts:
            part[...] = 0.0
        return parts

    def _backward_by_steps(self, doutputs: Any, dstates: Any, parts: tuple[Any, ...]) -> None:
        hidden, layout, sums = self.hidden, self.rows.layout, self.sums
        running = dstates[scan_cuda.FIRST]
        kernel = steps_cuda.backward(self.cell, str(self.dtype))
        running[...] = dstates[scan_cuda.LAST]
        # Step by step the way that forward came.
        for t in range(layout.steps) if self.direction else reversed(range(layout.steps)):
            first, count = int(layout.offset[t]), int(layout.active[t])
            before, from_before = t + 1 if self.direction else t - 1, 0
            if 0 <= before < layout.steps:
                from_before = min(count, int(layout.active[before]))
            launch_each(
                kernel, count * hidden, first, count, self.direction * hidden,
                int(layout.offset[max(before, 0)]), from_before, self.vectors,
                self.states[scan_cuda.FIRST], running, sums, doutputs, self.saved_states, self.outputs, parts,
            )  # fmt: skip
            for run in self.recurrent_runs:
                dsums = sums[first : first + count, run.of_sums(hidden)]
                weight = self.weight_hh[run.of_parameter(hidden)]
                self._multiply(dsums, weight, running[0, :count], add=True)

    def _parameter_gradients(self, dx: Any) -> None:
        hidden, sums = self.hidden, self.sums
        weight_ih, weight_hh, bias_ih, bias_hh = self.gradients
        h_before, same_sums = self.saved_states[:, :hidden], not self.cell.split
        for runs, factor, weight, bias in (
            (self.input_runs, self.x, weight_ih, bias_ih),
            (self.recurrent_runs, h_before, weight_hh, bias_hh),
        ):
            for run in runs:
                dsums, rows = sums[:, run.of_sums(hidden)], run.of_parameter(hidden)
                multiply_over_rows(dsums, factor, weight[rows], self.tf32)
                if bias.size > 0 and not (bias is bias_hh and same_sums):
                    sum_rows(self.buffers, dsums, bias[rows])
        if same_sums and bias_ih.size > 0:
            bias_hh[...] = bias_ih
        if dx is not None:
            for run in self.input_runs:
                weight = self.weight_ih[run.of_parameter(hidden)]
                self._multiply(sums[:, run.of_sums(hidden)], weight, dx, add=True)


class RecurrentCuda(CudaPass):
    """One way forward and back through all layers and directions of a recurrent layer.

    States and their gradients are zeros unless the caller gives some, in `forward_on` and `backward_on`.
    """

    def __init__(self, layer, training):
        super().__init__(layer, training)
        of_both = self.parameters.values, self.parameters.gradients
        (values, gradients), (vectors, dvectors) = (
            map(by_direction, of_both) for by_direction in (layer.by_direction, layer.vectors_by_direction)
        )
        self.numbers = [
            CudaDirection(layer.cell, *arrays_of_one, k % layer.directions, layer.precision)
            for k, arrays_of_one in enumerate(zip(values, gradients, vectors, dvectors, strict=True))
        ]
        self.width = layer.directions * layer.hidden_size
        self.forward_series, self.backward_series = CapturedLaunches(), CapturedLaunches()
        self._zeros: dict[str, Any] = {}  # arrays of states that hold the zeros with which a pass begins

    @property
    def needs_seed(self):
        return self.training and self.layer.num_layers > 1 and self.layer.dropout > 0.0

    def forward_on(self, form, seed, initial_state, flat_x, flat_y, states):
        """The one of `RecurrentPass`, with the caller's arrays in the host's memory."""
        fault = _fault_in(form, flat_x, initial_state)
        if fault == NO_FAULT:
            y, final_states = self.forward_there(form, seed, initial_state, arrays().asarray(flat_x))
            flat_y[...], states[...] = on_host(y), on_host(final_states)
        return fault

    def backward_on(self, form, dfinal_state, flat_dy, flat_dx, dstates):
        """The one of `RecurrentPass`, with the caller's arrays in the host's memory."""
        fault = _fault_in(form, flat_dy, dfinal_state)
        if fault == NO_FAULT:
            dy, need_dx = arrays().asarray(flat_dy), flat_dx is not None
            dx, dinitial = self.backward_there(form, dfinal_state, dy, need_dx)
            if need_dx:
                flat_dx[...] = on_host(dx)
            dstates[...] = on_host(dinitial)
        return fault

    def forward_there(self, form, seed, initial_state, flat_x):
        """Outputs (flat) and final states (S, L * D, B, H), all on the GPU; `initial_state` may be on it."""
        x = self.buffers.matrix("x", form.layout.total, flat_x.shape[1])
        _, outputs = self._prepare(True, form.layout, to_packed(flat_x, form, x), seed)
        self._put_states(initial_state, "states", self.states[:, scan_cuda.FIRST])
        self.forward()
        return to_flat(outputs, form), self._in_order(self.states, scan_cuda.LAST)

    def backward_there(self, form, dfinal_state, flat_dy, need_dx):
        """`forward_there` undone: the gradients of the inputs (flat) and of the initial states."""
        dy = self.buffers.matrix("dy", form.layout.total, flat_dy.shape[1])
        dx = self.prepare_backward(to_packed(flat_dy, form, dy), need_dx)
        self._put_states(dfinal_state, "dstates", self.dstates[:, scan_cuda.LAST])
        self.backward()
        self.export_gradients()
        return to_flat(dx, form) if need_dx else None, self._in_order(self.dstates, scan_cuda.FIRST)

    def _put_states(self, given, key, states):
        """The caller's arrays (L * D, B, H), one for each state, into some (L * D, S, B, H) of the array of
        `key`; empty ones stand for the zeros that are there."""
        for s, values in enumerate(given):
            if values.size > 0:
                self._zeros.pop(key, None)
                states[:, s] = arrays().asarray(values)[:, self.rows.order]

    def _in_order(self, states, which):
        """Initial or final states of an array of ours as the caller's (S, L * D, B, H)."""
        levels, _, count, rows, hidden = states.shape
        ordered = arrays().empty((count, levels, rows, hidden), states.dtype)
        order_states(which, self.rows.places, states, ordered)
        return ordered

    def prepare(self, layout, x, seed):
        return self._prepare(self.layer.return_sequences, layout, x, seed)

    def _prepare(self, sequence, layout, x, seed):
        layer = self.layer
        self.begin(layout)
        self.x, self.seed, self.sequence = x, seed, sequence
        self.states = self._all_states("states")
        self.outputs = [
            self.buffers.matrix(("outputs", level), layout.total, self.width)
            for level in range(layer.num_layers)
        ]
        if sequence:
            return layout, self.outputs[-1]
        self.last = self.buffers.matrix("last", layout.rows, self.width)
        return layout.last, self.last

    def _all_states(self, key):
        """Zeros for the states of all layers and directions, or their gradients, that a pass begins with, and
        room for those that it ends with; where they lie stays the same, so that launches can be captured."""
        layer = self.layer
        shape = (len(self.numbers), 2, len(layer.cell.states), self.layout.rows, layer.hidden_size)
        matrix = self.buffers.matrix(key, math.prod(shape[:-1]), shape[-1])
        if self._zeros.get(key) is not matrix:
            matrix[...] = 0.0
            self._zeros[key] = matrix
        return matrix.reshape(shape)

    def forward(self):
        # Dropout draws other numbers each time.
        self._run(
            self.forward_series, self._all_levels, (self.x, self.states, *self.outputs), self.needs_seed
        )

    def _run(self, series, work, moving, new_each_time):
        """Launch `work`, or replay it where it did the same before on the same arrays."""
        if new_each_time:
            work()
            return
        arrays_of_all = (self.parameters.flat_values, self.parameters.flat_gradients, *moving)
        own = sum(one.buffers.nbytes for one in self.numbers) + self.buffers.nbytes
        series.run(work, (self.layout, self.sequence, own, *map(buffer_key, arrays_of_all)))

    def _all_levels(self):
        layer, inputs = self.layer, self.x
        for level, outputs in enumerate(self.outputs):
            for k in self._of_level(level):
                self.numbers[k].forward(inputs, self.rows, self.states[k], outputs, self.training)
            inputs = outputs
            if self._drops(level):
                inputs = self.buffers.matrix(("dropped", level), *outputs.shape)
                self._drop(level, outputs, inputs)
        if not self.sequence:
            hidden = layer.hidden_size
            for direction, k in enumerate(self._of_level(layer.num_layers - 1)):
                h = self.states[k, scan_cuda.LAST, 0]
                self.last[:, direction * hidden : (direction + 1) * hidden] = h

    def _drops(self, level):
        """Whether the outputs of a level go through dropout."""
        return self.needs_seed and level < self.layer.num_layers - 1

    def _drop(self, level, x, y):
        rows, rate = self.rows, self.layer.dropout
        drop(rows.offset, rows.lengths, rows.order, x, y, rate, seed_of(self.seed, level))

    def prepare_backward(self, dy, need_dx):
        layer = self.layer
        self.dy = dy
        self.dstates = self._all_states("dstates")
        self.dinputs = []
        for level in range(layer.num_layers):
            columns = layer.known_input_size if level == 0 else self.width
            wanted = level > 0 or need_dx
            self.dinputs.append(
                self.buffers.matrix(("dx", level), self.layout.total, columns) if wanted else None
            )
        return self.dinputs[0]

    def backward(self):
        if not self.sequence:
            self._zeros.pop("dstates", None)  # the gradient of the outputs is added there
        moving = (self.x, self.dy, self.states, self.dstates, *self.outputs)
        wanted = (array for array in self.dinputs if array is not None)
        self._run(self.backward_series, self._all_levels_backward, (*moving, *wanted), self.needs_seed)

    def _all_levels_backward(self):
        layer = self.layer
        doutputs = self.dy if self.sequence else self._only_the_last()
        for level in reversed(range(layer.num_layers)):
            if self._drops(level):
                self._drop(level, doutputs, doutputs)
            dx = self.dinputs[level]
            if dx is not None:
                dx[...] = 0.0
            for k in self._of_level(level):
                self.numbers[k].backward(doutputs, self.dstates[k], dx)
            doutputs = dx

    def _only_the_last(self):
        """The gradient of the last steps' outputs is one of the final states, and there is no other."""
        hidden = self.layer.hidden_size
        for direction, k in enumerate(self._of_level(self.layer.num_layers - 1)):
            of_h = self.dstates[k, scan_cuda.LAST, 0]
            of_h += self.dy[:, direction * hidden : (direction + 1) * hidden]
        return self.buffers.matrix("nothing", self.layout.total, self.width)

    def _of_level(self, level):
        return range(level * self.layer.directions, (level + 1) * self.layer.directions)


def _fault_in(form: BatchForm, flat: np.ndarray, states: tuple[np.ndarray, ...]) -> int:
    """The first row of the caller's matrix that is not finite, or which state is not; see `forward_on`."""
    fault = first_fault(flat, form.starts, form.lengths)
    for s, state in enumerate(states):
        if fault == NO_FAULT and not np.isfinite(state).all():
            fault = FAULT_IN_STATE - s
    return fault
