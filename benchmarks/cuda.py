"""Checks this library on a GPU and times it beside cuDNN: ``python -m benchmarks.cuda --out DIR``.

First the layers on the GPU are held to those on the CPU, over cells, sizes, options and dtypes; then
PyTorch's (cuDNN), ours and, where it is installed, flashrnn's are compared and timed, each library in a
process of its own, in turns. Times include launches, and one wait for ten steps; transfers are apart: arrays
are on the GPU. The floor is the time that the GPU needs to read inputs, weights and the gradient of the
outputs once and to write outputs and gradients once, or for the multiplications, whichever is longer.
"""

import argparse
import contextlib
import datetime
import importlib.util
import platform
import statistics
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numbarnn
from benchmarks.comparison.libraries import Process, Settings
from benchmarks.comparison.markdown import milliseconds, table
from benchmarks.comparison.rounds import check_agreement, measure
from benchmarks.cuda_trainer import STEPS_A_CALL
from benchmarks.problems import CELLS, GATES, Shape, training_operations

OURS, CUDNN, FLASHRNN = "numbarnn", "cuDNN", "flashrnn"
MODULES = {OURS: "numbarnn_cuda", CUDNN: "torch_cuda", FLASHRNN: "flashrnn_peer"}
ROWS, STEPS, SIZES = (1, 16, 64), (100, 1000), (16, 64, 128, 256, 512)
QUICK = [Shape(2, 3, 2, 4)]
SECONDS_A_ROUND, ROUNDS = 0.2, 5
FIT_EPOCHS = 30
FLOAT_BYTES = 4
VARIANTS = {
    OURS: ("", " tf32", " fp16"), CUDNN: ("", " tf32", " fp16"), FLASHRNN: (" tf32", " fp16"),
}  # fmt: skip
HAS_FLASHRNN = importlib.util.find_spec("flashrnn") is not None
TF32_TOLERANCE = 1e-2  # of an array's largest magnitude, where products have the ten bits of TF32


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
    names = ["numba", "numba-cuda", "cupy-cuda13x", "numpy", "torch", *["flashrnn"] * HAS_FLASHRNN]
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
        remarks: list[str] = []
        for cell in arguments.cells:
            for shape in shapes:
                rows += lines_of(processes, cell, shape, ceilings, remarks)
        timed = [OURS, CUDNN, *[FLASHRNN] * HAS_FLASHRNN]
        head = [f"ms, {title}{variant}" for title in timed for variant in VARIANTS[title]]
        header = ["cell", "B,T,I,H", "what", *head, "cuDNN / numbarnn", "floor / numbarnn"]
        body += ["### Layers, float32", "", *table(header, rows, text_columns=3), "", *remarks, ""]
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
    header = ["cell", *(f"largest error, {name}" for name in next(iter(errors.values())))]
    rows = [[cell, *(f"{float(error):.1e}" for error in found.values())] for cell, found in errors.items()]
    return table(header, rows, text_columns=1)


def lines_of(
    processes: dict[str, Process], cell: str, shape: Shape, ceilings: dict[str, float], remarks: list[str]
) -> list[list[str]]:
    """The lines of one cell and shape; why a peer's cell is empty becomes a remark."""
    problem, settings = [cell, str(shape)], processes[OURS].settings
    check_agreement(processes, "layer", problem)
    with contextlib.ExitStack() as stack:
        timed = dict(processes)
        if HAS_FLASHRNN:
            # Of a process of its own for each problem an error of the GPU spoils no other one.
            flashrnn = stack.enter_context(Process(MODULES[FLASHRNN], settings))
            reasons = flashrnn_refusals(flashrnn, problem)
            remarks += [f"- flashrnn{variant}, {cell} {shape}: {why}" for variant, why in reasons.items()]
            if len(reasons) < len(VARIANTS[FLASHRNN]):
                timed[FLASHRNN] = flashrnn
                check_agreement({OURS: processes[OURS], FLASHRNN: flashrnn}, "layer", problem, TF32_TOLERANCE)
        times = measure(timed, "layer", problem, settings.rounds)
    lines = []
    for kind in ("forward", "train"):
        mine, theirs = (
            [median_of(times[title], kind + variant) for variant in VARIANTS[title]]
            for title in (OURS, CUDNN)
        )
        floor = floor_milliseconds(cell, shape, kind, ceilings["bytes"], ceilings["operations"])
        figures = list(map(milliseconds, (*mine, *theirs)))
        if HAS_FLASHRNN:
            found = times.get(FLASHRNN, {})
            figures += [
                milliseconds(median_of(found, kind + variant)) if kind + variant in found else ""
                for variant in VARIANTS[FLASHRNN]
            ]
        figures += [f"{theirs[0] / mine[0]:.2f}", f"{floor / mine[0]:.1%}"]
        lines.append([cell, str(shape), kind, *figures])
        print(*lines[-1], file=sys.stderr, flush=True)
    return lines


def flashrnn_refusals(flashrnn: Process, problem: list[str]) -> dict[str, str]:
    """Why variants do not work on a problem, by variant."""
    try:
        return {variant: str(why) for variant, why in flashrnn.results("refusals", problem).items()}
    except RuntimeError as error:  # its process ended
        return dict.fromkeys(VARIANTS[FLASHRNN], str(error))


def median_of(calls: dict[str, list[float]], call: str) -> float:
    """Milliseconds of one step."""
    return statistics.median(calls[call]) / STEPS_A_CALL


if __name__ == "__main__":
    main()
