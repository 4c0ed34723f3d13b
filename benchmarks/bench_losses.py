"""Every loss: values, scores and gradients of a batch of rows."""

import numpy as np

from benchmarks.checks import assert_close
from numbarnn.jit.cpu import padded
from numbarnn.training.losses import LOSSES

ROWS, SIZE = 4096, 10
DIFFERENCE = 1e-6  # few errors change their sign on the way


def cross_entropy(x, labels):
    return np.log(np.exp(x).sum(axis=1)) - x[np.arange(len(x)), labels]


def binary_cross_entropy(x, y):
    return np.mean(np.log1p(np.exp(x)) - y * x, axis=1)


def huber(x, y):
    error = np.abs(x - y)
    return np.mean(np.where(error <= 1.0, error**2 / 2.0, error - 0.5), axis=1)


FORMULAS = {
    "cross_entropy": cross_entropy,
    "binary_cross_entropy": binary_cross_entropy,
    "mse": lambda x, y: np.mean((x - y) ** 2, axis=1),
    "mae": lambda x, y: np.mean(np.abs(x - y), axis=1),
    "huber": huber,
}


def make_targets(name, rng):
    if name == "cross_entropy":
        return rng.integers(0, SIZE, ROWS)
    if name == "binary_cross_entropy":
        return rng.integers(0, 2, (ROWS, SIZE))
    return rng.standard_normal((ROWS, SIZE))


class Losses:
    params = list(LOSSES)
    param_names = ("loss",)

    def setup(self, name):
        rng = np.random.default_rng(0)
        self.loss = LOSSES[name]()
        self.outputs = np.zeros((ROWS, padded(SIZE, "float32")), np.float32)
        self.outputs[:, :SIZE] = rng.standard_normal((ROWS, SIZE))
        self.targets = self.loss.check_targets(make_targets(name, rng), SIZE, "float32")
        self.weights = np.ones(ROWS)
        self.losses, self.scores = np.zeros(ROWS), np.zeros(ROWS)
        self.doutputs = np.zeros_like(self.outputs)
        self.active, self.offset = np.array([ROWS]), np.array([0, ROWS])  # sequences of one step
        self.time_rows(name)
        self.check(FORMULAS[name], rng)

    def check(self, formula, rng):
        """Values by the formula, and the gradient along one direction by its central difference."""
        x = self.outputs[:, :SIZE].astype(np.float64)
        assert_close(self.losses, formula(x, self.targets))
        direction = rng.standard_normal((ROWS, SIZE))
        above, below = (formula(x + sign * DIFFERENCE * direction, self.targets) for sign in (1, -1))
        slope = (above - below).sum() / (2.0 * DIFFERENCE)
        np.testing.assert_allclose((self.doutputs[:, :SIZE] * direction).sum(), slope, rtol=1e-3)

    def time_rows(self, name):
        self.loss.rows(
            self.outputs, SIZE, self.targets, self.weights, 1.0, self.losses, self.scores, self.doutputs,
            self.active, self.offset, 0, ROWS,
        )  # fmt: skip
