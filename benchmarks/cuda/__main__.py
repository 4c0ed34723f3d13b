"""Everything that a GPU can tell in a few minutes: ``python -m benchmarks.cuda --minutes 8 --out DIR``.

It runs in stages, what is wanted most first. Each has processes of its own and a time limit, writes a line
for each case as soon as it is done, and none can stop the next one. A failure prints its case, the numbers
and the traceback. DIR gets `results.jsonl`, a line for each case, and `cuda.md`, the tables. The last lines
say how many cases of each stage passed, failed and were not reached.
"""

import argparse
import json
import sys
import time
from pathlib import Path

from benchmarks.cuda import report
from benchmarks.cuda.stages import STAGES, Outcome, run_stage


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=8.0, help="for all stages together")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write results.jsonl and cuda.md there")
    parser.add_argument("--only", nargs="+", choices=[stage.name for stage in STAGES], metavar="STAGE")
    parser.add_argument("--quick", action="store_true", help="the first cases of each stage, at tiny sizes")
    return parser.parse_args()


def main() -> None:
    arguments = read_arguments()
    began = time.monotonic()
    end = began + 60.0 * arguments.minutes
    stages = [stage for stage in STAGES if arguments.only is None or stage.name in arguments.only]
    lines: list[dict] = []
    outcomes: list[Outcome] = []
    for stage in stages:
        if arguments.out is not None:
            arguments.out.mkdir(parents=True, exist_ok=True)

        def keep(line: dict) -> None:
            lines.append(line)
            if arguments.out is not None:
                with open(arguments.out / "results.jsonl", "a", encoding="utf-8") as file:
                    file.write(json.dumps(line) + "\n")

        # Its share of what is left: what one stage does not need, the next ones have.
        waiting = sum(other.share for other in stages[len(outcomes) :])
        limit = (end - time.monotonic()) * stage.share / waiting
        print(f"\n== {stage.name}: {stage.title} (at most {limit:.0f} s)", flush=True)
        outcomes.append(run_stage(stage, limit, arguments.quick, keep))
        if arguments.out is not None:
            (arguments.out / "cuda.md").write_text(report.markdown(lines), encoding="utf-8")
    print("\n" + report.markdown(lines))
    print("\n".join(report.summary(outcomes)))
    print(f"{time.monotonic() - began:.0f} s")
    sys.exit(any(outcome.failed for outcome in outcomes))


if __name__ == "__main__":
    main()
