"""Times this library beside PyTorch, JAX and ONNX Runtime: ``python -m benchmarks.compare --out DIR``.

Each library runs in a process of its own with the same number of threads. They take turns, round by round,
while the others sleep; before that their outputs and gradients are compared. A training step is forward,
backward without the input's gradient, and a change of the weights. Figures are medians over the rounds. Other
libraries that are not installed are named and left out.
"""

import argparse
import contextlib
import importlib.util
import os
import sys
from pathlib import Path

from benchmarks.comparison import layers_table, machine, options_table, ragged_table
from benchmarks.comparison.libraries import OURS, PEERS, Process, Settings
from benchmarks.problems import CELLS, SHAPES, parse_shape
from benchmarks.vowels import EPOCHS, QUICK_EPOCHS

TABLES = ("layers", "ragged", "options")
SECONDS_A_ROUND, QUICK_SECONDS = 0.2, 0.05
ROUNDS, QUICK_ROUNDS = 7, 2

METHOD = (
    "float32. B rows, T steps, I inputs, H hidden units; times in milliseconds, medians of {rounds} rounds."
    " A training step is forward, backward without the input's gradient, and a change of the weights. Inputs"
    " have each library's own layout: (B, T, I) for numbarnn, (T, B, I) for the others. JAX: cells of our own"
    " under `jax.lax.scan`, unrolled by 1 or 4 steps, whichever is faster."
)
BUSY = 0.5  # load average from which on other programs disturb the measurement


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cells", nargs="+", choices=CELLS, default=list(CELLS))
    parser.add_argument("--shapes", nargs="+", type=parse_shape, default=SHAPES, metavar="B,T,I,H")
    parser.add_argument("--only", nargs="+", choices=TABLES, default=list(TABLES), help="which tables")
    parser.add_argument("--rounds", type=int, help=f"{ROUNDS} by default, {QUICK_ROUNDS} with --quick")
    parser.add_argument("--threads", type=int, default=machine.available_cores())
    parser.add_argument("--quick", action="store_true", help="short rounds and fits, to see that all works")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="write comparison.md and comparison.png there"
    )
    return parser.parse_args()


def main() -> None:
    arguments = read_arguments()
    settings = Settings(
        arguments.threads,
        arguments.rounds or (QUICK_ROUNDS if arguments.quick else ROUNDS),
        QUICK_SECONDS if arguments.quick else SECONDS_A_ROUND,
    )
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if load > BUSY:
        print(f"the load average is {load:.1f}: what else runs here will disturb the times", file=sys.stderr)
    present = [peer for peer in PEERS if peer.is_installed()]
    body: list[str] = []
    figures = None
    with contextlib.ExitStack() as stack:
        processes = {
            library.title: stack.enter_context(Process(library.module, settings))
            for library in (OURS, *present)
        }
        if "layers" in arguments.only:
            figures = layers_table.measure_layers(processes, arguments.cells, arguments.shapes, settings)
            body += [*layers_table.markdown(figures), ""]
        if "ragged" in arguments.only:
            ready = {
                library.title: processes[library.title]
                for library in (OURS, *present)
                if "ragged" in library.tasks
            }
            epochs = QUICK_EPOCHS if arguments.quick else EPOCHS
            body += [*ragged_table.measure_ragged(ready, arguments.cells, settings, epochs), ""]
    if "options" in arguments.only:
        body += [*options_table.measure_options(arguments.cells, arguments.shapes, settings), ""]
    missing = [peer.title for peer in PEERS if peer not in present]
    head = [*machine.describe(present, settings.threads)]
    head += [f"- load average before the run: {load:.1f}"] if load > BUSY else []
    head += [f"- not installed and left out: {', '.join(missing)}"] if missing else []
    text = "\n".join([*head, "", METHOD.format(rounds=settings.rounds), "", *body])
    print(text)
    if arguments.out is not None:
        arguments.out.mkdir(parents=True, exist_ok=True)
        (arguments.out / "comparison.md").write_text(text, encoding="utf-8")
        write_plot(figures, arguments.out / "comparison.png")


def write_plot(figures: layers_table.Figures | None, path: Path) -> None:
    if figures is None or len(figures.titles) < 2:
        print("no plot: it shows table 'layers' beside other libraries", file=sys.stderr)
    elif importlib.util.find_spec("matplotlib") is None:
        print("no plot: matplotlib is not installed", file=sys.stderr)
    else:
        from benchmarks.comparison import plot  # only where matplotlib is

        plot.draw(figures, path)


if __name__ == "__main__":
    main()
