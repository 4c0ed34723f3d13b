"""The layers without a state on a GPU: the twins of the passes in their own files."""

import numpy as np

from numbarnn.engine import pointwise_cuda as gpu
from numbarnn.engine.cuda_arrays import arrays
from numbarnn.engine.random import seed_of
from numbarnn.layers.cuda_passes import CudaPass


class DenseCuda(CudaPass):
    def prepare(self, layout, x, seed):
        self.take(layout)
        self.x = x
        self.y = self.buffers.matrix("y", layout.total, self.layer.units)
        return layout, self.y

    def forward(self):
        values = self.parameters.values
        arrays().matmul(self.x, values["weight"].T, out=self.y)
        gpu.activate(self.layer.activation_code, self.y, values["bias"])

    def prepare_backward(self, dy, need_dx):
        self.dy = dy
        self.dx = None
        if need_dx:
            self.dx = self.buffers.matrix("dx", self.layout.total, self.layer.known_input_size)
        return self.dx

    def backward(self):
        xp, gradients = arrays(), self.parameters.gradients
        dsums = self.buffers.matrix("dsums", *self.y.shape)
        gpu.deactivate(self.layer.activation_code, self.y, self.dy, dsums)
        xp.matmul(dsums.T, self.x, out=gradients["weight"])
        dsums.sum(axis=0, out=gradients["bias"])
        if self.dx is not None:
            xp.matmul(dsums, self.parameters.values["weight"], out=self.dx)


class EmbeddingCuda(CudaPass):
    def prepare(self, layout, x, seed):
        self.take(layout)
        self.tokens = x
        self.y = self.buffers.matrix("y", layout.total, self.layer.dim)
        return layout, self.y

    def forward(self):
        self.y[...] = self.parameters.values["weight"][self.tokens]

    def prepare_backward(self, dy, need_dx):
        self.dy = dy

    def backward(self):
        # Tokens have no gradient; the table has.
        xp = arrays()
        places = xp.argsort(self.tokens, kind="stable")
        begins = xp.searchsorted(self.tokens[places], xp.arange(self.layer.num_embeddings + 1))
        gpu.add_up(begins, places, self.dy, self.parameters.gradients["weight"])


class DropoutCuda(CudaPass):
    @property
    def draws(self):
        return self.training and self.layer.rate > 0.0

    def prepare(self, layout, x, seed):
        self.take(layout)
        self.x = x
        self.y = self.buffers.matrix("y", *x.shape) if self.draws else x
        self.seed = seed_of(seed) if self.draws else np.uint64(0)
        return layout, self.y

    def forward(self):
        if self.draws:
            self._drop(self.x, self.y)

    def _drop(self, x, y):
        rows = self.rows
        gpu.drop(rows.offset, rows.lengths, rows.order, x, y, self.layer.rate, self.seed)

    def prepare_backward(self, dy, need_dx):
        self.dy = dy
        self.dx = self.buffers.matrix("dx", *dy.shape) if self.draws else dy
        return self.dx if need_dx else None

    def backward(self):
        if self.draws:
            self._drop(self.dy, self.dx)


class _PoolingCuda(CudaPass):
    def prepare(self, layout, x, seed):
        self.take(layout)
        self.x = x
        self.y = self.buffers.matrix("y", layout.rows, x.shape[1])
        return layout.last, self.y

    def prepare_backward(self, dy, need_dx):
        self.dy = dy
        self.dx = self.buffers.matrix("dx", *self.x.shape)
        return self.dx if need_dx else None


class MeanCuda(_PoolingCuda):
    def forward(self):
        gpu.mean_forward(self.rows.offset, self.rows.lengths, self.x, self.y)

    def backward(self):
        gpu.mean_backward(self.rows.offset, self.rows.lengths, self.dy, self.dx)


class MaxCuda(_PoolingCuda):
    def forward(self):
        self.winners = arrays().zeros(self.y.shape, np.int64)
        gpu.max_forward(self.rows.offset, self.rows.lengths, self.x, self.y, self.winners)

    def backward(self):
        gpu.max_backward(self.rows.offset, self.rows.lengths, self.dy, self.winners, self.dx)
