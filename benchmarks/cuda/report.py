"""The lines of a run as tables in Markdown."""

from collections.abc import Iterable
from typing import Any

from benchmarks.comparison.markdown import milliseconds, table
from benchmarks.cuda.stages import Outcome

Lines = list[dict[str, Any]]


def markdown(lines: Lines) -> str:
    """All that is known so far."""
    passed = [line for line in lines if "error" not in line]
    parts = [machine(of(passed, "machine")), agreement(of(passed, "agreement"))]
    parts += [usage(of(passed, "usage")), beside_cudnn(of(passed, "beside_cudnn"))]
    parts += [own_kernels(of(passed, "own_kernels")), counters(of(passed, "counters")), failures(lines)]
    return "\n".join(text for part in parts if part for text in [*part, ""])


def of(lines: Lines, stage: str) -> Lines:
    return [line for line in lines if line["stage"] == stage]


def machine(lines: Lines) -> list[str]:
    return [f"- {line['case']}: {pairs(line)}" for line in lines]


def pairs(line: dict[str, Any]) -> str:
    return ", ".join(
        f"{name.replace('_', ' ')} {number(value)}"
        for name, value in line.items()
        if name not in ("stage", "case", "seconds")
    )


def number(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return " / ".join(map(number, value))
    return str(value)


def agreement(lines: Lines) -> list[str]:
    """The largest error of each cell and dtype or precision."""
    largest: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for line in lines:
        cell = line["case"].partition(" B,T,I,H=")[0]
        largest.setdefault((cell, str(line["allowed"])), []).append(line)
    rows = [
        [cell, str(len(found)), f"{max(line['largest'] for line in found):.1e}", allowed]
        for (cell, allowed), found in largest.items()
    ]
    title = ["### The GPU against the CPU", ""]
    return rows and [*title, *table(["layer", "cases", "largest error", "allowed"], rows, 1)]


def usage(lines: Lines) -> list[str]:
    return lines and ["### Fits and arrays", "", *[f"- {line['case']}: {pairs(line)}" for line in lines]]


def beside_cudnn(lines: Lines) -> list[str]:
    header = [
        "cell",
        "B,T,I,H",
        "rows",
        "forward, ms",
        "cuDNN",
        "ratio",
        "training step, ms",
        "cuDNN",
        "ratio",
    ]
    rows = [
        [line["cell"], line["shape"], line["kind"], *times_of(line, "forward"), *times_of(line, "train")]
        for line in lines
    ]
    return rows and ["### Beside cuDNN, float32", "", *table(header, rows, 3)]


def times_of(line: dict[str, Any], call: str) -> Iterable[str]:
    yield milliseconds(line[f"{call}_ms"])
    yield milliseconds(line[f"{call}_cudnn_ms"])
    yield f"{line[f'{call}_ratio']:.2f}"


def own_kernels(lines: Lines) -> list[str]:
    names = (
        "forward_us",
        "keeping_us",
        "forward_predicted_us",
        "backward_us",
        "backward_predicted_us",
        "floor_us",
    )
    header = ["scan", "lanes", "threads", "pieces in registers", *[name.replace("_", " ") for name in names]]
    rows = [
        [
            line["case"], str(line["lanes"]), str(line["threads"]), f"{line['near']} of {line['pieces']}",
            *[f"{line[name]:.2f}" for name in names],
        ]
        for line in lines
    ]  # fmt: skip
    return rows and ["### A time step of the scans, microseconds", "", *table(header, rows, 1)]


def counters(lines: Lines) -> list[str]:
    title = ["### What a step of the scans waits for: warps that wait for each instruction issued", ""]
    return lines and [*title, *[f"- {line['case']}: {pairs(line)}" for line in lines]]


def failures(lines: Lines) -> list[str]:
    failed = [line for line in lines if "error" in line]
    return failed and [
        "### Failures", "", *[f"- {line['stage']}, {line['case']}: {last_line(line)}" for line in failed],
    ]  # fmt: skip


def last_line(line: dict[str, Any]) -> str:
    return (line["error"].strip().splitlines() or [""])[-1][:300]


def summary(outcomes: Iterable[Outcome]) -> list[str]:
    header = ["stage", "passed", "failed", "not reached", "seconds"]
    rows = [
        [one.name, str(one.passed), str(one.failed), str(one.not_reached), f"{one.seconds:.0f}"]
        for one in outcomes
    ]
    return table(header, rows, 1)
