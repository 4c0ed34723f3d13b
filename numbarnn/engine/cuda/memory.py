"""How the GPU's kernels reach arrays: one load of 16 bytes, and addresses without a check of the sign.

Numba takes a negative index for one from the end. The test for it, on 64-bit numbers, was most of what the
time loops did. Indices here are counted from an array's first element and are never negative; arrays are
contiguous.
"""

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from numbarnn.engine.cuda.device import SIMULATED

LOAD_BYTES = 16  # the most that one instruction loads


def run_of(dtype) -> int:
    """How many numbers of a dtype one load brings."""
    return LOAD_BYTES // np.dtype(dtype).itemsize


def _pointer(context, builder, array_type, array, index, index_type):
    data = context.make_array(array_type)(context, builder, array).data
    wide = ir.IntType(64)
    if index.type.width < wide.width:
        extend = builder.sext if index_type.signed else builder.zext
        index = extend(index, wide)
    return builder.gep(data, [index])


def load_numbers(context, builder, array_type, array, index, index_type, count):
    """`count` numbers that follow one another, brought by one instruction; all LLVM values.

    The address is a multiple of the bytes that are loaded.
    """
    pointer = _pointer(context, builder, array_type, array, index, index_type)
    if count == 1:
        return [builder.load(pointer)]
    vector = ir.VectorType(pointer.type.pointee, count)
    size = count * array_type.dtype.bitwidth // 8
    loaded = builder.load(builder.bitcast(pointer, vector.as_pointer()), align=size)
    return [builder.extract_element(loaded, ir.Constant(ir.IntType(32), i)) for i in range(count)]


@intrinsic
def _load(typingctx, array, index):
    def codegen(context, builder, signature, arguments):
        return load_numbers(context, builder, array, arguments[0], arguments[1], index, 1)[0]

    return array.dtype(array, index), codegen


@intrinsic
def _store(typingctx, array, index, value):
    def codegen(context, builder, signature, arguments):
        pointer = _pointer(context, builder, array, arguments[0], arguments[1], index)
        number = context.cast(builder, arguments[2], value, array.dtype)
        builder.store(number, pointer)
        return context.get_dummy_value()

    return types.void(array, index, value), codegen


@intrinsic
def _pick(typingctx, values, index):
    def codegen(context, builder, signature, arguments):
        numbers = [builder.extract_value(arguments[0], i) for i in range(values.count)]
        result = numbers[0]
        for i, number in enumerate(numbers[1:], 1):
            is_it = builder.icmp_unsigned("==", arguments[1], arguments[1].type(i))
            result = builder.select(is_it, number, result)
        return result

    return values.dtype(values, index), codegen


if SIMULATED:

    def pick(values, index):
        """An element of a tuple of numbers, without an array in memory."""
        return values[index]

    def load(array, index):
        """Element `index` of an array, counted through all its rows."""
        return array.flat[index]

    def store(array, index, value):
        """Set element `index` of an array, counted through all its rows."""
        array.flat[index] = value

else:
    load, pick, store = _load, _pick, _store
