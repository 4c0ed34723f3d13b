"""The matrix product that kernels call: the one place where products are summed.

It is compiled once a dtype, into a library of its own that all kernels call by name: its tiles are most of
the code in a kernel, and compiling them in every one would multiply the wait at the first start.
"""

import sys
from typing import Any

import llvmlite.binding
import numpy as np
from numba.core import caching, types
from numba.core.compiler_lock import global_compiler_lock
from numba.core.imputils import lower_builtin
from numba.core.registry import cpu_target
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, overload

from numbarnn.engine.tile import (
    ARGUMENTS,
    ARRAYS,
    declare_product,
    define_product,
    emit_row,
    product_name,
)
from numbarnn.jit import compile_cache
from numbarnn.jit.compile_cache import INLINED_OPTIONS
from numbarnn.jit.cpu import lanes
from numbarnn.jit.vector_memory import element_pointer
from numbarnn.jit.vectors import FLOAT_TYPES, llvm_float


def multiply(
    c,
    c_index,
    c_stride,
    start,
    start_index,
    start_stride,
    panel_step,
    rows,
    a,
    a_index,
    a_row_stride,
    a_k_stride,
    k_runs,
    k_run,
    k_jump,
    b,
    b_index,
    b_panel_step,
    b_k_stride,
    panel_vectors,
    first_vector,
    stop_vector,
):
    """Multiply into a range of columns of C, given as a range of vectors.

    Parameters
    ----------
    c, c_index, c_stride
        The result: array, element of its first row's column 0, elements from row to row.
    start, start_index, start_stride
        What the sums start from, laid out like C; stride 0 spreads one row (a bias) over all.
    panel_step
        Elements from panel to panel in C and `start`.
    rows
        Rows of A and C.
    a, a_index, a_row_stride, a_k_stride
        The left factor; row stride and k stride swapped read its transpose.
    k_runs, k_run, k_jump
        K = k_runs * k_run: after k_run steps of `a_k_stride`, A goes on `k_jump` elements behind the
        start of the run.
    b, b_index, b_panel_step, b_k_stride
        The right factor: elements from panel to panel and, within a panel, from k to k.
    panel_vectors
        Vectors in a panel, 1 to 4.
    first_vector, stop_vector
        The columns to compute: the first is the beginning of a panel, the last panel may be narrower.
    """
    width = lanes(c.dtype)
    c, start, a, b = (array.reshape(-1) for array in (c, start, a, b))
    k = np.arange(k_runs * k_run)
    a_k = a_index + k // k_run * k_jump + k % k_run * a_k_stride if k.size else k
    left = a[a_k + np.arange(rows)[:, None] * a_row_stride]
    for vector in range(first_vector, stop_vector, panel_vectors):
        panel = vector // panel_vectors
        columns = np.arange(min(panel_vectors, stop_vector - vector) * width)
        right = b[b_index + panel * b_panel_step + k[:, None] * b_k_stride + columns]
        row = np.arange(rows)[:, None]
        begin = start[start_index + panel * panel_step + row * start_stride + columns]
        c[c_index + panel * panel_step + row * c_stride + columns] = begin + left @ right


def multiply_row(
    c,
    c_index,
    start,
    start_index,
    panel_step,
    a,
    a_index,
    a_k_stride,
    k_runs,
    k_run,
    k_jump,
    b,
    b_index,
    b_panel_step,
    b_k_stride,
    panel_vectors,
    first_vector,
    stop_vector,
):
    """`multiply` for one row, as a part of the caller's own code: calling the tile takes as long as a product
    of 16 by 64 itself. The arguments are those of `multiply`.
    """
    multiply(
        c, c_index, 0, start, start_index, 0, panel_step, 1, a, a_index, 0, a_k_stride, k_runs, k_run, k_jump,
        b, b_index, b_panel_step, b_k_stride, panel_vectors, first_vector, stop_vector,
    )  # fmt: skip


ROW_ARGUMENTS = (
    "c", "c_index", "start", "start_index", "a", "a_index", "a_k_stride", "k_runs", "k_run", "k_jump",
    "b", "b_index", "b_k_stride", "vectors",
)  # fmt: skip


@intrinsic(prefer_literal=True)
def _emit_row(typingctx, c, c_index, start, start_index, a, a_index, a_k_stride, k_runs, k_run, k_jump, b,
              b_index, b_k_stride, vectors):  # fmt: skip
    """The tile of one row and one panel; `vectors`, its width, is a literal."""
    width = vectors.literal_value
    kinds = (c, types.intp, start, types.intp, a, *[types.intp] * 5, b, types.intp, types.intp, vectors)

    def codegen(context, builder, sig, args):
        given = dict(zip(ROW_ARGUMENTS, args, strict=True))
        for place, name in enumerate(ROW_ARGUMENTS):
            if name in ARRAYS:
                kind, index = sig.args[place], args[place + 1]
                given[name] = element_pointer(context, builder, kind, args[place], index)
        emit_row(builder, llvm_float(sig.args[0].dtype), width, given)
        return context.get_dummy_value()

    return types.void(*kinds), codegen


@overload(multiply_row, jit_options=INLINED_OPTIONS)
def _overload_multiply_row(c, c_index, start, start_index, panel_step, a, a_index, a_k_stride, k_runs, k_run,
                           k_jump, b, b_index, b_panel_step, b_k_stride, panel_vectors, first_vector,
                           stop_vector):  # fmt: skip
    def rows(c, c_index, start, start_index, panel_step, a, a_index, a_k_stride, k_runs, k_run, k_jump,
             b, b_index, b_panel_step, b_k_stride, panel_vectors, first_vector, stop_vector):  # fmt: skip
        for vector in range(first_vector, stop_vector, panel_vectors):
            panel = vector // panel_vectors
            c_here, start_here = c_index + panel * panel_step, start_index + panel * panel_step
            b_here = b_index + panel * b_panel_step
            vectors = min(panel_vectors, stop_vector - vector)
            if vectors == 4:
                _emit_row(
                    c, c_here, start, start_here, a, a_index, a_k_stride, k_runs, k_run, k_jump,
                    b, b_here, b_k_stride, 4,
                )  # fmt: skip
            elif vectors == 3:
                _emit_row(
                    c, c_here, start, start_here, a, a_index, a_k_stride, k_runs, k_run, k_jump,
                    b, b_here, b_k_stride, 3,
                )  # fmt: skip
            elif vectors == 2:
                _emit_row(
                    c, c_here, start, start_here, a, a_index, a_k_stride, k_runs, k_run, k_jump,
                    b, b_here, b_k_stride, 2,
                )  # fmt: skip
            else:
                _emit_row(
                    c, c_here, start, start_here, a, a_index, a_k_stride, k_runs, k_run, k_jump,
                    b, b_here, b_k_stride, 1,
                )  # fmt: skip

    return rows


@infer_global(multiply)
class _Product(AbstractTemplate):
    key = multiply

    def generic(self, args, kws):
        given = dict(zip(ARGUMENTS, args, strict=True))
        dtypes = {given[name].dtype for name in ARRAYS}
        if len(dtypes) > 1 or not dtypes <= set(FLOAT_TYPES):
            return None  # an array of one dtype is never read as another
        provide(dtypes.pop())
        kinds = [given[name] if name in ARRAYS else types.intp for name in ARGUMENTS]
        return signature(types.none, *kinds)


@lower_builtin(multiply, types.VarArg(types.Any))
def _lower_product(context, builder, sig, args):
    product = declare_product(builder.module, llvm_float(sig.args[0].dtype))
    values = []
    for kind, value in zip(sig.args, args, strict=True):
        if isinstance(kind, types.Array):
            value = context.make_array(kind)(context, builder, value).data
        values.append(value)
    builder.call(product, values)
    return context.get_dummy_value()


_libraries: dict[str, Any] = {}


def provide(dtype) -> None:
    """Compile the product of a dtype, or load it from the cache, and make its name known to kernels."""
    name = str(dtype)
    with global_compiler_lock:
        if name not in _libraries:
            library = _load(name) or _compile(name)
            symbol = product_name(llvm_float(dtype))
            llvmlite.binding.add_symbol(symbol, library.get_pointer_to_function(symbol))
            _libraries[name] = library


def provide_for(sig) -> None:
    """`provide` all that a kernel of this signature may call."""
    said = " ".join(map(str, sig))
    for dtype in FLOAT_TYPES:
        if f"array({dtype}" in said:
            provide(dtype)


compile_cache.before_loading.append(provide_for)


def _compile(dtype_name: str):
    compile_cache.compile_clock.start()
    codegen = cpu_target.target_context.codegen()
    element = llvm_float(getattr(types, dtype_name))
    module = codegen._create_empty_module(f"numbarnn_products_{dtype_name}")
    define_product(declare_product(module, element), element)
    library = codegen.create_library(module.name)
    library.enable_object_caching()
    library.add_ir_module(module)
    library.finalize()
    compile_cache.compile_clock.stop()
    cache = _cache_file(dtype_name)
    if cache is not None:
        stored = library.serialize_using_object_code()
        compile_cache.save_quietly(cache, lambda: cache.save(codegen.magic_tuple(), stored))
    return library


def _load(dtype_name: str):
    codegen = cpu_target.target_context.codegen()
    cache = _cache_file(dtype_name)
    stored = compile_cache.load_quietly(lambda: cache.load(codegen.magic_tuple())) if cache else None
    return codegen.unserialize_library(stored) if stored is not None else None


def _cache_file(dtype_name: str):
    folder = compile_cache.cache_folder_of(__file__)
    if folder is None:
        return None
    version = f"{sys.version_info.major}{sys.version_info.minor}"
    return caching.IndexDataCacheFile(
        folder, f"product-{dtype_name}.py{version}", compile_cache.shared_digest()
    )
