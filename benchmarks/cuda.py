"""Checks this library on a GPU and times it beside cuDNN: ``python -m benchmarks.cuda --out DIR``.

First the layers on the GPU are held to those on the CPU, over cells, sizes, options and dtypes; then
PyTorch's (cuDNN) and ours are compared and timed, each library in a process of its own, in turns. Times
include launches, and one wait for ten steps; transfers are apart: arrays are on the GPU. The floor is the
time that the GPU needs to read inputs, weights and the gradient of the outputs once and to write outputs and
gradients once, or for the multiplications, whichever is longer.
"""

import argparse
import datetime
import platform
import statistics
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numbarnn
from benchmarks.comparison.libraries import Process, Settings
from benchmarks.comparison.markdown import milliseconds, table
from benchmarks.comparison.rounds import check_agreement, measure, medians
from benchmarks.cuda_trainer import STEPS_A_CALL
from benchmarks.problems import CELLS, GATES, Shape, training_operations

OURS, CUDNN = "numbarnn", "cuDNN"
MODULES = {OURS: "numbarnn_cuda", CUDNN: "torch_cuda"}
ROWS, STEPS, SIZES = (1, 16, 64), (100, 1000), (16, 64, 128, 256, 512)
QUICK = [Shape(2, 3, 2, 4)]
SECONDS_A_ROUND, ROUNDS = 0.2, 5
FIT_EPOCHS = 30
FLOAT_BYTES = 4
VARIANTS = ("", " tf32", " fp16")


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cells", nargs="+", choices=CELLS, default=list(CELLS))
    parser.add_argument("--rows", nargs="+", type=int, default=ROWS, help="B")
    parser.add_argument("--steps", nargs="+", type=int, default=STEPS, help="T")
    parser.add_argument("--sizes", nargs="+", type=int, default=SIZES, help="H, and I")
    parser.add_argument("--no-checks", action="store_true", help="times alone")
    parser.add_argument("--quick", action="store_true", help="one tiny shape, to see that all works")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write cuda.md there")
    return parser.parse_args()


def floor_milliseconds(cell: str, shape: Shape, kind: str, bytes_a_second: float, rate: float) -> float:
    """The least time of a forward pass or a training step on this GPU."""
    steps, sums = shape.B * shape.T, GATES[cell] * shape.H
    weights = sums * (shape.I + shape.H + 2)
    numbers = steps * (shape.I + shape.H) + weights
    operations = 2 * steps * sums * (shape.I + shape.H)
    if kind == "train":
        numbers += steps * shape.H + weights  # the gradient of the outputs, and those of the weights
        operations = training_operations(cell, shape)
    return 1e3 * max(FLOAT_BYTES * numbers / bytes_a_second, operations / rate)


def package(name: str) -> str:
    try:
        return f"{name} {version(name)}"
    except PackageNotFoundError:
        return f"{name} (unknown version)"


def describe(processes: dict[str, Process], ceilings: dict[str, float]) -> list[str]:
    names = ("numba", "numba-cuda", "cupy-cuda13x", "numpy", "torch")
    return [
        f"- numbarnn {numbarnn.__version__}, Python {platform.python_version()},"
        f" {', '.join(map(package, names))}",
        f"- a copy moves {ceilings['bytes'] / 1e9:.0f} GB/s (read and written), a product of float32 without"
        f" TF32 takes {ceilings['operations'] / 1e12:.1f} TFLOP/s",
        f"- {datetime.date.today().isoformat()}",
    ]


def main() -> None:
    arguments = read_arguments()
    if not numbarnn.cuda_available():
        sys.exit("no NVIDIA GPU here (numbarnn.cuda_available() is False): there is nothing to time")
    shapes = [
        Shape(rows, steps, size, size)
        for size in arguments.sizes
        for rows in arguments.rows
        for steps in arguments.steps
    ]
    shapes = QUICK if arguments.quick else shapes
    settings = Settings(1, 2 if arguments.quick else ROUNDS, 0.0 if arguments.quick else SECONDS_A_ROUND)
    body: list[str] = []
    with Process(MODULES[OURS], settings) as ours, Process(MODULES[CUDNN], settings) as cudnn:
        processes = {OURS: ours, CUDNN: cudnn}
        ceilings = {name: float(value) for name, value in cudnn.results("machine", []).items()}
        if not (arguments.no_checks or arguments.quick):
            body += ["### On the GPU and on the CPU", "", *parity(ours, arguments.cells), ""]
        rows: list[list[str]] = []
        for cell in arguments.cells:
            for shape in shapes:
                rows += lines_of(processes, cell, shape, ceilings)
        head = [f"ms, {kind}" for kind in ("numbarnn", *(f"cuDNN{variant}" for variant in VARIANTS))]
        header = ["cell", "B,T,I,H", "what", *head, "cuDNN / numbarnn", "floor / numbarnn"]
        body += ["### Layers, float32", "", *table(header, rows, text_columns=3), ""]
        if not arguments.quick:
            times = {device: ours.ask("fit", [device, FIT_EPOCHS], 1)["fit"] for device in ("cpu", "cuda")}
            said = ", ".join(f"{device} {time / 1e3:.2f} s" for device, time in times.items())
            body += [f"A fit on Japanese Vowels, {FIT_EPOCHS} epochs: {said}."]
        text = "\n".join([*describe(processes, ceilings), "", *body])
    print(text)
    if arguments.out is not None:
        arguments.out.mkdir(parents=True, exist_ok=True)
        (arguments.out / "cuda.md").write_text(text + "\n", encoding="utf-8")


def parity(ours: Process, cells: list[str]) -> list[str]:
    """The largest errors; the process ends where one is too large."""
    errors = {cell: ours.results("parity", [cell]) for cell in cells}
    header = ["cell", *(f"largest error, {dtype}" for dtype in next(iter(errors.values())))]
    rows = [[cell, *(f"{float(error):.1e}" for error in found.values())] for cell, found in errors.items()]
    return table(header, rows, text_columns=1)


def lines_of(
    processes: dict[str, Process], cell: str, shape: Shape, ceilings: dict[str, float]
) -> list[list[str]]:
    """The lines of one cell and shape."""
    problem = [cell, str(shape)]
    check_agreement(processes, "layer", problem)
    times = measure(processes, "layer", problem, processes[OURS].settings.rounds)
    lines = []
    for kind in ("forward", "train"):
        mine = medians(times, kind)[OURS] / STEPS_A_CALL
        theirs = [statistics.median(times[CUDNN][kind + variant]) / STEPS_A_CALL for variant in VARIANTS]
        floor = floor_milliseconds(cell, shape, kind, ceilings["bytes"], ceilings["operations"])
        figures = [*map(milliseconds, (mine, *theirs)), f"{theirs[0] / mine:.2f}", f"{floor / mine:.1%}"]
        lines.append([cell, str(shape), kind, *figures])
        print(*lines[-1], file=sys.stderr, flush=True)
    return lines


if __name__ == "__main__":
    main()
