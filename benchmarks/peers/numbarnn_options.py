"""What single features of this library cost: each task times one call with the feature and one without."""

import numpy as np

import numbarnn
from benchmarks import vowels
from benchmarks.comparison.work import Work
from benchmarks.problems import RaggedShape, Shape, inputs, parse_shape, ragged_inputs
from benchmarks.streaming import INPUTS, Stream
from benchmarks.trainer import LAYERS, Trainer


def use_threads(count: int) -> None:
    numbarnn.set_num_threads(count)


def with_and_without(one: Trainer, other: Trainer) -> Work:
    return Work({"with": one.step, "without": other.step}, dict)


def ragged_rows(cell: str, sizes: list[int], as_list: bool) -> Work:
    """Rows of many lengths, and as many rows that all have the largest one."""
    ragged = RaggedShape(*sizes)
    x, dy = inputs(Shape(ragged.B, ragged.longest, ragged.I, ragged.H))
    if as_list:
        one = Trainer(cell, ragged.H, *ragged_inputs(ragged, directions=1))
    else:
        one = Trainer(cell, ragged.H, x, dy, lengths=ragged.lengths())
    return with_and_without(one, Trainer(cell, ragged.H, x, dy))


def dropout(cell: str, shape_text: str) -> Work:
    """Dropout between two layers."""
    shape = parse_shape(shape_text)
    return with_and_without(
        *(Trainer(cell, shape.H, *inputs(shape), num_layers=2, dropout=rate) for rate in (0.3, 0.0))
    )


def initial_states(cell: str, shape_text: str) -> Work:
    """Given initial states in place of zeros."""
    shape = parse_shape(shape_text)
    state = np.random.default_rng(0).standard_normal((1, shape.B, shape.H), dtype=np.float32)
    given = (state, state) if cell == "lstm" else state
    return with_and_without(
        *(Trainer(cell, shape.H, *inputs(shape), initial_state=initial) for initial in (given, None))
    )


def sample_weights() -> Work:
    """A weight for every sequence in an epoch of a fit."""
    (x, y), _ = vowels.load()
    weights = np.random.default_rng(0).uniform(0.5, 1.5, len(y))
    model = numbarnn.Sequential(
        numbarnn.GRU(vowels.HIDDEN_SIZE, bidirectional=True), numbarnn.Dense(vowels.CLASSES)
    )

    def epoch(sample_weight) -> None:
        model.fit(x, y, epochs=1, batch_size=vowels.BATCH_SIZE, sample_weight=sample_weight, verbose=False)

    return Work({"with": lambda: epoch(weights), "without": lambda: epoch(None)}, dict)


def threads(cell: str, shape_text: str, count: int) -> Work:
    """Several threads in place of one, each on a layer of its own."""
    shape = parse_shape(shape_text)
    several, one = (Trainer(cell, shape.H, *inputs(shape)) for _ in range(2))

    def step(trainer: Trainer, number: int) -> None:
        numbarnn.set_num_threads(number)
        trainer.step()

    return Work({"with": lambda: step(several, count), "without": lambda: step(one, 1)}, dict)


def stream(cell: str, hidden_size: int) -> Work:
    """A thousand steps in the user's own compiled loop."""
    return Work({"thousand": Stream(cell, hidden_size).run}, dict)


def python_step(cell: str, hidden_size: int) -> Work:
    """A step of one row, called from Python."""
    layer = LAYERS[cell](hidden_size)
    x = np.ones((1, INPUTS), np.float32)
    _, state = layer.step(x)
    return Work({"step": lambda: layer.step(x, state)}, dict)
