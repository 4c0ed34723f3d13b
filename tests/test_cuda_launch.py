"""What stands between the kernels of the GPU and its driver, as far as it can be tried without either."""

import os

import numpy as np
import pytest

pytestmark = pytest.mark.skipif(
    os.environ.get("NUMBA_ENABLE_CUDASIM") != "1", reason="needs NUMBA_ENABLE_CUDASIM=1"
)


def column_major(flat, rows, columns, stride, transposed):
    """A matrix of so many rows and columns as cuBLAS finds it in memory."""
    if transposed:
        return column_major(flat, columns, rows, stride, False).T
    return np.lib.stride_tricks.as_strided(
        flat, (rows, columns), (flat.itemsize, stride * flat.itemsize), writeable=True
    )


def gemm(call, a, b, out):
    """What cuBLAS does when it is asked for a `Gemm`, by its documentation."""
    first = column_major(b, call.m, call.k, call.first.stride, call.first.transposed)
    second = column_major(a, call.k, call.n, call.second.stride, call.second.transposed)
    column_major(out, call.m, call.n, call.out_stride, False)[...] = first @ second


def part(rng, rows, columns, transposed, extra):
    """Some columns of a matrix, as they are or the other way round."""
    shape = (columns, rows + extra) if transposed else (rows, columns + extra)
    whole = rng.standard_normal(shape)
    return whole[:, :rows].T if transposed else whole[:, :columns]


@pytest.mark.parametrize("extra", [0, 3])
@pytest.mark.parametrize("second_transposed", [False, True])
@pytest.mark.parametrize("first_transposed", [False, True])
@pytest.mark.parametrize("sizes", [(2, 3, 4), (1, 3, 4), (2, 1, 4), (2, 3, 1), (1, 1, 1), (5, 1, 1)], ids=str)
def test_what_cublas_is_asked_for(sizes, first_transposed, second_transposed, extra):
    from numbarnn.engine.cuda_products import gemm_of

    n, k, m = sizes
    rng = np.random.default_rng(0)
    a, b = part(rng, n, k, first_transposed, extra), part(rng, k, m, second_transposed, extra)
    out = part(rng, n, m, False, extra)
    wanted, beside = a @ b, out.base[:, m:].copy() if extra else None
    gemm(gemm_of(a, b, out), a, b, out)
    np.testing.assert_allclose(out, wanted, rtol=1e-13)
    if extra:
        np.testing.assert_array_equal(out.base[:, m:], beside)


def test_a_matrix_that_cublas_cannot_take():
    from numbarnn.engine.cuda_products import gemm_of

    whole = np.zeros((4, 4))
    with pytest.raises(ValueError, match="neither rows nor columns"):
        gemm_of(whole[::2, ::2], whole[:2], whole[:2])
    with pytest.raises(ValueError, match="must be contiguous"):
        gemm_of(whole, whole, whole.T)


def test_products_without_terms_are_zero():
    from numbarnn.engine.cuda_products import multiply

    out = np.ones((2, 3))
    multiply(np.zeros((2, 0)), np.zeros((0, 3)), out, add=True)
    np.testing.assert_array_equal(out, 1.0)
    multiply(np.zeros((2, 0)), np.zeros((0, 3)), out)
    np.testing.assert_array_equal(out, 0.0)


def test_a_series_is_captured_when_it_comes_again():
    from numbarnn.engine.cuda_launch import Series

    done = []

    def capture(work):
        done.append("capture")
        return lambda: done.append("replay")

    series = Series(capture)
    for key in ("a", "a", "a", "b", "a", "a"):
        series.run(lambda: done.append("work"), key)
    assert done == ["work", "capture", "replay", "replay", "work", "work", "capture", "replay"]


def test_arrays_that_moved_are_another_series():
    from numbarnn.engine.cuda_launch import place_of

    array = np.zeros((4, 3))
    assert place_of(array) == place_of(array[:])
    for other in (array.copy(), array[1:], array[:, :2], array.T):
        assert place_of(other) != place_of(array)
