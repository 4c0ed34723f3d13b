"""What stands between the kernels of the GPU and its driver, with stand-ins for CuPy and cuBLAS."""

import contextlib
import ctypes
import sys
import types

import numpy as np
import pytest
from conftest import in_simulator

pytestmark = in_simulator


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
    from numbarnn.engine.cuda.matmul import gemm_of

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
    from numbarnn.engine.cuda.matmul import gemm_of

    whole = np.zeros((4, 4))
    with pytest.raises(ValueError, match="neither rows nor columns"):
        gemm_of(whole[::2, ::2], whole[:2], whole[:2])
    with pytest.raises(ValueError, match="must be contiguous"):
        gemm_of(whole, whole, whole.T)


class Array(np.ndarray):
    """An array of the host that says where it lies as CuPy's do."""

    @property
    def data(self):
        return types.SimpleNamespace(ptr=self.ctypes.data)


def own(array):
    """A copy of an array in the same order, as an `Array`."""
    return np.array(array, order="K").view(Array)


def at(pointer, count, dtype):
    kind = {0: ctypes.c_float, 1: ctypes.c_double}[dtype]
    return np.frombuffer((kind * count).from_address(pointer), np.dtype(kind))


def stand_in_for_cublas(calls):
    def gemm_ex(handle, transa, transb, m, n, k, alpha, a, a_kind, lda, b, b_kind, ldb, beta, c, c_kind, ldc,
                computing, algorithm):  # fmt: skip
        calls.append((handle, computing, algorithm))
        first = column_major(at(a, lda * (m if transa else k), a_kind), m, k, lda, transa)
        second = column_major(at(b, ldb * (k if transb else n), b_kind), k, n, ldb, transb)
        out = column_major(at(c, ldc * n, c_kind), m, n, ldc, False)
        out[...] = at(alpha, 1, c_kind)[0] * (first @ second) + at(beta, 1, c_kind)[0] * out

    return types.SimpleNamespace(gemmEx=gemm_ex)


@pytest.mark.parametrize(("dtype", "computing"), [("float32", 68), ("float64", 70)])
def test_multiply_by_cublas(monkeypatch, dtype, computing):
    from numbarnn.engine.cuda import matmul as cuda_products

    calls = []
    modules = {
        "cupy": types.ModuleType("cupy"),
        "cupy.cuda": types.SimpleNamespace(device=types.SimpleNamespace(get_cublas_handle=lambda: 7)),
        "cupy_backends": types.ModuleType("cupy_backends"),
        "cupy_backends.cuda": types.ModuleType("cupy_backends.cuda"),
        "cupy_backends.cuda.libs": types.SimpleNamespace(cublas=stand_in_for_cublas(calls)),
    }
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(cuda_products, "SIMULATED", False)
    rng = np.random.default_rng(0)
    a, b, begun = (own(rng.standard_normal(shape).astype(dtype)) for shape in ((2, 5), (4, 5), (2, 4)))
    out = own(begun)
    cuda_products.multiply(a, b.T, out)
    np.testing.assert_allclose(out, np.asarray(a) @ np.asarray(b).T, rtol=1e-5)
    out = own(begun)
    cuda_products.multiply(a, b.T, out, add=True, tf32=dtype == "float32")
    np.testing.assert_allclose(out, np.asarray(begun) + np.asarray(a) @ np.asarray(b).T, rtol=1e-5)
    assert calls == [(7, computing, -1), (7, 77 if dtype == "float32" else 70, -1)]


class Kernel:
    """A stand-in for a kernel of Numba: it writes down its launches."""

    def __init__(self):
        self.overloads, self.launches = {}, []

    def __getitem__(self, configuration):
        from numba.core import config

        assert config.CUDA_LOW_OCCUPANCY_WARNINGS == 0

        def run(*arguments):
            self.overloads["a signature"] = self
            self.launches.append((configuration, arguments))

        return run


@pytest.fixture
def stand_in(monkeypatch):
    """`cuda_launch` beside a CuPy that has `Array`, and a Numba that says what it is asked for."""
    from numbarnn.engine.cuda import launch as cuda_launch

    done, streams = [], [types.SimpleNamespace(ptr=0)]

    class Stream(contextlib.AbstractContextManager):
        ptr = 5

        def __init__(self, non_blocking):
            assert non_blocking

        def __enter__(self):
            streams.append(self)

        def __exit__(self, *_):
            streams.pop()

        def begin_capture(self):
            done.append("begin")

        def end_capture(self):
            done.append("end")
            return types.SimpleNamespace(launch=lambda stream: done.append(f"graph on {stream.ptr}"))

    @contextlib.contextmanager
    def using_allocator(_):
        done.append("own memory")
        yield
        done.append("memory as before")

    cupy = types.SimpleNamespace(
        ndarray=Array,
        cuda=types.SimpleNamespace(
            get_current_stream=lambda: streams[-1], Stream=Stream, using_allocator=using_allocator,
            MemoryPool=lambda: types.SimpleNamespace(malloc=None),
        ),
    )  # fmt: skip
    numba_cuda = types.SimpleNamespace(
        external_stream=lambda pointer: f"stream {pointer}",
        from_cuda_array_interface=lambda described, sync: (described["data"][0], described["shape"], sync),
    )
    monkeypatch.setattr(cuda_launch, "SIMULATED", False)
    monkeypatch.setattr(cuda_launch, "arrays", lambda: cupy)
    monkeypatch.setattr(cuda_launch, "cuda", numba_cuda)
    for remembered in (cuda_launch._as_numba, cuda_launch._configured):
        remembered.cache_clear()
    yield cuda_launch, done
    for remembered in (cuda_launch._as_numba, cuda_launch._configured):
        remembered.cache_clear()


def test_launches(stand_in):
    from numba.core import config

    from numbarnn.jit.compile_cache import compile_clock

    cuda_launch, _ = stand_in
    array, kernel, compiled = own(np.zeros((2, 3))), Kernel(), compile_clock.kernels
    warns = config.CUDA_LOW_OCCUPANCY_WARNINGS
    for _ in range(2):
        cuda_launch.launch_each(kernel, cuda_launch.THREADS + 1, array, 4)
    cuda_launch.launch_each(kernel, 0, array, 4)
    described = (array.ctypes.data, (2, 3), False)
    assert kernel.launches == [((2, cuda_launch.THREADS, 0, 0), (described, 4))] * 2
    assert compile_clock.kernels == compiled + 1
    assert config.CUDA_LOW_OCCUPANCY_WARNINGS == warns


def test_a_graph(stand_in):
    cuda_launch, done = stand_in
    series, kernel = cuda_launch.Series(), Kernel()

    def work():
        done.append("work")
        cuda_launch.launch(kernel, 1, 32, 0)

    for _ in range(3):
        series.run(work, "key")
    captured = ["own memory", "begin", "work", "end", "memory as before"]
    assert done == ["work", *captured, "graph on 0", "graph on 0"]
    assert [configuration[2] for configuration, _ in kernel.launches] == [0, "stream 5"]


def test_products_without_terms_are_zero():
    from numbarnn.engine.cuda.matmul import multiply

    out = np.ones((2, 3))
    multiply(np.zeros((2, 0)), np.zeros((0, 3)), out, add=True)
    np.testing.assert_array_equal(out, 1.0)
    multiply(np.zeros((2, 0)), np.zeros((0, 3)), out)
    np.testing.assert_array_equal(out, 0.0)


def test_a_series_is_captured_when_it_comes_again():
    from numbarnn.engine.cuda.launch import Series

    done = []

    def capture(work):
        done.append("capture")
        return lambda: done.append("replay")

    series = Series(capture)
    for key in ("a", "a", "a", "b", "a", "a"):
        series.run(lambda: done.append("work"), key)
    assert done == ["work", "capture", "replay", "replay", "work", "work", "capture", "replay"]


def test_arrays_that_moved_are_another_series():
    from numbarnn.engine.cuda.launch import place_of

    array = np.zeros((4, 3))
    assert place_of(array) == place_of(array[:])
    for other in (array.copy(), array[1:], array[:, :2], array.T):
        assert place_of(other) != place_of(array)
