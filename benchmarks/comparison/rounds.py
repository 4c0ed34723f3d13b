"""Rounds: each library times the same task in turn, so that a slow minute of the machine hits them all."""

import math
import statistics
from collections.abc import Iterable, Mapping

import numpy as np

from benchmarks.comparison.libraries import Process

TOLERANCE = 1e-4  # of an array's largest magnitude; all are float32

# Milliseconds in every round, by library and call.
Times = dict[str, dict[str, list[float]]]


def measure(
    processes: Mapping[str, Process], task: str, arguments: list, rounds: int, least: int = 3
) -> Times:
    """Times of a task in every round."""
    times: Times = {title: {} for title in processes}
    for _ in range(rounds):
        for title, process in processes.items():
            for call, milliseconds in process.ask(task, arguments, least).items():
                times[title].setdefault(call, []).append(milliseconds)
    return times


def check_agreement(
    processes: Mapping[str, Process], task: str, arguments: list, tolerance: float = TOLERANCE
) -> None:
    """Raise unless all libraries compute what the first one does, in all that they have in common."""
    (first, process), *others = processes.items()
    expected = process.results(task, arguments)
    for title, process in others:
        results = process.results(task, arguments)
        if "y" not in results:
            raise AssertionError(f"{title} gives no outputs y to check")
        for name, array in results.items():
            wanted = expected[name]
            if array.shape != wanted.shape:
                raise AssertionError(
                    f"{task} {arguments}: {name} of {title} is {array.shape}, not {wanted.shape}"
                )
            error = np.max(np.abs(array - wanted)) / np.max(np.abs(wanted))
            if not error <= tolerance:
                raise AssertionError(
                    f"{task} {arguments}: {name} of {title} and {first} differ by {error:.1e}"
                )


def medians(times: Times, call: str) -> dict[str, float]:
    """The median over rounds of one call, of the libraries that have it."""
    return {title: statistics.median(calls[call]) for title, calls in times.items() if call in calls}


def median_ratio(times: Mapping[str, list[float]], numerator: str, denominator: str) -> float:
    """The median over rounds of the ratio of two calls of one library."""
    pairs = zip(times[numerator], times[denominator], strict=True)
    return statistics.median(above / below for above, below in pairs)


def geometric_mean(numbers: Iterable[float]) -> float:
    return math.exp(statistics.fmean(map(math.log, numbers)))
