"""The problems that all benchmarks time."""

from typing import Any, NamedTuple

import numpy as np

import numbarnn

CELLS = ("lstm", "gru", "rnn")
LAYERS = {"lstm": numbarnn.LSTM, "gru": numbarnn.GRU, "rnn": numbarnn.RNN}
GATES = {"lstm": 4, "gru": 3, "rnn": 1}


class Shape(NamedTuple):
    """Rows, steps, inputs and hidden units."""

    B: int
    T: int
    I: int  # noqa: E741 (the letter that the whole library uses)
    H: int

    def __str__(self) -> str:
        return ",".join(map(str, self))


SHAPES = [
    Shape(1, 100, 8, 16),
    Shape(1, 100, 16, 64),
    Shape(16, 50, 16, 32),
    Shape(32, 100, 32, 64),
    Shape(64, 100, 64, 128),
    Shape(64, 50, 128, 256),
    Shape(32, 100, 128, 512),
]


def parse_shape(text: str) -> Shape:
    """The shape that `str` of it wrote."""
    return Shape(*map(int, text.split(",")))


def inputs(shape: Shape) -> tuple[np.ndarray, np.ndarray]:
    """x (B, T, I) and the gradient of the outputs (B, T, H), float32, the same at every call."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((shape.B, shape.T, shape.I), dtype=np.float32)
    dy = rng.standard_normal((shape.B, shape.T, shape.H), dtype=np.float32)
    return x, dy


def training_operations(cell: str, shape: Shape) -> int:
    """Multiplications and additions in the matrix products of a training step without input gradient."""
    sums = GATES[cell] * shape.H
    forward = 2 * shape.B * shape.T * sums * (shape.I + shape.H)
    recurrent_gradient = 2 * shape.B * shape.T * sums * shape.H
    return 2 * forward + recurrent_gradient


class Trainer:
    """A layer that takes one training step a call: forward, backward, and a change of the weights.

    The change goes to and fro, so that the weights are new every time and yet stay where they are.
    """

    def __init__(self, cell: str, shape: Shape, **options: Any) -> None:
        self.layer = LAYERS[cell](shape.H, **options)
        self.layer.build(shape.I, seed=0)
        self.x, self.dy = inputs(shape)
        self.dy = np.tile(self.dy, self.layer.directions)
        self.factors = [np.float32(1.0 + 1e-6), np.float32(1.0 / (1.0 + 1e-6))]

    def step(self) -> None:
        self.layer.forward(self.x, training=True)
        self.layer.backward(self.dy, input_gradient=False)
        self.factors.reverse()
        self.layer.flat_values *= self.factors[0]  # as an optimiser changes them
        self.layer.version += 1

    def forward(self) -> None:
        self.layer.forward(self.x)
