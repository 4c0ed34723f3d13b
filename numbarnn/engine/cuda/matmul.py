"""Matrix products on the GPU, by cuBLAS.

CuPy's own ``matmul`` makes and copies an array where the result is some columns of a larger one, as sums are
here, and takes its precision from a setting of the whole process.
"""

import ctypes
import sys
import threading
from typing import Any, NamedTuple

import numpy as np

from numbarnn.engine.cuda.arrays import arrays
from numbarnn.engine.cuda.device import SIMULATED

FACTORS = {np.dtype(dtype): (np.zeros(1, dtype), np.ones(1, dtype)) for dtype in (np.float32, np.float64)}
# From cublas_api.h: the dtype of a matrix, how products are computed, and which algorithm is taken.
KINDS = {np.dtype(np.float32): 0, np.dtype(np.float64): 1}  # CUDA_R_32F, CUDA_R_64F
COMPUTING = {np.dtype(np.float32): 68, np.dtype(np.float64): 70}  # CUBLAS_COMPUTE_32F, CUBLAS_COMPUTE_64F
COMPUTING_TF32 = 77  # CUBLAS_COMPUTE_32F_FAST_TF32
DEFAULT_ALGORITHM = -1  # CUBLAS_GEMM_DEFAULT
_POINTER, _INT = ctypes.c_void_p, ctypes.c_int
GEMM_ARGUMENTS = (
    _POINTER, _INT, _INT, _INT, _INT, _INT, _POINTER, _POINTER, _INT, _INT, _POINTER, _INT, _INT, _POINTER,
    _POINTER, _INT, _INT, _INT, _INT,
)  # fmt: skip
ROWS_AT_ONCE = 8192  # that a product sums over
WORKSPACE_BYTES = 32 << 20  # what NVIDIA recommends for Hopper; less on older GPUs


class Operand(NamedTuple):
    """A matrix as cuBLAS sees it, column by column."""

    transposed: bool
    stride: int  # between columns


def _operand(matrix: Any) -> Operand:
    """The transpose of a matrix, for cuBLAS: its rows are columns of cuBLAS."""
    rows, columns = matrix.shape
    down, across = (stride // matrix.itemsize for stride in matrix.strides)
    if across == 1 or columns == 1:
        return Operand(False, max(down if rows > 1 else columns, 1))
    if down == 1 or rows == 1:
        return Operand(True, max(across, 1))
    raise ValueError(f"neither rows nor columns of a matrix are contiguous: strides {matrix.strides}")


class Gemm(NamedTuple):
    """Arguments of cuBLAS for ``out = a @ b``, which it computes as ``out.T = b.T @ a.T``."""

    first: Operand
    second: Operand
    m: int
    n: int
    k: int
    out_stride: int


def gemm_of(a: Any, b: Any, out: Any) -> Gemm:
    """What `multiply` asks cuBLAS for."""
    result = _operand(out)
    if result.transposed:
        raise ValueError("the rows of a product must be contiguous")
    return Gemm(_operand(b), _operand(a), b.shape[1], a.shape[0], a.shape[1], result.stride)


def multiply(a: Any, b: Any, out: Any, add: bool = False, tf32: bool = False) -> None:
    """``out = a @ b``.

    Parameters
    ----------
    a, b : arrays (N, K), (K, M)
        Their rows or their columns are contiguous.
    out : array (N, M)
        Its rows are contiguous.
    add : bool
        Add to `out`.
    tf32 : bool
        Let tensor cores round the numbers of `a` and `b` to 10 bits behind the point; for float32.
    """
    if 0 in (*a.shape, *b.shape):
        if not add:
            out[...] = 0.0
        return
    if SIMULATED:
        out[...] = a @ b + out if add else a @ b
        return
    first, second, m, n, k, stride = gemm_of(a, b, out)
    kind, computing = KINDS[out.dtype], COMPUTING_TF32 if tf32 else COMPUTING[out.dtype]
    zero, one = FACTORS[out.dtype]
    library = _library()
    library.gemm(
        int(first.transposed), int(second.transposed), m, n, k, one.ctypes.data, b.data.ptr, kind,
        first.stride, a.data.ptr, kind, second.stride, (one if add else zero).ctypes.data, out.data.ptr, kind,
        stride, computing, DEFAULT_ALGORITHM,
    )  # fmt: skip


def multiply_over_rows(a: Any, b: Any, out: Any, tf32: bool = False) -> None:
    """``out = a.T @ b``, of matrices (N, K) and (N, M) of any number of rows: `ROWS_AT_ONCE` at a time, so
    that no sum grows large beside what is added to it."""
    multiply(a[:ROWS_AT_ONCE].T, b[:ROWS_AT_ONCE], out, tf32=tf32)
    for begin in range(ROWS_AT_ONCE, len(a), ROWS_AT_ONCE):
        stop = begin + ROWS_AT_ONCE
        multiply(a[begin:stop].T, b[begin:stop], out, add=True, tf32=tf32)


class CuBLAS:
    """cuBLAS, with a handle and a workspace of its own: CuPy refuses to call it while a graph is captured.

    Parameters
    ----------
    functions : object
        The library, with the functions of ``cublas_v2.h``.
    """

    def __init__(self, functions: Any) -> None:
        self._functions = functions
        self._handle = ctypes.c_void_p()
        self._check(functions.cublasCreate_v2(ctypes.byref(self._handle)), "make a handle")
        functions.cublasGemmEx.argtypes = GEMM_ARGUMENTS
        functions.cublasSetStream_v2.argtypes = (ctypes.c_void_p, ctypes.c_void_p)
        functions.cublasSetWorkspace_v2.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
        self._workspace = arrays().empty(WORKSPACE_BYTES, np.uint8)
        self._stream: int | None = None

    def gemm(self, *arguments: Any) -> None:
        """``cublasGemmEx`` on CuPy's present stream; `arguments` follow the handle."""
        stream = arrays().cuda.get_current_stream().ptr
        if stream != self._stream:
            functions, workspace = self._functions, self._workspace
            self._check(functions.cublasSetStream_v2(self._handle, stream), "take a stream")
            status = functions.cublasSetWorkspace_v2(self._handle, workspace.data.ptr, workspace.nbytes)
            self._check(status, "take a workspace")
            self._stream = stream
        self._check(self._functions.cublasGemmEx(self._handle, *arguments), "multiply")

    @staticmethod
    def _check(status: int, what: str) -> None:
        if status != 0:
            raise RuntimeError(f"cuBLAS could not {what}: status {status}")


_libraries = threading.local()  # handles of each thread, by device


def _library() -> CuBLAS:
    """cuBLAS for this thread and the present device."""
    device = arrays().cuda.runtime.getDevice()
    by_device = vars(_libraries)
    if device not in by_device:
        from cupy.cuda.device import get_cublas_handle
        from cupy_backends.cuda.libs import cublas

        # CuPy has loaded the library by now, wherever it lies; the linker finds it by its name.
        version = cublas.getVersion(get_cublas_handle()) // 10_000
        name = f"cublas64_{version}.dll" if sys.platform == "win32" else f"libcublas.so.{version}"
        by_device[device] = CuBLAS(ctypes.CDLL(name))
    return by_device[device]
