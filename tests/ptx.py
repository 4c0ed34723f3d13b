"""Compile the GPU's kernels without a GPU, and print what the assembler says: a line of JSON for each.

``python tests/ptx.py CELL CAPABILITY HIDDEN_SIZE...``, as in ``lstm 9.0 64 128``. Numba's simulator must be
off, and ``pip install ".[ptx]"`` brings the compiler.
"""

import importlib.util
import itertools
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

from numba import cuda, types

from numbarnn.cells import CELLS
from numbarnn.engine import scan_cuda
from numbarnn.engine.cuda_device import registers_of

NUMBERS = {"float32": types.float32, "float64": types.float64}


def assembler() -> Path:
    """The ptxas of the package nvidia-cuda-nvcc."""
    found = importlib.util.find_spec("nvidia")
    folders = found.submodule_search_locations if found else []
    for path in sorted(path for folder in folders for path in Path(folder).rglob("ptxas*")):
        if path.is_file():
            return path
    raise SystemExit('no ptxas: pip install ".[ptx]"')


def signature_of(name, number):
    table, direction, keep = types.Array(types.int32, 2, "C"), types.intp, types.boolean
    vector, matrix, states = (types.Array(number, rank, "C") for rank in (1, 2, 4))
    if name == "forward":
        return types.void(table, direction, keep, vector, vector, states, matrix, matrix, matrix)
    return types.void(table, direction, vector, states, matrix, matrix, matrix, matrix, states)


def examine(cell, hidden, dtype, name, capability):
    kernel = getattr(scan_cuda, name)(cell, hidden, dtype)
    plan = scan_cuda.plan_for(cell, hidden, dtype)
    # Kernels that call functions ask the present device what it is.
    device = SimpleNamespace(compute_capability=capability)
    with mock.patch("numba.cuda.dispatcher.get_current_device", return_value=device):
        text, _ = cuda.compile_ptx(kernel.py_func, signature_of(name, NUMBERS[dtype]), cc=capability)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "kernel.ptx")
        source.write_text(text)
        command = [
            assembler(), "-v", f"-arch=sm_{capability[0]}{capability[1]}",
            f"-maxrregcount={registers_of(plan.threads)}", "-o", Path(folder, "kernel.cubin"), source,
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{cell.name} {name}: {done.stderr}")

    def total(what):
        return sum(map(int, re.findall(rf"(\d+) bytes {what}", done.stderr)))

    return {
        "cell": cell.name,
        "hidden": hidden,
        "dtype": dtype,
        "kernel": name,
        "registers": int(re.search(r"Used (\d+) registers", done.stderr)[1]),
        "spilled": total("spill"),
        "stack": total("stack frame"),
        "float64": len(re.findall(r"\.f64", text)),
        "weights in registers": f"{plan.in_registers} of {plan.share}",
        "shared": plan.shared_bytes,
    }


def main() -> None:
    name, capability, *hidden_sizes = sys.argv[1:]
    version = tuple(map(int, capability.split(".")))
    for hidden, dtype, kernel in itertools.product(map(int, hidden_sizes), NUMBERS, ("forward", "backward")):
        print(json.dumps(examine(CELLS[name], hidden, dtype, kernel, version)), flush=True)


if __name__ == "__main__":
    main()
