"""The oracle: recurrent networks in plain NumPy float64, one row and one step at a time.

Equations, gate order and names are PyTorch's (torch.nn.RNN, LSTM, GRU). Nothing of numbarnn is imported, and
being obviously right goes before being fast.

Letters: T steps, B rows, I inputs, H hidden units, G gates, L layers, D directions. A gradient has its
array's name with ``d`` in front. One layer in one direction is a scan; it owns slot ``l*D + d`` of a state.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np


class Weights(NamedTuple):
    """The parameters of one scan, or their gradients."""

    weight_ih: np.ndarray  # (G*H, I)
    weight_hh: np.ndarray  # (G*H, H)
    bias_ih: np.ndarray  # (G*H,)
    bias_hh: np.ndarray  # (G*H,)


def sigmoid(x):
    return 0.5 * (1.0 + np.tanh(0.5 * x))  # of the two usual forms, the one that cannot overflow


def project(weights, x, h):
    """What the input and the recurrent side send to the gates: two (G*H,) vectors."""
    return weights.weight_ih @ x + weights.bias_ih, weights.weight_hh @ h + weights.bias_hh


def project_backward(weights, x, h, da, db):
    """Undo ``a, b = project(weights, x, h)``."""
    dweights = Weights(np.outer(da, x), np.outer(db, h), da, db)
    return weights.weight_ih.T @ da, weights.weight_hh.T @ db, dweights


# Each cell: forward(weights, x, state) -> state_next, saved
#            backward(weights, saved, dstate_next) -> dx, dstate, dweights
# x is (I,). A state is a tuple of (H,) arrays that begins with h.


def rnn_tanh_forward(weights, x, state):
    (h,) = state
    a, b = project(weights, x, h)
    h_next = np.tanh(a + b)
    return (h_next,), (x, h, h_next)


def rnn_tanh_backward(weights, saved, dstate_next):
    x, h, h_next = saved
    (dh_next,) = dstate_next
    da = dh_next * (1.0 - h_next**2)  # undoes h_next = tanh(a + b)
    dx, dh, dweights = project_backward(weights, x, h, da, da)
    return dx, (dh,), dweights


def rnn_relu_forward(weights, x, state):
    (h,) = state
    a, b = project(weights, x, h)
    h_next = np.maximum(a + b, 0.0)
    return (h_next,), (x, h, h_next)


def rnn_relu_backward(weights, saved, dstate_next):
    x, h, h_next = saved
    (dh_next,) = dstate_next
    da = dh_next * (h_next > 0.0)  # undoes h_next = max(a + b, 0)
    dx, dh, dweights = project_backward(weights, x, h, da, da)
    return dx, (dh,), dweights


def lstm_forward(weights, x, state):
    h, c = state
    a, b = project(weights, x, h)
    a_i, a_f, a_g, a_o = np.split(a + b, 4)
    i, f, g, o = sigmoid(a_i), sigmoid(a_f), np.tanh(a_g), sigmoid(a_o)
    c_next = f * c + i * g
    h_next = o * np.tanh(c_next)
    return (h_next, c_next), (x, h, c, i, f, g, o, np.tanh(c_next))


def lstm_backward(weights, saved, dstate_next):
    x, h, c, i, f, g, o, tanh_c_next = saved
    dh_next, dc_next = dstate_next
    do = dh_next * tanh_c_next  # undoes h_next = o * tanh(c_next)
    dc_next = dc_next + dh_next * o * (1.0 - tanh_c_next**2)
    df, dc, di, dg = dc_next * c, dc_next * f, dc_next * g, dc_next * i  # undoes c_next = f * c + i * g
    da_i, da_f, da_g, da_o = di * i * (1.0 - i), df * f * (1.0 - f), dg * (1.0 - g**2), do * o * (1.0 - o)
    da = np.concatenate([da_i, da_f, da_g, da_o])
    dx, dh, dweights = project_backward(weights, x, h, da, da)
    return dx, (dh, dc), dweights


def gru_forward(weights, x, state):
    (h,) = state
    a, b = project(weights, x, h)
    a_r, a_z, a_n = np.split(a, 3)
    b_r, b_z, b_n = np.split(b, 3)
    r, z = sigmoid(a_r + b_r), sigmoid(a_z + b_z)
    n = np.tanh(a_n + r * b_n)  # reset_after: r scales the recurrent product, its bias included
    h_next = (1.0 - z) * n + z * h
    return (h_next,), (x, h, r, z, n, b_n)


def gru_backward(weights, saved, dstate_next):
    x, h, r, z, n, b_n = saved
    (dh_next,) = dstate_next
    dn, dz, dh_kept = dh_next * (1.0 - z), dh_next * (h - n), dh_next * z  # undoes h_next = (1-z) * n + z * h
    da_n = dn * (1.0 - n**2)  # undoes n = tanh(a_n + r * b_n)
    dr, db_n = da_n * b_n, da_n * r
    da_r, da_z = dr * r * (1.0 - r), dz * z * (1.0 - z)  # undoes r, z = sigmoid(...)
    da, db = np.concatenate([da_r, da_z, da_n]), np.concatenate([da_r, da_z, db_n])
    dx, dh, dweights = project_backward(weights, x, h, da, db)
    return dx, (dh + dh_kept,), dweights


class Cell(NamedTuple):
    forward: Callable
    backward: Callable
    gates: int
    states: int


CELLS = {
    "rnn_tanh": Cell(rnn_tanh_forward, rnn_tanh_backward, gates=1, states=1),
    "rnn_relu": Cell(rnn_relu_forward, rnn_relu_backward, gates=1, states=1),
    "lstm": Cell(lstm_forward, lstm_backward, gates=4, states=2),
    "gru": Cell(gru_forward, gru_backward, gates=3, states=1),
}


def walk(steps, reverse):
    return range(steps - 1, -1, -1) if reverse else range(steps)


def scan_forward(cell, weights, x, state, reverse):
    """One row through one scan: y (T_i, H), the state after the last step walked, what backward needs."""
    y, saved = np.zeros((len(x), len(state[0]))), [None] * len(x)
    for t in walk(len(x), reverse):
        state, saved[t] = cell.forward(weights, x[t], state)
        y[t] = state[0]
    return y, state, saved


def scan_backward(cell, weights, saved, dy, dstate, reverse):
    """Undo ``scan_forward``: dx (T_i, I), dstate of the state it began with, dweights."""
    dx = np.zeros((len(dy), weights.weight_ih.shape[1]))
    dweights = Weights(*map(np.zeros_like, weights))
    for t in walk(len(dy), not reverse):
        dstate = (dstate[0] + dy[t], *dstate[1:])  # undoes y[t] = h
        dx[t], dstate, dweights_t = cell.backward(weights, saved[t], dstate)
        dweights = Weights(*(total + part for total, part in zip(dweights, dweights_t, strict=True)))
    return dx, dstate, dweights


def parameter_names(layer, direction):
    return Weights(*(f"{field}_l{layer}{'_reverse' * direction}" for field in Weights._fields))


def scan_weights(parameters, layer, direction):
    """The float64 weights of one scan; a bias that ``parameters`` has not is 0."""
    names = parameter_names(layer, direction)
    zeros = np.zeros(len(parameters[names.weight_hh]))
    return Weights(*(np.asarray(parameters.get(name, zeros), np.float64) for name in names))


def unpack_state(state, cell, scans, rows, hidden_size):
    """A public state (None, h_n or (h_n, c_n)) as a tuple of float64 arrays (L*D, B, H), copied."""
    if state is None:
        return tuple(np.zeros((scans, rows, hidden_size)) for _ in range(cell.states))
    return tuple(np.array(part, np.float64) for part in (state if cell.states > 1 else (state,)))


def pack_state(state):
    """The tuple as the public form: h_n alone, or (h_n, c_n)."""
    return state if len(state) > 1 else state[0]


class Tape(NamedTuple):
    """What ``forward`` keeps for ``backward``."""

    cell: Cell
    parameters: dict[str, np.ndarray]
    num_layers: int
    directions: int
    dropout_masks: list[list[np.ndarray]] | None
    saved: dict[tuple[int, int, int], Any]  # by row, layer, direction


def forward(
    cell, parameters, x_list, initial_state=None, num_layers=1, bidirectional=False, dropout_masks=None
):
    """Run each row (T_i, I) by itself: outputs [(T_i, D*H)], final states (L*D, B, H), the tape.

    ``dropout_masks[l][row]`` (T_i, D*H) multiplies the output of layer ``l`` on its way into layer ``l + 1``.
    """
    cell, directions, saved = CELLS[cell], 1 + bidirectional, {}
    hidden_size = parameters["weight_hh_l0"].shape[1]
    initial = unpack_state(initial_state, cell, num_layers * directions, len(x_list), hidden_size)
    final = tuple(np.zeros_like(part) for part in initial)
    outputs = []
    for row, x in enumerate(x_list):
        x = np.asarray(x, np.float64)
        for layer in range(num_layers):
            if layer > 0 and dropout_masks is not None:
                x = x * dropout_masks[layer - 1][row]
            y = []
            for d in range(directions):
                slot = layer * directions + d
                state = tuple(part[slot, row] for part in initial)
                weights = scan_weights(parameters, layer, d)
                y_d, state, saved[row, layer, d] = scan_forward(cell, weights, x, state, reverse=d == 1)
                y.append(y_d)
                for part, value in zip(final, state, strict=True):
                    part[slot, row] = value
            x = np.concatenate(y, axis=1)
        outputs.append(x)
    return outputs, pack_state(final), Tape(cell, parameters, num_layers, directions, dropout_masks, saved)


def backward(tape, dy_list, dstate=None):
    """Undo ``forward``, given the gradients of its results: dx [(T_i, I)], dinitial_state, gradients."""
    cell, parameters, num_layers, directions, dropout_masks, saved = tape
    hidden_size = parameters["weight_hh_l0"].shape[1]
    dfinal = unpack_state(dstate, cell, num_layers * directions, len(dy_list), hidden_size)
    dinitial = tuple(np.zeros_like(part) for part in dfinal)
    gradients = {name: np.zeros(np.shape(value)) for name, value in parameters.items()}
    dx_list = []
    for row, dy in enumerate(dy_list):
        dy = np.asarray(dy, np.float64)
        for layer in reversed(range(num_layers)):
            dx = 0.0
            for d, dy_d in enumerate(np.split(dy, directions, axis=1)):  # undoes x = concatenate(y)
                slot = layer * directions + d
                dstate = tuple(part[slot, row] for part in dfinal)
                weights = scan_weights(parameters, layer, d)
                dx_d, dstate, dweights = scan_backward(
                    cell, weights, saved[row, layer, d], dy_d, dstate, reverse=d == 1
                )
                dx = dx + dx_d  # both directions read the same x
                for part, value in zip(dinitial, dstate, strict=True):
                    part[slot, row] = value
                for name, value in zip(parameter_names(layer, d), dweights, strict=True):
                    if name in gradients:
                        gradients[name] += value
            if layer > 0 and dropout_masks is not None:
                dx = dx * dropout_masks[layer - 1][row]
            dy = dx
        dx_list.append(dy)
    return dx_list, pack_state(dinitial), gradients


class Results(NamedTuple):
    """All that a forward and a backward pass give; what is a sequence is a list over rows."""

    outputs: list[np.ndarray]
    state: Any
    dx: list[np.ndarray]
    dinitial_state: Any
    gradients: dict[str, np.ndarray]


def run(
    cell, parameters, x_list, initial_state, dy_list, dstate, num_layers, bidirectional, dropout_masks=None
):
    """Forward, then backward from gradients of the outputs and of the final states."""
    y, state, tape = forward(
        cell, parameters, x_list, initial_state, num_layers, bidirectional, dropout_masks
    )
    return Results(y, state, *backward(tape, dy_list, dstate))
