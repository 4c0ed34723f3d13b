"""Every optimiser: an update of as many numbers as an LSTM of 256 units has."""

import numpy as np

from benchmarks.checks import assert_close
from benchmarks.problems import parameters
from numbarnn.training.optimizers import OPTIMIZERS


def adam(optimizer, value, gradient):
    # At the first step the corrected averages are the gradient and its square.
    return value - optimizer.learning_rate * gradient / (np.abs(gradient) + optimizer.eps)


# The first update of each, with its defaults.
FORMULAS = {
    "sgd": lambda optimizer, value, gradient: value - optimizer.learning_rate * gradient,
    "rmsprop": lambda optimizer, value, gradient: (
        value
        - optimizer.learning_rate
        * gradient
        / (np.sqrt(1.0 - optimizer.alpha) * np.abs(gradient) + optimizer.eps)
    ),
    "adam": adam,
    "adamw": lambda optimizer, value, gradient: adam(
        optimizer, value * (1.0 - optimizer.learning_rate * optimizer.weight_decay), gradient
    ),
}


class Optimizers:
    params = list(OPTIMIZERS)
    param_names = ("optimizer",)

    def setup(self, name):
        arrays = parameters("lstm", 128, 256).values()
        self.values = [np.concatenate([array.ravel() for array in arrays])]
        self.gradients = [np.random.default_rng(1).standard_normal(self.values[0].size, dtype=np.float32)]
        self.optimizer = OPTIMIZERS[name]()
        self.state = self.optimizer.start(self.values)
        expected = FORMULAS[name](self.optimizer, self.values[0], self.gradients[0])
        self.time_update(name)
        assert_close(self.values[0], expected)

    def time_update(self, name):
        self.optimizer.update(self.state, self.values, self.gradients, self.optimizer.learning_rate)
