"""The registry of cells, and how compiled code reaches the mathematics of one.

A kernel calls ``cell_forward(weights, ...)``; the class of `weights` chooses the cell at compile time, and in
plain Python at run time.
"""

from numba.extending import overload

from numbarnn.cells.contract import Cell
from numbarnn.cells.gru import GRU
from numbarnn.cells.lstm import LSTM, PEEPHOLE_LSTM
from numbarnn.cells.rnn import PLAIN_CELLS
from numbarnn.jit.compile_cache import INLINED_OPTIONS, inlined
from numbarnn.jit.vector_memory import load_run
from numbarnn.jit.vectors import add_each, lane_count

CELLS: dict[str, Cell] = {cell.name: cell for cell in (*PLAIN_CELLS.values(), LSTM, PEEPHOLE_LSTM, GRU)}
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


def cell_forward(weights, group, sums, states):
    """``(saved, new_states)``: one step of a group of units of the cell that `weights` belongs to."""
    cell = _BY_WEIGHTS[type(weights)]
    return cell.forward(sums, states, *_plain_vectors(cell, weights, group))


def cell_backward(weights, group, saved, previous, new, dstates):
    """``(dsums, dprevious)``: backward of one step of a group of units of the cell that `weights` belongs to.

    Where the cell has vectors, the sums of their gradients so far follow the gradients of the states in
    `dstates`, and with this step those of the previous states in `dprevious`.
    """
    cell, count = _BY_WEIGHTS[type(weights)], len(new)
    vectors = _plain_vectors(cell, weights, group)
    dsums, dprevious, *dvectors = cell.backward(saved, previous, new, dstates[:count], *vectors)
    return dsums, (*dprevious, *(add_each(dstates[count:], dvectors[0]) if dvectors else ()))


def _plain_vectors(cell, weights, group):
    """The vectors of a group of units as the last argument of a cell's functions, or none."""
    return (load_vectors(weights, group),) if cell.vectors else ()


def load_vectors(weights, group):
    """The vectors of one group of hidden units, of a cell that has some."""
    count = len(_BY_WEIGHTS[type(weights)].vectors)
    return load_run(weights.vectors, group * count * lane_count(weights.vectors), count)


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
def _overload_forward(weights, group, sums, states):
    cell = _cell_of(weights)
    step = cell.forward
    if cell.vectors:
        return lambda weights, group, sums, states: step(sums, states, load_vectors(weights, group))
    return lambda weights, group, sums, states: step(sums, states)


@overload(cell_backward, jit_options=INLINED_OPTIONS, target="generic")
def _overload_backward(weights, group, saved, previous, new, dstates):
    cell = _cell_of(weights)
    step, count = cell.backward, len(cell.states)
    if not cell.vectors:
        return lambda weights, group, saved, previous, new, dstates: step(saved, previous, new, dstates)

    def backward(weights, group, saved, previous, new, dstates):
        vectors = load_vectors(weights, group)
        dsums, dprevious, dvectors = step(saved, previous, new, dstates[:count], vectors)
        return dsums, dprevious + add_each(dstates[count:], dvectors)

    return backward


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


@overload(load_vectors)
def _overload_load_vectors(weights, group):
    number = len(_cell_of(weights).vectors)
    return lambda weights, group: load_run(
        weights.vectors, group * number * lane_count(weights.vectors), number
    )
