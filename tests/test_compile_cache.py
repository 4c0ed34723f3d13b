"""The disk cache of compiled kernels: nothing is compiled twice, nothing stale is run, nothing can break it."""

import ast
import inspect
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import pytest
from numba.core import caching

import numbarnn
from numbarnn.engine import compile_cache

PACKAGE = Path(numbarnn.__file__).parent

# What the programs below print is read by `start`. Each is a process of its own, as a user's script is.
HEADER = """
import json, time
import numpy as np
import numbarnn
from numbarnn.engine.compile_cache import compile_clock
x = np.arange(12.0).reshape(2, 3, 2) / 10.0
"""
FOOTER = """
print(json.dumps([np.asarray(y).tolist(), compile_clock.kernels, time.process_time()]))
"""
LSTM = """
layer = numbarnn.LSTM(2)
layer.build(2, seed=0)
y = layer.forward(x)[0]
"""
DENSE = """
layer = numbarnn.Dense(2, "tanh")
layer.build(2, seed=0)
y = layer.forward(x)
"""
MEAN = "y = numbarnn.MeanOverTime().forward(x)\n"  # compiles in a third of a second
TRAINING = """
model = numbarnn.Sequential(numbarnn.LSTM(2), numbarnn.Dense(2))
y = model.fit(x, [0, 1], epochs=1, batch_size=2, verbose=False).history["loss"]
"""


class Installation:
    """A copy of the package with a compile cache of its own."""

    def __init__(self, folder):
        self.package, self.cache, self.kept = folder / "numbarnn", folder / "cache", folder / "kept"
        shutil.copytree(PACKAGE, self.package, ignore=shutil.ignore_patterns("__pycache__"))
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("NUMBA")},
            "PYTHONPATH": str(folder),
            "PYTHONDONTWRITEBYTECODE": "1",
            "TMPDIR": str(folder),
            "NUMBARNN_CACHE_DIR": str(self.cache),
            "NUMBA_OPT": "0",  # compiles twice as fast, and the cache does not care
        }

    def start(self, program, cwd=None, **environment):
        """Run a program to its end: its result, how many kernels it compiled, its seconds of work."""
        environment = {**self.environment, **environment}
        arguments = [sys.executable, "-W", "error", "-c", HEADER + program + FOOTER]
        done = subprocess.run(arguments, env=environment, cwd=cwd, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        result, kernels, seconds = json.loads(done.stdout)
        return result, kernels, seconds

    def edit(self, file, old, new):
        """Replace a text that stands in a file once."""
        text = (self.package / file).read_text(encoding="utf-8")
        assert text.count(old) == 1, f"{file} has {text.count(old)} times {old!r}"
        (self.package / file).write_text(text.replace(old, new), encoding="utf-8")


@pytest.fixture(scope="module")
def warmed(tmp_path_factory):
    installation = Installation(tmp_path_factory.mktemp("installation"))
    results = [installation.start(program) for program in (LSTM + TRAINING, DENSE, MEAN)]
    assert all(kernels > 0 for _, kernels, _ in results)
    shutil.copytree(installation.cache, installation.kept)
    return installation


@pytest.fixture
def installation(warmed):
    """The copy with a warm cache and its sources as they should be."""
    shutil.copytree(PACKAGE, warmed.package, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
    shutil.rmtree(warmed.cache)
    shutil.copytree(warmed.kept, warmed.cache)
    return warmed


def entries(folder):
    """The cache's files: what is known of a kernel, and its machine code."""
    return sorted([*folder.rglob("*.nbi"), *folder.rglob("*.nbc")])


# ---- it is used ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("program", [LSTM, DENSE, MEAN, TRAINING], ids=["lstm", "dense", "mean", "training"])
def test_second_start_compiles_nothing(installation, program):
    before = {path: path.read_bytes() for path in entries(installation.cache)}
    _, kernels, seconds = installation.start(program)
    print(f"from the start of Python to the result: {seconds:.2f} s")
    assert kernels == 0
    assert seconds < 5.0  # 0.6 where this was written; compiling takes 10
    assert {path: path.read_bytes() for path in entries(installation.cache)} == before


def test_two_processes_may_fill_it_at_once(installation):
    expected, _, _ = installation.start(MEAN)
    shutil.rmtree(installation.cache)
    arguments = [sys.executable, "-c", HEADER + MEAN + FOOTER]
    started = [
        subprocess.Popen(arguments, env=installation.environment, stdout=subprocess.PIPE) for _ in range(2)
    ]
    assert [json.loads(process.communicate()[0])[0] for process in started] == [expected] * 2
    assert installation.start(MEAN)[:2] == (expected, 0)


# ---- it is never stale -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("program", "file", "old", "new"),
    [
        (LSTM, "cells/lstm.py", "h_new = o * tanh(c_new)", "h_new = o * tanh(c_new) * 2.0"),
        (DENSE, "engine/activations.py", "return copy_sign(select(", "return 2.0 * copy_sign(select("),
        (MEAN, "layers/pooling.py", "y[b, j] *= share", "y[b, j] *= share * x.dtype.type(2.0)"),
    ],
    ids=["cell", "activation", "kernel itself"],
)
def test_edited_source_is_compiled_again(installation, program, file, old, new):
    before, _, _ = installation.start(program)
    installation.edit(file, old, new)
    after, kernels, _ = installation.start(program)
    assert kernels > 0
    assert np.abs(np.subtract(after, before)).max() > 0.01
    if program != LSTM:  # its states go round
        np.testing.assert_allclose(after, np.multiply(before, 2.0), rtol=1e-6)


def decorated(tree):
    """Functions of a module that go into kernels."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            names = {ast.unparse(decorator) for decorator in node.decorator_list}
            if names & {"kernel", "inlined"}:
                yield node


def test_stamp_covers_what_kernels_use():
    """A kernel outside the shared folders uses its own file and those folders, and no other of our files."""
    found = 0
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.relative_to(PACKAGE).parts[0] in compile_cache.SHARED_SOURCES:
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        imported = {
            alias.asname or alias.name: node.module
            for node in tree.body
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        }
        for function in decorated(tree):
            found += 1
            used = {
                node.id for child in function.body for node in ast.walk(child) if isinstance(node, ast.Name)
            }
            for name in used & set(imported):
                parts = imported[name].split(".")
                covered = parts[0] != "numbarnn" or parts[1] in compile_cache.SHARED_SOURCES
                assert covered, f"{path.name}: {function.name} uses {name} of {imported[name]}"
    assert found > 5


# ---- it can be missing or broken -------------------------------------------------------------------------


def test_folder_that_cannot_be_written(installation, tmp_path):
    """The system's folder of temporary files takes its place."""
    expected, _, _ = installation.start(MEAN)
    file = tmp_path / "file"
    file.write_text("no folder")
    places = {"NUMBARNN_CACHE_DIR": str(file / "below"), "TMPDIR": str(tmp_path)}
    result, kernels, _ = installation.start(MEAN, **places)
    assert (result, kernels > 0) == (expected, True)
    assert installation.start(MEAN, **places)[:2] == (expected, 0)
    assert file.read_text() == "no folder"


def test_no_folder_at_all(installation, tmp_path):
    expected, _, _ = installation.start(MEAN)
    nowhere = str(installation.package / "__init__.py" / "below")  # a file
    program = f"import tempfile\ntempfile.tempdir = {nowhere!r}\n"
    before = entries(installation.cache)
    arguments = [sys.executable, "-c", program + HEADER + MEAN + FOOTER]
    done = subprocess.run(
        arguments,
        env={**installation.environment, "NUMBARNN_CACHE_DIR": nowhere},
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)[0] == expected
    assert entries(installation.cache) == before
    assert list(tmp_path.iterdir()) == []


def test_folder_that_goes_away(installation):
    """While a program runs, its cache becomes a file."""
    expected, _, _ = installation.start(MEAN)
    program = (
        "import os, shutil\nfolder = os.environ['NUMBARNN_CACHE_DIR']\n"
        "shutil.rmtree(folder)\nopen(folder, 'w').close()\n"
    )
    try:
        assert installation.start(program + MEAN)[0] == expected
    finally:
        installation.cache.unlink()
        installation.cache.mkdir()


DAMAGES = {
    "emptied": lambda data: b"",
    "cut in half": lambda data: data[: len(data) // 2],
    "cut by a byte": lambda data: data[:-1],
    "zeros": lambda data: bytes(len(data)),
    "garbage": lambda data: b"garbage" * 10,
    "a changed byte": lambda data: data[: len(data) // 2] + b"\xff" + data[len(data) // 2 + 1 :],
}


@pytest.mark.parametrize("suffix", ["nbi", "nbc"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_entries_are_compiled_again(installation, damage, suffix):
    if damage == "a changed byte" and suffix == "nbc":
        pytest.skip("no check sum guards machine code")
    expected, _, _ = installation.start(MEAN)
    for path in installation.cache.rglob(f"*.{suffix}"):
        path.write_bytes(DAMAGES[damage](path.read_bytes()))
    assert installation.start(MEAN)[0] == expected
    assert installation.start(MEAN)[:2] == (expected, 0), "the second start finds a good cache again"


# ---- kernels without a source file -----------------------------------------------------------------------

DOUBLE = """
from numbarnn.engine.compile_cache import kernel
@kernel
def double(x):
    for i in range(x.size):
        x[i] *= 2.0
y = x[0, 0]
double(y)
"""


@pytest.mark.parametrize("program", [DOUBLE, f"exec({DOUBLE!r})\n"], ids=["python -c", "exec"])
def test_kernels_without_a_file(installation, program, tmp_path):
    before = entries(installation.cache)
    result, _, _ = installation.start(program, cwd=tmp_path)
    np.testing.assert_allclose(result, [0.0, 0.2])
    assert entries(installation.cache) == before


# ---- where it is -----------------------------------------------------------------------------------------


def test_named_folders_come_first(monkeypatch, tmp_path):
    monkeypatch.setenv("NUMBARNN_CACHE_DIR", str(tmp_path / "ours"))
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "numba"))
    assert compile_cache.cache_directory() == tmp_path / "ours"
    monkeypatch.delenv("NUMBARNN_CACHE_DIR")
    assert compile_cache.cache_directory() == tmp_path / "numba"
    monkeypatch.delenv("NUMBA_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    if sys.platform.startswith("linux"):
        assert compile_cache.cache_directory() == tmp_path / "user" / "numbarnn"


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="folders have no owner here")
def test_folder_of_another_user_is_not_trusted(monkeypatch, tmp_path):
    """What is in there is unpickled, which may run anything."""
    monkeypatch.setenv("NUMBARNN_CACHE_DIR", str(tmp_path / "theirs"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "theirs").mkdir()
    monkeypatch.setattr(os, "getuid", lambda: os.stat(tmp_path).st_uid + 1)
    assert compile_cache.cache_directory() is None


# ---- what is used of Numba's private API -----------------------------------------------------------------


def test_numba_is_as_it_was():
    """Where this fails with a new Numba, read compile_cache.py against its numba/core/caching.py."""
    base = caching.CompileResultCacheImpl(compile_cache.cache_directory)
    assert set(vars(base)) == {"_lineno", "_locator", "_filename_base"}
    assert list(inspect.signature(base.get_filename_base).parameters) == ["fullname", "abiflags"]
    abstract = {"get_cache_path", "get_source_stamp", "get_disambiguator"}
    assert abstract <= caching._CacheLocator.__abstractmethods__ <= {*abstract, "from_function"}
    locate = caching._CacheLocator.get_suitable_cache_subpath
    assert list(inspect.signature(locate).parameters) == ["py_file"]
    assert locate(__file__) != locate(compile_cache.__file__)
    assert caching.FunctionCache._impl_class is caching.CompileResultCacheImpl
    for name, parameters in (
        ("load_overload", ["self", "sig", "target_context"]),
        ("save_overload", ["self", "sig", "data"]),
        ("disable", ["self"]),
    ):
        assert list(inspect.signature(getattr(caching.FunctionCache, name)).parameters) == parameters


def test_dispatchers_use_the_cache_they_are_given():
    assert isinstance(numba.njit(lambda x: x)._cache, caching.NullCache)
    calls = []

    class Watched(compile_cache.KernelCache):
        def load_overload(self, sig, target_context):
            calls.append("load")

        def save_overload(self, sig, data):
            calls.append("save")

    def one(x):
        return x + 1

    compiled = numba.njit(one)
    compiled._cache = Watched(one)
    assert compiled(1) == 2
    assert calls == ["load", "save"]
