"""Table 3: what the features of this library cost, streaming, threads and memory."""

from benchmarks.comparison.libraries import OURS, PEERS, Process, Settings
from benchmarks.comparison.markdown import table
from benchmarks.comparison.memory import training_memory
from benchmarks.comparison.rounds import measure, median_ratio, medians
from benchmarks.problems import LARGEST_SHAPES, RaggedShape, Shape

MODULE = "numbarnn_options"
SHAPE = Shape(32, 100, 32, 64)
RAGGED = RaggedShape(SHAPE.B, 1, SHAPE.T, SHAPE.I, SHAPE.H)
STREAMED_SIZES = (16, 32, 64)
PYTHON_SIZE = 16


def measure_options(cells: list[str], shapes: list[Shape], settings: Settings) -> list[str]:
    with Process(MODULE, settings) as process:
        lines = [*features(process, cells, settings), "", *streaming(process, cells, settings)]
        large = [shape for shape in shapes if shape in LARGEST_SHAPES]
        if settings.threads > 1 and large:
            lines += ["", *threads(process, cells, large, settings)]
    return [*lines, "", *memory(cells, shapes, settings)]


def ratio(process: Process, settings: Settings, task: str, *arguments) -> float:
    """How many times as long a call takes with a feature."""
    times = measure({OURS.title: process}, task, list(arguments), settings.rounds)
    return median_ratio(times[OURS.title], "with", "without")


def features(process: Process, cells: list[str], settings: Settings) -> list[str]:
    share = RAGGED.lengths().sum() / (SHAPE.B * SHAPE.T)
    rows = [
        [f"rows of 1 to {SHAPE.T} steps in an array with `lengths`, a valid step"],
        ["the same rows as a list of arrays, a valid step"],
        ["dropout between two layers"],
        ["initial states"],
    ]
    for cell in cells:
        measured = [
            ratio(process, settings, "ragged_rows", cell, list(RAGGED), False) / share,
            ratio(process, settings, "ragged_rows", cell, list(RAGGED), True) / share,
            ratio(process, settings, "dropout", cell, str(SHAPE)),
            ratio(process, settings, "initial_states", cell, str(SHAPE)),
        ]
        for row, value in zip(rows, measured, strict=True):
            row.append(f"{value:.2f}")
    weighted = ratio(process, settings, "sample_weights")
    return [
        f"### A training step with a feature over one without, {SHAPE}",
        "",
        *table(["feature", *cells], rows, text_columns=1),
        "",
        f"An epoch of a fit with sample weights over one without: {weighted:.2f}.",
    ]


def streaming(process: Process, cells: list[str], settings: Settings) -> list[str]:
    rows = [
        [
            f"in a compiled loop, H = {size}",
            *(microseconds(process, settings, "stream", cell, size) for cell in cells),
        ]
        for size in STREAMED_SIZES
    ]
    calls = (microseconds(process, settings, "python_step", cell, PYTHON_SIZE) for cell in cells)
    rows.append([f"`layer.step` from Python, H = {PYTHON_SIZE}", *calls])
    return [
        "### A streaming step of one row with 4 inputs, microseconds",
        "",
        *table(["", *cells], rows, text_columns=1),
    ]


def microseconds(process: Process, settings: Settings, task: str, cell: str, size: int) -> str:
    times = measure({OURS.title: process}, task, [cell, size], settings.rounds)
    # a call is a thousand steps of a compiled loop, or one from Python
    if task == "stream":
        return f"{medians(times, 'thousand')[OURS.title]:.2f}"
    return f"{1e3 * medians(times, 'step')[OURS.title]:.1f}"


def threads(process: Process, cells: list[str], shapes: list[Shape], settings: Settings) -> list[str]:
    count = settings.threads
    rows = [
        [
            str(shape),
            *(f"{1.0 / ratio(process, settings, 'threads', cell, str(shape), count):.2f}" for cell in cells),
        ]
        for shape in shapes
    ]
    return [
        f"### Training: {count} threads, times as fast as one",
        "",
        *table(["B,T,I,H", *cells], rows, text_columns=1),
    ]


def memory(cells: list[str], shapes: list[Shape], settings: Settings) -> list[str]:
    """Ours and, where it is installed, PyTorch's."""
    libraries = [OURS, *(peer for peer in PEERS if peer.title == "PyTorch" and peer.is_installed())]
    for cell in cells:
        training_memory(OURS, cell, str(shapes[0]), settings.threads)  # no compiler in the measurements
    rows = [
        [
            str(shape),
            *(
                f"{training_memory(library, cell, str(shape), settings.threads):.0f}"
                for cell in cells
                for library in libraries
            ),
        ]
        for shape in shapes
    ]
    header = ["B,T,I,H", *(f"{cell}, {library.title}" for cell in cells for library in libraries)]
    return [
        "### Peak memory of training steps over that after the import, MiB",
        "",
        *table(header, rows, text_columns=1),
    ]
