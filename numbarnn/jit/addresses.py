"""Arrays at addresses: how compiled code gets at an array that it was not given."""

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic, overload

from numbarnn.jit.vector_memory import element_pointer


def address_of(array):
    """The address of the first element of an array."""
    return array.__array_interface__["data"][0]


def array_at(address, rows, columns, like):
    """The contiguous (rows, columns) array at an address, of the dtype of `like`."""
    element = np.ctypeslib.as_ctypes_type(like.dtype)
    memory = (element * (rows * columns)).from_address(int(address))
    return np.ctypeslib.as_array(memory).reshape(rows, columns)


@intrinsic
def _address_of(typingctx, array):
    def codegen(context, builder, sig, args):
        word = context.get_value_type(types.intp)
        first = element_pointer(context, builder, sig.args[0], args[0], ir.Constant(word, 0))
        return builder.ptrtoint(first, word)

    return types.intp(array), codegen


@intrinsic
def _array_at(typingctx, address, rows, columns, like):
    result = types.Array(like.dtype, 2, "C")

    def codegen(context, builder, sig, args):
        element = context.get_data_type(result.dtype)
        item_bytes = ir.Constant(args[0].type, context.get_abi_sizeof(element))
        array = context.make_array(result)(context, builder)
        context.populate_array(
            array,
            data=builder.inttoptr(args[0], element.as_pointer()),
            shape=[args[1], args[2]],
            strides=[builder.mul(args[2], item_bytes), item_bytes],
            itemsize=item_bytes,
            meminfo=None,
        )
        return array._getvalue()

    return result(types.intp, types.intp, types.intp, like), codegen


@overload(address_of)
def _overload_address_of(array):
    return lambda array: _address_of(array)


@overload(array_at)
def _overload_array_at(address, rows, columns, like):
    return lambda address, rows, columns, like: _array_at(address, rows, columns, like)
