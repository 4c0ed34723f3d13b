"""Rows between the caller's order and the packed one, for sequences of different lengths."""

import numpy as np
import pytest
from conftest import TOLERANCE

from numbarnn.engine.packing import aligned_zeros
from numbarnn.engine.program import HELD, NO_FAULT, Program, make_bindings, record
from numbarnn.engine.rows import CallerMatrix, clear_rows, read_rows, write_rows
from numbarnn.jit.cpu import padded
from numbarnn.layers.bands import Bands
from numbarnn.sequences.layout import Layout, cuts_between

LENGTHS = np.array([2, 9, 1, 5, 9, 4])
LONGEST = 9
# Each sequence begins a whole padded row behind the one before; zeros follow its steps up to two rows short
# of the next one, and those are nobody's.
STARTS = np.arange(LENGTHS.size) * LONGEST
ENDS = np.maximum(STARTS + LONGEST - 2, STARTS + LENGTHS)
FLAT_ROWS = LENGTHS.size * LONGEST
JUNK = 7.0  # in memory that is yet to be written

each_dtype = pytest.mark.parametrize("dtype", TOLERANCE)
each_size = pytest.mark.parametrize("size", [1, 3, 16, 17, 40])


def bands_of(layout, count):
    return Bands(layout, layout.row_cuts(count), layout.row_cuts(1))


class Exchange:
    """Read a flat matrix, then write it into another one, as a program of a few parts."""

    def __init__(self, size, dtype, parts, bands=1):
        self.dtype = dtype
        layout = Layout(LENGTHS)
        self.packed = aligned_zeros((layout.total, padded(size, dtype)), dtype)
        self.packed[...] = JUNK
        self.written = np.full((FLAT_ROWS, size), JUNK, dtype)
        self.bindings = make_bindings()
        caller = CallerMatrix(self.bindings, FLAT_ROWS, size, STARTS)
        arguments = (
            layout.row_cuts(parts), caller, layout.order, layout.active, layout.row_cuts(bands),
            bands_of(layout, bands).gate_offset, self.packed,
        )  # fmt: skip
        begins = STARTS + LENGTHS
        tails = cuts_between(ENDS - begins, parts), caller._replace(starts=begins), ENDS
        self.program = Program(
            [
                record(read_rows, *arguments),
                record(write_rows, *arguments),
                record(clear_rows, *tails, self.packed),
            ]
        )

    def run(self, flat):
        no_states = np.zeros((1, 1, 1, 1), self.dtype), (np.zeros((0, 0, 0), self.dtype),) * 2
        return self.program.run_on(self.bindings, HELD, flat, self.written, *no_states)


def valid_rows():
    """Flat rows in packed order: by time, and within a time by falling length."""
    places = sorted(range(LENGTHS.size), key=lambda i: -LENGTHS[i])
    return [STARTS[i] + t for t in range(LONGEST) for i in places if t < LENGTHS[i]]


def flat_matrix(size, dtype, seed=0):
    """Numbers in the valid rows, and NaN in the others."""
    flat = np.full((FLAT_ROWS, size), np.nan, dtype)
    rows = valid_rows()
    flat[rows] = np.random.default_rng(seed).standard_normal((len(rows), size))
    return flat


@each_dtype
@each_size
@pytest.mark.parametrize("parts", [1, 2, 5])
def test_rows_there_and_back(parts, size, dtype):
    exchange, rows = Exchange(size, dtype, parts), valid_rows()
    behind = [row for i in range(LENGTHS.size) for row in range(STARTS[i] + LENGTHS[i], ENDS[i])]
    between = np.setdiff1d(np.arange(FLAT_ROWS), [*rows, *behind])
    assert len(behind) > 0 and len(between) > 0
    for seed in range(3):
        flat = flat_matrix(size, dtype, seed)
        assert exchange.run(flat) == NO_FAULT
        np.testing.assert_array_equal(exchange.packed[:, :size], flat[rows])
        np.testing.assert_array_equal(exchange.packed[:, size:], 0.0)
        np.testing.assert_array_equal(exchange.written[rows], flat[rows])
        np.testing.assert_array_equal(exchange.written[behind], 0.0)
        np.testing.assert_array_equal(exchange.written[between], JUNK)


@each_dtype
@each_size
@pytest.mark.parametrize("parts", [1, 2, 5])
def test_fault_is_the_lowest_bad_row(parts, size, dtype):
    """Whichever part comes upon which row first: lowest in the caller's order, which is nobody's here."""
    exchange, rng = Exchange(size, dtype, parts), np.random.default_rng(0)
    for count in (1, 1, 2, 3, 5, 20):
        flat = flat_matrix(size, dtype)
        bad = rng.choice(valid_rows(), count, replace=False)
        flat[bad, rng.integers(0, size, count)] = rng.choice([np.nan, np.inf, -np.inf], count)
        assert exchange.run(flat) == bad.min()
        np.testing.assert_array_equal(exchange.written, JUNK)
    assert exchange.run(flat_matrix(size, dtype)) == NO_FAULT


@each_dtype
def test_every_column_is_looked_at(dtype):
    exchange = Exchange(40, dtype, 1)
    for column in range(40):
        flat = flat_matrix(40, dtype)
        flat[valid_rows()[-1], column] = np.nan
        assert exchange.run(flat) == valid_rows()[-1]


@each_dtype
def test_largest_numbers_are_finite(dtype):
    flat = flat_matrix(17, dtype)
    largest = np.finfo(dtype).max
    flat[valid_rows()] = np.where(flat[valid_rows()] > 0.0, largest, -largest)
    assert Exchange(17, dtype, 1).run(flat) == NO_FAULT


@pytest.mark.parametrize("parts", [1, 2, 5])
@pytest.mark.parametrize("bands", [2, 3, 6])
def test_bands_hold_the_same_rows(bands, parts):
    flat = flat_matrix(17, "float32")
    exchange = Exchange(17, "float32", parts, bands)
    assert exchange.run(flat) == NO_FAULT
    np.testing.assert_array_equal(exchange.written[valid_rows()], flat[valid_rows()])
    packed = Exchange(17, "float32", parts)
    packed.run(flat)
    order = bands_of(Layout(LENGTHS), bands).gate_rows
    np.testing.assert_array_equal(exchange.packed[order], packed.packed)


@pytest.mark.parametrize("parts", [1, 2, 3, 5])
def test_rows_are_cut_where_the_shares_are_even(parts):
    np.testing.assert_array_equal(Layout(np.full(30, 7)).row_cuts(parts), 30 * np.arange(parts + 1) // parts)
    layout = Layout(np.random.default_rng(parts).integers(1, 50, 40))
    cuts = layout.row_cuts(parts)
    assert cuts[0] == 0 and cuts[-1] == layout.rows
    before = np.concatenate([[0], np.cumsum(layout.lengths)])
    wanted = layout.total * np.arange(parts + 1) / parts
    assert np.all(np.abs(before[cuts] - wanted) <= layout.lengths.max() / 2)
