"""This library's side of the comparison. Inputs are (B, T, I), or a list of rows."""

import functools

import numpy as np

import numbarnn
from benchmarks import vowels
from benchmarks.comparison.work import Work
from benchmarks.distance import barrier_nanoseconds
from benchmarks.peak import Peak
from benchmarks.problems import (
    RAGGED_OPTIONS,
    RaggedShape,
    inputs,
    parse_shape,
    ragged_inputs,
)
from benchmarks.trainer import Trainer


def use_threads(count: int) -> None:
    numbarnn.set_num_threads(count)


@functools.cache
def chains(threads: int) -> Peak:
    """Made when first used: it must not count as memory that training takes."""
    return Peak(threads)


def layer(cell: str, shape_text: str) -> Work:
    shape = parse_shape(shape_text)
    trainer = Trainer(cell, shape.H, *inputs(shape))

    def results() -> dict[str, np.ndarray]:
        return {"y": trainer.forward().transpose(1, 0, 2), **trainer.gradients()}

    def run_chains() -> None:
        """In every round, for the processor's frequency goes up and down."""
        chains(numbarnn.get_num_threads()).run()

    return Work({"forward": trainer.forward, "train": trainer.step, "peak": run_chains}, results)


def ragged(cell: str, sizes: list[int]) -> Work:
    shape = RaggedShape(*sizes)
    trainer = Trainer(cell, shape.H, *ragged_inputs(shape), **RAGGED_OPTIONS)

    def results() -> dict[str, np.ndarray]:
        return {"y": np.concatenate(trainer.forward()), **trainer.gradients()}

    return Work({"train": trainer.step}, results)


def fit(epochs: int) -> Work:
    (x_train, y_train), (x_test, y_test) = vowels.load()
    models = []

    def run() -> None:
        model = numbarnn.Sequential(
            numbarnn.Dropout(vowels.INPUT_DROPOUT),
            numbarnn.GRU(vowels.HIDDEN_SIZE, bidirectional=True, return_sequences=True),
            numbarnn.MaxOverTime(),
            numbarnn.Dropout(vowels.OUTPUT_DROPOUT),
            numbarnn.Dense(vowels.CLASSES),
        )
        optimizer = numbarnn.AdamW(numbarnn.CosineDecay(vowels.LEARNING_RATE))
        model.fit(
            x_train, y_train, optimizer=optimizer, epochs=epochs, batch_size=vowels.BATCH_SIZE, verbose=False
        )
        models[:] = [model]

    return Work({"fit": run}, lambda: {"accuracy": np.array(models[0].evaluate(x_test, y_test)["accuracy"])})


def machine(threads: int) -> Work:
    """Of the machine itself: operations in a call of "peak", and how long two threads take to meet."""

    def results() -> dict[str, np.ndarray]:
        barrier = barrier_nanoseconds() if threads > 1 else np.nan
        return {"operations": np.array(chains(threads).operations), "barrier": np.array(barrier)}

    return Work({}, results)
