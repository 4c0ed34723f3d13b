"""The disk cache of the GPU's kernels; no GPU is needed, and none of them is compiled."""

import json
import subprocess
import sys

import pytest
from conftest import SIMULATED
from numba import types

from numbarnn.cells import CELLS

pytestmark = pytest.mark.skipif(SIMULATED, reason="the simulator has other kernels")

KINDS = (types.float32[::1], types.int64)
CAPABILITY = (9, 0)


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """The module, with a folder of its own."""
    from numbarnn.engine.cuda import kernel_cache

    monkeypatch.setattr(kernel_cache, "_folder", lambda: tmp_path / "cuda")
    return kernel_cache


def kernel(hidden=16, cell="lstm", dtype="float32", weight_dtype=None):
    from numbarnn.engine.cuda import scan

    return scan.forward(CELLS[cell], hidden, dtype, weight_dtype)


def compiler(cache, calls, code=b"machine\ncode"):
    def compiled():
        calls.append("compiled")
        return cache.MachineCode("a_name", code)

    return compiled


def test_a_kernel_is_compiled_once(cache):
    calls = []
    for _ in range(2):
        found = cache.machine_code(kernel(), KINDS, CAPABILITY, compiler(cache, calls))
        assert found == ("a_name", b"machine\ncode")
    assert calls == ["compiled"]


def test_what_differs_has_a_file_of_its_own(cache, monkeypatch):
    from numbarnn.engine.cuda import scan

    paths = [
        cache._path_of(kernel(), KINDS, CAPABILITY),
        cache._path_of(kernel(hidden=17), KINDS, CAPABILITY),
        cache._path_of(kernel(cell="gru"), KINDS, CAPABILITY),
        cache._path_of(kernel(dtype="float64"), KINDS, CAPABILITY),
        cache._path_of(kernel(weight_dtype="float16"), KINDS, CAPABILITY),
        cache._path_of(scan.backward(CELLS["lstm"], 16, "float32", None), KINDS, CAPABILITY),
        cache._path_of(kernel(), KINDS[:1], CAPABILITY),
        cache._path_of(kernel(), KINDS, (8, 0)),
    ]
    monkeypatch.setattr(cache, "shared_digest", lambda: "other sources")
    paths.append(cache._path_of(kernel(), KINDS, CAPABILITY))
    monkeypatch.setattr(cache, "_versions", lambda: ["numba 99"])
    paths.append(cache._path_of(kernel(), KINDS, CAPABILITY))
    assert len(set(paths)) == len(paths)


def test_another_process_finds_the_same_file(cache):
    script = (
        "from numba import types; from numbarnn.cells import CELLS;"
        "from numbarnn.engine.cuda import kernel_cache, scan;"
        "kernel = scan.forward(CELLS['lstm'], 16, 'float32', None);"
        "print(kernel_cache._path_of(kernel, (types.float32[::1], types.int64), (9, 0)).name)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == cache._path_of(kernel(), KINDS, CAPABILITY).name


def test_a_cell_from_elsewhere_is_not_kept(cache):
    from dataclasses import replace

    from numbarnn.engine.cuda import scan

    lstm = CELLS["lstm"]
    own = replace(lstm, forward=lambda sums, states: lstm.forward(sums, states))
    made = scan.forward(own, 16, "float32", None)
    calls = []
    for _ in range(2):
        cache.machine_code(made, KINDS, CAPABILITY, compiler(cache, calls))
    assert calls == ["compiled"] * 2
    with pytest.raises(cache.Unknown, match="lambda"):
        cache.description_of(made)


@pytest.mark.parametrize("length", [0, 5, -1])
def test_half_a_file_is_compiled_again(cache, length):
    calls = []
    cache.machine_code(kernel(), KINDS, CAPABILITY, compiler(cache, calls))
    path = cache._path_of(kernel(), KINDS, CAPABILITY)
    path.write_bytes(path.read_bytes()[:length])
    cache.machine_code(kernel(), KINDS, CAPABILITY, compiler(cache, calls))
    cache.machine_code(kernel(), KINDS, CAPABILITY, compiler(cache, calls))
    assert calls == ["compiled"] * 2


def test_where_nothing_can_be_written(cache, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setattr(cache, "_folder", lambda: tmp_path / "file" / "cuda")
    calls = []
    assert cache.machine_code(kernel(), KINDS, CAPABILITY, compiler(cache, calls)).name == "a_name"
    monkeypatch.setattr(cache, "_folder", lambda: None)
    assert cache.machine_code(kernel(), KINDS, CAPABILITY, compiler(cache, calls)).name == "a_name"
    assert calls == ["compiled"] * 2


def test_descriptions_are_json(cache):
    assert "numbarnn.engine.cuda.weights" in json.dumps(cache.description_of(kernel()))
