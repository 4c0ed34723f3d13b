"""The stages of a run, and how one is run: processes that say what they find, a time limit, and a new process
for the next case where one dies."""

import json
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

CANNOT_GO_ON = 3  # a stage's process ends with this after a case that spoiled the GPU for the next ones


class Stage(NamedTuple):
    """A module of this folder with `cases`, and functions that run them; see ``stage.py``.

    Attributes
    ----------
    name, title : str
        Its module, and what it is about.
    share : float
        Of the time of a run.
    parts : tuple of str
        Processes that share its cases and run side by side.
    """

    name: str
    title: str
    share: float
    parts: tuple[str, ...] = ("all",)


PARTS = (
    "lstm", "gru", "rnn", "lstm float64", "gru float64", "rnn float64", "rounding tf32", "rounding float16",
    "long float32", "long float64", "long tf32", "long float16",
    "teams", "teams float64", "teams float16",
)  # fmt: skip
STAGES = [
    Stage("machine", "versions, the card, one kernel", 0.06),
    Stage("agreement", "the GPU against the CPU", 0.25, PARTS),
    Stage("usage", "fits, predictions, arrays of other libraries", 0.15),
    Stage("beside_cudnn", "times beside cuDNN", 0.35),
    Stage("own_kernels", "microseconds a time step of the scans", 0.08),
    Stage("counters", "what a step of the scans waits for", 0.06),
    Stage("sanitizer", "memcheck and racecheck on tiny cases", 0.05),
]


class Outcome(NamedTuple):
    """How many cases of a stage passed, failed and were not reached."""

    name: str
    passed: int
    failed: int
    not_reached: int
    seconds: float


class _Part:
    """A part of a stage: a process that is started anew behind a case that it died of."""

    def __init__(self, stage: Stage, part: str, quick: bool, answers: queue.Queue) -> None:
        self.stage, self.part, self.quick, self.answers = stage, part, quick, answers
        self.done = self.total = 0
        self.process: subprocess.Popen | None = None
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.stopped = False
        self.thread.start()

    def _run(self) -> None:
        while not self.stopped:
            command = [sys.executable, "-m", "benchmarks.cuda.stage", self.stage.name, self.part]
            command += [str(self.done), str(int(self.quick))]
            self.process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
            )
            said: list[str] = []
            assert self.process.stdout is not None
            for text in self.process.stdout:
                self._take(text, said)
            code = self.process.wait()
            if self.stopped or code == 0:
                break
            if code != CANNOT_GO_ON:
                case = f"case {self.done}" if self.total > 0 else "start"
                report = f"the process ended with {code}\n{''.join(said[-40:])}"
                self.answers.put({"case": f"{self.part}: {case}", "error": report})
                if self.total == 0:
                    break
                self.done += 1
        self.answers.put(None)

    def _take(self, text: str, said: list[str]) -> None:
        if not text.startswith("{"):
            said.append(text)
            print(text, end="", flush=True)
            return
        line = json.loads(text)
        if "total" in line:
            self.total = line["total"]
            return
        self.done = line.pop("index") + 1
        self.answers.put(line)

    def stop(self) -> None:
        self.stopped = True
        if self.process is not None:
            self.process.kill()


def run_stage(stage: Stage, limit: float, quick: bool, keep: Callable[[dict[str, Any]], None]) -> Outcome:
    """Run a stage; `keep` takes the line of each case."""
    began = time.monotonic()
    answers: queue.Queue = queue.Queue()
    parts = [_Part(stage, part, quick, answers) for part in stage.parts]
    passed = failed = 0
    running = len(parts)
    while running > 0:
        remaining = began + limit - time.monotonic()
        try:
            line = answers.get(timeout=max(remaining, 0.001))
        except queue.Empty:
            print(f"time limit of {limit:.0f} s", flush=True)
            break
        if line is None:
            running -= 1
            continue
        line = {"stage": stage.name, **line}
        failed += "error" in line
        passed += "error" not in line
        if "error" in line:
            print(f"FAILED {line['case']}\n{line['error']}", flush=True)
        keep(line)
    for part in parts:
        part.stop()
    not_reached = max(sum(part.total for part in parts) - passed - failed, 0)
    return Outcome(stage.name, passed, failed, not_reached, time.monotonic() - began)
