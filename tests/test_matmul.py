"""The product against NumPy, for every width of a panel and number of rows that has a tile of its own."""

import itertools

import numpy as np
import pytest
from conftest import TOLERANCE

from numbarnn.engine.matmul import multiply, multiply_row
from numbarnn.jit.compile_cache import kernel
from numbarnn.jit.cpu import lanes

PANEL_VECTORS = [1, 2, 3, 4]
LONGEST = [*range(1, 10), 31]
ROWS = 9
JUNK = 7.0  # in memory that is yet to be written

each_dtype = pytest.mark.parametrize("dtype", TOLERANCE)
each_panel = pytest.mark.parametrize("panel_vectors", PANEL_VECTORS)


@kernel
def product(c, start, start_stride, a, a_row_stride, a_k_stride, k_runs, k_run, k_jump, b, panel_vectors,
            first_vector, stop_vector, rows, row_by_row):  # fmt: skip
    """C = start + A @ B in both forms; what is no factor or stride of theirs comes from the shapes."""
    c_stride, panel = c.shape[1], b.shape[2]
    b_panel_step = b.shape[1] * panel
    if row_by_row:
        for row in range(rows):
            multiply_row(
                c, row * c_stride, start, row * start_stride, panel, a, row * a_row_stride, a_k_stride,
                k_runs, k_run, k_jump, b, 0, b_panel_step, panel, panel_vectors, first_vector, stop_vector,
            )  # fmt: skip
    else:
        multiply(
            c, 0, c_stride, start, 0, start_stride, panel, rows, a, 0, a_row_stride, a_k_stride,
            k_runs, k_run, k_jump, b, 0, b_panel_step, panel, panel_vectors, first_vector, stop_vector,
        )  # fmt: skip


class Problem:
    """Factors for two full panels and a narrower third one (a full one, where panels are one vector)."""

    def __init__(self, panel_vectors, longest, dtype):
        rng = np.random.default_rng([panel_vectors, longest])
        self.width, self.panel_vectors = panel_vectors * lanes(dtype), panel_vectors
        self.vectors = 2 * panel_vectors + max(1, panel_vectors - 1)
        self.columns = self.vectors * lanes(dtype)
        self.a = rng.standard_normal((ROWS, longest)).astype(dtype)
        self.b = rng.standard_normal((3, longest, self.width)).astype(dtype)
        self.start = rng.standard_normal((ROWS, self.columns)).astype(dtype)

    def run(self, rows, row_by_row=False, **changed):
        """C, with a frame of junk below and to the right."""
        c = np.full((ROWS + 1, self.columns + self.width), JUNK, self.a.dtype)
        given = {
            "start": self.start, "start_stride": self.columns, "a": self.a, "a_row_stride": self.a.shape[1],
            "a_k_stride": 1, "k_runs": 1, "k_run": self.a.shape[1], "k_jump": 0, "b": self.b,
            "panel_vectors": self.panel_vectors, "first_vector": 0, "stop_vector": self.vectors,
        }  # fmt: skip
        product(c, *{**given, **changed}.values(), rows, row_by_row)
        return c

    def check(self, c, rows, start=None):
        """Within the bound for any order of a sum of products."""
        start = self.start[:rows] if start is None else start
        a, start = self.a[:rows].astype(np.float64), start.astype(np.float64)
        b = np.concatenate(self.b, axis=1)[:, : self.columns].astype(np.float64)
        allowed = (len(b) + 2) * np.finfo(c.dtype).eps * (np.abs(a) @ np.abs(b) + np.abs(start))
        assert np.all(np.abs(c[:rows, : self.columns] - (start + a @ b)) <= allowed)
        np.testing.assert_array_equal(c[rows:], JUNK)
        np.testing.assert_array_equal(c[:, self.columns :], JUNK)


@each_dtype
@each_panel
def test_product_is_numpys(panel_vectors, dtype):
    for longest, rows in itertools.product(LONGEST, range(1, ROWS + 1)):
        problem = Problem(panel_vectors, longest, dtype)
        problem.check(problem.run(rows), rows)


@each_dtype
@each_panel
def test_row_is_the_same_in_any_company(panel_vectors, dtype):
    for longest in LONGEST:
        problem = Problem(panel_vectors, longest, dtype)
        together = problem.run(ROWS)
        for rows in range(1, ROWS):
            assert problem.run(rows)[:rows].tobytes() == together[:rows].tobytes()
        assert problem.run(ROWS, row_by_row=True).tobytes() == together.tobytes()


@each_dtype
@each_panel
@pytest.mark.parametrize("row_by_row", [False, True])
def test_range_of_vectors(row_by_row, panel_vectors, dtype):
    """From the beginning of any panel to anywhere: the same numbers, and nothing beside them."""
    problem, lane = Problem(panel_vectors, 31, dtype), lanes(dtype)
    whole = problem.run(5)
    for first in range(0, problem.vectors, panel_vectors):
        for stop in range(first, problem.vectors + 1):
            c = problem.run(5, row_by_row, first_vector=first, stop_vector=stop)
            inside = slice(first * lane, stop * lane)
            if stop % panel_vectors == 0 or stop == problem.vectors:
                np.testing.assert_array_equal(c[:, inside], whole[:, inside])
            else:
                np.testing.assert_allclose(c[:, inside], whole[:, inside], rtol=0, atol=1e-5)
            c[:5, inside] = JUNK
            np.testing.assert_array_equal(c, JUNK)


@each_dtype
@each_panel
@pytest.mark.parametrize("row_by_row", [False, True])
def test_other_layouts_of_the_factors(row_by_row, panel_vectors, dtype):
    for k_runs, k_run, rows in ((1, 31, 5), (3, 5, 7), (4, 1, 1), (2, 8, 9), (5, 3, 3)):
        problem = Problem(panel_vectors, k_runs * k_run, dtype)
        options = {"k_runs": k_runs, "k_run": k_run}
        # A in runs with something else between them.
        spread = np.full((ROWS, k_runs, k_run + 2), np.nan, dtype)
        spread[:, :, :k_run] = problem.a.reshape(ROWS, k_runs, k_run)
        options |= {"a": spread.reshape(ROWS, -1), "a_row_stride": spread[0].size, "k_jump": k_run + 2}
        expected = problem.run(rows, row_by_row, **options)
        problem.check(expected, rows)
        # The same runs, of A transposed.
        transposed = np.ascontiguousarray(options["a"].T)
        options |= {"a": transposed, "a_row_stride": 1, "a_k_stride": ROWS, "k_jump": (k_run + 2) * ROWS}
        assert problem.run(rows, row_by_row, **options).tobytes() == expected.tobytes()
        # One row to start from, for all rows.
        c = problem.run(rows, row_by_row, **options, start_stride=0)
        problem.check(c, rows, start=problem.start[:1])


@each_dtype
@pytest.mark.parametrize("row_by_row", [False, True])
def test_product_of_nothing_is_its_start(row_by_row, dtype):
    problem = Problem(3, 4, dtype)
    for empty in ({"k_run": 0}, {"k_runs": 0}):
        c = problem.run(5, row_by_row, **empty)
        np.testing.assert_array_equal(c[:5, : problem.columns], problem.start[:5])
