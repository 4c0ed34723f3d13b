"""Kernels read and write nothing but their arrays."""

import ctypes
import importlib
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import checked_accesses
import numpy as np
import odd_sizes
import pytest
from canaries import Damage, canaries
from conftest import assert_same, trials
from numba.core.dispatcher import Dispatcher

import numbarnn
from numbarnn.engine.fork import ALONE, fork
from numbarnn.jit.compile_cache import inlined, kernel
from numbarnn.jit.vector_memory import load, store

EVERY = trials(13, 1)  # of the uses with checked accesses
# Threads for each kind of sharing, and what is in the names of the uses: others would compile more kernels.
SHARED = {"none": (1, ""), "rows": (2, "float32"), "units": (3, "lstm float32")}
# Threads of the team call the first one; the others are for tests.
WITHOUT_USE = {"serve", "tanh_array", "sigmoid_array"}


# ---- canaries are found dead -----------------------------------------------------------------------------


@inlined
def _copy_part(part, source, target, index):
    store(target, index, load(source, index))


@kernel
def copy_vector(team, source, target, index):
    """A kernel that takes what index it is given."""
    fork(team, 1, _copy_part, source, target, index)


@pytest.mark.parametrize("index", [-1, 1, 30, 40])
def test_a_kernel_that_writes_outside_is_found(index):
    size = 32
    with pytest.raises(Damage, match=f"has {4 * size} bytes"), canaries():
        source, target = np.zeros((2, 3 * size), np.float32)
        target = np.empty(size, np.float32)
        first = min(index, 0)
        copy_vector(ALONE, source[size + first :], target, index if index != 1 else size - 1)
        assert np.isnan(target[-1]) or index == 1


def test_a_kernel_that_stays_inside_does_no_damage():
    with canaries() as watch:
        source, target = np.zeros(32, np.float32), np.empty(32, np.float32)
        copy_vector(ALONE, source, target, 0)
        assert target.tolist()[0] == 0.0
        assert watch.arrays == 2


def test_what_is_read_outside_is_nan():
    with canaries():
        source, target = np.zeros(32, np.float32), np.zeros(64, np.float32)
        copy_vector(ALONE, source, target, 31)
        assert np.isnan(target[32:36]).all()


def test_a_write_after_the_end_of_an_array_s_life_is_found():
    with pytest.raises(Damage, match="byte 3 was written"), canaries():
        array = np.zeros(5)
        address = array.ctypes.data
        del array
        ctypes.c_uint8.from_address(address + 3).value = 1


def test_what_is_copied_from_canary_to_canary_is_found():
    with pytest.raises(Damage), canaries():
        source, target = np.zeros((2, 32), np.float32), np.zeros(32, np.float32)
        copy_vector(ALONE, source[1], target, 32)


def test_arrays_outlive_the_canaries():
    with canaries():
        array = np.arange(5.0)
    array = np.append(array, 5.0)
    assert array.sum() == 15.0


# ---- the library -----------------------------------------------------------------------------------------


def unused_kernels():
    """The names of the CPU's kernels that nothing has called in this process."""
    names = set()
    for found in pkgutil.walk_packages(numbarnn.__path__, "numbarnn."):
        if ".cuda" not in found.name:
            for value in vars(importlib.import_module(found.name)).values():
                if isinstance(value, Dispatcher) and not value.signatures:
                    names.add(value.__name__)
    return names


def test_canaries_around_every_array(set_threads, monkeypatch):
    """The results are those without canaries, so that nothing that is read outside matters."""
    arrays, everything = 0, trials(False, True)
    for kind, (threads, names) in SHARED.items():
        set_threads(threads)
        for setting in odd_sizes.SHARING[kind]:
            monkeypatch.setattr(*setting)
        for i, use in enumerate(odd_sizes.uses(draws=trials(1, 20), long_sums=kind == "none")):
            # A third has all cells, layers, losses and optimisers in it.
            if everything or (names in use.name and (i % 3 == 0 or use.name.startswith("long sums"))):
                with canaries() as watch:  # first: without them a write outside may end the process
                    results = use.run()
                assert_same(results, use.run())
                arrays += watch.arrays
    assert arrays > 5_000
    # Other tests may have called them in this process: by itself this one finds what has no use.
    assert unused_kernels() <= WITHOUT_USE


def run_checked(every, sharing="none", **settings):
    """The uses with checked accesses, in a process of their own; what it printed."""
    script, package = Path(checked_accesses.__file__), Path(numbarnn.__file__).parent
    path = os.pathsep.join([str(script.parent), str(package.parent)])
    return subprocess.run(
        [sys.executable, str(script), "--every", str(every), "--sharing", sharing],
        env={**os.environ, "PYTHONPATH": path, **settings}, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("sharing", trials(["none"], odd_sizes.SHARING))
def test_vectors_lie_within_their_arrays(sharing):
    done = run_checked(EVERY, sharing, NUMBA_DISABLE_JIT="1")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("uses, all accesses within their arrays\n")


def test_a_vector_outside_is_found():
    check = checked_accesses.checked(load, has_count=False)
    array = np.zeros(32)
    assert check(array, 24).size >= 2
    for index in (-1, 31):
        with pytest.raises(IndexError, match=f"from {index} on, of 32"):
            check(array, index)


@pytest.mark.skipif(trials(True, False), reason="compiles all kernels anew: NUMBARNN_LONG_TESTS=1")
def test_numbers_lie_within_their_arrays(tmp_path):
    done = run_checked(1, NUMBA_BOUNDSCHECK="1", NUMBA_FULL_TRACEBACKS="1", NUMBARNN_CACHE_DIR=str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("uses, all accesses within their arrays\n")
    assert "IndexError" not in done.stdout
