"""Where the library runs: without a home or a terminal, on few processors, in programs that log."""

import io
import logging
import os
import subprocess
import sys
import warnings

import numpy as np
import pytest

import numbarnn
from numbarnn.engine import processors
from numbarnn.jit import compile_cache

PROGRAM = """
import numpy as np, numbarnn
print(numbarnn.Dropout(0.5).forward(np.ones((2, 3), np.float32)).sum(), numbarnn.get_num_threads())
"""


def start(tmp_path, program=PROGRAM, **environment):
    """Run a program in an empty folder with other settings; what it printed, its errors, what it wrote."""
    names = ("HOME", "XDG_CACHE_HOME", "NUMBARNN_CACHE_DIR", "NUMBA_CACHE_DIR", "NUMBARNN_NUM_THREADS")
    given = {name: value for name, value in os.environ.items() if name not in (*names, "NUMBA_NUM_THREADS")}
    given |= {"HOME": str(tmp_path / "home"), "TMPDIR": str(tmp_path / "temporary")}
    given["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    given |= environment
    for folder in ("home", "temporary", "work"):
        (tmp_path / folder).mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-c", program], env=given, cwd=tmp_path / "work", capture_output=True, text=True,
        timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert os.listdir(tmp_path / "work") == [], "nothing is written into the working folder"
    return done.stdout.split(), done.stderr


# ---- the cache folder ------------------------------------------------------------------------------------


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems have other folders")
@pytest.mark.parametrize(
    ("settings", "folder"),
    [
        ({}, "home/.cache/numbarnn"),
        ({"XDG_CACHE_HOME": ""}, "home/.cache/numbarnn"),
        ({"XDG_CACHE_HOME": "cache"}, "home/.cache/numbarnn"),
        ({"NUMBARNN_CACHE_DIR": "~/kernels"}, "home/kernels"),
        ({"NUMBARNN_CACHE_DIR": ""}, "home/.cache/numbarnn"),
        ({"NUMBARNN_CACHE_DIR": "~nobody-of-this-name/kernels"}, "temporary/numbarnn-"),
    ],
    ids=str,
)
def test_where_kernels_are_kept(tmp_path, settings, folder):
    program = "from numbarnn.jit.compile_cache import cache_directory\nprint(cache_directory())"
    (printed,), _ = start(tmp_path, program, **settings)
    assert printed.startswith(str(tmp_path / folder))


def test_no_home_and_an_unknown_user(monkeypatch, tmp_path):
    """As in a container that runs as any number."""
    for name in ("NUMBARNN_CACHE_DIR", "NUMBA_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    folder = compile_cache.cache_directory()
    assert folder is not None
    assert folder.parent == tmp_path
    assert not (tmp_path / "~").exists()


def test_a_file_where_the_folder_should_be(tmp_path):
    (tmp_path / "file").write_text("")
    (printed, _), _ = start(tmp_path, NUMBARNN_CACHE_DIR=str(tmp_path / "file"))
    assert printed == "6.0"


def test_one_line_where_nothing_can_be_kept(monkeypatch):
    monkeypatch.setattr(compile_cache, "_is_writable_and_ours", lambda folder: False)
    with pytest.warns(RuntimeWarning, match="no folder that it can write to") as caught:
        assert compile_cache._cache_directory.__wrapped__() is None
    assert len(caught) == 1
    assert "\n" not in str(caught[0].message)


# ---- threads ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "threads"),
    [
        ({"NUMBA_NUM_THREADS": "1"}, 1),
        ({"NUMBA_NUM_THREADS": "1", "NUMBARNN_NUM_THREADS": "3"}, 3),
    ],
    ids=str,
)
def test_settings_of_threads(tmp_path, settings, threads):
    (_, printed), _ = start(tmp_path, **settings)
    assert int(printed) == threads


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity")
def test_the_processors_that_a_process_may_use(tmp_path):
    program = "import os\nos.sched_setaffinity(0, [min(os.sched_getaffinity(0))])\n" + PROGRAM
    (_, printed), _ = start(tmp_path, program)
    assert int(printed) == 1


@pytest.mark.parametrize(
    ("groups", "files", "quota"),
    [
        ("0::/", {"cpu.max": "150000 100000"}, 1.5),
        ("0::/", {"cpu.max": "max 100000"}, np.inf),
        ("0::/a/b", {"a/cpu.max": "50000 100000", "a/b/cpu.max": "max 100000"}, 0.5),
        ("0::/of/the/host", {"cpu.max": "300000 100000"}, 3.0),
        ("4:cpu,cpuacct:/", {"cpu/cpu.cfs_quota_us": "200000", "cpu/cpu.cfs_period_us": "100000"}, 2.0),
        ("4:cpu,cpuacct:/", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, np.inf),
        ("3:memory:/", {"cpu/cpu.cfs_quota_us": "200000", "cpu/cpu.cfs_period_us": "100000"}, np.inf),
        ("", {}, np.inf),
        ("0::/", {"cpu.max": "what"}, np.inf),
    ],
)
def test_quotas(monkeypatch, tmp_path, groups, files, quota):
    monkeypatch.setattr(processors, "CGROUPS", tmp_path)
    monkeypatch.setattr(processors, "OWN_GROUPS", tmp_path / "own")
    (tmp_path / "own").write_text(groups)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    assert processors._quota() == quota
    assert 1 <= processors.processor_count() <= max(1, np.ceil(quota))


# ---- streams and logs ------------------------------------------------------------------------------------


class OnlyWrites:
    def __init__(self):
        self.text = ""

    def write(self, text):
        self.text += text


@pytest.mark.parametrize("has_tqdm", [True, False])
@pytest.mark.parametrize("stream", ["none", "only writes", "closed"])
def test_streams(monkeypatch, capsys, has_tqdm, stream):
    if not has_tqdm:
        monkeypatch.setitem(sys.modules, "tqdm", None)
    elif stream == "closed":
        pytest.skip("tqdm itself writes to it")
    closed = io.StringIO()
    closed.close()
    stderr = {"none": None, "only writes": OnlyWrites(), "closed": closed}[stream]
    model = numbarnn.Sequential(numbarnn.LSTM(3), numbarnn.Dense(2))
    with monkeypatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("error")
        patch.setattr(sys, "stderr", stderr)
        model.fit(np.ones((4, 3, 2)), [0, 1, 0, 1], epochs=2)
    assert capsys.readouterr().out == ""
    if stream == "only writes":
        assert "loss" in stderr.text


def test_a_program_that_logs_at_debug(tmp_path):
    program = """
import io, logging
notes = io.StringIO()
logging.basicConfig(level=logging.DEBUG, stream=notes)
import numpy as np, numbarnn
numbarnn.Dense(3).forward(np.ones((2, 3, 4), np.float32))
print(notes.getvalue().count(chr(10)), logging.getLogger("numba").level)
"""
    (lines, level), _ = start(tmp_path, program)
    assert int(lines) < 10
    assert int(level) == logging.NOTSET
