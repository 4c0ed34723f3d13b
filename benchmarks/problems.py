"""The problems that all benchmarks time: sizes, numbers to feed in, and what they cost. NumPy alone."""

from typing import NamedTuple

import numpy as np

CELLS = ("lstm", "gru", "rnn")
GATES = {"lstm": 4, "gru": 3, "rnn": 1}


class Shape(NamedTuple):
    """Rows, steps, inputs and hidden units of a full batch."""

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
LARGEST_SHAPES = SHAPES[-3:]


class RaggedShape(NamedTuple):
    """Rows of lengths spread evenly from the shortest to the longest; inputs and hidden units."""

    B: int
    shortest: int
    longest: int
    I: int  # noqa: E741
    H: int

    def __str__(self) -> str:
        return f"{self.B},{self.shortest}..{self.longest},{self.I},{self.H}"

    def lengths(self) -> np.ndarray:
        """(B,) in no order."""
        lengths = np.linspace(self.shortest, self.longest, self.B).astype(int)
        return np.random.default_rng(0).permutation(lengths)


RAGGED_SHAPES = [
    RaggedShape(16, 5, 50, 16, 32),
    RaggedShape(32, 1, 100, 32, 64),
    RaggedShape(64, 20, 100, 64, 128),
]
RAGGED_OPTIONS = {"num_layers": 2, "bidirectional": True}


def parse_shape(text: str) -> Shape:
    """The shape that `str` of it wrote."""
    return Shape(*map(int, text.split(",")))


def spread_lengths(shape: Shape) -> np.ndarray:
    """Lengths (B,) of ragged rows, spread evenly from a fifth of T to T, in no order."""
    lengths = np.linspace(shape.T, max(1, shape.T // 5), shape.B).astype(np.int64)
    return np.random.default_rng(0).permutation(lengths)


def inputs(shape: Shape, directions: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """x (B, T, I) and the gradient of the outputs (B, T, D * H), float32, the same at every call."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((shape.B, shape.T, shape.I), dtype=np.float32)
    dy = rng.standard_normal((shape.B, shape.T, directions * shape.H), dtype=np.float32)
    return x, dy


def ragged_inputs(shape: RaggedShape, directions: int = 2) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The same as lists of rows (T_i, I) and (T_i, D * H)."""
    rng = np.random.default_rng(0)
    x, dy = (
        [rng.standard_normal((length, size), dtype=np.float32) for length in shape.lengths()]
        for size in (shape.I, directions * shape.H)
    )
    return x, dy


def parameters(
    cell: str, input_size: int, hidden_size: int, num_layers: int = 1, bidirectional: bool = False
) -> dict[str, np.ndarray]:
    """Weights for every library, drawn as PyTorch draws them, under its names and in its gate order."""
    rng = np.random.default_rng(0)
    directions, sums, bound = 1 + bidirectional, GATES[cell] * hidden_size, hidden_size**-0.5
    result = {}
    for level in range(num_layers):
        columns = input_size if level == 0 else directions * hidden_size
        for suffix in (f"_l{level}", f"_l{level}_reverse")[:directions]:
            shapes = {"weight_ih": (sums, columns), "weight_hh": (sums, hidden_size)}
            shapes |= {"bias_ih": (sums,), "bias_hh": (sums,)}
            for name, size in shapes.items():
                result[name + suffix] = rng.uniform(-bound, bound, size).astype(np.float32)
    return result


def training_operations(cell: str, shape: Shape) -> int:
    """Multiplications and additions in the matrix products of a training step without input gradient."""
    sums = GATES[cell] * shape.H
    forward = 2 * shape.B * shape.T * sums * (shape.I + shape.H)
    recurrent_gradient = 2 * shape.B * shape.T * sums * shape.H
    return 2 * forward + recurrent_gradient


class Alternation:
    """Factors that change weights to and fro: new at every step, and yet they stay where they are."""

    def __init__(self) -> None:
        self.factors = [np.float32(1.0 + 1e-6), np.float32(1.0 / (1.0 + 1e-6))]

    def next(self) -> np.float32:
        self.factors.reverse()
        return self.factors[0]
