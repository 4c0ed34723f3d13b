"""The process of one library: ``python -m benchmarks.comparison.serve MODULE THREADS``.

For every request that comes in as a line of JSON, it times a round of a task and answers with medians, or
writes the task's results to a file. In between it waits in a read, and so sleeps.
"""

import importlib
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

WARM_UP_CALLS = 5


def use_cores(count: int) -> None:
    """Keep this process, and the pools of all libraries in it, on this many cores."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])


def median_milliseconds(call: Callable[[], Any], seconds: float, least: int) -> float:
    """Of as many calls as fit into `seconds`, at least `least`."""
    times = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < least:
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return 1e3 * statistics.median(times)


def warm_up(call: Callable[[], Any], seconds: float) -> None:
    end = time.perf_counter() + seconds
    for _ in range(WARM_UP_CALLS):
        call()
        if time.perf_counter() > end:
            break


def answer_to_stdout_alone():
    """A file for the answers; whatever a library prints goes to stderr from now on."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return answers


def main() -> None:
    module_name, threads = sys.argv[1], int(sys.argv[2])
    answers = answer_to_stdout_alone()
    use_cores(threads)
    peer = importlib.import_module(module_name)
    peer.use_threads(threads)
    current, work = None, None
    for line in sys.stdin:
        request = json.loads(line)
        asked = request["task"], request["arguments"]
        if asked != current:
            work = None  # before the next one, which needs the memory
            current, work = asked, getattr(peer, request["task"])(*request["arguments"])
            for call in work.calls.values():
                warm_up(call, request["seconds"])
        if "save" in request:
            np.savez(request["save"], **work.results())
            answer = {}
        else:
            answer = {
                name: median_milliseconds(call, request["seconds"], request["least"])
                for name, call in work.calls.items()
            }
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
