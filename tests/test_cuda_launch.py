"""What stands between the kernels of the GPU and its driver, with stand-ins for CuPy and cuBLAS."""

import contextlib
import ctypes
import types

import numpy as np
import pytest
from conftest import in_simulator
from fake_cupy import FakeCuBLAS, GpuArray, column_major

pytestmark = in_simulator


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


def own(array):
    """A copy of an array in the same order, on the GPU."""
    return np.array(array, order="K").view(GpuArray)


@pytest.fixture
def cublas(monkeypatch):
    """Products by `FakeCuBLAS`, on streams of a stand-in for CuPy."""
    from numbarnn.engine.cuda import matmul

    streams = [types.SimpleNamespace(ptr=0)]
    cupy = types.SimpleNamespace(
        empty=lambda count, dtype: own(np.empty(count, dtype)),
        cuda=types.SimpleNamespace(get_current_stream=lambda: streams[-1]),
    )
    monkeypatch.setattr(matmul, "SIMULATED", False)
    monkeypatch.setattr(matmul, "arrays", lambda: cupy)
    functions = FakeCuBLAS()
    library = matmul.CuBLAS(functions)
    monkeypatch.setattr(matmul, "_library", lambda: library)
    return matmul, functions, streams


@pytest.mark.parametrize(("dtype", "computing"), [("float32", 68), ("float64", 70)])
def test_multiply_by_cublas(cublas, dtype, computing):
    matmul, functions, streams = cublas
    rng = np.random.default_rng(0)
    a, b, begun = (own(rng.standard_normal(shape).astype(dtype)) for shape in ((2, 5), (4, 5), (2, 4)))
    out = own(begun)
    matmul.multiply(a, b.T, out)
    np.testing.assert_allclose(out.get(), a.get() @ b.get().T, rtol=1e-5)
    streams.append(types.SimpleNamespace(ptr=5))
    out = own(begun)
    matmul.multiply(a, b.T, out, add=True, tf32=dtype == "float32")
    np.testing.assert_allclose(out.get(), begun.get() + a.get() @ b.get().T, rtol=1e-5)
    kinds = [call for call in functions.calls if call[0] != "workspace"]
    assert kinds == [("stream", 0), (computing, -1), ("stream", 5), (77 if dtype == "float32" else 70, -1)]


def test_what_cublas_refuses(cublas):
    matmul, functions, _ = cublas
    functions.cublasSetStream_v2.status = 1
    with pytest.raises(RuntimeError, match="cuBLAS could not take a stream: status 1"):
        matmul.multiply(own(np.ones((2, 3))), own(np.ones((3, 4))), own(np.ones((2, 4))))


class Function:
    """A stand-in for a kernel that the driver knows: it writes down its launches, and reads what it is given
    as the driver would."""

    def __init__(self, kernel, kinds):
        self.kernel, self.kinds, self.allowed = kernel, kinds, 0

    def allow_shared_memory(self, count):
        self.allowed = count

    def launch(self, blocks, threads, shared_bytes, stream, arguments):
        letters = "".join(self.kernel.letters)
        pointers = (ctypes.c_void_p * len(letters)).from_address(arguments)
        kinds = {"q": ctypes.c_int64, "f": ctypes.c_float, "d": ctypes.c_double, "?": ctypes.c_bool}
        values = [
            kinds[letter].from_address(pointer).value
            for letter, pointer in zip(letters, pointers, strict=True)
        ]
        configuration = blocks, threads, shared_bytes, stream
        self.kernel.launches.append((configuration, self.allowed, list(map(str, self.kinds)), values))


class Kernel:
    """A stand-in for a kernel of Numba that takes parameters of these letters of ``struct``."""

    def __init__(self, *letters):
        self.letters, self.launches = letters, []


@pytest.fixture
def stand_in(monkeypatch):
    """`cuda_launch` beside a CuPy that has `GpuArray`, and a Numba that says what it is asked for."""
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
        ndarray=GpuArray,
        cuda=types.SimpleNamespace(
            get_current_stream=lambda: streams[-1], Stream=Stream, using_allocator=using_allocator,
            MemoryPool=lambda: types.SimpleNamespace(malloc=None),
        ),
    )  # fmt: skip
    monkeypatch.setattr(cuda_launch, "SIMULATED", False)
    monkeypatch.setattr(cuda_launch, "arrays", lambda: cupy)
    monkeypatch.setattr(cuda_launch, "CompiledFunction", Function)
    monkeypatch.setattr(cuda_launch, "_launchers", {})
    cuda_launch._described.cache_clear()
    yield cuda_launch, done
    cuda_launch._described.cache_clear()


def test_launches(stand_in):
    from numbarnn.jit.compile_cache import compile_clock

    cuda_launch, _ = stand_in
    array, kernel, compiled = own(np.zeros((2, 3))), Kernel("q" * 9, "q"), compile_clock.kernels
    for _ in range(2):
        cuda_launch.launch_each(kernel, cuda_launch.THREADS + 1, array, 4)
    cuda_launch.launch_each(kernel, 0, array, 4)
    described = [0, 0, 6, 8, array.ctypes.data, 2, 3, 24, 8]
    kinds = ["array(float64, 2d, C)", "int64"]
    assert kernel.launches == [((2, cuda_launch.THREADS, 0, 0), 0, kinds, [*described, 4])] * 2
    assert compile_clock.kernels == compiled + 1


def test_what_numbers_become(stand_in):
    cuda_launch, _ = stand_in
    kernel = Kernel("?", "f", "d", "q", "q" * 7)
    array = own(np.zeros(5, np.int64))[::2]
    cuda_launch.launch(kernel, 3, 32, 0, True, np.float32(0.1), 0.5, np.uint64(7), array)
    ((configuration, _, kinds, values),) = kernel.launches
    assert configuration == (3, 32, 0, 0)
    assert kinds == ["bool", "float32", "float64", "uint64", "array(int64, 1d, A)"]
    assert values == [True, np.float32(0.1), 0.5, 7, 0, 0, 3, 8, array.ctypes.data, 3, 16]


def test_what_tuples_of_arrays_become(stand_in):
    """The parameters of one array after the other; an empty tuple becomes none."""
    cuda_launch, _ = stand_in
    arrays = own(np.zeros(5)), own(np.zeros(4))
    kernel, without = Kernel("q" * 7, "q" * 7, "q"), Kernel("q")
    cuda_launch.launch(kernel, 1, 32, 0, arrays, 3)
    cuda_launch.launch(without, 1, 32, 0, (), 3)
    ((_, _, kinds, values),) = kernel.launches
    assert kinds == ["UniTuple(array(float64, 1d, C) x 2)", "int64"]
    described = [[0, 0, array.size, 8, array.ctypes.data, array.size, 8] for array in arrays]
    assert values == [*described[0], *described[1], 3]
    ((_, _, kinds, values),) = without.launches
    assert kinds == ["Tuple()", "int64"]
    assert values == [3]


def test_shared_memory_is_asked_for_however_little_it_is(stand_in):
    """The limit without permission counts the kernel's own arrays too."""
    cuda_launch, _ = stand_in
    kernel = Kernel("q")
    cuda_launch.launch(kernel, 1, 32, 16, 1)
    assert kernel.launches[0][:2] == ((1, 32, 16, 0), 16)


def test_a_graph(stand_in):
    cuda_launch, done = stand_in
    series, kernel = cuda_launch.CapturedLaunches(), Kernel("q")

    def work():
        done.append("work")
        cuda_launch.launch(kernel, 1, 32, 0, 1)

    for _ in range(3):
        series.run(work, "key")
    captured = ["own memory", "begin", "work", "end", "memory as before"]
    assert done == ["work", *captured, "graph on 0", "graph on 0"]
    assert [configuration[3] for configuration, *_ in kernel.launches] == [0, 5]


def test_products_without_terms_are_zero():
    from numbarnn.engine.cuda.matmul import multiply

    out = np.ones((2, 3))
    multiply(np.zeros((2, 0)), np.zeros((0, 3)), out, add=True)
    np.testing.assert_array_equal(out, 1.0)
    multiply(np.zeros((2, 0)), np.zeros((0, 3)), out)
    np.testing.assert_array_equal(out, 0.0)


def test_a_series_is_captured_when_it_comes_again():
    from numbarnn.engine.cuda.launch import CapturedLaunches

    done = []

    def capture(work):
        done.append("capture")
        return lambda: done.append("replay")

    series = CapturedLaunches(capture)
    for key in ("a", "a", "a", "b", "a", "a"):
        series.run(lambda: done.append("work"), key)
    assert done == ["work", "capture", "replay", "replay", "work", "replay", "replay"]
    for key in "cdef":
        series.run(lambda: done.append("work"), key)
    series.run(lambda: done.append("forgotten"), "a")
    assert done[-1] == "forgotten"


def test_arrays_that_moved_are_another_series():
    from numbarnn.engine.cuda.launch import buffer_key

    array = np.zeros((4, 3))
    assert buffer_key(array) == buffer_key(array[:])
    for other in (array.copy(), array[1:], array[:, :2], array.T):
        assert buffer_key(other) != buffer_key(array)
