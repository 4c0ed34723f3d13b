"""Scratch memory on the stack of a compiled function, for steps that must not allocate."""

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic, overload

from numbarnn.engine.host import registers


def scratch(size, like):
    """An uninitialised 1-D array of `size` numbers, gone when the calling function returns."""
    return np.empty(size, like.dtype)


@intrinsic
def _scratch(typingctx, size, like):
    result = types.Array(like.dtype, 1, "C")

    def codegen(context, builder, sig, args):
        element = context.get_data_type(result.dtype)
        data = builder.alloca(element, size=args[0])
        data.align = registers().width
        item_bytes = ir.Constant(args[0].type, context.get_abi_sizeof(element))
        array = context.make_array(result)(context, builder)
        context.populate_array(
            array, data=data, shape=[args[0]], strides=[item_bytes], itemsize=item_bytes, meminfo=None
        )
        return array._getvalue()

    return result(types.intp, like), codegen


# Inlined before it is compiled: the memory must belong to the frame of the function that asks for it.
@overload(scratch, inline="always")
def _overload_scratch(size, like):
    return lambda size, like: _scratch(size, like)
