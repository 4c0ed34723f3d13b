"""Compile the GPU's kernels without a GPU, and print what the assembler says: a line of JSON for each.

``python tests/ptx.py CELL CAPABILITY HIDDEN_SIZE...``, as in ``lstm 9.0 64 128``. With ``others`` in place of
a cell, the kernels of all other layers, losses and optimisers. Numba's simulator must be off, and
``pip install --group ptx`` brings the compiler.
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

import numpy as np
from numba import cuda, types

from numbarnn.cells import CELLS
from numbarnn.engine.cuda import pointwise as pointwise_cuda
from numbarnn.engine.cuda import scan as scan_cuda
from numbarnn.engine.cuda import scan_by_steps as steps_cuda
from numbarnn.engine.cuda.device import MOST_REGISTERS, registers_of
from numbarnn.engine.cuda.weights import plan_for
from numbarnn.engine.dense import ACTIVATIONS
from numbarnn.kernels import gru_step, lstm_step, rnn_step
from numbarnn.training.cuda import loss_kernels as losses_cuda
from numbarnn.training.cuda import update_kernels as updates_cuda
from numbarnn.training.losses import LOSSES, CrossEntropy

NUMBERS = {"float32": types.float32, "float64": types.float64}


def program(name: str) -> Path:
    """A program of NVIDIA's packages: the assembler, ptxas, or the disassembler, nvdisasm."""
    found = importlib.util.find_spec("nvidia")
    folders = found.submodule_search_locations if found else []
    for path in sorted(path for folder in folders for path in Path(folder).rglob(f"{name}*")):
        if path.is_file() and path.stem == name:
            return path
    raise SystemExit(f"no {name}: pip install --group ptx")


def scans_of(cell, hidden, dtype, weight_dtype):
    """Name, kernel, signature and registers of a thread of the kernels of a whole scan."""
    number = NUMBERS[dtype]
    kind = cell, hidden, dtype, weight_dtype
    limit = registers_of(plan_for(*kind).threads)
    indices, integer, flag = types.Array(types.int64, 1, "C"), types.intp, types.boolean
    vector, matrix, states = (types.Array(number, rank, "C") for rank in (1, 2, 4))
    common = (indices, indices, integer, integer, integer)
    vectors, dvectors = (types.UniTuple(each, len(cell.vectors)) for each in (vector, matrix))
    parameters = (matrix, vector, vector)
    takes = types.void(*common, flag, flag, *parameters, vectors, states, matrix, matrix, matrix)
    yield "forward", scan_cuda.forward(*kind), takes, limit
    takes = types.void(*common, matrix, vectors, states, *[matrix] * 4, states, dvectors)
    yield "backward", scan_cuda.backward(*kind), takes, limit


def steps_of(cell, dtype):
    """The same of the kernels of a step."""
    number, integer = NUMBERS[dtype], types.intp
    vector, matrix, states = (types.Array(number, rank, "C") for rank in (1, 2, 3))
    vectors, dvectors = (types.UniTuple(each, len(cell.vectors)) for each in (vector, matrix))
    takes = types.void(*[integer] * 3, types.boolean, vector, vectors, states, *[matrix] * 4)
    yield "step forward", steps_cuda.forward(cell, dtype), takes, MOST_REGISTERS
    takes = types.void(*[integer] * 5, vectors, states, states, *[matrix] * 4, dvectors)
    yield "step backward", steps_cuda.backward(cell, dtype), takes, MOST_REGISTERS


def others(dtype):
    """The same of the kernels in which every thread has a number, a position or a parameter of its own."""
    number, integer, bits = NUMBERS[dtype], types.int64, types.uint64
    indices, places = types.Array(integer, 1, "C"), types.Array(integer, 2, "C")
    vector, matrix = (types.Array(number, rank, "C") for rank in (1, 2))
    rows = (indices, indices)
    takes = {
        "drop": (pointwise_cuda._dropper(dtype), *rows, indices, matrix, matrix, integer, bits, number, bits),
        "mean": (pointwise_cuda._means(dtype)[0], *rows, matrix, matrix),
        "mean backward": (pointwise_cuda._means(dtype)[1], *rows, matrix, matrix),
        "max": (pointwise_cuda._maxima(dtype)[0], *rows, matrix, matrix, places),
        "max backward": (pointwise_cuda._maxima(dtype)[1], *rows, matrix, places, matrix),
        "embedding backward": (pointwise_cuda._adder(dtype), *rows, matrix, matrix),
        "sgd": (updates_cuda._sgd, *[vector] * 4, *[number] * 3, types.boolean, number),
        "rmsprop": (updates_cuda._rmsprop, *[vector] * 5, *[number] * 7),
        "adam": (updates_cuda._adam, *[vector] * 5, *[number] * 10),
    }
    for name, code in ACTIVATIONS.items():
        takes[str(name)] = pointwise_cuda._activator(code, dtype), matrix, vector
        takes[f"{name} backward"] = pointwise_cuda._deactivator(code, dtype), matrix, matrix, matrix
    for loss in LOSSES.values():
        kernel = losses_cuda.kernel_for(loss(), np.zeros((1, 2), dtype), dtype)
        takes[loss.name] = kernel, matrix, matrix, vector, vector, vector, matrix
    kernel = losses_cuda.kernel_for(CrossEntropy(), np.zeros(1, np.int64), dtype)
    takes["cross_entropy of labels"] = kernel, matrix, indices, vector, vector, vector, matrix
    for name, (kernel, *kinds) in takes.items():
        yield name, kernel, types.void(*kinds), MOST_REGISTERS


def users_kernels(cell, dtype):
    """The same of kernels of users that call the step function of a cell."""
    number = NUMBERS[dtype]
    vector, matrix = (types.Array(number, rank, "C") for rank in (1, 2))
    weights = types.NamedTuple((matrix, matrix, vector), cell.weights)
    if cell.vectors:
        vectors = types.UniTuple(vector, len(cell.vectors))
        weights = types.NamedTuple((matrix, matrix, vector, vectors), cell.weights)
    if len(cell.states) == 2:
        kernel = cuda.jit(lambda weights, x, h, c: lstm_step(weights, x, h, c))
        yield "step of a user", kernel, types.void(weights, vector, vector, vector), MOST_REGISTERS
    else:
        step = gru_step if cell.name == "gru" else rnn_step
        kernel = cuda.jit(lambda weights, x, h: step(weights, x, h))
        yield "step of a user", kernel, types.void(weights, vector, vector), MOST_REGISTERS


def instructions_of_a_step(binary):
    """How many instructions the time loop of a scan has: it has a barrier, and no other loop in it."""
    done = subprocess.run([program("nvdisasm"), "-c", binary], capture_output=True, text=True, check=True)
    names, labels, branches = [], {}, []
    for line in done.stdout.splitlines():
        if label := re.match(r"\s*(\.L_\w+):", line):
            labels[label[1]] = len(names)
        elif found := re.match(r"\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)(.*);", line):
            target = re.search(r"\.L_\w+", found[2])
            if found[1].startswith("BRA") and target:
                branches.append((target[0], len(names)))
            names.append(found[1])
    loops = [(labels[label], last) for label, last in branches if labels[label] < last]
    ((first, last),) = [loop for loop in loops if any("BAR" in name for name in names[slice(*loop)])]
    inside = [loop for loop in loops if first <= loop[0] < loop[1] < last]
    assert not inside, f"loops in the time loop: {inside}"
    return last + 1 - first


def examine(name, kernel, signature, limit, capability):
    # Kernels that call functions ask the present device what it is.
    device = SimpleNamespace(compute_capability=capability)
    with mock.patch("numba.cuda.dispatcher.get_current_device", return_value=device):
        text, _ = cuda.compile_ptx(kernel.py_func, signature, cc=capability)
    with tempfile.TemporaryDirectory() as folder:
        source, binary = Path(folder, "kernel.ptx"), Path(folder, "kernel.cubin")
        source.write_text(text)
        command = [
            program("ptxas"), "-v", f"-arch=sm_{capability[0]}{capability[1]}",
            f"-maxrregcount={limit}", "-o", binary, source,
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            raise SystemExit(f"{name}: {done.stderr}")
        is_scan = name in ("forward", "backward")
        step = instructions_of_a_step(binary) if is_scan else None

    def total(what):
        return sum(map(int, re.findall(rf"(\d+) bytes {what}", done.stderr)))

    return {
        "kernel": name,
        "registers": int(re.search(r"Used (\d+) registers", done.stderr)[1]),
        "spilled": total("spill"),
        "stack": total("stack frame"),
        "float64": len(re.findall(r"\.f64", text)),
        "instructions of a step": step,
    }


def main() -> None:
    name, capability, *hidden_sizes = sys.argv[1:]
    version = tuple(map(int, capability.split(".")))
    for dtype in NUMBERS:
        if name == "others":
            for kernel in others(dtype):
                print(json.dumps({"dtype": dtype, **examine(*kernel, version)}), flush=True)
            continue
        cell = CELLS[name]
        for kernel in (*steps_of(cell, dtype), *users_kernels(cell, dtype)):
            print(json.dumps({"dtype": dtype, **examine(*kernel, version)}), flush=True)
        for hidden in map(int, hidden_sizes):
            for weight_dtype in (None, "float16") if dtype == "float32" else (None,):
                plan = plan_for(cell, hidden, dtype, weight_dtype)._asdict()
                about = {"dtype": dtype, "weights": weight_dtype or dtype, "hidden": hidden}
                for kernel in scans_of(cell, hidden, dtype, weight_dtype):
                    print(json.dumps({**about, **examine(*kernel, version), **plan}), flush=True)


if __name__ == "__main__":
    main()
