"""Times this library beside PyTorch: ``python -m benchmarks.compare [--cells lstm,gru,rnn] [--rounds 7]``.

Each library runs in a process of its own with the same number of threads; the two take turns, round by
round, while the other one sleeps. A training step is forward, backward without input gradient, and a change
of the weights. Figures are medians over the rounds, in milliseconds.
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

from benchmarks.problems import CELLS, SHAPES, Trainer, inputs, parse_shape, training_operations

SECONDS_A_ROUND = 0.25
WARM_UP_CALLS = 5


def numbarnn_calls(cell: str, shape) -> dict[str, Callable[[], None]]:
    """Forward and training step of this library."""
    trainer = Trainer(cell, shape)
    return {"forward": trainer.forward, "train": trainer.step}


def torch_calls(cell: str, shape) -> dict[str, Callable[[], None]]:
    """The same in PyTorch."""
    import torch

    torch.set_num_threads(int(os.environ["NUMBARNN_NUM_THREADS"]))
    kind = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU, "rnn": torch.nn.RNN}[cell]
    layer = kind(shape.I, shape.H, batch_first=True)
    parameters = list(layer.parameters())
    x, dy = map(torch.from_numpy, inputs(shape))
    factors = [1.0 + 1e-6, 1.0 / (1.0 + 1e-6)]

    def train() -> None:
        for parameter in parameters:
            parameter.grad = None
        layer(x)[0].backward(dy)
        factors.reverse()
        with torch.no_grad():
            for parameter in parameters:
                parameter.mul_(factors[0])

    def forward() -> None:
        with torch.no_grad():
            layer(x)

    return {"forward": forward, "train": train}


LIBRARIES = {"numbarnn": numbarnn_calls, "torch": torch_calls}


def serve(library: str) -> None:
    """A process of one library: for every line ``cell shape`` that comes, time a round and print medians."""
    ready: dict[str, dict[str, Callable[[], None]]] = {}
    for line in sys.stdin:
        if line not in ready:
            cell, shape = line.split()
            ready = {line: LIBRARIES[library](cell, parse_shape(shape))}
            for call in ready[line].values():
                for _ in range(WARM_UP_CALLS):
                    call()
        print(*(median_milliseconds(call) for call in ready[line].values()), flush=True)


def median_milliseconds(call: Callable[[], None]) -> float:
    times = []
    end = time.perf_counter() + SECONDS_A_ROUND
    while time.perf_counter() < end or len(times) < 3:
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return 1e3 * statistics.median(times)


def compare(cells: list[str], rounds: int, threads: int) -> list[str]:
    """The table, as lines of Markdown."""
    environment = {**os.environ, "NUMBARNN_NUM_THREADS": str(threads), "OMP_NUM_THREADS": str(threads)}
    processes = {
        library: subprocess.Popen(
            [sys.executable, "-m", "benchmarks.compare", "--serve", library],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for library in LIBRARIES
    }
    lines = [
        f"{platform.machine()}, {threads} threads, float32, medians in ms of {rounds} rounds",
        "",
        "| cell | B,T,I,H | forward | torch | ratio | training step | torch | ratio | GFLOP/s |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for cell in cells:
        for shape in SHAPES:
            times: dict[str, list[list[float]]] = {library: [] for library in processes}
            for _ in range(rounds):
                for library, process in processes.items():
                    times[library].append(ask(process, f"{cell} {shape}"))
            forward, train = (
                {name: statistics.median(row[i] for row in rows) for name, rows in times.items()}
                for i in (0, 1)
            )
            speed = training_operations(cell, shape) / train["numbarnn"] / 1e6
            columns = [cell, str(shape)]
            for pair in (forward, train):
                ours, theirs = pair["numbarnn"], pair["torch"]
                columns += [f"{ours:.3f}", f"{theirs:.3f}", f"{theirs / ours:.2f}"]
            lines.append(f"| {' | '.join(columns)} | {speed:.0f} |")
            print(lines[-1], file=sys.stderr, flush=True)
    for process in processes.values():
        process.communicate()
    return lines


def ask(process: subprocess.Popen, problem: str) -> list[float]:
    """One round of one library."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(problem + "\n")
    process.stdin.flush()
    return [float(number) for number in process.stdout.readline().split()]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cells", default=",".join(CELLS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--serve", choices=LIBRARIES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.serve)
    else:
        print("\n".join(compare(arguments.cells.split(","), arguments.rounds, arguments.threads)))


if __name__ == "__main__":
    main()
