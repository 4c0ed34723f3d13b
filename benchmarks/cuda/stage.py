"""The process of a stage: ``python -m benchmarks.cuda.stage NAME PART FIRST QUICK``.

The stage's module has ``cases(part, quick)``, the cases in their order, and ``run(case)``, which gives what
is to be written down of one, or raises. Each case becomes a line of JSON on stdout.
"""

import importlib
import json
import sys
import time
import traceback

from benchmarks.cuda.stages import CANNOT_GO_ON


def main() -> None:
    name, part, first, quick = sys.argv[1:]
    module = importlib.import_module(f"benchmarks.cuda.{name}")
    cases = module.cases(part, quick == "1")
    print(json.dumps({"total": len(cases)}), flush=True)
    for index, case in enumerate(cases):
        if index < int(first):
            continue
        line: dict = {"index": index, "case": str(case)}
        began = time.perf_counter()
        try:
            line.update(module.run(case))
        except Exception:  # whatever a case does, the next one has its turn
            line["error"] = traceback.format_exc()
        line["seconds"] = round(time.perf_counter() - began, 3)
        print(json.dumps(line), flush=True)
        if "error" in line and not gpu_works():
            sys.exit(CANNOT_GO_ON)


def gpu_works() -> bool:
    """Whether this process can still use the GPU: after a wrong access it cannot."""
    from numbarnn.engine.cuda.arrays import wait

    try:
        wait()
    except Exception as error:  # CuPy, Numba and the driver each have classes of their own for it
        print(error, flush=True)
        return False
    return True


if __name__ == "__main__":
    main()
