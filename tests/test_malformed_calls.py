"""A share of the random malformed calls; `malformed_calls.py` says what is asked of them, and runs all."""

import os
import subprocess
import sys
from pathlib import Path

import malformed_calls
import numpy as np
import pytest
from malformed_values import Wrong

import numbarnn
from numbarnn import Dense

CALLS = 150
LONG = os.environ.get("NUMBARNN_LONG_TESTS") == "1"


def test_each_is_refused_in_one_line_that_names_the_argument():
    """In a process of its own: a call must not end it."""
    calls = 5000 if LONG else CALLS
    script, package = Path(malformed_calls.__file__), Path(numbarnn.__file__).parent
    path = os.pathsep.join([str(script.parent), str(package.parent)])
    done = subprocess.run(
        [sys.executable, str(script), "--calls", str(calls)],
        env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout == f"{calls} malformed calls, 0 not refused as they should be\n", done.stderr
    assert (done.returncode, done.stderr) == (0, "")


def careless(x):
    """Refuses nothing as it should."""
    if isinstance(x, str):
        raise KeyError("a long way from here")
    if isinstance(x, int):
        raise ValueError("this is wrong")
    if isinstance(x, float):
        raise ValueError(f"x: Failed in nopython mode pipeline{'.' * 1000}")


@pytest.mark.parametrize(
    ("value", "said"),
    [("a", "KeyError"), (1, "does not name it"), (1.0, "characters"), (None, "is taken")],
)
def test_a_call_that_is_not_refused_is_found(monkeypatch, value, said):
    call = malformed_calls.Call("careless", careless, {}, {"x": lambda wrong: value})
    monkeypatch.setattr(malformed_calls, "makers", lambda: [call])
    monkeypatch.setattr(malformed_calls, "users", lambda rng: [call])
    monkeypatch.setattr(malformed_calls, "huge", lambda wrong: call)
    assert said in malformed_calls.trial(0)


def test_a_change_is_found(monkeypatch):
    dense = Dense(3)
    dense.build(2, seed=0)

    def change(x):
        dense.set_parameters({name: values + 1 for name, values in dense.parameters.items()})
        raise ValueError("x is wrong")

    call = malformed_calls.Call("change", change, {}, {"x": Wrong.thing}, watched=dense)
    monkeypatch.setattr(malformed_calls, "makers", lambda: [call])
    monkeypatch.setattr(malformed_calls, "users", lambda rng: [call])
    monkeypatch.setattr(malformed_calls, "huge", lambda wrong: call)
    assert "changes something" in malformed_calls.trial(1)


def test_what_is_printed_is_found():
    printed = []
    with malformed_calls.terminal_watched(printed):
        os.write(2, b"LLVM says")
    assert printed == ["LLVM says"]


def test_a_seed_gives_the_same_values():
    def drawn():
        wrong = Wrong(np.random.default_rng(3))
        return [repr(wrong.labels()) for _ in range(5)]

    assert drawn() == drawn()
