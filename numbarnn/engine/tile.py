"""The register-blocked tiles of the matrix product, emitted as LLVM IR.

    C[rows, N] = start[rows, N] + A[rows, K] @ B[K, N]

B comes in panels of a few vectors side by side. A tile holds MR rows of NV vectors of C in registers while k
runs; each k loads NV vectors of B and broadcasts MR numbers of A. Every element of C is a chain of fused
multiply-adds in the order of k; in a narrow panel, where a single row would wait for its one chain, it is a
few interleaved chains that are added up at the end. How many depends on the panel's width alone, so that
a sum depends on the shapes, never on which tile or thread computes it.
"""

import contextlib

from llvmlite import ir
from numba.core import cgutils

from numbarnn.jit.compile_cache import shared_digest
from numbarnn.jit.cpu import registers
from numbarnn.jit.vectors import call_llvm, element_bytes, mangled, splat

# Vectors in a tile -> chains of an element of C, and rows in the largest tile: NV * MR * chains sums, NV
# vectors of B and one of A fit the registers.
CHAINS = {1: 4, 2: 2, 3: 1, 4: 1}
TILE_ROWS = {1: 4, 2: 4, 3: 8, 4: 6} if registers().number == 32 else {1: 3, 2: 3, 3: 4, 4: 2}
# For the rows that are left over. A single row takes as long as two where weights come from the second-level
# cache, so that tiles of three or more rows leave it to smaller ones not to end up with one.
SMALLER_TILES = {1: (2, 1), 2: (2, 1), 3: (4, 3, 2, 1), 4: (4, 3, 2, 1)}
LEAVES_NO_SINGLE_ROW = 3
LARGEST_UNROLLED = 4  # vectors in a tile whose loop over k LLVM may unroll
# Rows multiplied at a time in weight gradients. Few registers make small tiles, each of which reads a panel
# of these rows: it has to stay in the first-level cache. Large ones can wait for the second.
WEIGHT_CHUNK_ROWS = 256 if registers().number == 32 else 96
INDEX = ir.IntType(64)

# How functions that several modules define are linked. The loader of cached code finds functions by name
# across all modules, internal ones too; with this linkage LLVM keeps their arguments as they are written, so
# that any of them will do.
SHARED = "linkonce_odr"


# The function's arguments in order; `multiply` in matmul.py says what they mean.
ARRAYS = ("c", "start", "a", "b")
ARGUMENTS = (
    "c", "c_index", "c_stride", "start", "start_index", "start_stride", "panel_step", "rows",
    "a", "a_index", "a_row_stride", "a_k_stride", "k_runs", "k_run", "k_jump",
    "b", "b_index", "b_panel_step", "b_k_stride", "panel_vectors", "first_vector", "stop_vector",
)  # fmt: skip

TILE_ARGUMENTS = (
    "c", "c_stride", "start", "start_stride", "a", "a_row_stride", "a_k_stride", "k_runs", "k_run", "k_jump",
    "b", "b_k_stride",
)  # fmt: skip


def declare_product(module, element):
    """The function of the product of one dtype, declared in an LLVM module."""
    kinds = [element.as_pointer() if name in ARRAYS else INDEX for name in ARGUMENTS]
    function_type = ir.FunctionType(ir.VoidType(), kinds)
    return cgutils.get_or_insert_function(module, function_type, product_name(element))


def product_name(element) -> str:
    """The symbol of the product of one dtype.

    Code that a user's function was cached with must not be linked with the product of another version: the
    name says which sources it was made from.
    """
    return f"numbarnn_multiply_f{8 * _bytes(element)}_{shared_digest()[:16]}"


def define_product(function, element):
    """Give a declared product its body: every panel, every tile."""
    function.attributes.add("noinline")
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    _emit_panels(builder, element, dict(zip(ARGUMENTS, function.args, strict=True)))
    builder.ret_void()


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
            "a": builder.gep(given["a"], [given["a_index"]]),
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
    for rows in (largest, *(size for size in SMALLER_TILES[vectors] if size < largest)):
        loop = builder.append_basic_block(f"rows{rows}x{vectors}")
        body = builder.append_basic_block(f"tile{rows}x{vectors}")
        done = builder.append_basic_block(f"after{rows}x{vectors}")
        builder.branch(loop)
        builder.position_at_end(loop)
        end = builder.add(builder.load(row), _constant(rows))
        fits = builder.icmp_signed("<=", end, given["rows"])
        if rows >= LEAVES_NO_SINGLE_ROW:
            leaves_one = builder.icmp_signed("==", builder.add(end, _constant(1)), given["rows"])
            fits = builder.and_(fits, builder.not_(leaves_one))
        builder.cbranch(fits, body, done)
        builder.position_at_end(body)
        here_row = builder.load(row)
        pointers = {
            name: builder.gep(here[name], [builder.mul(here_row, given[stride])])
            for name, stride in (("c", "c_stride"), ("start", "start_stride"), ("a", "a_row_stride"))
        }
        tile = _tile_function(builder.module, element, width, rows, vectors)
        builder.call(tile, [{**given, **pointers, "b": here["b"]}[name] for name in TILE_ARGUMENTS])
        builder.store(end, row)
        builder.branch(loop)
        builder.position_at_end(done)


def _tile_function(module, element, width, rows, vectors):
    """A tile as a function of its own. Inside the loops over panels and rows, LLVM would compute addresses
    of all tiles ahead of the loops, which took longer than a small tile itself."""
    kinds = [element.as_pointer() if name in ARRAYS else INDEX for name in TILE_ARGUMENTS]
    name = f"{product_name(element)}_{rows}x{vectors}"
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), kinds), name)
    function.linkage = SHARED
    function.attributes.add("noinline")
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    given = dict(zip(TILE_ARGUMENTS, function.args, strict=True))
    _emit_tile(builder, ir.VectorType(element, width), rows, vectors, given)
    builder.ret_void()
    return function


def emit_row(builder, element, vectors, given):
    """A tile of one row in the midst of other code; `given` holds what `TILE_ARGUMENTS` names, but strides
    from row to row."""
    kind = ir.VectorType(element, registers().width // _bytes(element))
    no_stride = dict.fromkeys(("c_stride", "start_stride", "a_row_stride"), _constant(0))
    _emit_tile(builder, kind, 1, vectors, {**no_stride, **given})


def _emit_tile(builder, kind, rows, vectors, given):
    alignment = element_bytes(kind)

    def vector_at(pointer, v):
        return builder.bitcast(builder.gep(pointer, [_constant(v * kind.count)]), kind.as_pointer())

    def row_of(pointer, stride, m):
        return builder.gep(pointer, [builder.mul(stride, _constant(m))])

    chains = CHAINS[vectors]
    sums = [
        [[cgutils.alloca_once(builder, kind) for _ in range(chains)] for _ in range(vectors)]
        for _ in range(rows)
    ]
    for m in range(rows):
        origin = row_of(given["start"], given["start_stride"], m)
        for v in range(vectors):
            builder.store(builder.load(vector_at(origin, v), align=alignment), sums[m][v][0])
            for chain in range(1, chains):
                builder.store(ir.Constant(kind, None), sums[m][v][chain])

    a_stride = given["a_row_stride"]
    a_rows = [builder.mul(a_stride, _constant(m)) for m in range(rows)]
    a_run = cgutils.alloca_once(builder, given["a"].type)
    a_here = cgutils.alloca_once(builder, given["a"].type)
    b_here = cgutils.alloca_once(builder, given["b"].type)

    def add_one_k(chain):
        a_k, b_k = builder.load(a_here), builder.load(b_here)
        right = [builder.load(vector_at(b_k, v), align=alignment) for v in range(vectors)]
        for m in range(rows):
            left = splat(builder, builder.load(builder.gep(a_k, [a_rows[m]])), kind)
            for v in range(vectors):
                operands = [left, right[v], builder.load(sums[m][v][chain])]
                total = call_llvm(builder, f"llvm.fmuladd.{mangled(kind)}", kind, operands)
                builder.store(total, sums[m][v][chain])
        builder.store(builder.gep(a_k, [given["a_k_stride"]]), a_here)
        builder.store(builder.gep(b_k, [given["b_k_stride"]]), b_here)

    builder.store(given["a"], a_run)
    builder.store(given["b"], b_here)
    turns = builder.lshr(given["k_run"], _constant(chains.bit_length() - 1))
    left_over = builder.and_(given["k_run"], _constant(chains - 1))
    with cgutils.for_range(builder, given["k_runs"], intp=INDEX):
        builder.store(builder.load(a_run), a_here)
        with _k_loop(builder, turns, unroll=rows * vectors * chains <= LARGEST_UNROLLED):
            for chain in range(chains):
                add_one_k(chain)
        for chain in range(chains - 1):
            with builder.if_then(builder.icmp_signed("<", _constant(chain), left_over)):
                add_one_k(chain)
        builder.store(builder.gep(builder.load(a_run), [given["k_jump"]]), a_run)

    for m in range(rows):
        target = row_of(given["c"], given["c_stride"], m)
        for v in range(vectors):
            parts = [builder.load(place) for place in sums[m][v]]
            while len(parts) > 1:
                parts = [builder.fadd(one, other) for one, other in zip(parts[::2], parts[1::2], strict=True)]
            builder.store(parts[0], vector_at(target, v), align=alignment)
