"""Pooling over time: the mean or the maximum of a sequence's valid steps."""

import numpy as np

from numbarnn.engine.fork import fork
from numbarnn.engine.program import by_cuts
from numbarnn.engine.sums import SUMMED_AT_ONCE
from numbarnn.jit.compile_cache import inlined, kernel
from numbarnn.jit.vector_memory import load, store
from numbarnn.jit.vectors import absolute, fma, lane_count, select, zero_like
from numbarnn.layers.passes import Pass
from numbarnn.layers.stateless import StatelessLayer

# Steps of a row whose mean is one plain sum, at worst off by 2e-6: usual ones pay nothing.
SUMMED_PLAINLY = 128


@inlined
def _mean_forward_rows(part, cuts, x, y, sums, lengths, active, offset):
    row_start, row_stop = cuts[part], cuts[part + 1]
    for b in range(row_start, row_stop):
        for j in range(x.shape[1]):
            y[b, j] = 0.0
    long_rows = 0
    for b in range(row_start, row_stop):  # rows are sorted by falling length
        if lengths[b] > SUMMED_PLAINLY:
            long_rows = b + 1
            for j in range(x.shape[1]):
                sums[b, j] = 0.0
    for t in range(active.size):
        for b in range(row_start, min(row_stop, active[t])):
            for j in range(x.shape[1]):
                y[b, j] += x[offset[t] + b, j]
        if (t + 1) % SUMMED_AT_ONCE == 0:
            for b in range(row_start, min(long_rows, active[t])):
                for j in range(x.shape[1]):
                    sums[b, j] += y[b, j]
                    y[b, j] = 0.0
    for b in range(row_start, long_rows):
        for j in range(x.shape[1]):
            y[b, j] += sums[b, j]
    for b in range(row_start, row_stop):
        share = x.dtype.type(1.0 / lengths[b])
        for j in range(x.shape[1]):
            y[b, j] *= share


@kernel
def _mean_forward(team, cuts, x, y, sums, lengths, active, offset):
    """y[b] = the mean over time of row b, summed in the order of time.

    Of a row of more than `SUMMED_PLAINLY` steps `SUMMED_AT_ONCE` at a time are added up in y, and these sums
    in its row of `sums`, in float64.
    """
    fork(team, cuts.size - 1, _mean_forward_rows, cuts, x, y, sums, lengths, active, offset)


@inlined
def _mean_backward_rows(part, cuts, dy, dx, lengths, active, offset):
    row_start, row_stop = cuts[part], cuts[part + 1]
    for t in range(active.size):
        for b in range(row_start, min(row_stop, active[t])):
            share = dy.dtype.type(1.0 / lengths[b])
            for j in range(dy.shape[1]):
                dx[offset[t] + b, j] = dy[b, j] * share


@kernel
def _mean_backward(team, cuts, dy, dx, lengths, active, offset):
    """Backward of `_mean_forward`: every step gets an equal part."""
    fork(team, cuts.size - 1, _mean_backward_rows, cuts, dy, dx, lengths, active, offset)


@inlined
def _max_forward_rows(part, cuts, x, y, winners, active, offset):
    row_start, row_stop = cuts[part], cuts[part + 1]
    width, stride = lane_count(x), x.shape[1]
    for i in range(row_start * stride, row_stop * stride, width):
        store(y, i, load(x, i))
        store(winners, i, zero_like(load(x, i)))
    for t in range(1, active.size):
        for b in range(row_start, min(row_stop, active[t])):
            for column in range(0, stride, width):
                best = load(y, b * stride + column)
                value = load(x, (offset[t] + b) * stride + column)
                larger = value > best
                # The product adds 0, or NaN where the best so far is NaN: it stays.
                store(y, b * stride + column, fma(best, 0.0, select(value <= best, best, value)))
                winner = load(winners, b * stride + column)
                store(winners, b * stride + column, select(larger, float(t), winner))


@kernel
def _max_forward(team, cuts, x, y, winners, active, offset):
    """y[b] = the maximum over time of row b; winners, the first step that has it (a whole number)."""
    fork(team, cuts.size - 1, _max_forward_rows, cuts, x, y, winners, active, offset)


@inlined
def _max_backward_rows(part, cuts, dy, dx, winners, active, offset):
    row_start, row_stop = cuts[part], cuts[part + 1]
    width, stride = lane_count(dy), dy.shape[1]
    for t in range(active.size):
        for b in range(row_start, min(row_stop, active[t])):
            for column in range(0, stride, width):
                # Whole numbers: within half a step of t is t.
                distance = absolute(load(winners, b * stride + column) - float(t))
                gradient = load(dy, b * stride + column)
                store(dx, (offset[t] + b) * stride + column, select(distance < 0.5, gradient, 0.0))


@kernel
def _max_backward(team, cuts, dy, dx, winners, active, offset):
    """Backward of `_max_forward`: the largest step gets all."""
    fork(team, cuts.size - 1, _max_backward_rows, cuts, dy, dx, winners, active, offset)


class PoolingPass(Pass):
    def prepare(self, layout, x, seed):
        self.begin(layout, layout.total * x.shape[1])
        self.x = x
        self.y = self.buffers.matrix("y", layout.rows, x.shape[1])
        return layout.last, self.y

    def prepare_backward(self, dy, need_dx):
        self.dy = dy
        self.dx = self.buffers.matrix("dx", *self.x.shape)
        return self.dx if need_dx else None


class MeanPass(PoolingPass):
    def prepare(self, layout, x, seed):
        self.sums = np.empty((layout.rows if layout.steps > SUMMED_PLAINLY else 0, x.shape[1]))
        return super().prepare(layout, x, seed)

    def forward_work(self):
        layout = self.layout
        arguments = self.x, self.y, self.sums, layout.lengths, layout.active, layout.offset
        return [by_cuts(_mean_forward, self.cuts, *arguments)]

    def backward_work(self):
        layout = self.layout
        arguments = self.dy, self.dx, layout.lengths, layout.active, layout.offset
        return [by_cuts(_mean_backward, self.cuts, *arguments)]


class MaxPass(PoolingPass):
    def prepare(self, layout, x, seed):
        self.winners = self.buffers.matrix("winners", layout.rows, x.shape[1])
        return super().prepare(layout, x, seed)

    def forward_work(self):
        layout = self.layout
        arguments = self.x, self.y, self.winners, layout.active, layout.offset
        return [by_cuts(_max_forward, self.cuts, *arguments)]

    def backward_work(self):
        layout = self.layout
        arguments = self.dy, self.dx, self.winners, layout.active, layout.offset
        return [by_cuts(_max_backward, self.cuts, *arguments)]


class _Pooling(StatelessLayer):
    takes_vectors = False

    def __init__(self, *, dtype: str | None = None, device: str = "cpu") -> None:
        super().__init__(dtype or "float32", device)
        self.follows_input_dtype = dtype is None

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    def gives_sequence(self, takes_sequence):
        return False


class MeanOverTime(_Pooling):
    """The mean over the valid steps of every sequence: (B, T, I) -> (B, I).

    Parameters
    ----------
    dtype : {"float32", "float64"}, optional
        What results are made of; by default float64 where the input is, else float32.
    device : {"cpu", "cuda"}
        Where the layer works; "cuda" is an NVIDIA GPU.

    Examples
    --------
    >>> import numpy as np
    >>> import numbarnn
    >>> numbarnn.MeanOverTime().forward([np.ones((3, 2)), np.zeros((5, 2))]).tolist()
    [[1.0, 1.0], [0.0, 0.0]]
    """

    pass_class = MeanPass
    cuda_pass = "stateless", "MeanCuda"


class MaxOverTime(_Pooling):
    """The maximum over the valid steps of every sequence: (B, T, I) -> (B, I).

    Parameters
    ----------
    dtype : {"float32", "float64"}, optional
        What results are made of; by default float64 where the input is, else float32.
    device : {"cpu", "cuda"}
        Where the layer works; "cuda" is an NVIDIA GPU.

    Notes
    -----
    The gradient goes to the first step that holds the maximum.

    Examples
    --------
    >>> import numpy as np
    >>> import numbarnn
    >>> numbarnn.MaxOverTime().forward(np.array([[[1.0, 5.0], [2.0, 4.0]]])).tolist()
    [[2.0, 5.0]]
    """

    pass_class = MaxPass
    cuda_pass = "stateless", "MaxCuda"
