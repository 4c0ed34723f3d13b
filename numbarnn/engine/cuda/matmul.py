"""Matrix products on the GPU, by cuBLAS.

CuPy's own ``matmul`` makes and copies an array where the result is some columns of a larger one, as sums are
here, and takes its precision from a setting of the whole process.
"""

from typing import Any, NamedTuple

import numpy as np

from numbarnn.engine.cuda.device import SIMULATED

FACTORS = {np.dtype(dtype): (np.zeros(1, dtype), np.ones(1, dtype)) for dtype in (np.float32, np.float64)}
# From cublas_api.h: the dtype of a matrix, how products are computed, and which algorithm is taken.
KINDS = {np.dtype(np.float32): 0, np.dtype(np.float64): 1}  # CUDA_R_32F, CUDA_R_64F
COMPUTING = {np.dtype(np.float32): 68, np.dtype(np.float64): 70}  # CUBLAS_COMPUTE_32F, CUBLAS_COMPUTE_64F
COMPUTING_TF32 = 77  # CUBLAS_COMPUTE_32F_FAST_TF32
DEFAULT_ALGORITHM = -1  # CUBLAS_GEMM_DEFAULT


class Operand(NamedTuple):
    """A matrix as cuBLAS sees it, column by column."""

    transposed: bool
    stride: int  # between columns


def _operand(matrix: Any) -> Operand:
    """The transpose of a matrix, for cuBLAS: its rows are columns there."""
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
    from cupy.cuda import device
    from cupy_backends.cuda.libs import cublas

    first, second, m, n, k, stride = gemm_of(a, b, out)
    kind, computing = KINDS[out.dtype], COMPUTING_TF32 if tf32 else COMPUTING[out.dtype]
    zero, one = FACTORS[out.dtype]
    cublas.gemmEx(
        device.get_cublas_handle(), int(first.transposed), int(second.transposed), m, n, k, one.ctypes.data,
        b.data.ptr, kind, first.stride, a.data.ptr, kind, second.stride, (one if add else zero).ctypes.data,
        out.data.ptr, kind, stride, computing, DEFAULT_ALGORITHM,
    )  # fmt: skip
