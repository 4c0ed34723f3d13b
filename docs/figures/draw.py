"""Draw the figures of docs/design as SVG files: python docs/figures/draw.py, or by docs/conf.py.

Each function draws one figure and is named after its file. Letters are drawn as outlines, so that a page
needs no font, and ids are fixed, so that the same script gives the same file.
"""

from pathlib import Path

import matplotlib
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle

INK, PALE = "#333333", "#f2f2f2"
BLUE, ORANGE, GREEN, RED, PURPLE = "#9ecae1", "#fdd0a2", "#c7e9c0", "#fcbba1", "#dadaeb"
ROW_COLOURS = (BLUE, ORANGE, GREEN, PURPLE)
MONO = "DejaVu Sans Mono"


class Sheet:
    """A figure in units of its own: x from 0 to `width`, y from 0 to `height`, downward."""

    def __init__(self, width: float, height: float) -> None:
        self.figure = Figure(figsize=(width, height), facecolor="white")
        FigureCanvasSVG(self.figure)
        self.axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set_xlim(0, width)
        self.axes.set_ylim(height, 0)
        self.axes.axis("off")

    def cell(self, x, y, width, height, colour, label="", size=9, **style):
        self.axes.add_patch(
            Rectangle((x, y), width, height, facecolor=colour, edgecolor=INK, linewidth=0.8, **style)
        )
        if label:
            self.text(x + width / 2, y + height / 2, label, size)

    def box(self, x, y, width, height, colour, label, note="", size=10):
        """A box with a label, and under it, in the box, where in the package it is."""
        self.axes.add_patch(
            FancyBboxPatch(
                (x + 0.05, y + 0.05),
                width - 0.1,
                height - 0.1,
                boxstyle="round,pad=0.05",
                facecolor=colour,
                edgecolor=INK,
                linewidth=1,
            )
        )
        middle = x + width / 2
        if note:
            self.text(middle, y + height * 0.38, label, size)
            self.text(middle, y + height * 0.78, note, 7.5, family=MONO)
        else:
            self.text(middle, y + height / 2, label, size)

    def text(self, x, y, text, size=9.0, ha="center", va="center", **style):
        self.axes.text(x, y, text, fontsize=size, ha=ha, va=va, color=style.pop("color", INK), **style)

    def arrow(self, x0, y0, x1, y1, label="", colour=INK, above=0.13, **style):
        self.axes.annotate(
            "", (x1, y1), (x0, y0), arrowprops={"arrowstyle": "-|>", "color": colour, "lw": 1.1, **style}
        )
        if label:
            self.text((x0 + x1) / 2, (y0 + y1) / 2 - above, label, 8)

    def line(self, x0, y0, x1, y1, **style):
        self.axes.plot([x0, x1], [y0, y1], color=style.pop("color", INK), lw=style.pop("lw", 1), **style)

    def save(self, path: Path) -> None:
        self.figure.savefig(path, format="svg", metadata={"Date": None})


def training_step() -> Sheet:
    """One training step, from x to changed parameters."""
    s = Sheet(9.6, 4.3)
    forward = (
        ("x, y\narrays or lists", "", PALE),
        ("read, pack", "sequences/", BLUE),
        ("recurrent layer:\nproject, scan", "engine/scan/", GREEN),
        ("dense layer", "layers/dense", GREEN),
        ("loss", "training/", ORANGE),
    )
    for i, (label, note, colour) in enumerate(forward):
        s.box(0.1 + 1.9 * i, 0.5, 1.55, 0.95, colour, label, note, 9.5)
        if i:
            s.arrow(1.9 * i - 0.25, 0.97, 0.1 + 1.9 * i, 0.97)
    s.text(4.8, 0.22, "forward", 10, style="italic")
    s.arrow(8.48, 1.45, 8.48, 2.0, "")
    s.text(8.62, 1.72, "dy", 9, ha="left")
    backward = (
        ("dense layer\nbackward", "layers/dense", GREEN),
        ("recurrent layer:\nscan back,\nweight gradients", "", GREEN),
    )
    s.line(8.48, 2.0, 8.48, 2.47)
    for i, (label, note, colour) in enumerate(backward):
        x = 5.8 - 1.9 * i
        s.box(x, 2.0, 1.55, 0.95, colour, label, note, 9.5)
        s.arrow((8.48 if i == 0 else x + 1.9), 2.47, x + 1.55, 2.47)
    s.text(4.8, 1.75, "backward", 10, style="italic")
    s.box(2.0, 2.0, 1.55, 0.95, ORANGE, "norm, clip", "training/", 9.5)
    s.arrow(3.9, 2.47, 3.55, 2.47)
    s.box(0.1, 2.0, 1.55, 0.95, ORANGE, "update", "training/", 9.5)
    s.arrow(2.0, 2.47, 1.65, 2.47)
    s.box(
        2.0,
        3.3,
        3.45,
        0.8,
        BLUE,
        "parameters, packed into panels",
        "engine/packing, layers/weight_panels",
        9.5,
    )
    s.line(0.87, 2.95, 0.87, 3.7)
    s.arrow(0.87, 3.7, 2.0, 3.7)
    s.line(5.45, 3.7, 7.7, 3.7, linestyle="--")
    s.arrow(7.7, 3.7, 9.3, 3.7, linestyle="--")
    s.text(7.4, 3.5, "the next step reads them", 8.5)
    return s


LENGTHS = (3, 5, 2, 4)  # rows of the example in `layout`


def layout() -> Sheet:
    """Four rows of unequal length as the user passes them, and in packed order."""
    s = Sheet(9.6, 3.9)
    s.text(1.6, 0.25, "as the caller passes them", 10)
    for row, length in enumerate(LENGTHS):
        s.text(0.35, 0.85 + 0.5 * row, f"row {row}", 9)
        for t in range(length):
            s.cell(0.8 + 0.45 * t, 0.65 + 0.5 * row, 0.45, 0.4, ROW_COLOURS[row], f"{row},{t}", 8)
    s.arrow(3.35, 1.6, 4.1, 1.6)
    s.text(3.7, 1.2, "order =\n1, 3, 0, 2", 8, family=MONO)
    order = sorted(range(len(LENGTHS)), key=lambda row: -LENGTHS[row])
    s.text(6.7, 0.25, "packed: by time, then by falling length", 10)
    n = 0
    for t in range(max(LENGTHS)):
        x = 4.7 + 0.95 * t
        active = sum(length > t for length in LENGTHS)
        for b, row in enumerate(order[:active]):
            s.cell(x, 0.65 + 0.5 * b, 0.6, 0.4, ROW_COLOURS[row], f"{row},{t}", 8)
            s.text(x - 0.04, 0.85 + 0.5 * b, str(n), 6.5, ha="right", color="#777777")
            n += 1
        s.text(x + 0.3, 2.85, str(active), 9, family=MONO)
        s.text(x + 0.3, 3.2, str(n - active), 9, family=MONO)
        s.text(x + 0.3, 3.55, f"t = {t}", 8.5)
    s.text(4.4, 2.85, "active", 8.5, ha="right", family=MONO)
    s.text(4.4, 3.2, "offset", 8.5, ha="right", family=MONO)
    s.text(1.6, 3.05, 'cell "r,t": step t of row r', 8.5)
    s.text(1.6, 3.35, "small number: its row\nin the matrix of N = 14 steps", 8.5, va="top")
    return s


def panels() -> Sheet:
    """From a parameter of PyTorch's shape to panels, and the tile that reads one."""
    s = Sheet(9.6, 4.2)
    gates = (("i", BLUE), ("f", ORANGE), ("g", GREEN), ("o", RED))
    s.text(0.95, 0.25, "weight_hh (4H, H)", 10, family=MONO)
    for g, (gate, colour) in enumerate(gates):
        s.cell(0.35, 0.55 + 0.6 * g, 1.2, 0.6, colour, f"gate {gate}, H rows", 8)
    s.text(0.95, 3.2, "H columns, k", 8.5)
    s.arrow(1.75, 1.75, 2.55, 1.75, "pack")
    s.text(4.3, 0.25, "panel 0: units 0 to 15, k by k", 10)
    for k in range(5):
        for g, (gate, colour) in enumerate(gates):
            last = k == 3
            s.cell(2.75 + 0.8 * g, 0.55 + 0.48 * k, 0.8, 0.48, "white" if last else colour,
                   "..." if last else f"{gate}[0:16]", 8)  # fmt: skip
        s.text(6.02, 0.79 + 0.48 * k, ("k = 0", "k = 1", "k = 2", "", "k = H-1")[k], 8, ha="left")
    s.text(4.35, 3.2, "4 vectors of 16 float32: one tile reads it front to back", 8.5)
    s.text(8.15, 0.25, "tile: 6 rows x 4 vectors", 10)
    for r in range(6):
        s.cell(6.95, 0.55 + 0.32 * r, 0.35, 0.32, PURPLE, f"h{r}", 7)
        for v in range(4):
            s.cell(7.45 + 0.48 * v, 0.55 + 0.32 * r, 0.48, 0.32, PALE, "", 7)
    s.text(7.12, 2.68, "h[r, k]\nspread over\na vector", 7.5, va="top")
    s.text(
        8.45,
        2.68,
        "24 sums, each in a register of its own:\nsum[r, v] += h[r, k] * panel[k, v]",
        7.5,
        va="top",
    )
    s.text(4.8, 3.75, "Every element of the result is one chain of fused multiply-adds in the order of k,\n"
           "whatever tile or thread computes it.", 9)  # fmt: skip
    return s


def scan() -> Sheet:
    """The time loop: input products ahead of the steps, states in slots, and the way back."""
    s = Sheet(9.6, 4.5)
    steps, period = 4, 1.9
    for slot in range(steps + 1):
        s.cell(1.15 + period * slot, 2.09, 0.48, 0.42, PURPLE, f"h{slot}", 9)
    for t in range(steps):
        x = 1.9 + period * t
        s.cell(x, 0.35, 0.95, 0.42, BLUE, f"x, t = {t}", 8.5)
        s.cell(x, 1.15, 0.95, 0.42, ORANGE, "sums", 8.5)
        s.box(x, 2.0, 0.95, 0.6, GREEN, "forward", size=8.5)
        s.cell(x, 3.05, 0.95, 0.42, PALE, "saved", 8.5)
        s.box(x, 3.78, 0.95, 0.55, RED, "backward", size=8.5)
        for above, below in ((0.77, 1.15), (1.57, 2.0), (2.6, 3.05), (3.47, 3.8)):
            s.arrow(x + 0.475, above, x + 0.475, below)
        s.arrow(x - 0.27, 2.3, x, 2.3)
        s.arrow(x + 0.95, 2.3, x + 1.15, 2.3)
        s.arrow(x - 0.3, 2.09, x, 1.5)
        s.arrow(x + period if t < steps - 1 else x + 1.45, 4.05, x + 0.95, 4.05)
    s.arrow(1.9, 4.05, 1.25, 4.05)
    for y, label in ((0.56, "inputs"), (1.36, "W_i x + W_h h + b"), (2.3, "states"), (3.26, "for backward")):
        s.text(0.02, y, label, 8.5, ha="left")
    s.text(1.2, 4.05, "dinitial_state", 8.5, ha="right")
    s.text(9.1, 4.25, "dstate", 8.5)
    return s


def threads() -> Sheet:
    """A recorded program: one call from Python, forks inside, and two threads that take parts."""
    s = Sheet(9.6, 3.8)
    s.box(0.1, 0.35, 1.7, 0.8, PALE, "Python:\nprogram.run()", size=9)
    s.arrow(1.8, 0.75, 2.3, 0.75)
    records = ("import states", "read x", "scan", "export states")
    for i, label in enumerate(records):
        s.cell(2.3 + 1.45 * i, 0.4, 1.45, 0.7, (BLUE, BLUE, GREEN, BLUE)[i], label, 9)
    s.text(8.15, 0.75, "records: function,\nparts, arguments", 8, ha="left")
    s.line(2.3 + 2.9, 1.1, 1.5, 1.75, linestyle=":")
    s.line(2.3 + 4.35, 1.1, 8.3, 1.75, linestyle=":")
    s.text(0.05, 2.15, "caller", 9, ha="left")
    s.text(0.05, 3.0, "worker", 9, ha="left")
    for y in (2.15, 3.0):
        s.line(0.75, y, 9.4, y, color="#aaaaaa", zorder=0)
    s.cell(1.5, 1.95, 0.9, 0.4, PALE, "publish", 8)
    s.cell(2.4, 1.95, 4.3, 0.4, GREEN, "part 0: the scan of rows 0 to 7, all time steps", 8.5)
    s.cell(2.75, 2.8, 4.6, 0.4, GREEN, "part 1: the scan of rows 8 to 15, all time steps", 8.5)
    s.cell(7.35, 1.95, 0.95, 0.4, PALE, "all done", 8)
    s.cell(1.0, 2.8, 1.5, 0.4, "white", "looks at the board", 7.5)
    s.cell(7.5, 2.8, 1.7, 0.4, "white", "looks, then sleeps", 7.5)
    s.arrow(2.3, 2.35, 2.75, 2.85)
    s.arrow(7.1, 2.8, 7.45, 2.35)
    s.text(4.8, 3.55, "A worker that is asleep delays nobody: the caller takes its part as well.", 9)
    return s


def cuda() -> Sheet:
    """A block of threads has one sequence; a few lanes share a hidden unit."""
    s = Sheet(9.6, 4.1)
    s.text(2.4, 0.25, "one block = one sequence, all its steps", 10)
    for unit in range(4):
        y = 0.6 + 0.55 * unit
        s.text(0.55, y + 0.2, ("unit 0", "unit 1", "...", "unit H-1")[unit], 8.5)
        for lane in range(4):
            s.cell(
                1.05 + 0.72 * lane, y, 0.66, 0.42, ROW_COLOURS[lane], "" if unit == 2 else f"lane {lane}", 8
            )
    s.text(
        2.45,
        2.95,
        "lane j holds the recurrent weights of all gates\nof its unit for h[j], h[j+4], h[j+8], ...",
        8.5,
    )
    s.text(2.45, 3.6, "registers first, what is left in shared memory", 8.5)
    s.text(7.2, 0.25, "one time step", 10)
    steps = (
        (PURPLE, "read h (shared memory, written by the step before)"),
        (GREEN, "multiply own weights: partial sums of all gates"),
        (GREEN, "add over the lanes (shuffles)"),
        (ORANGE, "cell.forward: every lane has the whole unit"),
        (PURPLE, "write h to the other half of shared memory"),
        (RED, "one barrier for the block"),
    )
    for i, (colour, label) in enumerate(steps):
        s.box(4.95, 0.5 + 0.55 * i, 4.5, 0.45, colour, label, size=8.5)
    s.text(7.2, 3.95, "sums of the step after are read meanwhile", 8.5)
    return s


def compiling() -> Sheet:
    """What is compiled when, and what the cache keeps."""
    s = Sheet(9.6, 3.9)
    s.box(0.1, 0.4, 2.2, 0.8, BLUE, "@inlined functions", "cells/ jit/ engine/", 9.5)
    s.box(0.1, 1.5, 2.2, 0.8, BLUE, "fork(team, parts, body)", "engine/fork", 9.5)
    s.box(0.1, 2.6, 2.2, 0.8, ORANGE, "product: 16 tiles", "engine/tile, matmul", 9.5)
    s.box(3.3, 0.95, 2.0, 0.9, GREEN, "@kernel", "one LLVM module", 9.5)
    s.arrow(2.3, 0.8, 3.3, 1.25, "linked in", above=0.2)
    s.arrow(2.3, 1.9, 3.3, 1.55)
    s.box(3.3, 2.55, 2.0, 0.9, ORANGE, "library", "one for each dtype", 9.5)
    s.arrow(2.3, 3.0, 3.3, 3.0, "compiled once")
    s.arrow(4.3, 1.85, 4.3, 2.55)
    s.text(4.4, 2.2, "called by name", 8, ha="left")
    s.box(6.4, 1.5, 2.9, 1.2, PURPLE, "machine code on disk", "NUMBARNN_CACHE_DIR", 9.5)
    s.arrow(5.3, 1.4, 6.4, 1.9)
    s.arrow(5.3, 3.0, 6.4, 2.4)
    s.text(7.85, 1.1, "stamp: digest of all sources\nthat a kernel may contain", 8.5)
    s.arrow(7.85, 2.7, 7.85, 3.2)
    s.text(7.85, 3.45, "the next start loads it in milliseconds", 8.5)
    return s


FIGURES = (training_step, layout, panels, scan, threads, cuda, compiling)


def draw_all(folder: Path) -> None:
    """Write every figure to a folder."""
    with matplotlib.rc_context({"svg.hashsalt": "numbarnn", "svg.fonttype": "path"}):
        for figure in FIGURES:
            figure().save(folder / f"{figure.__name__}.svg")


if __name__ == "__main__":
    draw_all(Path(__file__).resolve().parent)
