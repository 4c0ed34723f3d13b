"""The registry of cells, and how compiled code reaches the mathematics of one.

A kernel calls ``cell_forward(weights, ...)``; the class of `weights` chooses the cell at compile time, and in
plain Python at run time.
"""

from numba.extending import overload

from numbarnn.cells.contract import Cell
from numbarnn.cells.gru import GRU
from numbarnn.cells.lstm import LSTM
from numbarnn.cells.rnn import RELU, TANH
from numbarnn.jit.compile_cache import INLINED_OPTIONS, inlined
from numbarnn.jit.vector_memory import load_run

CELLS: dict[str, Cell] = {cell.name: cell for cell in (TANH, RELU, LSTM, GRU)}
_BY_WEIGHTS = {cell.weights: cell for cell in CELLS.values()}
for _cell in CELLS.values():
    inlined(_cell.forward)
    inlined(_cell.backward)


def cell_of(weights_class: type) -> Cell:
    """The cell of a class of packed weights."""
    return _BY_WEIGHTS[weights_class]


def cell_forward(weights, sums, states):
    """``(saved, new_states)``: one step of the cell that `weights` belongs to."""
    return _BY_WEIGHTS[type(weights)].forward(sums, states)


def cell_backward(weights, saved, previous, new, dstates):
    """``(dsums, dprevious)``: backward of one step of the cell that `weights` belongs to."""
    return _BY_WEIGHTS[type(weights)].backward(saved, previous, new, dstates)


def sum_count_of(weights):
    """Sums kept for a hidden unit; a constant in kernels."""
    return _BY_WEIGHTS[type(weights)].slots


def product_width_of(weights):
    """Sums that one of the two products fills; a constant in kernels."""
    return _BY_WEIGHTS[type(weights)].window


def panel_vectors(weights):
    """Vectors in a panel of the packed weights; a constant in kernels."""
    return _BY_WEIGHTS[type(weights)].panel_vectors


def load_sums(weights, gates, index):
    """The sums of one group of hidden units, a vector a sum."""
    return load_run(gates, index, _BY_WEIGHTS[type(weights)].slots)


def _cell_of(weights) -> Cell:
    """The cell of a NamedTuple's Numba type."""
    return _BY_WEIGHTS[weights.instance_class]


@overload(cell_forward, jit_options=INLINED_OPTIONS, target="generic")
def _overload_forward(weights, sums, states):
    step = _cell_of(weights).forward
    return lambda weights, sums, states: step(sums, states)


@overload(cell_backward, jit_options=INLINED_OPTIONS, target="generic")
def _overload_backward(weights, saved, previous, new, dstates):
    step = _cell_of(weights).backward
    return lambda weights, saved, previous, new, dstates: step(saved, previous, new, dstates)


@overload(sum_count_of, target="generic")
def _overload_sum_count_of(weights):
    number = _cell_of(weights).slots
    return lambda weights: number


@overload(product_width_of, target="generic")
def _overload_product_width_of(weights):
    number = _cell_of(weights).window
    return lambda weights: number


@overload(panel_vectors, target="generic")
def _overload_panel_vectors(weights):
    number = _cell_of(weights).panel_vectors
    return lambda weights: number


@overload(load_sums)
def _overload_load_sums(weights, gates, index):
    number = _cell_of(weights).slots
    return lambda weights, gates, index: load_run(gates, index, number)
