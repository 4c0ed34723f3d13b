"""Import and export of states and their gradients: small copies, as kernels.

They are kernels so that a whole pass can be recorded (``program.py``), not for their work.
"""

import numpy as np

from numbarnn.engine.fork import fork
from numbarnn.engine.program import (
    FAULT,
    FAULT_IN_STATE,
    FIRST_STATE_IN,
    NO_FAULT,
    STATES_OUT,
    array_at,
)
from numbarnn.jit.compile_cache import inlined, kernel


@inlined
def _export(part, bindings, states, rows, k, count, hidden):
    out = array_at(bindings[STATES_OUT], len(states) * count * rows.size, hidden, states[0])
    for s in range(len(states)):
        state = states[s]
        for i in range(rows.size):
            for j in range(hidden):
                out[(s * count + k) * rows.size + i, j] = state[rows[i], j]


@kernel
def export_states(team, bindings, states, rows, k, count, hidden):
    """Rows of the states of layer and direction k of `count` into the array of the binding STATES_OUT.

    That one has the shape (states, count, B, H); `rows` says, for the caller's B rows, where each stands.
    """
    fork(team, 1, _export, bindings, states, rows, k, count, hidden)


@inlined
def _import(part, bindings, states, rows, k, count, hidden):
    for s in range(len(states)):
        state, address = states[s], bindings[FIRST_STATE_IN + s]
        given = array_at(address, count * rows.size, hidden, states[0])
        sound = True
        for i in range(rows.size):
            for j in range(hidden):
                value = given[k * rows.size + i, j] if address != 0 else state.dtype.type(0.0)
                sound &= np.isfinite(value)
                state[rows[i], j] = value
        if not sound and bindings[FAULT] == NO_FAULT:
            bindings[FAULT] = FAULT_IN_STATE - s


@kernel
def import_states(team, bindings, states, rows, k, count, hidden):
    """The inverse of `export_states`: each state has a binding and an array (count, B, H); zeros without
    one.

    A number that is not finite becomes the bindings' FAULT.
    """
    fork(team, 1, _import, bindings, states, rows, k, count, hidden)


@inlined
def _copy_states(part, state, rows, y, column, hidden):
    for i in range(rows.size):
        for j in range(hidden):
            y[i, column + j] = state[rows[i], j]


@kernel
def copy_states(team, state, rows, y, column, hidden):
    """``y[i] = state[rows[i]]``, in the columns of y from `column` on."""
    fork(team, 1, _copy_states, state, rows, y, column, hidden)


@inlined
def _add_to_state(part, dstate, rows, dy, column, hidden):
    for i in range(rows.size):
        for j in range(hidden):
            dstate[rows[i], j] += dy[i, column + j]


@kernel
def add_to_state(team, dstate, rows, dy, column, hidden):
    """``dstate[rows[i]] += dy[i]``, of the columns of dy from `column` on."""
    fork(team, 1, _add_to_state, dstate, rows, dy, column, hidden)


@inlined
def _sum_rows(part, matrices, sums):
    for v in range(len(sums)):
        matrix = matrices[v]
        for unit in range(sums[v].size):
            total = 0.0
            for row in range(matrix.shape[0]):
                total += np.float64(matrix[row, unit])
            sums[v][unit] = total


@kernel
def sum_rows(team, matrices, sums):
    """Each array (H,) of `sums` gets the sum of the rows of its matrix (rows, at least H), in float64 and
    in their order."""
    fork(team, 1, _sum_rows, matrices, sums)


@inlined
def _clear(part, arrays, rows):
    for s in range(len(arrays)):
        array = arrays[s]
        for i in range(rows.size):
            for j in range(array.shape[1]):
                array[rows[i], j] = 0.0


@kernel
def clear(team, arrays, rows):
    """Zeros in these rows of all arrays of a tuple."""
    fork(team, 1, _clear, arrays, rows)
