"""Hashes of what the library computes, to see whether a change leaves every bit as it was.

    python -m benchmarks.record before.json                     # on the commit before
    python -m benchmarks.record after.json --compare before.json

Outputs, states, gradients and fitted parameters of every cell, dtype, form of input, option, loss and
optimiser, on one thread and on two. The hashes hold for one machine with one set of installed packages:
another processor has other vector widths, and another LLVM may order operations differently.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numba
import numpy as np

import numbarnn
from numbarnn.kernels import gru_step, lstm_step, rnn_step

DTYPES = ("float32", "float64")
THREADS = (1, 2)
HASH_DIGITS = 16
LENGTHS = (3, 7, 1, 7, 5)  # rows of the small batches, in no order
INPUTS, HIDDEN = 5, 11  # no multiple of a vector's width
CELLS: dict[str, Callable[..., Any]] = {
    "rnn_tanh": numbarnn.RNN,
    "rnn_relu": lambda hidden_size, **options: numbarnn.RNN(hidden_size, activation="relu", **options),
    "lstm": numbarnn.LSTM,
    "gru": numbarnn.GRU,
}
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "no bias": {"bias": False},
    "bidirectional": {"bidirectional": True},
    "stacked": {"num_layers": 2},
    "deep": {"num_layers": 3, "bidirectional": True, "dropout": 0.4},
}
# Large enough for threads to share the rows, the directions and the units of a layer: rows, steps, inputs,
# hidden units and options.
LARGE: dict[str, tuple[int, int, int, int, dict[str, Any]]] = {
    "shared rows": (24, 30, 17, 70, {}),
    "shared directions": (24, 30, 17, 70, {"bidirectional": True}),
    "shared units of one row": (1, 12, 33, 300, {}),
    "shared units": (40, 6, 33, 520, {}),
}
OPTIMIZERS = ("sgd", "rmsprop", "adam", "adamw")
LOSSES = ("cross_entropy", "binary_cross_entropy", "mse", "mae", "huber")
CLASSES = 3

Case = tuple[str, Callable[[], Any]]


def hash_of(value: Any) -> str:
    """The hash of the bits, shapes and dtypes of arrays and numbers, in lists, tuples and dicts."""
    digest = hashlib.sha256()

    def add(part: Any) -> None:
        if isinstance(part, dict):
            for name, each in part.items():
                digest.update(str(name).encode())
                add(each)
        elif isinstance(part, (list, tuple)):
            digest.update(f"({len(part)}".encode())
            for each in part:
                add(each)
        elif part is None:
            digest.update(b"None")
        else:
            array = np.ascontiguousarray(part)
            digest.update(f"{array.dtype}{array.shape}".encode())
            digest.update(array.tobytes())

    add(value)
    return digest.hexdigest()[:HASH_DIGITS]


def state_of(layer: Any, rows: int, seed: int) -> Any:
    """States (L * D, B, H), for LSTM a pair of them."""
    rng = np.random.default_rng(seed)
    directions = 2 if layer.bidirectional else 1
    shape = layer.num_layers * directions, rows, layer.hidden_size
    states = [rng.uniform(-1, 1, shape).astype(layer.dtype) for _ in range(2)]
    return tuple(states) if isinstance(layer, numbarnn.LSTM) else states[0]


def passes(layer: Any, x: Any, lengths: Any, rows: int, with_state: bool) -> Any:
    """Results of a prediction and of a training step, forward and backward."""
    state = state_of(layer, rows, 1) if with_state else None
    predicted = layer.forward(x, state, lengths)
    y, final = layer.forward(x, state, lengths, training=True, seed=5)
    dy = [np.cos(3 * row + 1) for row in y] if isinstance(y, list) else np.cos(3 * y + 1)
    gradients = layer.backward(dy, state_of(layer, rows, 2) if with_state else None)
    return predicted, y, final, gradients, layer.gradients


def layer_cases(dtype: str) -> Iterator[Case]:
    rng = np.random.default_rng(0)
    full = rng.standard_normal((len(LENGTHS), max(LENGTHS), INPUTS)).astype(dtype)
    ragged = [row[:length] for row, length in zip(full, LENGTHS, strict=True)]
    forms = {"array": (full, None), "array with lengths": (full, LENGTHS), "list": (ragged, None)}
    for cell, make in CELLS.items():
        for option, options in OPTIONS.items():
            for form, (x, lengths) in forms.items():
                for with_state in (False, True):
                    name = f"{cell}, {option}, {form}{', initial state' if with_state else ''}"

                    def run(make=make, options=options, x=x, lengths=lengths, with_state=with_state) -> Any:
                        layer = make(HIDDEN, dtype=dtype, **options)
                        layer.build(INPUTS, seed=3)
                        return layer.parameters, passes(layer, x, lengths, len(LENGTHS), with_state)

                    yield name, run
        yield f"{cell}, steps", lambda make=make: steps_of(make(HIDDEN, num_layers=2, dtype=dtype), full)
        for size, (rows, steps, inputs, hidden, options) in LARGE.items():
            x = rng.standard_normal((rows, steps, inputs)).astype(dtype)

            def run(make=make, x=x, hidden=hidden, options=options) -> Any:
                layer = make(hidden, dtype=dtype, **options)
                layer.build(x.shape[2], seed=3)
                return passes(layer, x, None, len(x), True)

            yield f"{cell}, {size}", run


def steps_of(layer: Any, x: np.ndarray) -> Any:
    """A sequence step by step, from Python."""
    layer.build(x.shape[2], seed=3)
    state, outputs = None, []
    for t in range(x.shape[1]):
        y, state = layer.step(x[:, t], state)
        outputs.append(np.array(y))
    return outputs, state


@numba.njit
def run_rnn(weights, x, h):
    for t in range(len(x)):
        rnn_step(weights, x[t], h)


@numba.njit
def run_lstm(weights, x, h, c):
    for t in range(len(x)):
        lstm_step(weights, x[t], h, c)


@numba.njit
def run_gru(weights, x, h):
    for t in range(len(x)):
        gru_step(weights, x[t], h)


def kernel_cases(dtype: str) -> Iterator[Case]:
    """Sequences step by step, from compiled code."""
    x = np.random.default_rng(0).standard_normal((9, INPUTS)).astype(dtype)
    runs = {"rnn_tanh": (run_rnn, 1), "rnn_relu": (run_rnn, 1), "lstm": (run_lstm, 2), "gru": (run_gru, 1)}
    for cell, (function, count) in runs.items():

        def run(make=CELLS[cell], function=function, count=count) -> Any:
            layer = make(HIDDEN, dtype=dtype)
            layer.build(INPUTS, seed=3)
            states = [np.zeros(HIDDEN, dtype) for _ in range(count)]
            function(layer.kernel_weights(), x, *states)
            return states

        yield f"{cell}, kernel", run


def fit_cases(dtype: str) -> Iterator[Case]:
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 9, 20)
    x = [rng.standard_normal((length, INPUTS)) for length in lengths]
    tokens = [rng.integers(0, 6, length) for length in lengths]
    labels = rng.integers(0, CLASSES, len(x))
    labels_of_steps = [rng.integers(0, CLASSES, length) for length in lengths]
    yes_or_no, numbers = rng.integers(0, 2, (len(x), CLASSES)), rng.standard_normal((len(x), CLASSES))

    def fit(*layers: Any, x: Any = x, y: Any = labels, **options: Any) -> Any:
        model = numbarnn.Sequential(*layers, numbarnn.Dense(CLASSES, dtype=dtype))
        history = model.fit(x, y, epochs=2, batch_size=6, verbose=False, **options).history
        scores = {name: values for name, values in history.items() if name != "seconds"}
        return scores, [layer.parameters for layer in model.layers], model.predict(x), model.evaluate(x, y)

    for cell, make in CELLS.items():
        for optimizer in OPTIMIZERS:
            yield (
                f"fit, {cell}, {optimizer}",
                lambda make=make, optimizer=optimizer: fit(make(HIDDEN, dtype=dtype), optimizer=optimizer),
            )
        yield (
            f"fit, {cell}, one target a step",
            lambda make=make: fit(
                make(HIDDEN, dtype=dtype, return_sequences=True, **OPTIONS["deep"]), y=labels_of_steps
            ),
        )
    for loss in LOSSES:
        targets = {"cross_entropy": labels, "binary_cross_entropy": yes_or_no}.get(loss, numbers)
        yield (
            f"fit, {loss}",
            lambda loss=loss, targets=targets: fit(numbarnn.GRU(HIDDEN, dtype=dtype), y=targets, loss=loss),
        )
    yield (
        "fit, weights, clipping and a schedule",
        lambda: fit(
            numbarnn.Dropout(0.2),
            numbarnn.LSTM(HIDDEN, dtype=dtype),
            optimizer=numbarnn.Adam(numbarnn.CosineDecay(1e-2)),
            sample_weight=np.linspace(0.5, 2, len(x)),
            class_weight="balanced",
            clip_norm=0.3,
            clip_value=0.1,
            validation_data=(x[:7], labels[:7]),
        ),
    )
    for pooling in (numbarnn.MeanOverTime, numbarnn.MaxOverTime):
        yield (
            f"fit, tokens, {pooling.__name__}",
            lambda pooling=pooling: fit(
                numbarnn.Embedding(6, 4, dtype=dtype),
                numbarnn.RNN(HIDDEN, dtype=dtype, return_sequences=True),
                numbarnn.Dense(7, activation="tanh", dtype=dtype),
                pooling(),
                x=tokens,
            ),
        )


def record() -> dict[str, str]:
    hashes = {}
    for threads in THREADS:
        numbarnn.set_num_threads(threads)
        for dtype in DTYPES:
            for cases in (layer_cases, kernel_cases, fit_cases):
                for name, run in cases(dtype):
                    hashes[f"{name}, {dtype}, threads {threads}"] = hash_of(run())
    return hashes


def differences(former: dict[str, str], present: dict[str, str]) -> list[str]:
    """What is not the same, one line a case."""
    lines = [f"only in the former record: {name}" for name in former if name not in present]
    lines += [f"only in this record: {name}" for name in present if name not in former]
    common = [name for name in former if name in present]
    return lines + [f"differs: {name}" for name in common if former[name] != present[name]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="the JSON file to write: {case: hash}")
    parser.add_argument(
        "--compare", type=Path, metavar="FORMER", help="exit with 1 unless equal to this file"
    )
    options = parser.parse_args()
    hashes = record()
    options.out.write_text(json.dumps(hashes, indent=1) + "\n", encoding="utf-8")
    print(f"{len(hashes)} cases recorded in {options.out}")
    if options.compare is not None:
        former = json.loads(options.compare.read_text(encoding="utf-8"))
        found = differences(former, hashes)
        print(*found, f"{len(found)} differences from {options.compare}", sep="\n")
        sys.exit(bool(found))


if __name__ == "__main__":
    main()
