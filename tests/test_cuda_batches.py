"""Batches that go to the GPU while it computes: no memory is written to while somebody still reads it.

Streams of a model of CUDA's do their work as late as they may, or at once, so that a wait that is missing
shows. In the simulator all would be done in the order of the program.
"""

import collections
import itertools
import types

import numpy as np
import pytest
from conftest import on_emulated_gpu, on_gpu, sized

pytestmark = on_gpu

VALUES = np.arange(1.0, 41.0).reshape(20, 2)
SIZES = (3, 5, 2, 5, 1, 6, 6, 4)  # some batches need more room than those before, others less
WAITS = ("host", "copying", "computing")
EAGER = list(itertools.product([False, True], repeat=2))


class Mark:
    """A place in the work of a stream."""

    def __init__(self, stream):
        self.stream, self.reached = stream, False

    def reach(self):
        self.reached = True

    def wait(self):
        while not self.reached:
            self.stream.do_next()


class Event:
    def __init__(self, waits):
        self.mark, self.waits = None, waits

    def synchronize(self):
        if self.mark is not None and self.waits:
            self.mark.wait()


class Stream:
    def __init__(self, eager, waits):
        self.work, self.eager, self.waits = collections.deque(), eager, waits

    def do(self, work):
        self.work.append(work)
        if self.eager:
            self.finish()

    def do_next(self):
        self.work.popleft()()

    def finish(self):
        while self.work:
            self.do_next()

    def record(self, event):
        event.mark = Mark(self)
        self.do(event.mark.reach)

    def wait_event(self, event):
        if event.mark is not None and self.waits:
            self.do(event.mark.wait)


class Streams:
    """`cuda_batches.Streams` of the model; `without` names whose waits are left out."""

    def __init__(self, eager_copying, eager_computing, without=None):
        self.copying = Stream(eager_copying, without != "copying")
        self.computing = Stream(eager_computing, without != "computing")
        self.without = without

    def event(self):
        return Event(self.without != "host")

    def pinned(self, shape, dtype):
        return np.full(shape, -1, dtype)

    def copy(self, source, target):
        self.copying.do(lambda: np.copyto(target, source))


def batches(values=VALUES):
    rng = np.random.default_rng(0)
    return [rng.integers(0, len(values), size) for size in SIZES]


def what_steps_read(streams, values=VALUES):
    """What each step finds in its batch when it is its turn."""
    from numbarnn.training.cuda.data import Streamed

    streamed, read = Streamed(values, streams), []
    for rows in batches(values):
        x = streamed.take(rows)
        streams.computing.do(lambda x=x: read.append(x.copy()))
    streams.computing.finish()
    return read


def is_right(read, values=VALUES):
    return all(np.array_equal(x, values[rows]) for x, rows in zip(read, batches(values), strict=True))


@on_emulated_gpu
@pytest.mark.parametrize("eager", EAGER, ids=str)
@pytest.mark.parametrize("values", [VALUES, np.arange(20)], ids=["steps", "tokens"])
def test_every_step_reads_its_batch(values, eager):
    assert is_right(what_steps_read(Streams(*eager), values), values)


@on_emulated_gpu
@pytest.mark.parametrize("without", WAITS)
def test_no_wait_can_be_left_out(without):
    assert not all(is_right(what_steps_read(Streams(*eager, without))) for eager in EAGER)


@on_emulated_gpu
def test_the_host_runs_ahead_of_the_gpu():
    """It gathers the second batch before the first is copied, and the third when it has been, no later."""
    from numbarnn.training.cuda.data import Streamed

    streams, done = Streams(False, False), []
    streams.copy = lambda source, target: streams.copying.do(lambda: done.append(len(source)))
    streamed = Streamed(VALUES, streams)
    for rows, copied in zip(batches(), ([], [], [3], [3, 5]), strict=False):
        streamed.take(rows)
        assert done == copied


@on_emulated_gpu
def test_memory_that_kernels_still_use_is_not_written_to(monkeypatch):
    """CuPy gives out memory again that launched kernels have yet to read or write."""
    from numbarnn.training.cuda import data as cuda_batches

    streams, memory = Streams(True, False), np.zeros((4, 2))
    monkeypatch.setattr(
        cuda_batches, "arrays", lambda: types.SimpleNamespace(empty=lambda shape, dtype: memory)
    )
    streams.computing.do(lambda: memory.fill(np.nan))
    x = cuda_batches.Streamed(VALUES, streams).take(np.arange(4))
    streams.computing.finish()
    np.testing.assert_array_equal(x, VALUES[:4])


def test_the_streams_that_work_here():
    """On a GPU, with steps long enough that the host comes back to a slot before it is free."""
    from numbarnn.engine.cuda.arrays import arrays, on_host
    from numbarnn.training.cuda.data import Streamed

    rng = np.random.default_rng(0)
    values = rng.standard_normal((5000, 64)).astype(np.float32)
    all_rows = [rng.integers(0, len(values), size) for size in rng.integers(1, 4000, sized(40, 3))]
    streamed, read = Streamed(values), []
    weight = arrays().zeros((64, 4096), np.float32)
    for rows in all_rows:
        x = streamed.take(rows)
        busy = (x @ weight).max()
        read.append(x + busy)
    for x, rows in zip(read, all_rows, strict=True):
        np.testing.assert_array_equal(on_host(x), values[rows])
