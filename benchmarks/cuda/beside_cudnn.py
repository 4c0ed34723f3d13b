"""Layers beside PyTorch's, which are cuDNN's, in float32 without TF32: equal lengths, and ragged rows.

Each library has a process of its own, and they take turns. PyTorch gets equal lengths as an array and ragged
rows packed, which cuDNN runs by other kernels; ours are arrays, with lengths where rows are ragged. Arrays
are on the GPU. Times include launches, and one wait for several steps. A training step is forward, backward
without the input's gradient, and a change of the weights.
"""

import functools
from typing import NamedTuple

from benchmarks.comparison.libraries import Process, Settings
from benchmarks.comparison.rounds import check_agreement, measure
from benchmarks.problems import Shape

OURS, CUDNN = "numbarnn", "cuDNN"
MODULES = {OURS: "numbarnn_cuda", CUDNN: "torch_cuda"}
CELLS = ("lstm", "gru", "rnn")
SIZES = (64, 128, 256, 16, 192, 512)  # H, and I; what is asked for most comes first
ROWS = (64, 16, 128, 1)
STEPS = (100, 1000)
KINDS = ("padded", "ragged")
SETTINGS = Settings(threads=2, rounds=3, seconds=0.02)


class Case(NamedTuple):
    cell: str
    shape: Shape
    kind: str

    def __str__(self) -> str:
        return f"{self.cell} {self.shape} {self.kind}"


def cases(part: str, quick: bool) -> list[Case]:
    if quick:
        return [Case(cell, Shape(2, 3, 2, 4), kind) for cell in CELLS for kind in KINDS]
    return [
        Case(cell, Shape(B, T, H, H), kind)
        for T in STEPS
        for B in ROWS
        for cell in CELLS
        for kind in KINDS
        for H in SIZES
        if T == STEPS[0] or (B == ROWS[0] and H in SIZES[:3])
    ]


@functools.cache
def processes() -> dict[str, Process]:
    return {title: Process(module, SETTINGS) for title, module in MODULES.items()}


def run(case: Case) -> dict:
    arguments = [case.cell, str(case.shape), case.kind]
    check_agreement(processes(), "layer", arguments)
    times = measure(processes(), "layer", arguments, SETTINGS.rounds)
    found: dict = {"cell": case.cell, "shape": str(case.shape), "kind": case.kind}
    for call in ("forward", "train"):
        mine, theirs = (sorted(times[title][call])[SETTINGS.rounds // 2] for title in (OURS, CUDNN))
        steps = steps_a_call(case.shape)
        found |= {f"{call}_ms": mine / steps, f"{call}_cudnn_ms": theirs / steps}
        found[f"{call}_ratio"] = theirs / mine
    return found


def steps_a_call(shape: Shape) -> int:
    """Between two waits for the GPU, so that a step's time is not that of waiting."""
    return min(10, max(2, 1000 // shape.T))
