"""The GPU's kernels of the layers without a state, in which every thread has a number of its own.

Matrices are in packed order: step t of the row at place b is row ``offset[t] + b`` (see ``scan.py``).
A kernel is made once for a dtype, and a function beside it launches it.
"""

import functools
from typing import Any

import numpy as np

from numbarnn.engine.cuda import scalars  # noqa: F401 (the mathematics of activations, for single numbers)
from numbarnn.engine.cuda.device import SIMULATED, cuda, device
from numbarnn.engine.cuda.launch import launch_each
from numbarnn.engine.dense import RELU, SIGMOID, TANH
from numbarnn.engine.random import GOLDEN, HALF, mix, mix_integer
from numbarnn.engine.sums import SUMMED_AT_ONCE
from numbarnn.jit import activations


def _number(dtype: str, value: float) -> Any:
    """A number written out: beside a float32 a plain one would make the GPU compute in double precision."""
    return np.dtype(dtype).type(value)


# ---- rows between the caller's order and packed order ---------------------------------------------------


@functools.cache
def _movers():
    @cuda.jit
    def gather_rows(rows, source, target):
        thread = cuda.grid(1)
        row, j = thread // target.shape[1], thread % target.shape[1]
        if row < target.shape[0]:
            target[row, j] = source[rows[row], j]

    @cuda.jit
    def scatter_rows(rows, source, target):
        thread = cuda.grid(1)
        row, j = thread // source.shape[1], thread % source.shape[1]
        if row < source.shape[0]:
            target[rows[row], j] = source[row, j]

    @cuda.jit
    def order_states(which, places, states, target):
        thread = cuda.grid(1)
        count, levels, rows, hidden = target.shape
        unit, rest = thread % hidden, thread // hidden
        b, rest = rest % rows, rest // rows
        level, s = rest % levels, rest // levels
        if s < count:
            target[s, level, b, unit] = states[level, which, s, places[b], unit]

    return gather_rows, scatter_rows, order_states


def gather(rows: Any, source: Any, target: Any) -> None:
    """target[i] = source[rows[i]], of matrices."""
    launch_each(_movers()[0], target.size, rows, source, target)


def scatter(rows: Any, source: Any, target: Any) -> None:
    """target[rows[i]] = source[i], of matrices."""
    launch_each(_movers()[1], source.size, rows, source, target)


def order_states(which: int, places: Any, states: Any, target: Any) -> None:
    """Initial or final states (K, 2, S, B, H) as (S, K, B, H), row b from ``places[b]``."""
    launch_each(_movers()[2], target.size, which, places, states, target)


# ---- dropout ---------------------------------------------------------------------------------------------

if SIMULATED:
    # On Python's integers: NumPy's warn of the overflow that the hash is made of.

    @device
    def _with(key, part):
        return mix_integer(int(key) + int(GOLDEN) * int(part))

    @device
    def _high_half(bits):
        return bits >> int(HALF)

else:
    _mix = device(mix)

    @device
    def _with(key, part):
        return _mix(key + GOLDEN * np.uint64(part))

    @device
    def _high_half(bits):
        return bits >> HALF


@functools.cache
def _dropper(dtype: str):
    zero = _number(dtype, 0.0)

    @cuda.jit
    def drop_numbers(offset, lengths, order, x, y, size, threshold, scale, seed):
        thread = cuda.grid(1)
        steps = offset.size - 1
        b, rest = thread // (steps * size), thread % (steps * size)
        t, j = rest // size, rest % size
        if b < lengths.size and t < lengths[b]:
            here = offset[t] + b
            bits = _high_half(_with(_with(_with(seed, order[b]), t), j))
            y[here, j] = x[here, j] * scale if bits >= threshold else zero

    return drop_numbers


def drop(offset: Any, lengths: Any, order: Any, x: Any, y: Any, rate: float, seed: np.uint64) -> None:
    """y = x with numbers dropped at `rate` and the others scaled by 1 / (1 - rate): the same numbers as on
    the CPU (see ``random.py``). y may be x."""
    dtype, size = str(x.dtype), x.shape[1]
    threshold, scale = np.uint64(rate * 4294967296.0), _number(dtype, 1.0 / (1.0 - rate))
    count = lengths.size * (offset.size - 1) * size
    launch_each(_dropper(dtype), count, offset, lengths, order, x, y, size, threshold, scale, seed)


# ---- the nonlinearity of a dense layer -------------------------------------------------------------------

_same = device(lambda x: x)
_all_of_it = device(lambda y, dy: dy)
_tanh = device(lambda x: activations.tanh(x))
_tanh_backward = device(lambda y, dy: dy * activations.tanh_derivative(y))
_sigmoid = device(lambda x: activations.sigmoid(x))
_sigmoid_backward = device(lambda y, dy: dy * activations.sigmoid_derivative(y))


def _relu(dtype: str):
    zero = _number(dtype, 0.0)
    return device(lambda x: zero if x < zero else x), device(lambda y, dy: dy if y > zero else zero)


def _nonlinearity(code: int, dtype: str):
    """A nonlinearity, and the gradient of its argument from its result and its gradient."""
    if code == RELU:
        return _relu(dtype)
    return {TANH: (_tanh, _tanh_backward), SIGMOID: (_sigmoid, _sigmoid_backward)}.get(
        code, (_same, _all_of_it)
    )


@functools.cache
def _activator(code: int, dtype: str):
    function = _nonlinearity(code, dtype)[0]

    @cuda.jit
    def activate(sums, bias):
        thread = cuda.grid(1)
        row, j = thread // sums.shape[1], thread % sums.shape[1]
        if row < sums.shape[0]:
            sums[row, j] = function(sums[row, j] + bias[j])

    return activate


@functools.cache
def _deactivator(code: int, dtype: str):
    function = _nonlinearity(code, dtype)[1]

    @cuda.jit
    def deactivate(y, dy, dsums):
        thread = cuda.grid(1)
        row, j = thread // y.shape[1], thread % y.shape[1]
        if row < y.shape[0]:
            dsums[row, j] = function(y[row, j], dy[row, j])

    return deactivate


def activate(code: int, sums: Any, bias: Any) -> None:
    """sums = activation(sums + bias), by a code of ``dense.ACTIVATIONS``."""
    launch_each(_activator(code, str(sums.dtype)), sums.size, sums, bias)


def deactivate(code: int, y: Any, dy: Any, dsums: Any) -> None:
    """The gradient of the sums that `activate` made y of."""
    launch_each(_deactivator(code, str(y.dtype)), y.size, y, dy, dsums)


# ---- pooling over time -----------------------------------------------------------------------------------


@device
def _add_block(high, low, block):
    """A sum in two numbers, with one more block added: see ``engine/sums.py``."""
    total = high + block
    of_block = total - high
    return total, low + ((high - (total - of_block)) + (block - of_block))


@functools.cache
def _means(dtype: str):
    number, zero = np.dtype(dtype).type, _number(dtype, 0.0)

    @cuda.jit
    def average(offset, lengths, x, y):
        thread = cuda.grid(1)
        b, j = thread // y.shape[1], thread % y.shape[1]
        if b < y.shape[0]:
            high, low, part = zero, zero, zero
            for t in range(lengths[b]):
                part += x[offset[t] + b, j]
                if t % SUMMED_AT_ONCE == SUMMED_AT_ONCE - 1:
                    high, low = _add_block(high, low, part)
                    part = zero
            y[b, j] = (high + (part + low)) / number(lengths[b])

    @cuda.jit
    def share_out(offset, lengths, dy, dx):
        thread = cuda.grid(1)
        b, j = thread // dy.shape[1], thread % dy.shape[1]
        if b < dy.shape[0]:
            share = dy[b, j] / number(lengths[b])
            for t in range(lengths[b]):
                dx[offset[t] + b, j] = share

    return average, share_out


def mean_forward(offset: Any, lengths: Any, x: Any, y: Any) -> None:
    """y[b] = the mean over time of row b, summed in the order of time and in blocks."""
    launch_each(_means(str(x.dtype))[0], y.size, offset, lengths, x, y)


def mean_backward(offset: Any, lengths: Any, dy: Any, dx: Any) -> None:
    """Backward of `mean_forward`: every step gets an equal part."""
    launch_each(_means(str(dy.dtype))[1], dy.size, offset, lengths, dy, dx)


@functools.cache
def _maxima(dtype: str):
    zero = _number(dtype, 0.0)

    @cuda.jit
    def find_largest(offset, lengths, x, y, winners):
        thread = cuda.grid(1)
        b, j = thread // y.shape[1], thread % y.shape[1]
        if b < y.shape[0]:
            best, winner = x[b, j], 0
            for t in range(1, lengths[b]):
                value = x[offset[t] + b, j]
                if value > best:
                    best, winner = value, t
                elif not value <= best:  # one of them is NaN, and it stays
                    best = best + value
            y[b, j] = best
            winners[b, j] = winner

    @cuda.jit
    def give_to_winner(offset, lengths, dy, winners, dx):
        thread = cuda.grid(1)
        b, j = thread // dy.shape[1], thread % dy.shape[1]
        if b < dy.shape[0]:
            for t in range(lengths[b]):
                dx[offset[t] + b, j] = dy[b, j] if t == winners[b, j] else zero

    return find_largest, give_to_winner


def max_forward(offset: Any, lengths: Any, x: Any, y: Any, winners: Any) -> None:
    """y[b] = the maximum over time of row b; winners, the first step that has it."""
    launch_each(_maxima(str(x.dtype))[0], y.size, offset, lengths, x, y, winners)


def max_backward(offset: Any, lengths: Any, dy: Any, winners: Any, dx: Any) -> None:
    """Backward of `max_forward`: the largest step gets all."""
    launch_each(_maxima(str(dy.dtype))[1], dy.size, offset, lengths, dy, winners, dx)


# ---- embedding -------------------------------------------------------------------------------------------


@functools.cache
def _adder(dtype: str):
    zero = _number(dtype, 0.0)

    @cuda.jit
    def add_up_rows(begins, places, dy, dtable):
        thread = cuda.grid(1)
        token, j = thread // dtable.shape[1], thread % dtable.shape[1]
        if token < dtable.shape[0]:
            high, low, part = zero, zero, zero
            for i in range(begins[token], begins[token + 1]):
                part += dy[places[i], j]
                if (i - begins[token]) % SUMMED_AT_ONCE == SUMMED_AT_ONCE - 1:
                    high, low = _add_block(high, low, part)
                    part = zero
            dtable[token, j] = high + (part + low)

    return add_up_rows


def add_up(begins: Any, places: Any, dy: Any, dtable: Any) -> None:
    """dtable[k] = the sum of the rows of dy that are at ``places[begins[k] : begins[k + 1]]``, in this order
    and in blocks.

    So no two threads write one number, and the sums are the same in every run.
    """
    launch_each(_adder(str(dy.dtype)), dtable.size, begins, places, dy, dtable)


@functools.cache
def _block_adder(dtype: str):
    zero = _number(dtype, 0.0)

    @cuda.jit
    def add_up_blocks(matrix, sums):
        thread = cuda.grid(1)
        block, j = thread // sums.shape[1], thread % sums.shape[1]
        if block < sums.shape[0]:
            total, begin = zero, block * SUMMED_AT_ONCE
            for row in range(begin, min(begin + SUMMED_AT_ONCE, matrix.shape[0])):
                total += matrix[row, j]
            sums[block, j] = total

    return add_up_blocks


def add_up_blocks(matrix: Any, sums: Any) -> None:
    """Each row of `sums` gets the sum of the next `SUMMED_AT_ONCE` rows of a matrix, the last one of what is
    left."""
    launch_each(_block_adder(str(matrix.dtype)), sums.size, matrix, sums)
