"""The layers without a state on a GPU: the counterparts of the passes in their own files."""

import numpy as np

from numbarnn.engine.cuda import pointwise as gpu
from numbarnn.engine.cuda.arrays import arrays
from numbarnn.engine.cuda.matmul import multiply, multiply_over_rows
from numbarnn.layers.cuda.passes import CudaPass, sum_rows
from numbarnn.layers.dropout import DropoutPass
from numbarnn.layers.pooling import PoolingPass


class DenseCuda(CudaPass):
    def prepare(self, layout, x, seed):
        self.begin(layout)
        self.x = x
        self.y = self.buffers.matrix("y", layout.total, self.layer.units)
        return layout, self.y

    def forward(self):
        values = self.parameters.values
        multiply(self.x, values["weight"].T, self.y)
        gpu.activate(self.layer.activation_code, self.y, values["bias"])

    def prepare_backward(self, dy, need_dx):
        self.dy = dy
        self.dx = None
        if need_dx:
            self.dx = self.buffers.matrix("dx", self.layout.total, self.layer.known_input_size)
        return self.dx

    def backward(self):
        gradients = self.parameters.gradients
        dsums = self.buffers.matrix("dsums", *self.y.shape)
        gpu.deactivate(self.layer.activation_code, self.y, self.dy, dsums)
        multiply_over_rows(dsums, self.x, gradients["weight"])
        sum_rows(self.buffers, dsums, gradients["bias"])
        if self.dx is not None:
            multiply(dsums, self.parameters.values["weight"], self.dx)


class EmbeddingCuda(CudaPass):
    def prepare(self, layout, x, seed):
        self.begin(layout)
        self.tokens = x
        self.y = self.buffers.matrix("y", layout.total, self.layer.embedding_dim)
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


class DropoutCuda(CudaPass, DropoutPass):
    def forward(self):
        self._drop_into(self.x, self.y)

    def backward(self):
        self._drop_into(self.dy, self.dx)

    def _drop_into(self, x, y):
        if self.needs_seed:
            rows = self.rows
            gpu.drop(rows.offset, rows.lengths, rows.order, x, y, self.layer.rate, self.seed[0])


class MeanCuda(CudaPass, PoolingPass):
    def forward(self):
        gpu.mean_forward(self.rows.offset, self.rows.lengths, self.x, self.y)

    def backward(self):
        gpu.mean_backward(self.rows.offset, self.rows.lengths, self.dy, self.dx)


class MaxCuda(CudaPass, PoolingPass):
    def forward(self):
        self.winners = arrays().empty(self.y.shape, np.int64)
        gpu.max_forward(self.rows.offset, self.rows.lengths, self.x, self.y, self.winners)

    def backward(self):
        gpu.max_backward(self.rows.offset, self.rows.lengths, self.dy, self.winners, self.dx)
