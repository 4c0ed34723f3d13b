"""How a stack of recurrent layers runs on a GPU: buffers, matrix products and the launches of the scan."""

from typing import Any, NamedTuple

import numpy as np

from numbarnn.cells.contract import Cell
from numbarnn.engine import scan_cuda, steps_cuda
from numbarnn.engine.cuda_arrays import arrays, launch
from numbarnn.engine.cuda_device import SHARED_MEMORY
from numbarnn.sequences import Layout


class Run(NamedTuple):
    """Gates that follow one another both in the parameters and among the sums."""

    gate: int
    slot: int
    gates: int  # how many

    def of_parameter(self, hidden: int) -> slice:
        return slice(self.gate * hidden, (self.gate + self.gates) * hidden)

    def of_sums(self, hidden: int) -> slice:
        return slice(self.slot * hidden, (self.slot + self.gates) * hidden)


def _runs(gates: tuple[int, ...], first_slot: int) -> list[Run]:
    """The runs of the gates whose sums begin at a slot."""
    runs: list[Run] = []
    for slot, gate in enumerate(gates, first_slot):
        if runs and runs[-1].gate + runs[-1].gates == gate:
            runs[-1] = runs[-1]._replace(gates=runs[-1].gates + 1)
        else:
            runs.append(Run(gate, slot, 1))
    return runs


class Rows(NamedTuple):
    """A batch, for kernels."""

    layout: Layout
    offset: Any  # the layout's, on the GPU
    lengths: Any


class CudaDirection:
    """One layer and direction: its parameters on the GPU, and what a forward leaves for backward.

    Parameters
    ----------
    cell : Cell
        The cell.
    parameters : tuple of arrays
        weight_ih, weight_hh, bias_ih and bias_hh, in the host's memory; biases of size 0 stand for none.
    direction : int
        1: time runs backwards.
    """

    def __init__(self, cell: Cell, parameters: tuple[np.ndarray, ...], direction: int) -> None:
        self.cell, self.direction = cell, direction
        self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh = map(arrays().asarray, parameters)
        self.dtype = self.weight_hh.dtype
        self.hidden = self.weight_hh.shape[1]
        self.input_runs = _runs(cell.input_gates, 0)
        self.recurrent_runs = _runs(cell.recurrent_gates, cell.slots - cell.window)
        self.bias = self._bias_of_slots()
        self.plan = scan_cuda.plan_for(cell, self.hidden, self.dtype)
        self.fits = self.plan.fits(SHARED_MEMORY)

    def _bias_of_slots(self) -> Any:
        bias = arrays().zeros(self.cell.slots * self.hidden, self.dtype)
        if self.bias_ih.size > 0:
            for runs, values in ((self.input_runs, self.bias_ih), (self.recurrent_runs, self.bias_hh)):
                for run in runs:
                    bias[run.of_sums(self.hidden)] += values[run.of_parameter(self.hidden)]
        return bias

    def forward(self, x: Any, rows: Rows, states: Any, outputs: Any, keep: bool) -> None:
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
        keep : bool
            Whether `backward` will follow.
        """
        xp, hidden = arrays(), self.hidden
        self.x, self.rows, self.states, self.outputs = x, rows, states, outputs
        self.sums = xp.empty((len(x), self.cell.slots * hidden), self.dtype)
        kept_rows = len(x) if keep else 0
        self.kept = xp.empty((kept_rows, len(self.cell.states) * hidden), self.dtype)
        for run in self.input_runs:
            weight = self.weight_ih[run.of_parameter(hidden)]
            xp.matmul(x, weight.T, out=self.sums[:, run.of_sums(hidden)])
        if self.fits:
            launch(
                scan_cuda.forward(self.cell, hidden, str(self.dtype)), len(rows.lengths), self.plan.threads,
                self.plan.shared_bytes, rows.offset, rows.lengths, self.direction, keep,
                self.weight_hh.reshape(-1), self.bias, states, self.sums, outputs, self.kept,
            )  # fmt: skip
        else:
            self._forward_by_steps(keep)

    def _forward_by_steps(self, keep: bool) -> None:
        hidden, layout, sums = self.hidden, self.rows.layout, self.sums
        sums[:, self.cell.window * hidden :] = 0.0  # the input product does not fill these
        running = self.states[scan_cuda.LAST]
        running[...] = self.states[scan_cuda.FIRST]
        kernel = steps_cuda.forward(self.cell, str(self.dtype))
        for t in reversed(range(layout.steps)) if self.direction else range(layout.steps):
            first, count = int(layout.offset[t]), int(layout.active[t])
            of_step = sums[first : first + count]
            for run in self.recurrent_runs:
                weight = self.weight_hh[run.of_parameter(hidden)]
                of_step[:, run.of_sums(hidden)] += running[0, :count] @ weight.T
            launch(
                kernel, steps_cuda.blocks_for(count, hidden), steps_cuda.THREADS, 0, first, count,
                self.direction * hidden, keep, self.bias, running, sums, self.outputs, self.kept,
            )  # fmt: skip

    def backward(self, doutputs: Any, dstates: Any, dx: Any) -> tuple[Any, ...]:
        """The latest `forward` undone.

        Parameters
        ----------
        doutputs : array (N, D * H)
            The gradient of the outputs.
        dstates : array (2, S, B, H)
            Gradients of the final states in, of the initial states out.
        dx : array (N, I) or None
            The gradient of the inputs is added to it.

        Returns
        -------
        tuple of arrays
            Gradients of weight_ih, weight_hh, bias_ih and bias_hh.
        """
        if self.fits:
            launch(
                scan_cuda.backward(self.cell, self.hidden, str(self.dtype)), len(self.rows.lengths),
                self.plan.threads, self.plan.shared_bytes, self.rows.offset, self.rows.lengths,
                self.direction, self.weight_hh.reshape(-1), self.states, self.sums, doutputs, self.kept,
                self.outputs, dstates,
            )  # fmt: skip
        else:
            self._backward_by_steps(doutputs, dstates)
        return self._parameter_gradients(dx)

    def _backward_by_steps(self, doutputs: Any, dstates: Any) -> None:
        hidden, layout, sums = self.hidden, self.rows.layout, self.sums
        running = dstates[scan_cuda.FIRST]
        running[...] = dstates[scan_cuda.LAST]
        kernel = steps_cuda.backward(self.cell, str(self.dtype))
        # Step by step the way that forward came.
        for t in range(layout.steps) if self.direction else reversed(range(layout.steps)):
            first, count = int(layout.offset[t]), int(layout.active[t])
            before, from_before = t + 1 if self.direction else t - 1, 0
            if 0 <= before < layout.steps:
                from_before = min(count, int(layout.active[before]))
            launch(
                kernel, steps_cuda.blocks_for(count, hidden), steps_cuda.THREADS, 0, first, count,
                self.direction * hidden, int(layout.offset[max(before, 0)]), from_before,
                self.states[scan_cuda.FIRST], running, sums, doutputs, self.kept, self.outputs,
            )  # fmt: skip
            for run in self.recurrent_runs:
                dsums = sums[first : first + count, run.of_sums(hidden)]
                running[0, :count] += dsums @ self.weight_hh[run.of_parameter(hidden)]

    def _parameter_gradients(self, dx: Any) -> tuple[Any, ...]:
        xp, hidden, sums = arrays(), self.hidden, self.sums
        gradients = tuple(map(xp.empty_like, (self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh)))
        weight_ih, weight_hh, bias_ih, bias_hh = gradients
        h_before = self.kept[:, :hidden]
        for runs, factor, weight, bias in (
            (self.input_runs, self.x, weight_ih, bias_ih),
            (self.recurrent_runs, h_before, weight_hh, bias_hh),
        ):
            for run in runs:
                dsums, rows = sums[:, run.of_sums(hidden)], run.of_parameter(hidden)
                xp.matmul(dsums.T, factor, out=weight[rows])
                if bias.size > 0:
                    dsums.sum(axis=0, out=bias[rows])
        if dx is not None:
            for run in self.input_runs:
                dx += sums[:, run.of_sums(hidden)] @ self.weight_ih[run.of_parameter(hidden)]
        return gradients


class CudaPass:
    """One forward and backward through all layers and directions of a recurrent layer.

    Arrays come from the host's memory and go back there; rows stand in packed order, see `Layout`.

    Parameters
    ----------
    layer : RecurrentLayer
        The layer, built.
    """

    def __init__(self, layer: Any) -> None:
        self.layer = layer
        self.numbers = [
            CudaDirection(layer.cell, parameters, k % layer.directions)
            for k, parameters in enumerate(layer.direction_values)
        ]

    def forward(
        self, layout: Layout, x: np.ndarray, initial: tuple[np.ndarray, ...], training: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """All layers over a batch.

        Parameters
        ----------
        layout : Layout
            The batch.
        x : array (N, I)
            Its inputs.
        initial : tuple of arrays (L * D, B, H)
            The initial states, h first, of the places; empty arrays stand for zeros.
        training : bool
            Whether `backward` will follow.

        Returns
        -------
        outputs : array (N, D * H)
            Those of the last layer.
        states : array (S, L * D, B, H)
            The final states.
        """
        layer, xp = self.layer, arrays()
        rows = Rows(layout, xp.asarray(layout.offset), xp.asarray(layout.lengths))
        # Of each layer and direction the initial and the final states.
        shape = (len(self.numbers), 2, len(layer.cell.states), layout.rows, layer.hidden_size)
        self.states = xp.zeros(shape, layer.dtype)
        _put_states(initial, self.states[:, scan_cuda.FIRST])
        inputs = xp.asarray(x)
        for level in range(layer.num_layers):
            outputs = xp.empty((len(x), layer.directions * layer.hidden_size), layer.dtype)
            for k in self._of_level(level):
                self.numbers[k].forward(inputs, rows, self.states[k], outputs, training)
            inputs = outputs
        return _on_host(outputs), _on_host(self.states[:, scan_cuda.LAST].swapaxes(0, 1))

    def backward(
        self, dy: np.ndarray, dstate: tuple[np.ndarray, ...], need_dx: bool
    ) -> tuple[np.ndarray | None, np.ndarray, list[tuple[np.ndarray, ...]]]:
        """The latest `forward` undone.

        Parameters
        ----------
        dy : array (N, D * H)
            The gradient of the outputs.
        dstate : tuple of arrays (L * D, B, H)
            Those of the final states; empty arrays stand for zeros.
        need_dx : bool
            Whether the gradient of the inputs is wanted.

        Returns
        -------
        dx : array (N, I) or None
            The gradient of the inputs.
        dinitial : array (S, L * D, B, H)
            Those of the initial states.
        gradients : list of tuples of arrays
            Of each layer and direction, those of weight_ih, weight_hh, bias_ih and bias_hh.
        """
        layer, xp = self.layer, arrays()
        dstates = xp.zeros(self.states.shape, layer.dtype)
        _put_states(dstate, dstates[:, scan_cuda.LAST])
        doutputs = xp.asarray(dy)
        gradients: dict[int, tuple[np.ndarray, ...]] = {}
        dx = None
        for level in reversed(range(layer.num_layers)):
            columns = layer.known_input_size if level == 0 else layer.directions * layer.hidden_size
            dx = xp.zeros((len(dy), columns), layer.dtype) if need_dx or level > 0 else None
            for k in self._of_level(level):
                parts = self.numbers[k].backward(doutputs, dstates[k], dx)
                gradients[k] = tuple(map(_on_host, parts))
            doutputs = dx
        dinitial = _on_host(dstates[:, scan_cuda.FIRST].swapaxes(0, 1))
        return (None if dx is None else _on_host(dx)), dinitial, [gradients[k] for k in sorted(gradients)]

    def _of_level(self, level: int) -> range:
        return range(level * self.layer.directions, (level + 1) * self.layer.directions)


def _put_states(given: tuple[np.ndarray, ...], states: Any) -> None:
    """Arrays (L * D, B, H), one for each state, into an array (L * D, S, B, H); empty ones are zeros."""
    for s in range(states.shape[1]):
        if given[s].size > 0:
            states[:, s] = arrays().asarray(given[s])


def _on_host(array: Any) -> np.ndarray:
    return array if isinstance(array, np.ndarray) else array.get()
