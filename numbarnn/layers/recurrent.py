"""RNN, LSTM and GRU: stacked and bidirectional layers of one cell."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from numbarnn import arguments
from numbarnn.cells import CELLS
from numbarnn.cells.contract import PARAMETERS, Cell
from numbarnn.cells.rnn import PLAIN_CELLS
from numbarnn.devices import is_on_gpu
from numbarnn.engine.guards import Hold, use_guards
from numbarnn.engine.packing import aligned_zeros, empty_matrix
from numbarnn.engine.program import FAULT_IN_STATE, NO_FAULT, STATES_IN
from numbarnn.layers.base import Layer
from numbarnn.layers.initializers import RECURRENT_INITIALIZERS, WEIGHT_INITIALIZERS, initial_matrix
from numbarnn.layers.parameters import hold_packed
from numbarnn.layers.recurrent_pass import RecurrentPass
from numbarnn.layers.weight_panels import RecurrentParameters
from numbarnn.sequences.reading import (
    BatchForm,
    FlatBatch,
    array_form,
    check_finite,
    fault_error,
    full_form,
    in_form,
    read_like,
)

NO_BIAS = {np.dtype(name): np.zeros(0, name) for name in ("float32", "float64")}
PRECISIONS = ("float32", "tf32", "float16")
MOST_LAYERS = 10_000  # stacked; a number beyond is a slip, and would only run out of memory


class Recurrent(Layer):
    """Base of the recurrent layers; see `LSTM` for the parameters."""

    pass_class = RecurrentPass
    store_class = RecurrentParameters
    cuda_pass = "recurrent_pass", "RecurrentCuda"
    takes_vectors = False
    checks_while_reading = True

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
        device: str,
        precision: str,
        weight_initializer: str,
        recurrent_initializer: str,
    ) -> None:
        super().__init__(dtype, device)
        self.cell = cell
        self.hidden_size = arguments.count("hidden_size", hidden_size)
        self.num_layers = arguments.count("num_layers", num_layers)
        if num_layers > MOST_LAYERS:
            raise ValueError(f"num_layers must be at most {MOST_LAYERS}, got {num_layers}")
        self.bidirectional = arguments.flag("bidirectional", bidirectional)
        self.bias = arguments.flag("bias", bias)
        self.dropout = arguments.fraction("dropout", dropout)
        self.return_sequences = arguments.flag("return_sequences", return_sequences)
        self.weight_initializer = arguments.one_of(
            "weight_initializer", weight_initializer, WEIGHT_INITIALIZERS
        )
        self.recurrent_initializer = arguments.one_of(
            "recurrent_initializer", recurrent_initializer, RECURRENT_INITIALIZERS
        )
        self.precision = arguments.one_of("precision", precision, PRECISIONS)
        if precision != "float32" and self.dtype != np.float32:
            raise ValueError(f'precision={precision!r} needs dtype="float32", not dtype="{self.dtype}"')
        self.directions = 2 if bidirectional else 1
        self._zeros = np.zeros(0, self.dtype)
        self._no_states = (np.zeros((0, 0, 0), self.dtype),) * max(STATES_IN, len(cell.states))

    def __repr__(self) -> str:
        options = {
            "activation": "tanh",
            "reset_after": True,
            "num_layers": 1,
            "bidirectional": False,
            "bias": True,
            "peephole": False,
            "dropout": 0.0,
            "return_sequences": False,
            "device": "cpu",
            "precision": "float32",
        }
        said = [
            f"{name}={getattr(self, name)!r}"
            for name, default in options.items()
            if getattr(self, name, default) != default
        ]
        return f"{type(self).__name__}({', '.join([str(self.hidden_size), *said])})"

    def output_size(self, input_size: int) -> int:
        return self.directions * self.hidden_size

    def gives_sequence(self, takes_sequence: bool) -> bool:
        return self.return_sequences

    def parameter_shapes(self, input_size: int) -> dict[str, tuple[int, ...]]:
        rows = len(self.cell.gates) * self.hidden_size
        shapes: dict[str, tuple[int, ...]] = {}
        for level in range(self.num_layers):
            columns = input_size if level == 0 else self.directions * self.hidden_size
            for direction in range(self.directions):
                suffix = f"_l{level}" + ("_reverse" if direction else "")
                shapes[f"weight_ih{suffix}"] = (rows, columns)
                shapes[f"weight_hh{suffix}"] = (rows, self.hidden_size)
                if self.bias:
                    shapes[f"bias_ih{suffix}"] = shapes[f"bias_hh{suffix}"] = (rows,)
                for vector in self.cell.vectors:
                    shapes[f"{vector}{suffix}"] = (self.hidden_size,)
        return shapes

    def initialize(
        self, name: str, shape: tuple[int, ...], input_size: int, rng: np.random.Generator
    ) -> np.ndarray:
        gates, hidden = len(self.cell.gates), self.hidden_size
        is_vector = name.rsplit("_l", 1)[0] in self.cell.vectors
        if name.startswith("weight") and not is_vector:
            chosen = self.weight_initializer if "_ih" in name else self.recurrent_initializer
            return np.concatenate(
                [initial_matrix(chosen, hidden, shape[1], rng, units=hidden) for _ in range(gates)]
            )
        if self.weight_initializer == "pytorch":
            return initial_matrix("pytorch", 1, shape[0], rng, units=hidden).reshape(shape)
        if is_vector:
            return np.zeros(shape)
        values = np.zeros((gates, hidden))
        if self.cell.forget_gate and "_ih" in name:
            values[self.cell.gates.index(self.cell.forget_gate)] = 1.0  # an open memory at the start
        return values.reshape(shape)

    def by_direction(self, arrays: Mapping[str, np.ndarray]) -> list[tuple[np.ndarray, ...]]:
        """For every layer and direction, its (weight_ih, weight_hh, bias_ih, bias_hh)."""
        return [
            tuple(arrays.get(name + suffix, NO_BIAS[self.dtype]) for name in PARAMETERS)
            for suffix in self._suffixes()
        ]

    def vectors_by_direction(self, arrays: Mapping[str, np.ndarray]) -> list[tuple[np.ndarray, ...]]:
        """For every layer and direction, the vectors of its cell."""
        return [tuple(arrays[name + suffix] for name in self.cell.vectors) for suffix in self._suffixes()]

    def _suffixes(self) -> list[str]:
        """What every layer and direction adds to the names of its parameters."""
        ends = ["", "_reverse"][: self.directions]
        return [f"_l{level}{end}" for level in range(self.num_layers) for end in ends]

    def zeros_for(self, width: int) -> np.ndarray:
        """A row of zeros for sums to start from."""
        if self._zeros.size < width:
            self._zeros = aligned_zeros(width, self.dtype)
        return self._zeros

    def forward(
        self,
        x: Any,
        initial_state: Any = None,
        lengths: Any = None,
        training: bool = False,
        seed: int | None = None,
    ) -> tuple[Any, Any]:
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
        training = arguments.flag("training", training)
        if self.device == "cuda" and is_on_gpu(x):
            from numbarnn.layers.cuda import calls as cuda_calls  # where there is a GPU, not before

            return cuda_calls.forward_recurrent(self, x, initial_state, lengths, training, seed)
        steps = self.read_input(x, lengths)
        y, state = self._run(steps, initial_state, training, seed, "x", "initial_state")
        return in_form(y, steps.form), state

    def _run(
        self,
        steps: FlatBatch,
        initial_state: Any,
        training: bool,
        seed: int | None,
        x_name: str,
        state_name: str,
    ) -> tuple[np.ndarray, Any]:
        """The outputs as a flat matrix, and the final states; errors call the arguments by these names."""
        form = steps.form
        if seed is not None or (training and self.dropout > 0.0):
            seed = arguments.seed("seed", seed)
        initial = self._read_states(initial_state, form.layout.rows, state_name)
        if not self.built:
            check_finite(steps, x_name)
            self.build_once(steps.width())
        run = self.acquire_pass(training)
        if steps.values.shape[1] != run.store.input_size:  # another thread has built the layer anew
            self.check_width(steps, run.store, x_name)
        y = empty_matrix(form.flat_rows, self.output_size(0), self.dtype)
        states = self._empty_states(form.layout.rows)
        fault = run.forward_on(form, seed, initial, steps.values, y, states)
        if fault != NO_FAULT:
            raise self._fault_error(fault, form, x_name, state_name)
        self.remember_pass(run, form, form.layout, form, form.layout)
        return y, self.export_states(states)

    def _fault_error(self, fault: int, form: BatchForm, x_name: str, state_name: str) -> ValueError:
        if fault > NO_FAULT:
            return fault_error(form, fault, x_name, self.dtype)
        name = self.cell.states[FAULT_IN_STATE - fault]
        return arguments.not_finite(f"{state_name} ({name})", self.dtype)

    def read_input(self, x: Any, lengths: Any, name: str = "x") -> FlatBatch:
        # Most calls bring an array that needs no change; a small layer runs in few microseconds.
        if type(x) is np.ndarray and x.dtype == self.dtype and x.ndim == 3:
            rows, count, width = x.shape
            store = self._store
            if store is not None and width == store.input_size and x.size and x.flags.carray:
                return FlatBatch(x.reshape(rows * count, width), array_form(rows, count, lengths))
        return super().read_input(x, lengths, name)

    def backward(self, dy: Any, dstate: Any = None, input_gradient: bool = True) -> tuple[Any, Any]:
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
        input_gradient = arguments.flag("input_gradient", input_gradient)
        entry = self.latest_pass()
        try:
            return self._backward(entry, dy, dstate, input_gradient)
        except (TypeError, ValueError):
            self.return_pass(entry)
            raise

    def _backward(self, entry: Any, dy: Any, dstate: Any, input_gradient: bool) -> tuple[Any, Any]:
        if self.device == "cuda" and is_on_gpu(dy):
            from numbarnn.layers.cuda import calls as cuda_calls  # where there is a GPU, not before

            return cuda_calls.backward_recurrent(self, entry, dy, dstate, input_gradient)
        run, form, layout, _, _ = entry
        flat = read_like(dy, form, self.output_size(0), self.dtype, "dy")
        dfinal = self._read_states(dstate, layout.rows, "dstate")
        dx = empty_matrix(form.flat_rows, run.store.input_size, self.dtype) if input_gradient else None
        dstates = self._empty_states(layout.rows)
        fault = run.backward_on(form, dfinal, flat, dx, dstates)
        if fault != NO_FAULT:
            raise self._fault_error(fault, form, "dy", "dstate")
        self.release_pass(run)
        return (None if dx is None else in_form(dx, form)), self.export_states(dstates)

    def step(self, x_t: Any, state: Any = None) -> tuple[np.ndarray, Any]:
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
        ready = type(x_t) is np.ndarray and x_t.dtype == self.dtype and x_t.flags.carray
        if not ready or x_t.ndim != 2 or x_t.shape[1] != self.input_size or not x_t.size:
            x_t = arguments.array("x_t", x_t)
            if x_t.ndim != 2:
                raise ValueError(f"x_t must have shape (B, I), not {x_t.shape}")
            x_t = self.read_input(x_t[:, None], None, "x_t").values
        return self._run(FlatBatch(x_t, full_form(len(x_t), 1)), state, False, None, "x_t", "state")

    def kernel_weights(self) -> Any:
        """The packed weights for `numbarnn.kernels`, a NamedTuple of contiguous arrays.

        It is a copy: later changes of the layer do not reach it. That of a layer on ``device="cuda"`` is for
        ``@cuda.jit`` functions.

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
        if self.device == "cuda":
            from numbarnn.layers.cuda.runs import weights_of_steps  # where a GPU is asked for

            return weights_of_steps(self)
        store: Any = self.store
        weights = store.panels[0].weights
        copies = [aligned_zeros(array.shape, self.dtype) for array in weights]
        hold = Hold(store.guards)
        try:
            hold_packed(hold, [store], training=False)
            for copy, array in zip(copies, weights, strict=True):
                copy[...] = array
        finally:
            use_guards(*hold.way_out)
        return self.cell.weights(*copies)

    def _read_states(self, state: Any, rows: int, name: str) -> tuple[np.ndarray, ...]:
        """Given states as contiguous (L * D, B, H) arrays, at least two; empty ones for none."""
        if state is None:
            return self._no_states
        shape = (self.num_layers * self.directions, rows, self.hidden_size)
        names = self.cell.states
        if len(names) == 1:
            return self._read_state(state, shape, name, "h"), self._no_states[1]
        if not isinstance(state, (tuple, list)) or len(state) != len(names):
            raise ValueError(f"{name} must be a tuple ({', '.join(names)}) of arrays")
        for given in state:
            if not self._is_ready(given, shape):
                break
        else:
            return tuple(state)  # as this layer gave them: streaming calls this every few microseconds
        return tuple(
            [self._read_state(given, shape, name, label) for given, label in zip(state, names, strict=True)]
        )

    def _is_ready(self, state: Any, shape: tuple[int, ...]) -> bool:
        """Whether kernels can read a state as it is; they find numbers that are not finite."""
        is_plain = type(state) is np.ndarray and state.shape == shape and state.dtype == self.dtype
        return is_plain and bool(state.flags.carray)

    def _read_state(self, state: Any, shape: tuple[int, ...], name: str, label: str) -> np.ndarray:
        if self._is_ready(state, shape):
            ready: np.ndarray = state
            return ready
        # Read-only arrays are a type of their own to Numba, which would compile for each combination.
        return arguments.finite_array(f"{name} ({label})", state, shape, self.dtype)

    def _empty_states(self, rows: int) -> np.ndarray:
        return np.empty(
            (len(self.cell.states), self.num_layers * self.directions, rows, self.hidden_size), self.dtype
        )

    def export_states(self, states: np.ndarray) -> Any:
        """States (S, L * D, B, H) as the cell's users know them: of one state, that state itself."""
        if len(states) == 2:
            return states[0], states[1]  # a loop takes a third of a microsecond more
        return states[0] if len(states) == 1 else tuple(states)


class LSTM(Recurrent):
    """Long short-term memory layers.

    Parameters
    ----------
    hidden_size : int
        Hidden units H, in each direction.
    peephole : bool
        Whether the input and forget gates see the cell state and the output gate sees the new one, each unit
        its own, by the parameters ``weight_ci``, ``weight_cf`` and ``weight_co`` (H,), which start at 0.
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
    device : {"cpu", "cuda"}
        Where the layer works; "cuda" is an NVIDIA GPU.
    precision : {"float32", "tf32", "float16"}
        What a GPU may round before it multiplies; sums, states and parameters stay float32, and the CPU
        rounds nothing. "tf32" lets tensor cores round both factors to 10 bits behind the point, in all
        products but the recurrent ones of layers that fit the chip. "float16" keeps the recurrent weights of
        these in 16 bits as well, so that larger layers fit; weights beyond 65504 become infinite. For first
        parameters, outputs and gradients then are off by at most 2e-3 of the largest one (all cells, H from
        16 to 256, up to 1000 steps).
    weight_initializer : {"glorot_uniform", "orthogonal", "pytorch"}
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
        *,
        peephole: bool = False,
        num_layers: int = 1,
        bidirectional: bool = False,
        bias: bool = True,
        dropout: float = 0.0,
        return_sequences: bool = False,
        dtype: str = "float32",
        device: str = "cpu",
        precision: str = "float32",
        weight_initializer: str = "glorot_uniform",
        recurrent_initializer: str = "orthogonal",
    ) -> None:
        self.peephole = arguments.flag("peephole", peephole)
        super().__init__(
            CELLS["lstm_peephole" if peephole else "lstm"], hidden_size, num_layers, bidirectional, bias,
            dropout, return_sequences, dtype, device, precision, weight_initializer, recurrent_initializer,
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
    device, precision, weight_initializer, recurrent_initializer
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
        *,
        reset_after: bool = True,
        num_layers: int = 1,
        bidirectional: bool = False,
        bias: bool = True,
        dropout: float = 0.0,
        return_sequences: bool = False,
        dtype: str = "float32",
        device: str = "cpu",
        precision: str = "float32",
        weight_initializer: str = "glorot_uniform",
        recurrent_initializer: str = "orthogonal",
    ) -> None:
        if not arguments.flag("reset_after", reset_after):
            raise ValueError("reset_after must be True: the other variant is not built yet")
        self.reset_after = True
        super().__init__(
            CELLS["gru"], hidden_size, num_layers, bidirectional, bias, dropout, return_sequences, dtype,
            device, precision, weight_initializer, recurrent_initializer,
        )  # fmt: skip


class RNN(Recurrent):
    """Plain recurrent layers (Elman).

    Parameters
    ----------
    hidden_size : int
        Hidden units H, in each direction.
    activation : str
        The nonlinearity: ``"tanh"``, ``"relu"``, ``"sigmoid"``, ``"identity"``, ``"leaky_relu"`` (slope
        0.01), ``"elu"``, ``"softsign"``, ``"softplus"``, ``"hard_tanh"`` or ``"hard_sigmoid"`` (slope 1/6).
        With ``"relu"`` the layer is an IRNN: it starts with the identity as recurrent weights.
    num_layers, bidirectional, bias, dropout, return_sequences, dtype
        As in `LSTM`.
    device, precision, weight_initializer
        As in `LSTM`.
    recurrent_initializer : str, optional
        As in `LSTM`; by default ``"identity"`` for relu and ``"orthogonal"`` for the others.

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
        *,
        activation: str = "tanh",
        num_layers: int = 1,
        bidirectional: bool = False,
        bias: bool = True,
        dropout: float = 0.0,
        return_sequences: bool = False,
        dtype: str = "float32",
        device: str = "cpu",
        precision: str = "float32",
        weight_initializer: str = "glorot_uniform",
        recurrent_initializer: str | None = None,
    ) -> None:
        self.activation = arguments.one_of("activation", activation, list(PLAIN_CELLS))
        if recurrent_initializer is None:
            recurrent_initializer = "identity" if activation == "relu" else "orthogonal"
        super().__init__(
            CELLS[f"rnn_{activation}"], hidden_size, num_layers, bidirectional, bias, dropout,
            return_sequences, dtype, device, precision, weight_initializer, recurrent_initializer,
        )  # fmt: skip
