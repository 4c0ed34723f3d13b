"""The picture of table 1: how many times as long the fastest other library takes."""

from pathlib import Path

from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullLocator

from benchmarks.comparison.layers_table import Figures, ratios

PANELS = {"train": "training step", "forward": "forward pass"}
# Colours that also people who do not tell red from green tell apart, each with a marker of its own.
STYLES = {"lstm": ("o", "#0072b2"), "gru": ("s", "#d55e00"), "rnn": ("^", "#009e73")}
TICKS = (0.25, 0.5, 1, 2, 5, 10, 20, 50)


def draw(figures: Figures, path: Path) -> None:
    """Write a PNG with a panel for training and one for inference."""
    figure, panels = pyplot.subplots(1, 2, figsize=(10, 4.2), sharey=True, layout="constrained")
    for axes, kind in zip(panels, PANELS, strict=True):
        draw_panel(axes, figures, kind)
    panels[0].set_ylabel("fastest other library's time / ours\n(above 1 numbarnn is faster)")
    panels[0].legend(frameon=False)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def draw_panel(axes: Axes, figures: Figures, kind: str) -> None:
    shapes = list(dict.fromkeys(row.shape for row in figures.rows))
    cells = list(dict.fromkeys(row.cell for row in figures.rows))
    for cell in cells:
        rows = [row for row in figures.rows if row.cell == cell]
        marker, colour = STYLES[cell]
        axes.plot(
            [shapes.index(row.shape) for row in rows],
            [ratios(getattr(row, kind))["best"] for row in rows],
            marker=marker, color=colour, label=cell.upper(), linewidth=1.2, markersize=7,
        )  # fmt: skip
    axes.axhline(1.0, color="black", linewidth=1.0)
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(FixedLocator(TICKS))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter("{x:g}")
    axes.grid(axis="y", color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xticks(range(len(shapes)), [str(shape) for shape in shapes], rotation=30, ha="right")
    axes.set_xlabel("B rows, T steps, I inputs, H hidden units")
    others = list(getattr(figures.rows[0], kind))[1:]
    axes.set_title(f"{PANELS[kind]}, beside {', '.join(others)}", fontsize=11)
