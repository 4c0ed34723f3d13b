"""The register-blocked matrix product, emitted as LLVM IR: the one place where products are summed.

    C[rows, N] = start[rows, N] + A[rows, K] @ B[K, N]

B comes in panels of a few vectors side by side. A tile holds MR rows of NV vectors of C in registers while k
runs; each k loads NV vectors of B and spreads MR numbers of A. Every element of C is one chain of fused
multiply-adds in the order of k, so a sum depends on the shapes alone, never on which tile or thread
computes it.
"""

import contextlib

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic, overload

from numbarnn.engine.host import lanes, registers
from numbarnn.engine.simd import call_llvm, element_bytes, llvm_float, mangled, splat

# Vectors in a tile -> rows in the largest one: NV * MR sums, NV of B and one of A fit the registers.
TILE_ROWS = {1: 8, 2: 8, 3: 8, 4: 6} if registers().number == 32 else {1: 6, 2: 6, 3: 4, 4: 2}
SMALLER_TILES = (4, 2, 1)  # for the rows that are left over
PANEL_VECTORS = 4 if registers().number == 32 else 2
LARGEST_UNROLLED = 4  # vectors in a tile whose loop over k LLVM may unroll
WEIGHT_CHUNK_ROWS = 256  # rows multiplied at a time in weight gradients: a panel of them stays in L2
INDEX = ir.IntType(64)


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


ARRAY_ARGUMENTS = {"c", "start", "a", "b"}
ARGUMENTS = multiply.__code__.co_varnames[: multiply.__code__.co_argcount]


@intrinsic
def _multiply(
    typingctx,
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
    if not c.dtype == start.dtype == a.dtype == b.dtype:
        return None
    arrays = {"c": c, "start": start, "a": a, "b": b}

    def codegen(context, builder, sig, args):
        function = _product_function(builder.module, llvm_float(c.dtype))
        values = []
        for name, value in zip(ARGUMENTS, args, strict=True):
            if name in arrays:
                value = context.make_array(arrays[name])(context, builder, value).data
            values.append(value)
        builder.call(function, values)
        return context.get_dummy_value()

    return types.void(*(arrays.get(name, types.intp) for name in ARGUMENTS)), codegen


@overload(multiply)
def _overload_multiply(
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
    def call(
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
        _multiply(
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
        )

    return call


def _product_function(module, element):
    """The LLVM function of `multiply` for one dtype, emitted once a module however often it is used."""
    name = f"numbarnn_multiply_f{8 * _bytes(element)}"
    pointer = element.as_pointer()
    kinds = [pointer if argument in ARRAY_ARGUMENTS else INDEX for argument in ARGUMENTS]
    function = cgutils.get_or_insert_function(module, ir.FunctionType(ir.VoidType(), kinds), name)
    if not function.is_declaration:
        return function
    function.linkage = "internal"
    function.attributes.add("noinline")
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    _emit_panels(builder, element, dict(zip(ARGUMENTS, function.args, strict=True)))
    builder.ret_void()
    return function


def _bytes(element):
    return 4 if isinstance(element, ir.FloatType) else 8


@contextlib.contextmanager
def _k_loop(builder, count, unroll):
    """for _ in range(count). LLVM is told not to unroll the large tiles, whose body is long as it is:
    that only multiplies the time of compiling."""
    body, done = builder.append_basic_block("k"), builder.append_basic_block("k.done")
    before = builder.block
    builder.cbranch(builder.icmp_signed(">", count, _constant(0)), body, done)
    builder.position_at_end(body)
    index = builder.phi(INDEX)
    index.add_incoming(_constant(0), before)
    yield
    following = builder.add(index, _constant(1))
    index.add_incoming(following, builder.block)
    again = builder.cbranch(builder.icmp_signed("<", following, count), body, done)
    if not unroll:
        again.set_metadata("llvm.loop", _no_unrolling(builder.module))
    builder.position_at_end(done)


def _no_unrolling(module):
    disable = module.add_metadata(["llvm.loop.unroll.disable"])
    # The first operand of a loop's metadata is the node itself, or LLVM ignores it.
    node = module.add_metadata([disable, disable])
    node.operands = (node, disable)
    return node


def _constant(value):
    return ir.Constant(INDEX, value)


def _emit_panels(builder, element, given):
    """for each panel: choose the tiles of its width, and go down the rows"""
    width = registers().width // _bytes(element)
    panel_vectors, stop = given["panel_vectors"], given["stop_vector"]
    with cgutils.for_range_slice(
        builder, given["first_vector"], stop, panel_vectors, intp=INDEX, inc=True
    ) as (vector, _):
        panel = builder.sdiv(vector, panel_vectors)
        columns = builder.mul(panel, given["panel_step"])
        here = {
            "c": builder.gep(given["c"], [builder.add(given["c_index"], columns)]),
            "start": builder.gep(given["start"], [builder.add(given["start_index"], columns)]),
            "b": builder.gep(
                given["b"],
                [builder.add(given["b_index"], builder.mul(panel, given["b_panel_step"]))],
            ),
        }
        left = builder.sub(stop, vector)
        here_vectors = builder.select(builder.icmp_signed("<", left, panel_vectors), left, panel_vectors)
        for vectors in sorted(TILE_ROWS):
            with builder.if_then(builder.icmp_signed("==", here_vectors, _constant(vectors))):
                _emit_rows(builder, element, width, vectors, given, here)


def _emit_rows(builder, element, width, vectors, given, here):
    """the largest tiles first, then smaller ones for the rows that are left"""
    row = cgutils.alloca_once_value(builder, _constant(0))
    builder.store(_constant(0), row)
    largest = TILE_ROWS[vectors]
    for rows in (largest, *(size for size in SMALLER_TILES if size < largest)):
        loop = builder.append_basic_block(f"rows{rows}x{vectors}")
        body = builder.append_basic_block(f"tile{rows}x{vectors}")
        done = builder.append_basic_block(f"after{rows}x{vectors}")
        builder.branch(loop)
        builder.position_at_end(loop)
        end = builder.add(builder.load(row), _constant(rows))
        builder.cbranch(builder.icmp_signed("<=", end, given["rows"]), body, done)
        builder.position_at_end(body)
        _emit_tile(builder, ir.VectorType(element, width), rows, vectors, given, here, builder.load(row))
        builder.store(end, row)
        builder.branch(loop)
        builder.position_at_end(done)


def _emit_tile(builder, kind, rows, vectors, given, here, row):
    alignment = element_bytes(kind)

    def vector_at(pointer, v):
        return builder.bitcast(builder.gep(pointer, [_constant(v * kind.count)]), kind.as_pointer())

    def row_of(pointer, stride, m):
        return builder.gep(pointer, [builder.mul(stride, builder.add(row, _constant(m)))])

    sums = [[cgutils.alloca_once(builder, kind) for _ in range(vectors)] for _ in range(rows)]
    for m in range(rows):
        origin = row_of(here["start"], given["start_stride"], m)
        for v in range(vectors):
            builder.store(builder.load(vector_at(origin, v), align=alignment), sums[m][v])

    a_stride = given["a_row_stride"]
    a_rows = [builder.mul(a_stride, _constant(m)) for m in range(rows)]
    a_first = builder.gep(given["a"], [builder.add(given["a_index"], builder.mul(row, a_stride))])
    a_run = cgutils.alloca_once(builder, a_first.type)
    a_here = cgutils.alloca_once(builder, a_first.type)
    b_here = cgutils.alloca_once(builder, a_first.type)
    builder.store(a_first, a_run)
    builder.store(here["b"], b_here)
    with cgutils.for_range(builder, given["k_runs"], intp=INDEX):
        builder.store(builder.load(a_run), a_here)
        with _k_loop(builder, given["k_run"], unroll=rows * vectors <= LARGEST_UNROLLED):
            a_k, b_k = builder.load(a_here), builder.load(b_here)
            right = [builder.load(vector_at(b_k, v), align=alignment) for v in range(vectors)]
            for m in range(rows):
                left = splat(builder, builder.load(builder.gep(a_k, [a_rows[m]])), kind)
                for v in range(vectors):
                    operands = [left, right[v], builder.load(sums[m][v])]
                    total = call_llvm(builder, f"llvm.fmuladd.{mangled(kind)}", kind, operands)
                    builder.store(total, sums[m][v])
            builder.store(builder.gep(a_k, [given["a_k_stride"]]), a_here)
            builder.store(builder.gep(b_k, [given["b_k_stride"]]), b_here)
        builder.store(builder.gep(builder.load(a_run), [given["k_jump"]]), a_run)

    for m in range(rows):
        target = row_of(here["c"], given["c_stride"], m)
        for v in range(vectors):
            builder.store(builder.load(sums[m][v]), vector_at(target, v), align=alignment)
