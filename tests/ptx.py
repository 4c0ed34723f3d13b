"""Compile the GPU's kernels without a GPU, and print what the assembler says: a line of JSON for each.

``python tests/ptx.py CELL CAPABILITY HIDDEN_SIZE...``, as in ``lstm 9.0 64 128``. Numba's simulator must be
off, and ``pip install ".[ptx]"`` brings the compiler.
"""

import importlib.util
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
from numbarnn.engine import scan_cuda, steps_cuda
from numbarnn.engine.cuda_device import MOST_REGISTERS, registers_of

NUMBERS = {"float32": types.float32, "float64": types.float64}


def assembler() -> Path:
    """The ptxas of the package nvidia-cuda-nvcc."""
    found = importlib.util.find_spec("nvidia")
    folders = found.submodule_search_locations if found else []
    for path in sorted(path for folder in folders for path in Path(folder).rglob("ptxas*")):
        if path.is_file():
            return path
    raise SystemExit('no ptxas: pip install ".[ptx]"')


def scans_of(cell, hidden, dtype):
    """Name, kernel, signature and registers of a thread of the kernels of a whole scan."""
    number, limit = NUMBERS[dtype], registers_of(scan_cuda.plan_for(cell, hidden, dtype).threads)
    indices, integer = types.Array(types.int64, 1, "C"), types.intp
    vector, matrix, states = (types.Array(number, rank, "C") for rank in (1, 2, 4))
    common = (indices, indices, integer)
    takes = types.void(*common, types.boolean, vector, vector, states, matrix, matrix, matrix)
    yield "forward", scan_cuda.forward(cell, hidden, dtype), takes, limit
    takes = types.void(*common, vector, states, matrix, matrix, matrix, matrix, states)
    yield "backward", scan_cuda.backward(cell, hidden, dtype), takes, limit


def steps_of(cell, dtype):
    """The same of the kernels of a step."""
    number, integer = NUMBERS[dtype], types.intp
    vector, matrix, states = (types.Array(number, rank, "C") for rank in (1, 2, 3))
    takes = types.void(*[integer] * 3, types.boolean, vector, states, matrix, matrix, matrix)
    yield "step forward", steps_cuda.forward(cell, dtype), takes, MOST_REGISTERS
    takes = types.void(*[integer] * 5, states, states, matrix, matrix, matrix, matrix)
    yield "step backward", steps_cuda.backward(cell, dtype), takes, MOST_REGISTERS


def examine(name, kernel, signature, limit, capability):
    # Kernels that call functions ask the present device what it is.
    device = SimpleNamespace(compute_capability=capability)
    with mock.patch("numba.cuda.dispatcher.get_current_device", return_value=device):
        text, _ = cuda.compile_ptx(kernel.py_func, signature, cc=capability)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "kernel.ptx")
        source.write_text(text)
        command = [
            assembler(), "-v", f"-arch=sm_{capability[0]}{capability[1]}",
            f"-maxrregcount={limit}", "-o", Path(folder, "kernel.cubin"), source,
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{name}: {done.stderr}")

    def total(what):
        return sum(map(int, re.findall(rf"(\d+) bytes {what}", done.stderr)))

    return {
        "kernel": name,
        "registers": int(re.search(r"Used (\d+) registers", done.stderr)[1]),
        "spilled": total("spill"),
        "stack": total("stack frame"),
        "float64": len(re.findall(r"\.f64", text)),
    }


def main() -> None:
    name, capability, *hidden_sizes = sys.argv[1:]
    cell, version = CELLS[name], tuple(map(int, capability.split(".")))
    for dtype in NUMBERS:
        for kernel in steps_of(cell, dtype):
            print(json.dumps({"dtype": dtype, **examine(*kernel, version)}), flush=True)
        for hidden in map(int, hidden_sizes):
            plan = scan_cuda.plan_for(cell, hidden, dtype)._asdict()
            for kernel in scans_of(cell, hidden, dtype):
                said = examine(*kernel, version)
                print(json.dumps({"dtype": dtype, "hidden": hidden, **said, **plan}), flush=True)


if __name__ == "__main__":
    main()
