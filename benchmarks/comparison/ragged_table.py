"""Table 2: rows of unequal length beside PyTorch's packed sequences, and a whole fit."""

from collections.abc import Mapping

from benchmarks.comparison.libraries import OURS, Process, Settings
from benchmarks.comparison.markdown import milliseconds, table
from benchmarks.comparison.rounds import check_agreement, geometric_mean, measure, medians
from benchmarks.problems import RAGGED_SHAPES

CELLS_WITH_GATES = ("lstm", "gru")
MOST_FITS = 3  # a fit takes seconds


def with_ratios(times: Mapping[str, float]) -> list[str]:
    """The times, and each other library's over ours."""
    others = [time / times[OURS.title] for title, time in times.items() if title != OURS.title]
    return [*map(milliseconds, times.values()), *(f"{ratio:.2f}" for ratio in others)]


def measure_ragged(
    processes: Mapping[str, Process], cells: list[str], settings: Settings, epochs: int
) -> list[str]:
    """The table of two-layer bidirectional training steps, and that of the fit."""
    others = [title for title in processes if title != OURS.title]
    header = ["cell", "B,T,I,H", *processes, *(f"{title} / ours" for title in others)]
    rows, ratios = [], []
    for cell in (cell for cell in cells if cell in CELLS_WITH_GATES):
        for shape in RAGGED_SHAPES:
            problem = [cell, list(shape)]
            check_agreement(processes, "ragged", problem)
            times = medians(measure(processes, "ragged", problem, settings.rounds), "train")
            rows.append([cell, str(shape), *with_ratios(times)])
            ratios.append({title: times[title] / times[OURS.title] for title in others})
    lines = ["### Training step of two bidirectional layers on ragged rows", ""]
    lines += table(header, rows, text_columns=2)
    if rows:
        means = [f"{title} / ours {geometric_mean(row[title] for row in ratios):.2f}" for title in others]
        lines += ["", f"Geometric mean: {', '.join(means)}."] if others else []
    return [*lines, "", *fit_table(processes, settings, epochs)]


def fit_table(processes: Mapping[str, Process], settings: Settings, epochs: int) -> list[str]:
    times = medians(measure(processes, "fit", [epochs], min(settings.rounds, MOST_FITS), least=1), "fit")
    accuracies = {
        title: float(process.results("fit", [epochs])["accuracy"]) for title, process in processes.items()
    }
    rows = [
        [title, f"{time / 1e3:.2f}", f"{time / times[OURS.title]:.2f}", f"{accuracies[title]:.3f}"]
        for title, time in times.items()
    ]
    header = ["library", "seconds", "/ ours", "test accuracy"]
    return [f"### A fit on Japanese Vowels, {epochs} epochs", "", *table(header, rows, text_columns=1)]
