"""Moves between matrices: rows in another order, columns side by side, sums.

They are kernels so that a whole step can be recorded (``program.py``), not for their work.
"""

import numpy as np

from numbarnn.engine.fork import fork
from numbarnn.jit.compile_cache import inlined, kernel

AS_THEY_STAND = np.zeros(0, np.int64)  # positions of rows whose order does not change


@inlined
def _find_positions(part, inverse_order, order, positions):
    for b in range(order.size):
        positions[b] = inverse_order[order[b]]


@kernel
def find_positions(team, inverse_order, order, positions):
    """Where the rows of one layout, in their `order`, stand in another one, of this `inverse_order`."""
    fork(team, 1, _find_positions, inverse_order, order, positions)


@inlined
def _take_rows(part, source, first, positions, target, target_first, columns):
    for i in range(target.shape[0]):
        row = positions[i] if positions.size > 0 else i
        for j in range(columns):
            target[i, target_first + j] = source[row, first + j]


@kernel
def take_rows(team, source, first, positions, target, target_first, columns):
    """``target[i] = source[positions[i]]``, of so many columns, from the `first` ones on."""
    fork(team, 1, _take_rows, source, first, positions, target, target_first, columns)


@inlined
def _put_rows(part, source, first, positions, target, target_first, columns):
    for i in range(source.shape[0]):
        row = positions[i] if positions.size > 0 else i
        for j in range(columns):
            target[row, target_first + j] = source[i, first + j]


@kernel
def put_rows(team, source, first, positions, target, target_first, columns):
    """``target[positions[i]] = source[i]``, of so many columns, from the `first` ones on."""
    fork(team, 1, _put_rows, source, first, positions, target, target_first, columns)


@inlined
def _add_to(part, source, target):
    for i in range(target.shape[0]):
        for j in range(target.shape[1]):
            target[i, j] += source[i, j]


@kernel
def add_to(team, source, target):
    """``target += source``."""
    fork(team, 1, _add_to, source, target)
