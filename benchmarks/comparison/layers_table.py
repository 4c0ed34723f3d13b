"""Table 1: a layer's forward pass and its training step, beside every other library."""

import math
import statistics
import sys
from collections.abc import Mapping
from typing import NamedTuple

from benchmarks.comparison.libraries import OURS, Process, Settings
from benchmarks.comparison.markdown import milliseconds, table
from benchmarks.comparison.rounds import (
    check_agreement,
    geometric_mean,
    measure,
    median_ratio,
    medians,
)
from benchmarks.problems import Shape, training_operations

UNDISTURBED = 0.9  # share of the peak that a row must have found


class Row(NamedTuple):
    """Median times in ms of one cell and shape, by library; the processor's peak in GFLOP/s meanwhile and the
    share of it that training reached, round by round; how many nanoseconds a barrier of two threads took,
    NaN where there were none."""

    cell: str
    shape: Shape
    forward: dict[str, float]
    train: dict[str, float]
    peak: float
    share: float
    barrier: float


class Figures(NamedTuple):
    """All rows, and the titles of the libraries in them."""

    rows: list[Row]
    titles: list[str]


def ratios(times: Mapping[str, float]) -> dict[str, float]:
    """Each other library's time over ours; "best" is that of the fastest of them."""
    others = {title: time / times[OURS.title] for title, time in times.items() if title != OURS.title}
    return others | {"best": min(others.values())} if others else {}


def measure_layers(
    processes: Mapping[str, Process], cells: list[str], shapes: list[Shape], settings: Settings
) -> Figures:
    ours = processes[OURS.title]
    rows = []
    for cell in cells:
        for shape in shapes:
            problem = [cell, str(shape)]
            check_agreement(processes, "layer", problem)
            times = measure(processes, "layer", problem, settings.rounds)
            machine = ours.results("machine", [settings.threads])
            operations = float(machine["operations"])
            peak = operations / medians(times, "peak")[OURS.title] / 1e6
            parts = training_operations(cell, shape) / operations
            share = parts * median_ratio(times[OURS.title], "peak", "train")
            found = peak, share, float(machine["barrier"])
            rows.append(Row(cell, shape, medians(times, "forward"), medians(times, "train"), *found))
            print(f"{cell} {shape}: {describe(rows[-1])}", file=sys.stderr, flush=True)
    return Figures(rows, list(processes))


def describe(row: Row) -> str:
    times = [[times[title] for times in (row.forward, row.train) if title in times] for title in row.forward]
    parts = zip(row.forward, times, strict=True)
    return ", ".join(f"{title} {' / '.join(map(milliseconds, pair))}" for title, pair in parts)


def markdown(figures: Figures) -> list[str]:
    """Both halves of the table, each with its means, and the peak."""
    peak = max(row.peak for row in figures.rows)  # nothing but other programs lowers it
    disturbed = sum(row.peak < UNDISTURBED * peak for row in figures.rows)
    said = f" Other programs took more than a tenth of it beside {disturbed} of {len(figures.rows)} rows."
    return [
        "### Training step",
        "",
        *half(figures, "train"),
        "",
        "### Forward pass",
        "",
        *half(figures, "forward"),
        "",
        f"Peak of the FMA units: {peak:.0f} GFLOP/s.{said if disturbed else ''}{distance(figures.rows)}",
    ]


def distance(rows: list[Row]) -> str:
    """How far apart the cores of two threads were: what threads read of each other takes as long."""
    barriers = sorted(row.barrier for row in rows if not math.isnan(row.barrier))
    if not barriers:
        return ""
    middle = statistics.median(barriers)
    return f" Two threads met in {middle:.0f} ns ({barriers[0]:.0f} to {barriers[-1]:.0f}, row by row)."


def half(figures: Figures, kind: str) -> list[str]:
    """Forward or training; with the latter, also how much of the peak was reached."""
    present = [title for title in figures.titles if title in getattr(figures.rows[0], kind)]
    header = ["cell", "B,T,I,H", *present]
    compared = len(present) > 1
    header += ["best / ours"] if compared else []
    header += ["GFLOP/s", "of the peak"] if kind == "train" else []
    lines = []
    for row in figures.rows:
        times = getattr(row, kind)
        line = [row.cell, str(row.shape), *(milliseconds(times[title]) for title in present)]
        line += [f"{ratios(times)['best']:.2f}"] if compared else []
        if kind == "train":
            speed = training_operations(row.cell, row.shape) / times[OURS.title] / 1e6
            line += [f"{speed:.0f}", f"{row.share:.0%}"]
        lines.append(line)
    result = table(header, lines, text_columns=2)
    return [*result, "", *means(figures, kind)] if compared else result


def means(figures: Figures, kind: str) -> list[str]:
    """Geometric means over the shapes of all ratios, a line for each cell."""
    by_cell: dict[str, list[dict[str, float]]] = {}
    for row in figures.rows:
        by_cell.setdefault(row.cell, []).append(ratios(getattr(row, kind)))
    names = list(next(iter(by_cell.values()))[0])
    header = ["geometric mean", *(f"{name} / ours" for name in names)]
    lines = [
        [cell, *(f"{geometric_mean(row[name] for row in rows):.2f}" for name in names)]
        for cell, rows in by_cell.items()
    ]
    return table(header, lines, text_columns=1)
