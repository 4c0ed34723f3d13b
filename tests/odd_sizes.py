"""Small uses of every kernel of the CPU at odd sizes: what the tests of memory run.

A use makes its arrays itself, layers and inputs too, so that it can be run with whatever stands around
arrays; it returns all that it computed, the same bits each time.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import test_cell_contract
import test_graph
from conftest import LAYERS, TOLERANCE, make_layer, random_problem, run_layer

import numbarnn
from numbarnn import Dense, Dropout, Embedding, MaxOverTime, MeanOverTime, Sequential
from numbarnn.engine.sums import LEVEL_ROWS
from numbarnn.layers import passes, sharing
from numbarnn.layers.dense import ACTIVATIONS
from numbarnn.models.graph_model import GraphModel
from numbarnn.training.losses import LOSSES
from numbarnn.training.optimizers import OPTIMIZERS

HIDDEN = (1, 3, 5, 7, 9, 17, 33)
INPUTS = (1, 2, 5, 8, 16, 17, 35)
ROWS = (1, 2, 3, 7)
STEPS = (1, 2, 5)

# What makes threads share the work of small layers, by name: (module, constant, value).
BY_ROWS = [(passes, "OPERATIONS_WORTH_A_THREAD", 1)]
SHARING: dict[str, list[tuple[Any, str, int]]] = {
    "none": [],
    "rows": BY_ROWS,
    "units": BY_ROWS
    + [
        (sharing, name, 0)
        for name in (
            "WEIGHTS_BYTES_FOR_ALL_ROWS", "OPERATIONS_WORTH_A_BARRIER", "FEW_ROWS_OPERATIONS_WORTH_A_BARRIER"
        )
    ],
}  # fmt: skip


class Use(NamedTuple):
    """Something to run, and its name."""

    name: str
    run: Callable[[], Any]


def recurrent_use(cell: str, dtype: str, bidirectional: bool, hidden: int, seed: int) -> Use:
    """Forward, backward, a prediction and single steps of a layer, then the same for a smaller batch."""
    rng = np.random.default_rng([hidden, seed])
    steps, rows, inputs = (int(rng.choice(sizes)) for sizes in (STEPS, ROWS, INPUTS))
    ragged, bias, layers = bool(rng.integers(2)), bool(rng.integers(2)), int(rng.integers(1, 3))
    options = {"num_layers": layers, "bidirectional": bidirectional, "bias": bias, "dtype": dtype}
    sizes = steps, rows, inputs, hidden

    def run() -> tuple[Any, ...]:
        problem = random_problem(cell, sizes, ragged=ragged, **options)
        layer = make_layer(problem, dropout=0.5 if layers == 2 else 0.0)
        found = []
        fewer = problem._replace(
            x=[x[: max(1, len(x) - 1)] for x in problem.x],
            dy=[dy[: max(1, len(dy) - 1)] for dy in problem.dy],
        )
        for each in (problem, fewer, problem):
            found.append(run_layer(layer, each, as_array=not ragged, seed=7))
            found.append(layer.forward(each.x, initial_state=each.initial_state))
        padded = np.zeros((rows, steps + 1, inputs), dtype)
        found.append(layer.forward(padded, lengths=[len(x) for x in problem.x]))
        if not bidirectional:
            x_t = np.stack([x[0] for x in problem.x])
            found.append(layer.step(x_t, problem.initial_state))
        return tuple(found)

    return Use(f"{cell} {dtype} {sizes} {options} ragged={ragged}", run)


def layer_uses(dtype: str, rng: np.random.Generator) -> Iterator[Use]:
    """Forward and backward of the other layers."""
    makers: dict[str, Callable[[int], Any]] = {
        f"Dense {activation}": lambda units, activation=activation: Dense(units, activation, dtype=dtype)
        for activation in ACTIVATIONS
    }
    makers |= {
        "Dropout": lambda units: Dropout(0.5, dtype=dtype),
        "MeanOverTime": lambda units: MeanOverTime(dtype=dtype),
        "MaxOverTime": lambda units: MaxOverTime(dtype=dtype),
    }
    for name, make in makers.items():
        for units in HIDDEN:
            steps, rows, inputs = (int(rng.choice(sizes)) for sizes in (STEPS, ROWS, INPUTS))
            lengths = rng.integers(1, steps + 1, rows)

            def run(make=make, units=units, lengths=lengths, inputs=inputs) -> tuple[Any, ...]:
                layer, found = make(units), []
                if isinstance(layer, Dense):
                    layer.build(inputs, seed=1)
                numbers = np.random.default_rng(units)
                for count in (len(lengths), 1):
                    x = [numbers.standard_normal((n, inputs)).astype(dtype) for n in lengths[:count]]
                    y = layer.forward(x, training=True, seed=5)
                    dy = [np.cos(part) for part in y] if isinstance(y, list) else np.cos(y)
                    found += [y, layer.backward(dy), layer.forward(x)]
                    found.append({key: values.copy() for key, values in layer.gradients.items()})
                return tuple(found)

            yield Use(f"{name} {dtype} {units} units, {inputs} inputs, {lengths}", run)
    for size in HIDDEN:
        yield Use(f"Embedding {dtype} {size}", lambda size=size: embed(dtype, size))


def embed(dtype: str, size: int) -> tuple[Any, ...]:
    """Forward and backward of an embedding."""
    layer, rng = Embedding(size, size, dtype=dtype), np.random.default_rng(size)
    layer.build(1, seed=1)
    tokens = [rng.integers(0, size, length) for length in (3, 1, 5)]
    y = layer.forward(tokens, training=True)
    layer.backward([np.sin(part) for part in y])
    return y, layer.gradients["weight"].copy()


def fit_use(dtype: str, kind: str, number: int, loss: str, optimizer: str) -> Use:
    """A fit of a small model, and what it predicts then."""
    rng = np.random.default_rng(number)
    rows, inputs, hidden = int(rng.choice((2, 3, 7, 11))), int(rng.choice(INPUTS)), int(rng.choice(HIDDEN))
    classes = int(rng.choice((2, 3, 9, 17)))
    options: dict[str, Any] = {"epochs": 2, "batch_size": int(rng.choice((1, 2, 3))), "verbose": False}
    if number % 2:
        options |= {"clip_norm": 0.5}
    if number % 3 == 0:
        options |= {"clip_value": 0.1}
    cell = getattr(numbarnn, ("RNN", "GRU", "LSTM")[number % 3])

    def run() -> tuple[Any, ...]:
        numbers = np.random.default_rng(number)
        lengths = numbers.integers(1, 6, rows)
        x: Any = [numbers.standard_normal((n, inputs)).astype(dtype) for n in lengths]
        typed: dict[str, Any] = {"dtype": dtype}
        if kind == "tokens":
            x = [numbers.integers(0, inputs, n) for n in lengths]
            layers = [Embedding(inputs, hidden, **typed), cell(hidden, **typed)]
        elif kind == "steps":
            layers = [cell(hidden, return_sequences=True, bidirectional=True, **typed)]
        elif kind == "stack":
            layers = [
                Dropout(0.2, **typed),
                cell(hidden, num_layers=2, dropout=0.5, return_sequences=True, **typed),
                MeanOverTime(**typed) if number % 2 else MaxOverTime(**typed),
            ]
        else:
            layers = [cell(hidden, **typed)]
        model = Sequential(*layers, Dense(classes, **typed))
        counts = lengths if kind == "steps" else [rows]
        if loss == "cross_entropy" and number % 3:
            y: Any = [numbers.integers(0, classes, count) for count in counts]
        else:
            y = [numbers.dirichlet(np.ones(classes), count) for count in counts]
        y = y if kind == "steps" else y[0]
        if number % 2 == 0 and kind != "steps":
            options["sample_weight"] = numbers.uniform(0.5, 2.0, rows)
        history = model.fit(x, y, loss=loss, optimizer=optimizer, seed=number, **options).history
        parameters = {name: values.copy() for name, values in model.parameters.items()}
        return np.array(history["loss"]), parameters, model.predict(x, batch_size=2)

    return Use(f"fit {kind} {dtype} number {number}, {loss}, {optimizer}", run)


def other_cell_use(name: str, bidirectional: bool) -> Use:
    """A cell that is not the library's: of more states or sums, or with vectors of its units."""

    def run() -> tuple[Any, ...]:
        layer = test_cell_contract.make_layer(name, 2, bidirectional)
        problem = test_cell_contract.problem_for(layer, test_cell_contract.LENGTHS)
        return test_cell_contract.run(layer, problem)

    return Use(f"{name} {bidirectional=}", run)


def long_use(make: Callable[[], Any]) -> Use:
    """Forward and backward over so many steps that the sums of gradients have levels."""

    def run() -> tuple[Any, ...]:
        layer = make()
        layer.build(3, seed=1)
        x = np.random.default_rng(0).standard_normal((1, LEVEL_ROWS + 5, 3)).astype(layer.dtype)
        y = layer.forward(x, training=True)
        layer.backward(np.cos(y[0] if isinstance(y, tuple) else y))
        return y, {name: values.copy() for name, values in layer.gradients.items()}

    return Use(f"long sums of {make()!r}", run)


def graph_use(name: str, make: Callable[[], GraphModel]) -> Use:
    """A fit of a model that is no chain."""

    def run() -> tuple[Any, ...]:
        model = test_graph.built(lambda device: make())
        x, y = test_graph.data_for(model)
        model.fit(x, y, epochs=2, batch_size=3, verbose=False)
        return {name: values.copy() for name, values in model.parameters.items()}, model.predict(x)

    return Use(f"fit of a {name}", run)


def uses(draws: int = 1, other_cells: bool = False, long_sums: bool = False) -> Iterator[Use]:
    """All of them, with so many draws of the sizes that are drawn; `other_cells` are compiled anew in every
    process, and `long_sums` take long without the compiler."""
    for dtype in TOLERANCE:
        for seed in range(draws):
            for cell in LAYERS:
                for hidden in HIDDEN:
                    for bidirectional in (False, True):
                        yield recurrent_use(cell, dtype, bidirectional, hidden, seed)
            yield from layer_uses(dtype, np.random.default_rng(seed))
        number = 0
        for _ in range(draws):
            for kind in ("last", "steps", "stack", "tokens"):
                for loss in LOSSES:
                    for optimizer in OPTIMIZERS:
                        number += 1
                        yield fit_use(dtype, kind, number, loss, optimizer)
    for name, make in test_graph.MODELS.items():
        yield graph_use(name, make)
    if long_sums:
        for make_long in (lambda: numbarnn.LSTM(5, peephole=True), lambda: Dense(5)):
            yield long_use(make_long)
    if other_cells:
        for name in test_cell_contract.PLAIN:
            for bidirectional in (False, True):
                yield other_cell_use(name, bidirectional)
