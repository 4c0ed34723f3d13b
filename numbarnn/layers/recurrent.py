"""RNN, LSTM and GRU: stacked and bidirectional layers of one cell, driven by the scan."""

from typing import Any

import numpy as np

from numbarnn.cells import CELLS
from numbarnn.cells.contract import Cell
from numbarnn.engine import scan
from numbarnn.engine.host import lanes, padded
from numbarnn.engine.packing import (
    aligned_zeros,
    gate_map,
    pack_recurrent,
    pack_recurrent_back,
    panels_for,
    unpack_recurrent,
)
from numbarnn.engine.random import drop, seed_of
from numbarnn.engine.threads import even_ranges
from numbarnn.engine.tile import PANEL_VECTORS
from numbarnn.layers.base import (
    Layer,
    Pass,
    check_choice,
    check_flag,
    check_rate,
    check_size,
    draw_seed,
    run_backward,
    run_forward,
)
from numbarnn.layers.initializers import KERNEL_INITIALIZERS, RECURRENT_INITIALIZERS, initial_matrix
from numbarnn.sequences import Steps, layout_of, pack_steps, read_like, unpack_steps

SCRATCH_ROWS = 64  # rows of gate sums that a prediction keeps at a time, at least one step
NO_BIAS = {np.dtype(name): np.zeros(0, name) for name in ("float32", "float64")}


class PackedDirection:
    """The weights of one layer and direction as the scan reads them, with room for their gradients."""

    def __init__(self, cell: Cell, input_size: int, hidden_size: int, dtype) -> None:
        self.cell = cell
        self.input_map = gate_map(cell.input_gates, hidden_size, dtype)
        self.recurrent_map = gate_map(cell.recurrent_gates, hidden_size, dtype)
        vectors = cell.window if cell.apart else PANEL_VECTORS
        units = padded(hidden_size, dtype)
        self.groups = units // lanes(dtype)
        self.weights = cell.weights(
            panels_for(self.input_map.size, input_size, vectors, dtype),
            panels_for(self.recurrent_map.size, hidden_size, vectors, dtype),
            aligned_zeros(cell.slots * units, dtype),
        )
        self.input_back = panels_for(padded(input_size, dtype), self.input_map.size, PANEL_VECTORS, dtype)
        self.recurrent_back = panels_for(units, self.recurrent_map.size, PANEL_VECTORS, dtype)
        self.groups_at_once = max(1, vectors // cell.slots)

    def pack(self, weight_ih, weight_hh, bias_ih, bias_hh) -> None:
        pack_recurrent(
            weight_ih, weight_hh, bias_ih, bias_hh, self.input_map, self.recurrent_map, self.cell.slots,
            *self.weights,
        )  # fmt: skip

    def pack_back(self, weight_ih, weight_hh) -> None:
        pack_recurrent_back(
            weight_ih, weight_hh, self.input_map, self.recurrent_map, self.input_back, self.recurrent_back
        )


class RecurrentPass(Pass):
    """Buffers of one forward and backward through a stack of layers.

    States, gates and gradients of layer l and direction d stand under the index ``k = l * D + d``.
    """

    layer: "Recurrent"

    def prepare(self, layout, x, seed, initial_state=None, sequence=None):
        """As `Pass.prepare`; `initial_state` holds (L * D, B, H) arrays in the order of the layout's rows."""
        layer, buffers = self.layer, self.buffers
        self.sequence = layer.return_sequences if sequence is None else sequence
        self.layout, self.seed = layout, seed
        self.packed = layer.packed(self.training)
        units = padded(layer.hidden_size, layer.dtype)
        state_count = len(layer.cell.states)
        gate_width = layer.cell.slots * units
        self.states, self.gates = [], []
        for k in range(layer.num_layers * layer.directions):
            states = tuple(
                buffers.matrix(("state", k, s), layout.rows + layout.total, units) for s in range(state_count)
            )
            first_rows = self._first_rows(k)
            for s, state in enumerate(states):
                state[first_rows] = 0.0
                if initial_state is not None:
                    state[first_rows, : layer.hidden_size] = initial_state[s][k]
            self.states.append(states)
            if self.training:
                self.gates.append(buffers.matrix(("gates", k), layout.total, gate_width))
        width = layer.directions * layer.hidden_size
        self.inputs = [x]
        for level in range(layer.num_layers):
            last = level == layer.num_layers - 1
            if not last or self.sequence:
                dropped = not last and self.training and layer.dropout > 0.0
                self.inputs.append(self._output_matrix(level, dropped, padded(width, layer.dtype)))
        if not self.sequence:
            self.inputs.append(buffers.matrix("last", layout.rows, padded(width, layer.dtype)))
        self.operations = 2 * layout.total * layer.flat_values.size
        return (layout if self.sequence else layout.last), self.inputs[-1]

    def _first_rows(self, k):
        """Rows of the initial state among the states."""
        reverse = k % self.layer.directions
        return self.layout.last_state_rows if reverse else self.layout.first_state_rows

    def _final_rows(self, k):
        """Rows of the final state among the states."""
        reverse = k % self.layer.directions
        return self.layout.first_state_rows if reverse else self.layout.last_state_rows

    def _output_rows(self, k):
        """Row among the states of every step's output."""
        reverse = k % self.layer.directions
        return self.layout.slot_rows if reverse else self.layout.next_slot_rows

    def _output_matrix(self, level, dropped, width):
        """Outputs of a level. Of a single direction they are the states themselves, without a copy."""
        if self.layer.directions == 1 and not dropped:
            return self.states[level][0][self.layout.rows :]
        return self.buffers.matrix(("output", level), self.layout.total, width)

    def forward(self, start, stop):
        layer, layout = self.layer, self.layout
        for level in range(layer.num_layers):
            for direction in range(layer.directions):
                k = level * layer.directions + direction
                gates = self.gates[k] if self.training else self._scratch(stop - start)
                scan.forward(
                    self.packed[k].weights, self.inputs[level], self.states[k], gates, self.training,
                    layout.active, layout.offset, layout.slot, start, stop, direction == 1,
                )  # fmt: skip
            if level < layer.num_layers - 1 or self.sequence:
                self._join_outputs(level, start, stop)
        if not self.sequence:
            for direction in range(layer.directions):
                k = (layer.num_layers - 1) * layer.directions + direction
                column = direction * layer.hidden_size
                last = self.states[k][0][self._final_rows(k)[start:stop], : layer.hidden_size]
                self.inputs[-1][start:stop, column : column + layer.hidden_size] = last

    def _scratch(self, rows):
        gate_width = self.layer.cell.slots * padded(self.layer.hidden_size, self.layer.dtype)
        steps = max(1, SCRATCH_ROWS // rows)
        return aligned_zeros((rows * steps, gate_width), self.layer.dtype)

    def _join_outputs(self, level, start, stop):
        layer, layout, target = self.layer, self.layout, self.inputs[level + 1]
        if layer.directions == 2:
            for direction in range(2):
                k = level * 2 + direction
                scan.copy_outputs(
                    self.states[k][0], target, direction * layer.hidden_size, layer.hidden_size,
                    layout.active, layout.offset, layout.slot, start, stop, direction == 1,
                )  # fmt: skip
        if self._drops(level):
            source = target if layer.directions == 2 else self.states[level][0][layout.rows :]
            self._drop(level, source, target, start, stop)

    def _drops(self, level):
        return level < self.layer.num_layers - 1 and self.training and self.layer.dropout > 0.0

    def _drop(self, level, source, target, start, stop):
        layout, width = self.layout, self.layer.directions * self.layer.hidden_size
        seed = seed_of(self.seed, level)
        drop(
            source, target, width, self.layer.dropout, seed, layout.order, layout.active, layout.offset,
            start, stop,
        )  # fmt: skip

    def prepare_backward(self, dy, need_dx, dstate=None):
        """As `Pass.prepare_backward`; `dstate` holds (L * D, B, H) arrays in the order of the rows."""
        layer, layout, buffers = self.layer, self.layout, self.buffers
        self.dy = dy
        units = padded(layer.hidden_size, layer.dtype)
        self.carries = []
        for k in range(layer.num_layers * layer.directions):
            carry = tuple(
                buffers.matrix(("carry", k, s), layout.rows, units) for s in range(len(layer.cell.states))
            )
            for s, part in enumerate(carry):
                part[...] = 0.0
                if dstate is not None:
                    part[:, : layer.hidden_size] = dstate[s][k]
            self.carries.append(carry)
        self.dinputs = []
        for level in range(layer.num_layers):
            columns = padded(self.inputs_of(level), layer.dtype)
            wanted = level > 0 or need_dx
            self.dinputs.append(buffers.matrix(("dx", level), layout.total, columns) if wanted else None)
        return self.dinputs[0]

    def inputs_of(self, level):
        """Features that a level takes."""
        layer = self.layer
        return layer._known_input_size() if level == 0 else layer.directions * layer.hidden_size

    def backward(self, start, stop):
        layer, layout = self.layer, self.layout
        for level in reversed(range(layer.num_layers)):
            last = level == layer.num_layers - 1
            has_dy = self.sequence or not last
            dy = self.dy if last else self.dinputs[level + 1]
            if self._drops(level):
                self._drop(level, dy, dy, start, stop)
            for direction in range(layer.directions):
                k = level * layer.directions + direction
                column = direction * layer.hidden_size
                if not has_dy:
                    self.carries[k][0][start:stop, : layer.hidden_size] += dy[
                        start:stop, column : column + layer.hidden_size
                    ]
                packed = self.packed[k]
                scan.backward(
                    packed.weights, packed.recurrent_back, self.states[k], self.gates[k], dy, column, has_dy,
                    self.carries[k], layout.active, layout.offset, layout.slot, start, stop, direction == 1,
                )  # fmt: skip
                dx = self.dinputs[level]
                if dx is not None:
                    begin, stride = (dx, dx.shape[1]) if direction else (layer.zeros_for(dx.shape[1]), 0)
                    scan.input_gradients(
                        packed.weights, packed.input_back, self.gates[k], begin, stride, dx,
                        layout.active, layout.offset, start, stop,
                    )  # fmt: skip

    def weight_gradients(self, part, parts):
        layer, layout = self.layer, self.layout
        blocks = [-(-packed.groups // packed.groups_at_once) for packed in self.packed]
        first, stop = even_ranges(sum(blocks), parts)[part]
        before = 0
        for k, (packed, count) in enumerate(zip(self.packed, blocks, strict=True)):
            begin, end = max(first - before, 0), min(stop - before, count)
            before += count
            if begin < end:
                groups = begin * packed.groups_at_once, min(end * packed.groups_at_once, packed.groups)
                level, direction = divmod(k, layer.directions)
                dweights = self._packed_gradients(k)
                scan.weight_gradients(
                    packed.weights, self.inputs[level], self.states[k][0], self.gates[k],
                    layout.next_slot_rows if direction else layout.slot_rows, *dweights, *groups,
                )  # fmt: skip
                unpack_recurrent(
                    *dweights, packed.input_map, packed.recurrent_map, layer.cell.slots, *groups,
                    *layer.direction_arrays(layer._gradients, k),
                )  # fmt: skip

    def _packed_gradients(self, k):
        """Room for gradients shaped like the packed weights."""
        return tuple(
            self.buffers.matrix(("dweights", k, i), array.shape[0], array[0].size).reshape(array.shape)
            if array.ndim > 1
            else self.buffers.matrix(("dweights", k, i), 1, array.size)[0]
            for i, array in enumerate(self.packed[k].weights)
        )

    def final_states(self):
        """Tuple of (L * D, B, H) arrays, one a state, in the caller's order of rows."""
        places, hidden = self.layout.places, self.layer.hidden_size
        result = tuple(self._state_array() for _ in self.layer.cell.states)
        for k, states in enumerate(self.states):
            rows = self._final_rows(k)[places]
            for target, state in zip(result, states, strict=True):
                target[k] = state[rows, :hidden]
        return result

    def initial_gradients(self):
        """Tuple of (L * D, B, H) arrays: gradients of the initial states, in the caller's order of rows."""
        places, hidden = self.layout.places, self.layer.hidden_size
        result = tuple(self._state_array() for _ in self.layer.cell.states)
        for k, carry in enumerate(self.carries):
            for target, part in zip(result, carry, strict=True):
                target[k] = part[places, :hidden]
        return result

    def _state_array(self):
        layer = self.layer
        return np.empty((len(self.states), self.layout.rows, layer.hidden_size), layer.dtype)


class Recurrent(Layer):
    """Base of the recurrent layers; see `LSTM` for the parameters."""

    pass_class = RecurrentPass
    takes_vectors = False

    def __init__(
        self,
        cell: Cell,
        hidden_size: int,
        num_layers: int,
        bidirectional: bool,
        bias: bool,
        dropout: float,
        return_sequences: bool,
        dtype: str,
        kernel_initializer: str,
        recurrent_initializer: str,
    ) -> None:
        super().__init__(dtype)
        self.cell = cell
        self.hidden_size = check_size(hidden_size, "hidden_size")
        self.num_layers = check_size(num_layers, "num_layers")
        self.bidirectional = check_flag(bidirectional, "bidirectional")
        self.bias = check_flag(bias, "bias")
        self.dropout = check_rate(dropout, "dropout")
        self.return_sequences = check_flag(return_sequences, "return_sequences")
        self.kernel_initializer = check_choice(kernel_initializer, KERNEL_INITIALIZERS, "kernel_initializer")
        self.recurrent_initializer = check_choice(
            recurrent_initializer, RECURRENT_INITIALIZERS, "recurrent_initializer"
        )
        self.directions = 2 if bidirectional else 1
        self._packed: list[PackedDirection] = []
        self._packed_version = self._packed_back_version = -1
        self._zeros = np.zeros(0, self.dtype)

    def __repr__(self) -> str:
        options = {
            "num_layers": 1,
            "bidirectional": False,
            "bias": True,
            "dropout": 0.0,
            "return_sequences": False,
        }
        said = [
            f"{name}={getattr(self, name)!r}"
            for name, default in options.items()
            if getattr(self, name) != default
        ]
        return f"{type(self).__name__}({', '.join([str(self.hidden_size), *said])})"

    def output_size(self, input_size):
        return self.directions * self.hidden_size

    def gives_sequence(self, takes_sequence):
        return self.return_sequences

    def parameter_shapes(self, input_size):
        rows, shapes = len(self.cell.gates) * self.hidden_size, {}
        for level in range(self.num_layers):
            columns = input_size if level == 0 else self.directions * self.hidden_size
            for direction in range(self.directions):
                suffix = f"_l{level}" + ("_reverse" if direction else "")
                shapes[f"weight_ih{suffix}"] = (rows, columns)
                shapes[f"weight_hh{suffix}"] = (rows, self.hidden_size)
                if self.bias:
                    shapes[f"bias_ih{suffix}"] = shapes[f"bias_hh{suffix}"] = (rows,)
        return shapes

    def initialize(self, name, shape, rng):
        gates, hidden = len(self.cell.gates), self.hidden_size
        if name.startswith("weight"):
            chosen = self.kernel_initializer if "_ih" in name else self.recurrent_initializer
            return np.concatenate(
                [initial_matrix(chosen, hidden, shape[1], rng, units=hidden) for _ in range(gates)]
            )
        if self.kernel_initializer == "pytorch":
            return initial_matrix("pytorch", 1, shape[0], rng, units=hidden)[0]
        values = np.zeros((gates, hidden))
        if self.cell.forget_gate and "_ih" in name:
            values[self.cell.gates.index(self.cell.forget_gate)] = 1.0  # an open memory at the start
        return values.reshape(shape)

    def build(self, input_size, seed=None):
        super().build(input_size, seed)
        self._packed = []
        for k in range(self.num_layers * self.directions):
            weight_ih = self.direction_arrays(self._values, k)[0]
            self._packed.append(PackedDirection(self.cell, weight_ih.shape[1], self.hidden_size, self.dtype))
        self._packed_version = self._packed_back_version = -1

    def direction_arrays(self, arrays, k):
        """weight_ih, weight_hh, bias_ih and bias_hh of one layer and direction."""
        level, direction = divmod(k, self.directions)
        suffix = f"_l{level}" + ("_reverse" if direction else "")
        no_bias = NO_BIAS[self.dtype]
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        return [arrays.get(f"{name}{suffix}", no_bias) for name in names]

    def packed(self, with_back: bool) -> list[PackedDirection]:
        """The packed weights, brought up to date."""
        with self._packing:
            if self._packed_version != self.version:
                for k, packed in enumerate(self._packed):
                    packed.pack(*self.direction_arrays(self._values, k))
                self._packed_version = self.version
            if with_back and self._packed_back_version != self.version:
                for k, packed in enumerate(self._packed):
                    packed.pack_back(*self.direction_arrays(self._values, k)[:2])
                self._packed_back_version = self.version
        return self._packed

    def zeros_for(self, width: int) -> np.ndarray:
        """A row of zeros for sums to start from."""
        if self._zeros.size < width:
            self._zeros = aligned_zeros(width, self.dtype)
        return self._zeros

    def forward(self, x, initial_state=None, lengths=None, training=False, seed=None):
        """Run over sequences.

        Parameters
        ----------
        x : array (B, T, I) or list of arrays (T_i, I)
            Inputs. The layer builds itself on first use.
        initial_state : array (L * D, B, H), for LSTM a pair of them, optional
            ``h_0``, for LSTM ``(h_0, c_0)``; zeros by default.
        lengths : array-like of int (B,), optional
            Valid steps of each row of an array.
        training : bool
            Keep what `backward` needs, and apply dropout.
        seed : int, optional
            Fixes the dropout numbers of this call.

        Returns
        -------
        y : array (B, T, D * H) or list of arrays (T_i, D * H)
            The outputs of the last layer; 0 behind a row's end.
        state : array (L * D, B, H), for LSTM a pair of them
            The final states, each row's at its own last step.

        Raises
        ------
        TypeError, ValueError
            If an argument does not fit; it is named.
        """
        steps = self.read_input(x, lengths)
        layout = layout_of(steps.form)
        initial = self._read_states(initial_state, steps.rows, layout, "initial_state")
        run = self.take_pass(training)
        packed_x = pack_steps(
            steps, layout, "x", run.buffers.matrix("x", layout.total, padded(steps.width(), self.dtype))
        )
        if not self.built:
            self.build(steps.width())
        _, y = run.prepare(layout, packed_x, draw_seed(seed) if training else None, initial, sequence=True)
        run_forward(run, layout)
        result = unpack_steps(y, self.output_size(0), steps.form, layout)
        state = self._hand_out(run.final_states())
        self._keep(run, steps.form, layout, steps.form, layout)
        return result, state

    def backward(self, dy, dstate=None, input_gradient=True):
        """Backpropagation through the latest ``forward(training=True)``, exact and over all steps.

        Gradients of the parameters are in `gradients` afterwards; nothing accumulates.

        Parameters
        ----------
        dy : array or list of arrays
            Gradient of the outputs, in their form.
        dstate : array (L * D, B, H), for LSTM a pair of them, optional
            Gradient of the final states.
        input_gradient : bool
            False spares the work of dx.

        Returns
        -------
        dx : array or list of arrays, or None
            Gradient of `x`, in its form.
        dinitial_state : array (L * D, B, H), for LSTM a pair of them
            Gradient of the initial states.

        Raises
        ------
        RuntimeError
            If there was no such forward.
        ValueError
            If a gradient does not have the form of what it belongs to.
        """
        run, form, layout, _, _ = self.latest_pass()
        input_gradient = check_flag(input_gradient, "input_gradient")
        flat = read_like(dy, form, self.output_size(0), self.dtype, "dy")
        dfinal = self._read_states(dstate, layout.rows, layout, "dstate")
        packed = pack_steps(
            Steps(flat, form),
            layout,
            "dy",
            run.buffers.matrix("dy", layout.total, padded(flat.shape[1], self.dtype)),
        )
        dx = run.prepare_backward(packed, input_gradient, dfinal)
        run_backward(run, layout)
        dinitial = self._hand_out(run.initial_gradients())
        if dx is None:
            return None, dinitial
        return unpack_steps(dx, self._known_input_size(), form, layout), dinitial

    def step(self, x_t, state=None):
        """Advance by one time step, for streaming.

        Parameters
        ----------
        x_t : array (B, I)
            The inputs of this step.
        state : array (L, B, H), for LSTM a pair of them, optional
            The states so far; zeros by default.

        Returns
        -------
        y : array (B, H)
            The outputs of the last layer.
        state : array (L, B, H), for LSTM a pair of them
            The states after the step.

        Raises
        ------
        ValueError
            If the layer is bidirectional, which needs the future, or an argument does not fit.
        """
        if self.bidirectional:
            raise ValueError("step needs a one-way layer: a bidirectional one reads the future")
        x_t = np.asarray(x_t)
        if x_t.ndim != 2:
            raise ValueError(f"x_t must have shape (B, I), not {x_t.shape}")
        y, state = self.forward(x_t[:, None], initial_state=state)
        return y[:, 0], state

    def kernel_weights(self) -> Any:
        """The packed weights for `numbarnn.kernels`, a NamedTuple of contiguous arrays.

        It is a copy: later changes of the layer do not reach it.

        Raises
        ------
        ValueError
            If the layer has several layers or directions.
        RuntimeError
            If it has not been built.
        """
        if self.num_layers > 1 or self.bidirectional:
            raise ValueError("kernel_weights is for a single-layer, one-way layer")
        if not self.built:
            raise RuntimeError("build(input_size) the layer, or use it once, before taking its weights")
        weights = self.packed(with_back=False)[0].weights
        copies = [aligned_zeros(array.shape, self.dtype) for array in weights]
        for copy, array in zip(copies, weights, strict=True):
            copy[...] = array
        return self.cell.weights(*copies)

    def _read_states(self, state, rows, layout, name):
        """Given states as a tuple of (L * D, B, H) arrays in the layout's order, or None."""
        if state is None:
            return None
        names = self.cell.states
        if len(names) > 1:
            if not isinstance(state, (tuple, list)) or len(state) != len(names):
                raise ValueError(f"{name} must be a tuple ({', '.join(names)}) of arrays")
            parts = state
        else:
            parts = (state,)
        shape = (self.num_layers * self.directions, rows, self.hidden_size)
        result = []
        for label, part in zip(names, parts, strict=True):
            array = np.asarray(part)
            if array.dtype.kind not in "fiub":
                raise TypeError(f"{name} ({label}) must hold real numbers, not {array.dtype}")
            if array.shape != shape:
                raise ValueError(f"{name} ({label}) must have shape {shape}, not {array.shape}")
            if not np.isfinite(array).all():
                raise ValueError(f"{name} ({label}) must be finite; it holds NaN or infinity")
            result.append(array[:, layout.order].astype(self.dtype, copy=False))
        return tuple(result)

    def _hand_out(self, states):
        """A tuple of states as the cell's users know them: of one state, that state itself."""
        return states if len(states) > 1 else states[0]


class LSTM(Recurrent):
    """Long short-term memory layers.

    Parameters
    ----------
    hidden_size : int
        Hidden units H, in each direction.
    num_layers : int
        Layers L, stacked: each reads the outputs of the one below.
    bidirectional : bool
        Run a second direction from the end of each row to its beginning; outputs stand side by side.
    bias : bool
        Whether the gates have biases.
    dropout : float
        Rate at which outputs are dropped between stacked layers while training.
    return_sequences : bool
        What the next layer of a model gets: the whole sequence, or the final state of the last layer (both
        directions side by side).
    dtype : {"float32", "float64"}
        What parameters and results are made of.
    kernel_initializer : {"glorot_uniform", "orthogonal", "pytorch"}
        First values of the input weights; with ``"pytorch"`` biases too.
    recurrent_initializer : {"orthogonal", "identity", "glorot_uniform", "pytorch"}
        First values of the recurrent weights.

    Notes
    -----
    Parameters carry PyTorch's names, shapes and gate order (i, f, g, o). The forget gate's bias starts at 1
    (in ``bias_ih``). Equations and sources: `numbarnn.cells.lstm`.

    Examples
    --------
    >>> import numpy as np
    >>> import numbarnn
    >>> layer = numbarnn.LSTM(8)
    >>> y, (h_n, c_n) = layer.forward([np.ones((5, 3)), np.ones((2, 3))])
    >>> [row.shape for row in y], h_n.shape
    ([(5, 8), (2, 8)], (1, 2, 8))
    """

    def __init__(
        self,
        hidden_size: int,
        num_layers: int = 1,
        bidirectional: bool = False,
        bias: bool = True,
        dropout: float = 0.0,
        *,
        return_sequences: bool = False,
        dtype: str = "float32",
        kernel_initializer: str = "glorot_uniform",
        recurrent_initializer: str = "orthogonal",
    ) -> None:
        super().__init__(
            CELLS["lstm"], hidden_size, num_layers, bidirectional, bias, dropout, return_sequences, dtype,
            kernel_initializer, recurrent_initializer,
        )  # fmt: skip


class GRU(Recurrent):
    """Gated recurrent units.

    Parameters
    ----------
    hidden_size : int
        Hidden units H, in each direction.
    reset_after : bool
        Apply the reset gate after the recurrent product, as PyTorch and cuDNN do. Only True is built so far.
    num_layers, bidirectional, bias, dropout, return_sequences, dtype
        As in `LSTM`.
    kernel_initializer, recurrent_initializer
        As in `LSTM`.

    Notes
    -----
    Parameters carry PyTorch's names, shapes and gate order (r, z, n). Equations and sources:
    `numbarnn.cells.gru`.

    Examples
    --------
    >>> import numpy as np
    >>> import numbarnn
    >>> y, h_n = numbarnn.GRU(8, bidirectional=True).forward(np.ones((4, 5, 3)))
    >>> y.shape, h_n.shape
    ((4, 5, 16), (2, 4, 8))
    """

    def __init__(
        self,
        hidden_size: int,
        reset_after: bool = True,
        num_layers: int = 1,
        bidirectional: bool = False,
        bias: bool = True,
        dropout: float = 0.0,
        *,
        return_sequences: bool = False,
        dtype: str = "float32",
        kernel_initializer: str = "glorot_uniform",
        recurrent_initializer: str = "orthogonal",
    ) -> None:
        if not check_flag(reset_after, "reset_after"):
            raise ValueError("reset_after must be True: the other variant is not built yet")
        self.reset_after = True
        super().__init__(
            CELLS["gru"], hidden_size, num_layers, bidirectional, bias, dropout, return_sequences, dtype,
            kernel_initializer, recurrent_initializer,
        )  # fmt: skip


class RNN(Recurrent):
    """Plain recurrent layers (Elman).

    Parameters
    ----------
    hidden_size : int
        Hidden units H, in each direction.
    activation : {"tanh", "relu"}
        The nonlinearity.
    num_layers, bidirectional, bias, dropout, return_sequences, dtype
        As in `LSTM`.
    kernel_initializer
        As in `LSTM`.
    recurrent_initializer : str, optional
        As in `LSTM`; by default ``"orthogonal"`` for tanh and ``"identity"`` for relu.

    Notes
    -----
    Equations and sources: `numbarnn.cells.rnn`.

    Examples
    --------
    >>> import numpy as np
    >>> import numbarnn
    >>> y, h_n = numbarnn.RNN(8, activation="relu").forward(np.ones((4, 5, 3)))
    >>> y.shape, h_n.shape
    ((4, 5, 8), (1, 4, 8))
    """

    def __init__(
        self,
        hidden_size: int,
        activation: str = "tanh",
        num_layers: int = 1,
        bidirectional: bool = False,
        bias: bool = True,
        dropout: float = 0.0,
        *,
        return_sequences: bool = False,
        dtype: str = "float32",
        kernel_initializer: str = "glorot_uniform",
        recurrent_initializer: str | None = None,
    ) -> None:
        self.activation = check_choice(activation, ("tanh", "relu"), "activation")
        if recurrent_initializer is None:
            recurrent_initializer = "identity" if activation == "relu" else "orthogonal"
        super().__init__(
            CELLS[f"rnn_{activation}"], hidden_size, num_layers, bidirectional, bias, dropout,
            return_sequences, dtype, kernel_initializer, recurrent_initializer,
        )  # fmt: skip
