"""Layers on the GPU held to those on the CPU: outputs, states, all gradients; smallest sizes first."""

from typing import Any, NamedTuple

import numpy as np

from benchmarks.trainer import LAYERS

# Of an array's largest magnitude; those beside dtypes are of `precision`.
ALLOWED = {"float64": 1e-10, "float32": 2e-5, "tf32": 1e-2, "float16": 1e-2}
# B, T, I, H: odd sizes, weights in registers, in shared memory too, and steps one by one.
SIZES = [(1, 1, 1, 1), (3, 7, 5, 20), (9, 30, 8, 64), (2, 5, 3, 95), (4, 12, 16, 128), (3, 6, 8, 300)]
# Hidden units shared out among blocks that wait for one another: these have a process of their own.
TEAM_SIZES = [
    (1, 4, 8, 192), (5, 9, 8, 192), (70, 12, 8, 192), (1, 9, 8, 256), (5, 9, 8, 256), (70, 12, 8, 256),
    (5, 9, 8, 512), (1, 9, 8, 512), (70, 12, 8, 512), (7, 300, 8, 250),
]  # fmt: skip
LONG = (2, 70_000, 4, 16)  # cuDNN refuses more than 65,535 steps
OPTIONS: list[dict[str, Any]] = [
    {}, {"bidirectional": True}, {"num_layers": 2, "bidirectional": True}, {"bias": False},
]  # fmt: skip
CELLS = ("lstm", "gru", "rnn", "rnn relu")


class Case(NamedTuple):
    cell: str
    size: tuple[int, ...]
    kind: str  # a dtype or a precision
    options: dict

    def __str__(self) -> str:
        options = ", ".join(f"{name}={value}" for name, value in self.options.items())
        return f"{self.cell} {self.kind} B,T,I,H={','.join(map(str, self.size))} {options}".strip()


def cases(part: str, quick: bool) -> list[Case]:
    sizes = SIZES[:2] if quick else SIZES
    cell, _, kind = part.partition(" ")
    if cell == "long":
        return [] if quick else [Case(each, LONG, kind, {}) for each in CELLS[:3]]
    if cell == "teams":
        return [
            Case(each, size, kind or "float32", options)
            for size in (TEAM_SIZES[:2] if quick else TEAM_SIZES)
            for each in CELLS[:3]
            for options in OPTIONS[:2]
        ]
    if cell == "rounding":
        return [
            Case(each, size, kind, options)
            for size in sizes[1:]
            for each in CELLS[:3]
            for options in OPTIONS[:2]
        ]
    found = [
        Case(cell, size, kind or "float32", options)
        for size in sizes
        for options in (OPTIONS if size in SIZES[1:4] else OPTIONS[:2])
    ]
    if cell == "rnn":
        found += [case._replace(cell="rnn relu") for case in found[: len(OPTIONS)]]
    return found


def run(case: Case) -> dict:
    errors = errors_of(case)
    worst = max(errors, key=errors.__getitem__)
    allowed = ALLOWED[case.kind]
    if not max(errors.values()) <= allowed:
        raise AssertionError(f"errors {errors}, {allowed} allowed")
    return {"worst": worst, "largest": errors[worst], "allowed": allowed}


def make(case: Case, device: str):
    name, _, activation = case.cell.partition(" ")
    own = {"dtype": "float64"} if case.kind == "float64" else {}
    if case.kind in ("tf32", "float16"):
        own["precision"] = case.kind
    if activation:
        own["activation"] = activation
    return LAYERS[name](case.size[3], device=device, **own, **case.options)


def errors_of(case: Case) -> dict[str, float]:
    """The largest error of each array, relative to the largest number in it."""
    rows, steps, features, _ = case.size
    rng = np.random.default_rng(list(case.size))
    lengths = rng.integers(1, steps + 1, rows)
    lengths[0] = steps
    outcomes: list[dict[str, np.ndarray]] = []
    for device in ("cpu", "cuda"):
        layer = make(case, device)
        layer.build(features, seed=1)
        # The same values in either dtype and on either device.
        values = np.random.default_rng(2)
        x = values.standard_normal((rows, steps, features)).astype(layer.dtype)
        _, zero_state = layer.forward(x, lengths=lengths)
        initial = filled(zero_state, values)
        y, state = layer.forward(x, initial, lengths=lengths, training=True)
        dy = values.standard_normal(y.shape).astype(layer.dtype)
        dx, dinitial = layer.backward(dy, dstate=filled(state, values))
        outcomes.append(
            {"y": y, "dx": dx, **named("state", state), **named("dinitial", dinitial), **layer.gradients}
        )
    cpu, cuda = outcomes
    return {name: relative(cuda[name], wanted) for name, wanted in cpu.items()}


def filled(state: Any, rng: np.random.Generator) -> Any:
    """Random numbers in the form of a state."""
    if isinstance(state, tuple):
        return tuple(filled(part, rng) for part in state)
    return rng.standard_normal(state.shape).astype(state.dtype)


def named(name: str, state: Any) -> dict[str, np.ndarray]:
    parts = state if isinstance(state, tuple) else (state,)
    return {f"{name}[{i}]": part for i, part in enumerate(parts)}


def relative(mine: np.ndarray, wanted: np.ndarray) -> float:
    """The largest error; of an array of zeros, as a recurrent weight's gradient after one step, as it is."""
    return float(np.max(np.abs(mine - wanted)) / (np.max(np.abs(wanted)) or 1.0))
