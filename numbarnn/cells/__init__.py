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
_BY_WEIGHTS: dict[type, Cell] = {}


def register(cell: Cell) -> None:
    """Make a cell known to kernels; `Recurrent` layers can then be made of it.

    Raises
    ------
    ValueError
        If the class of its weights belongs to another cell.
    """
    known = _BY_WEIGHTS.setdefault(cell.weights, cell)
    if known is not cell:
        raise ValueError(f"weights: {cell.weights.__name__} belongs to the cell {known.name!r} already")
    inlined(cell.forward)
    inlined(cell.backward)


for _cell in CELLS.values():
    register(_cell)


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
    return _BY_WEIGHTS[type(weights)].sum_count


def product_width_of(weights):
    """Sums that one of the two products fills; a constant in kernels."""
    return _BY_WEIGHTS[type(weights)].product_width


def panel_vectors(weights):
    """Vectors in a panel of the packed weights; a constant in kernels."""
    return _BY_WEIGHTS[type(weights)].panel_vectors


def groups_at_once(weights):
    """Groups of hidden units that fill whole panels together; a constant in kernels."""
    return _BY_WEIGHTS[type(weights)].groups_at_once


def load_sums(weights, gates, index):
    """The sums of one group of hidden units, a vector a sum."""
    return load_run(gates, index, _BY_WEIGHTS[type(weights)].sum_count)


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
    number = _cell_of(weights).sum_count
    return lambda weights: number


@overload(product_width_of, target="generic")
def _overload_product_width_of(weights):
    number = _cell_of(weights).product_width
    return lambda weights: number


@overload(panel_vectors, target="generic")
def _overload_panel_vectors(weights):
    number = _cell_of(weights).panel_vectors
    return lambda weights: number


@overload(groups_at_once, target="generic")
def _overload_groups_at_once(weights):
    number = _cell_of(weights).groups_at_once
    return lambda weights: number


@overload(load_sums)
def _overload_load_sums(weights, gates, index):
    number = _cell_of(weights).sum_count
    return lambda weights, gates, index: load_run(gates, index, number)
