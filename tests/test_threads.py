"""The team of threads: the same work whoever does it, callers side by side, forked children."""

import os
import threading

import numpy as np
import pytest
from conftest import assert_same

import numbarnn
from numbarnn.engine.fork import ALONE, fork, make_board, serve
from numbarnn.engine.threads import even_cuts, run
from numbarnn.jit.atomics import atomic_add, atomic_load
from numbarnn.jit.compile_cache import inlined, kernel


@inlined
def _mark_part(part, cuts, seen):
    for i in range(cuts[part], cuts[part + 1]):
        seen[i] += part + 1


@kernel
def mark_parts(team, cuts, seen):
    fork(team, cuts.size - 1, _mark_part, cuts, seen)


@pytest.mark.parametrize("parts", [1, 2, 3, 8, 32, 33, 40])
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


LOOKS_FOR_COMPANY = 20_000_000  # some milliseconds


@inlined
def _wait_in_part(part, seen, last):
    atomic_add(seen, part, 1)
    reads = 0
    while part == last and reads < LOOKS_FOR_COMPANY:
        reads += 1
        for other in range(last):
            if atomic_load(seen, other) > 0:
                return


@kernel
def wait_in_last_part(team, parts, seen):
    """The last part, the caller's own, waits until somebody has taken another one."""
    fork(team, parts, _wait_in_part, seen, parts - 1)


@pytest.mark.parametrize("number", [0, 30, 31, 32, 63, 70, 127])
def test_worker_of_any_number_takes_parts_that_there_are(number):
    """Workers are numbered from 0 on, on a machine of many cores further than the parts of a fork."""
    (board, _runner), room = make_board(), np.zeros(200, np.int64)
    wait_in_last_part(ALONE, 1, room)  # compiled before the worker waits
    room[:] = 0
    worker = threading.Thread(target=serve, args=(board, number, LOOKS_FOR_COMPANY))
    worker.start()
    wait_in_last_part(board, 32, room)
    worker.join()
    np.testing.assert_array_equal(room, np.repeat([1, 0], [32, 168]))


def layer_and_input():
    layer = numbarnn.GRU(48, bidirectional=True)
    layer.build(24, seed=0)
    return layer, np.random.default_rng(0).standard_normal((40, 60, 24)).astype("float32")


@pytest.fixture
def two_threads(set_threads):
    set_threads(2)


# Work that threads share out by rows, by directions and, for weights too large for a cache, by hidden units.
SHARED_OUT = {
    "rows": (lambda: numbarnn.LSTM(48), (64, 40, 24)),
    "directions": (lambda: numbarnn.GRU(48, bidirectional=True), (64, 40, 24)),
    "units": (lambda: numbarnn.LSTM(320), (24, 6, 24)),
    "layers": (lambda: numbarnn.RNN(64, num_layers=2, bidirectional=True), (64, 40, 24)),
}
each_sharing = pytest.mark.parametrize(("make", "shape"), SHARED_OUT.values(), ids=SHARED_OUT)


def forward_and_backward(layer, x):
    predicted = layer.forward(x)
    trained = layer.forward(x, training=True)
    back = layer.backward(trained[0])
    return predicted, trained, back, {name: gradient.copy() for name, gradient in layer.gradients.items()}


@each_sharing
def test_another_number_of_threads_between_calls(set_threads, make, shape):
    """A layer that has run on some threads runs on others when told so, with the same bits."""
    layer, x = make(), np.random.default_rng(0).standard_normal(shape).astype("float32")
    layer.build(shape[2], seed=0)
    results = []
    for threads in (1, 2, 2, 1):
        set_threads(threads)
        results.append(forward_and_backward(layer, x))
        assert [spare.threads for spares in layer.store._spare.values() for spare in spares] == [threads] * 2
    for result in results[1:]:
        assert_same(result, results[0])


@each_sharing
def test_more_threads_than_parts_are_offered_at_a_time(set_threads, make, shape):
    layer, x = make(), np.random.default_rng(0).standard_normal(shape).astype("float32")
    layer.build(shape[2], seed=0)
    set_threads(1)
    expected = forward_and_backward(layer, x)
    set_threads(40)
    for _ in range(3):
        assert_same(forward_and_backward(layer, x), expected)


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
