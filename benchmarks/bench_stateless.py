"""The layers without a state on a ragged batch: forward, and forward with backward."""

import numpy as np

import numbarnn
from benchmarks.checks import assert_close
from benchmarks.problems import RAGGED_SHAPES, ragged_inputs

RATE = 0.3
TOKENS = 1000
SHAPE = RAGGED_SHAPES[-1]


def make_dense():
    return numbarnn.Dense(SHAPE.H)


def make_embedding():
    return numbarnn.Embedding(TOKENS, SHAPE.I)


def make_dropout():
    return numbarnn.Dropout(RATE)


MAKERS = {
    "Dense": make_dense,
    "Embedding": make_embedding,
    "Dropout": make_dropout,
    "MeanOverTime": numbarnn.MeanOverTime,
    "MaxOverTime": numbarnn.MaxOverTime,
}


def check(name, parameters, x, y):
    """Row by row in NumPy."""
    for row, result in zip(x, y, strict=True):
        if name == "Dense":
            assert_close(result, row @ parameters["weight"].T + parameters["bias"])
        elif name == "Embedding":
            assert_close(result, parameters["weight"][row])
        elif name == "Dropout":
            assert_close(result, np.where(result == 0.0, 0.0, row / (1.0 - RATE)))
        else:
            assert_close(result, row.mean(axis=0) if name == "MeanOverTime" else row.max(axis=0))
    if name == "Dropout":
        dropped = np.mean(np.concatenate(y) == 0.0)
        assert abs(dropped - RATE) < 0.01


class Stateless:
    params = list(MAKERS)
    param_names = ("layer",)

    def setup(self, name):
        self.layer, self.x = MAKERS[name](), ragged_inputs(SHAPE)[0]
        if name == "Embedding":
            rng = np.random.default_rng(0)
            self.x = [rng.integers(0, TOKENS, len(row)) for row in self.x]
        y = self.layer.forward(self.x, training=True, seed=0)
        check(name, self.layer.parameters, self.x, y)
        self.dy = y
        self.time_forward_backward(name)

    def time_forward(self, name):
        self.layer.forward(self.x)

    def time_forward_backward(self, name):
        self.layer.forward(self.x, training=True, seed=0)
        self.layer.backward(self.dy)
