"""Pooling over time: the mean or the maximum of a sequence's valid steps."""

import numpy as np

from numbarnn.engine.compile_cache import kernel
from numbarnn.layers.base import Layer, Pass


@kernel
def _mean_forward(x, y, lengths, active, offset, row_start, row_stop):
    """y[b] = the mean over time of row b, summed in the order of time."""
    for b in range(row_start, row_stop):
        for j in range(x.shape[1]):
            y[b, j] = 0.0
    for t in range(active.size):
        for b in range(row_start, min(row_stop, active[t])):
            for j in range(x.shape[1]):
                y[b, j] += x[offset[t] + b, j]
    for b in range(row_start, row_stop):
        share = x.dtype.type(1.0 / lengths[b])
        for j in range(x.shape[1]):
            y[b, j] *= share


@kernel
def _mean_backward(dy, dx, lengths, active, offset, row_start, row_stop):
    """`_mean_forward` undone: every step gets an equal share."""
    for t in range(active.size):
        for b in range(row_start, min(row_stop, active[t])):
            share = dy.dtype.type(1.0 / lengths[b])
            for j in range(dy.shape[1]):
                dx[offset[t] + b, j] = dy[b, j] * share


@kernel
def _max_forward(x, y, winners, active, offset, row_start, row_stop):
    """y[b] = the maximum over time of row b; winners, the step it came from (the first; NaN wins)."""
    for b in range(row_start, row_stop):
        for j in range(x.shape[1]):
            y[b, j] = x[b, j]
            winners[b, j] = 0
    for t in range(1, active.size):
        for b in range(row_start, min(row_stop, active[t])):
            for j in range(x.shape[1]):
                value = x[offset[t] + b, j]
                if value > y[b, j] or np.isnan(value):
                    y[b, j] = value
                    winners[b, j] = t


@kernel
def _max_backward(dy, dx, winners, active, offset, row_start, row_stop):
    """`_max_forward` undone: the winning step gets all."""
    zero = dy.dtype.type(0.0)
    for t in range(active.size):
        for b in range(row_start, min(row_stop, active[t])):
            for j in range(dy.shape[1]):
                dx[offset[t] + b, j] = dy[b, j] if winners[b, j] == t else zero


class _PoolingPass(Pass):
    def prepare(self, layout, x, seed):
        self.layout, self.x = layout, x
        self.y = self.buffers.matrix("y", layout.rows, x.shape[1])
        return layout.last, self.y

    def prepare_backward(self, dy, need_dx):
        self.dy = dy
        self.dx = self.buffers.matrix("dx", *self.x.shape)
        return self.dx if need_dx else None


class MeanPass(_PoolingPass):
    def forward(self, start, stop):
        layout = self.layout
        _mean_forward(self.x, self.y, layout.lengths, layout.active, layout.offset, start, stop)

    def backward(self, start, stop):
        layout = self.layout
        _mean_backward(self.dy, self.dx, layout.lengths, layout.active, layout.offset, start, stop)


class MaxPass(_PoolingPass):
    def prepare(self, layout, x, seed):
        self.winners = np.empty((layout.rows, x.shape[1]), np.int64)
        return super().prepare(layout, x, seed)

    def forward(self, start, stop):
        layout = self.layout
        _max_forward(self.x, self.y, self.winners, layout.active, layout.offset, start, stop)

    def backward(self, start, stop):
        layout = self.layout
        _max_backward(self.dy, self.dx, self.winners, layout.active, layout.offset, start, stop)


class _Pooling(Layer):
    takes_vectors = False

    def __init__(self, *, dtype: str | None = None) -> None:
        super().__init__(dtype or "float32")
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

    Examples
    --------
    >>> import numpy as np
    >>> import numbarnn
    >>> numbarnn.MeanOverTime().forward([np.ones((3, 2)), np.zeros((5, 2))]).tolist()
    [[1.0, 1.0], [0.0, 0.0]]
    """

    pass_class = MeanPass


class MaxOverTime(_Pooling):
    """The maximum over the valid steps of every sequence: (B, T, I) -> (B, I).

    Parameters
    ----------
    dtype : {"float32", "float64"}, optional
        What results are made of; by default float64 where the input is, else float32.

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
