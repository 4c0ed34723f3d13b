"""Programs: what was recorded runs, in its order, on the arrays that it was recorded with."""

import gc
import weakref

import numpy as np
import pytest

from numbarnn.engine.fork import fork
from numbarnn.engine.program import FAULT, HELD, NO_FAULT, Program, make_bindings, record, record_together
from numbarnn.engine.threads import even_cuts
from numbarnn.jit.compile_cache import inlined, kernel

SIZE = 1000
# With more parts than are offered at a time, and with parts that have nothing to do.
each_number_of_parts = pytest.mark.parametrize("parts", [1, 2, 3, 40])


@inlined
def _add_part(part, cuts, source, target, factor):
    for i in range(cuts[part], cuts[part + 1]):
        target[i] += factor * source[i]


@kernel
def add(team, cuts, source, target, factor):
    """target += factor * source, which shows how often it ran."""
    fork(team, cuts.size - 1, _add_part, cuts, source, target, factor)


@inlined
def _find_part(part, bindings, values):
    for i in range(values.size):
        if values[i] < 0.0:
            bindings[FAULT] = i


@kernel
def find_negative(team, bindings, values):
    fork(team, 1, _find_part, bindings, values)


def numbers(seed):
    return np.random.default_rng(seed).integers(1, 100, SIZE).astype(np.float64)


def no_arrays():
    """What `run_on` puts behind bindings that no kernel here reads."""
    return np.zeros((1, 1)), np.zeros((1, 1)), np.zeros((1, 1, 1, 1)), (np.zeros((0, 0, 0)),) * 2


@each_number_of_parts
def test_run_is_the_calls_in_their_order(parts):
    cuts, first, second, third = even_cuts(SIZE, parts), numbers(0), np.zeros(SIZE), np.zeros(SIZE)
    calls = [record(add, cuts, first, second, 2.0), record(add, cuts, second, third, 3.0)]
    np.testing.assert_array_equal(second, 0.0)  # recording runs nothing
    program = Program(calls)
    program.run()
    np.testing.assert_array_equal(second, 2.0 * numbers(0))
    np.testing.assert_array_equal(third, 6.0 * numbers(0))


@each_number_of_parts
def test_run_reads_what_the_arrays_hold_by_then(parts):
    source, target = numbers(0), np.zeros(SIZE)
    program = Program([record(add, even_cuts(SIZE, parts), source, target, 1.0)])
    for seed in range(100):
        source[:], target[:] = numbers(seed), 1.0
        program.run()
        np.testing.assert_array_equal(target, numbers(seed) + 1.0)


def test_numbers_are_those_of_the_recording():
    source, target = numbers(0), np.zeros(SIZE)
    cuts = even_cuts(SIZE, 2)
    # One kernel recorded several times: no call may overwrite what another one wrote down.
    calls = [record(add, cuts, source, target, factor) for factor in (1.0, 10.0, 100.0)]
    Program(calls).run()
    np.testing.assert_array_equal(target, 111.0 * source)
    Program([calls[1], calls[1]]).run()
    np.testing.assert_array_equal(target, 131.0 * source)


def test_program_of_nothing():
    Program([]).run()


@pytest.mark.parametrize("count", [1, 2, 3, 40])
@each_number_of_parts
def test_calls_side_by_side_run_once_each(parts, count):
    """With one call the caller is alone; with several a team has them. Their own parts share no team."""
    cuts, source = even_cuts(SIZE, parts), numbers(0)
    targets, last = np.zeros((count, SIZE)), np.zeros(SIZE)
    together = record_together([[record(add, cuts, source, targets[i], i + 1.0)] for i in range(count)])
    program = Program([together, record(add, cuts, targets[count - 1], last, 1.0)])
    for run in range(1, 21):
        last[:] = 0.0
        program.run()
        np.testing.assert_array_equal(targets, run * np.arange(1.0, count + 1)[:, None] * source)
        np.testing.assert_array_equal(last, targets[-1])  # what follows waits for all of them


def test_fault_stops_the_program_and_the_next_run_begins_anew():
    bindings, values, before, after = make_bindings(), numbers(0), np.zeros(SIZE), np.zeros(SIZE)
    cuts = even_cuts(SIZE, 2)
    program = Program(
        [
            record(add, cuts, values, before, 1.0),
            record(find_negative, bindings, values),
            record(add, cuts, values, after, 1.0),
        ]
    )
    assert program.run_on(bindings, HELD, *no_arrays()) == NO_FAULT
    np.testing.assert_array_equal(after, values)
    values[7] = -1.0
    assert program.run_on(bindings, HELD, *no_arrays()) == 7
    np.testing.assert_array_equal(before, numbers(0) + values)
    np.testing.assert_array_equal(after, numbers(0))
    values[7] = 1.0
    assert program.run_on(bindings, HELD, *no_arrays()) == NO_FAULT
    np.testing.assert_array_equal(after, numbers(0) + values)


@pytest.mark.parametrize("side_by_side", [False, True])
def test_program_keeps_what_it_was_recorded_with(side_by_side):
    target = np.zeros(SIZE)

    def recorded():
        call = record(add, even_cuts(SIZE, 3).copy(), numbers(0), target, 2.0)
        return record_together([[call]]) if side_by_side else call

    program = Program([recorded()])
    gc.collect()
    # Whatever was freed is likely to be handed out here, and overwritten.
    junk = [np.full(size, -1, np.int64) for size in (4, SIZE, 512, 1) for _ in range(200)]
    program.run()
    np.testing.assert_array_equal(target, 2.0 * numbers(0))
    assert all((array == -1).all() for array in junk)


def test_program_lets_go_of_its_arrays():
    source, target = numbers(0), np.zeros(SIZE)
    watched = weakref.ref(source)
    program = Program([record(add, even_cuts(SIZE, 2), source, target, 1.0)])
    program.run()
    del source
    gc.collect()
    assert watched() is not None
    del program
    gc.collect()
    assert watched() is None
