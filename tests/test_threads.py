"""The team of threads: the same work whoever does it, callers side by side, forked children."""

import os
import threading

import numpy as np
import pytest
from conftest import assert_same

import numbarnn
from numbarnn.engine.compile_cache import inlined, kernel
from numbarnn.engine.fork import ALONE, fork
from numbarnn.engine.threads import even_cuts, run


@inlined
def _mark_part(part, arguments):
    cuts, seen = arguments
    for i in range(cuts[part], cuts[part + 1]):
        seen[i] += part + 1


@kernel
def mark_parts(team, cuts, seen):
    fork(team, cuts.size - 1, _mark_part, (cuts, seen))


@pytest.mark.parametrize("parts", [1, 2, 3, 8])
def test_every_part_runs_once(parts):
    cuts = even_cuts(1000, parts)
    expected = np.repeat(np.arange(1, parts + 1), np.diff(cuts))
    for _ in range(200):
        seen = np.zeros(1000, np.int64)
        run(mark_parts, parts, cuts, seen)
        np.testing.assert_array_equal(seen, expected)


def test_alone_is_the_same():
    cuts, seen = even_cuts(10, 3), np.zeros(10, np.int64)
    mark_parts(ALONE, cuts, seen)
    np.testing.assert_array_equal(seen, np.repeat([1, 2, 3], np.diff(cuts)))


def layer_and_input():
    layer = numbarnn.GRU(48, bidirectional=True)
    layer.build(24, seed=0)
    return layer, np.random.default_rng(0).standard_normal((40, 60, 24)).astype("float32")


@pytest.fixture
def two_threads():
    before = numbarnn.get_num_threads()
    numbarnn.set_num_threads(2)
    yield
    numbarnn.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
def test_callers_side_by_side_on_one_layer():
    layer, x = layer_and_input()
    expected = layer.forward(x)
    results = [None] * 4

    def call(i):
        for _ in range(5):
            results[i] = layer.forward(x)

    callers = [threading.Thread(target=call, args=(i,)) for i in range(len(results))]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    for result in results:
        assert_same(result, expected)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system cannot fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.usefixtures("two_threads")
def test_forked_child_has_threads_of_its_own():
    layer, x = layer_and_input()
    expected, _ = layer.forward(x)
    child = os.fork()
    if child == 0:
        same = np.array_equal(layer.forward(x)[0], expected)
        os._exit(0 if same else 1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    np.testing.assert_array_equal(layer.forward(x)[0], expected)
