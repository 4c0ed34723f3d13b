"""Vectors from memory and back: whole ones, the first lanes of one, runs, and one from each of some arrays.

An index counts elements of the C-contiguous array, whatever its shape.
"""

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic, overload

from numbarnn.jit.cpu import lanes
from numbarnn.jit.vectors import call_llvm, element_bytes, mangled, splat, vector_of


def element_pointer(context, builder, array_type, array, index):
    """The address of element `index` of a contiguous array."""
    data = context.make_array(array_type)(context, builder, array).data
    return builder.gep(data, [index])


def vector_pointer(context, builder, array_type, array, index, vector_type):
    pointer = element_pointer(context, builder, array_type, array, index)
    return builder.bitcast(pointer, vector_type.as_pointer())


def load(array, index):
    """One vector from element `index` on."""
    return array.reshape(-1)[index : index + lanes(array.dtype)]


def store(array, index, values):
    """Write one vector from element `index` on."""
    array.reshape(-1)[index : index + lanes(array.dtype)] = values


def load_part(array, index, count):
    """The first `count` lanes from element `index` on, 0 in the others; reads nothing past them."""
    full = np.zeros(lanes(array.dtype), array.dtype)
    full[:count] = array.reshape(-1)[index : index + count]
    return full


def store_part(array, index, values, count):
    """Write the first `count` lanes; touches nothing past them."""
    array.reshape(-1)[index : index + count] = values[:count]


def _emit_load(context, builder, array_type, array, index):
    kind = context.get_value_type(vector_of(array_type.dtype))
    pointer = vector_pointer(context, builder, array_type, array, index, kind)
    return builder.load(pointer, align=element_bytes(kind))


def _emit_store(context, builder, array_type, array, index, value):
    pointer = vector_pointer(context, builder, array_type, array, index, value.type)
    builder.store(value, pointer, align=element_bytes(value.type))


@intrinsic
def _load(typingctx, array, index):
    def codegen(context, builder, sig, args):
        return _emit_load(context, builder, sig.args[0], args[0], args[1])

    return vector_of(array.dtype)(array, types.intp), codegen


@intrinsic
def _store(typingctx, array, index, values):
    if values != vector_of(array.dtype):
        return None  # an array of one dtype never takes vectors of another

    def codegen(context, builder, sig, args):
        _emit_store(context, builder, sig.args[0], args[0], args[1], args[2])
        return context.get_dummy_value()

    return types.void(array, types.intp, values), codegen


def _lane_mask(builder, count, lane_count):
    """A mask of the first `count` lanes."""
    wide = ir.VectorType(count.type, lane_count)
    lane_numbers = ir.Constant(wide, list(range(lane_count)))
    return builder.icmp_signed("<", lane_numbers, splat(builder, count, wide))


def _emit_load_part(context, builder, array_type, array, index, count):
    kind = context.get_value_type(vector_of(array_type.dtype))
    pointer = vector_pointer(context, builder, array_type, array, index, kind)
    alignment = ir.Constant(ir.IntType(32), element_bytes(kind))
    mask = _lane_mask(builder, count, kind.count)
    name = f"llvm.masked.load.{mangled(kind)}.p0{_pointer_suffix(kind)}"
    return call_llvm(builder, name, kind, [pointer, alignment, mask, ir.Constant(kind, None)])


def _emit_store_part(context, builder, array_type, array, index, value, count):
    kind = value.type
    pointer = vector_pointer(context, builder, array_type, array, index, kind)
    alignment = ir.Constant(ir.IntType(32), element_bytes(kind))
    mask = _lane_mask(builder, count, kind.count)
    name = f"llvm.masked.store.{mangled(kind)}.p0{_pointer_suffix(kind)}"
    call_llvm(builder, name, ir.VoidType(), [value, pointer, alignment, mask])


@intrinsic
def _load_part(typingctx, array, index, count):
    def codegen(context, builder, sig, args):
        return _emit_load_part(context, builder, sig.args[0], *args)

    return vector_of(array.dtype)(array, types.intp, types.intp), codegen


@intrinsic
def _store_part(typingctx, array, index, values, count):
    if values != vector_of(array.dtype):
        return None

    def codegen(context, builder, sig, args):
        _emit_store_part(context, builder, sig.args[0], *args)
        return context.get_dummy_value()

    return types.void(array, types.intp, values, types.intp), codegen


def _pointer_suffix(kind) -> str:
    """How this llvmlite names a pointer in an intrinsic: by its target, or not at all (opaque)."""
    return "" if getattr(kind.as_pointer(), "is_opaque", False) else mangled(kind)


@overload(load)
def _overload_load(array, index):
    return lambda array, index: _load(array, index)


@overload(store)
def _overload_store(array, index, values):
    return lambda array, index, values: _store(array, index, values)


@overload(load_part)
def _overload_load_part(array, index, count):
    return lambda array, index, count: _load_part(array, index, count)


@overload(store_part)
def _overload_store_part(array, index, values, count):
    return lambda array, index, values, count: _store_part(array, index, values, count)


def load_rows(array, index, stride, rows, count):
    """The first `count` lanes of `rows` vectors, `stride` elements apart; 0 in the rest of a square tuple."""
    width = lanes(array.dtype)
    return tuple(load_part(array, index + i * stride, count if i < rows else 0) for i in range(width))


def store_rows(array, index, stride, values, rows, count):
    """The inverse of `load_rows`: the first `count` lanes of the first `rows` vectors."""
    for i, value in enumerate(values[:rows]):
        store_part(array, index + i * stride, value, count)


@intrinsic
def _load_rows(typingctx, array, index, stride, rows, count):
    vector = vector_of(array.dtype)
    result = types.UniTuple(vector, vector.count)

    def codegen(context, builder, sig, args):
        values, (array, index, stride, rows, count) = [], args
        for i in range(vector.count):
            here = builder.add(index, builder.mul(stride, ir.Constant(index.type, i)))
            lanes_here = _count_in_row(builder, i, rows, count)
            values.append(_emit_load_part(context, builder, sig.args[0], array, here, lanes_here))
        return context.make_tuple(builder, result, values)

    return result(array, types.intp, types.intp, types.intp, types.intp), codegen


@intrinsic
def _store_rows(typingctx, array, index, stride, values, rows, count):
    def codegen(context, builder, sig, args):
        array, index, stride, values, rows, count = args
        for i, value in enumerate(cgutils.unpack_tuple(builder, values)):
            here = builder.add(index, builder.mul(stride, ir.Constant(index.type, i)))
            lanes_here = _count_in_row(builder, i, rows, count)
            _emit_store_part(context, builder, sig.args[0], array, here, value, lanes_here)
        return context.get_dummy_value()

    return types.void(array, types.intp, types.intp, values, types.intp, types.intp), codegen


def _count_in_row(builder, i, rows, count):
    """`count`, or 0 from the row `rows` on."""
    inside = builder.icmp_signed("<", ir.Constant(rows.type, i), rows)
    return builder.select(inside, count, ir.Constant(count.type, 0))


@overload(load_rows)
def _overload_load_rows(array, index, stride, rows, count):
    return lambda array, index, stride, rows, count: _load_rows(array, index, stride, rows, count)


@overload(store_rows)
def _overload_store_rows(array, index, stride, values, rows, count):
    return lambda array, index, stride, values, rows, count: _store_rows(
        array, index, stride, values, rows, count
    )


def load_each(arrays, index):
    """One vector from every array of a tuple."""
    return tuple(load(array, index) for array in arrays)


def store_each(arrays, index, values):
    """Write one vector into every array of a tuple."""
    for array, value in zip(arrays, values, strict=True):
        store(array, index, value)


def prefetch(array, index):
    """Ask for an element's line of the cache ahead of time. Nothing else happens, whatever the index."""


def prefetch_each(arrays, index):
    """`prefetch` from every array of a tuple."""


def load_run(array, index, count):
    """`count` vectors, one behind the other, as a tuple."""
    width = lanes(array.dtype)
    return tuple(load(array, index + k * width) for k in range(count))


def store_run(array, index, values):
    """Write a tuple of vectors one behind the other."""
    width = lanes(array.dtype)
    for k, value in enumerate(values):
        store(array, index + k * width, value)


def _pack_tuple(context, builder, tuple_type, values):
    return context.make_tuple(builder, tuple_type, values)


@intrinsic
def _load_each(typingctx, arrays, index):
    result = types.UniTuple(vector_of(arrays.dtype.dtype), arrays.count)

    def codegen(context, builder, sig, args):
        array_type = sig.args[0].dtype
        values = [
            _emit_load(context, builder, array_type, array, args[1])
            for array in cgutils.unpack_tuple(builder, args[0])
        ]
        return _pack_tuple(context, builder, result, values)

    return result(arrays, types.intp), codegen


@intrinsic
def _store_each(typingctx, arrays, index, values):
    def codegen(context, builder, sig, args):
        array_type = sig.args[0].dtype
        pairs = zip(
            cgutils.unpack_tuple(builder, args[0]), cgutils.unpack_tuple(builder, args[2]), strict=True
        )
        for array, value in pairs:
            _emit_store(context, builder, array_type, array, args[1], value)
        return context.get_dummy_value()

    return types.void(arrays, types.intp, values), codegen


def _emit_prefetch(context, builder, array_type, array, index):
    kind, number = context.get_value_type(vector_of(array_type.dtype)), ir.IntType(32)
    pointer = vector_pointer(context, builder, array_type, array, index, kind)
    to_read, stay_near, data = number(0), number(3), number(1)
    name = f"llvm.prefetch.p0{_pointer_suffix(kind)}"
    call_llvm(builder, name, ir.VoidType(), [pointer, to_read, stay_near, data])


@intrinsic
def _prefetch(typingctx, array, index):
    def codegen(context, builder, sig, args):
        _emit_prefetch(context, builder, sig.args[0], args[0], args[1])
        return context.get_dummy_value()

    return types.void(array, types.intp), codegen


@intrinsic
def _prefetch_each(typingctx, arrays, index):
    def codegen(context, builder, sig, args):
        for array in cgutils.unpack_tuple(builder, args[0]):
            _emit_prefetch(context, builder, sig.args[0].dtype, array, args[1])
        return context.get_dummy_value()

    return types.void(arrays, types.intp), codegen


@intrinsic(prefer_literal=True)
def _load_run(typingctx, array, index, count):
    vector = vector_of(array.dtype)
    result = types.UniTuple(vector, count.literal_value)

    def codegen(context, builder, sig, args):
        values = [
            _emit_load(context, builder, sig.args[0], args[0], _advance(builder, args[1], k * vector.count))
            for k in range(result.count)
        ]
        return _pack_tuple(context, builder, result, values)

    return result(array, types.intp, count), codegen


@intrinsic
def _store_run(typingctx, array, index, values):
    def codegen(context, builder, sig, args):
        for k, value in enumerate(cgutils.unpack_tuple(builder, args[2])):
            where = _advance(builder, args[1], k * value.type.count)
            _emit_store(context, builder, sig.args[0], args[0], where, value)
        return context.get_dummy_value()

    return types.void(array, types.intp, values), codegen


def _advance(builder, index, by):
    return builder.add(index, ir.Constant(index.type, by))


@overload(load_each)
def _overload_load_each(arrays, index):
    return lambda arrays, index: _load_each(arrays, index)


@overload(store_each)
def _overload_store_each(arrays, index, values):
    return lambda arrays, index, values: _store_each(arrays, index, values)


@overload(prefetch)
def _overload_prefetch(array, index):
    return lambda array, index: _prefetch(array, index)


@overload(prefetch_each)
def _overload_prefetch_each(arrays, index):
    return lambda arrays, index: _prefetch_each(arrays, index)


@overload(load_run, prefer_literal=True)
def _overload_load_run(array, index, count):
    number = count.literal_value
    return lambda array, index, count: _load_run(array, index, number)


@overload(store_run)
def _overload_store_run(array, index, values):
    return lambda array, index, values: _store_run(array, index, values)
