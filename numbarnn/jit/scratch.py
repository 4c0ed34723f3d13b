"""Scratch memory on the stack of a compiled function, for steps that must not allocate."""

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic, overload

from numbarnn.jit.cpu import registers


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


def alternate():
    """True at one call and False at the next, most of the time: for choices that only speed depends on.

    The answer is kept on the stack, in the same place call after call. What a caller wrote to that memory in
    between decides, if it did anything: any answer will do.
    """
    return False


@intrinsic
def _alternate(typingctx):
    def codegen(context, builder, sig, args):
        word = ir.IntType(8)
        with builder.goto_entry_block():
            memory = builder.alloca(word)  # cgutils would clear it
        # For all that LLVM knows, this empty piece of assembly fills the memory and reads it.
        kind = ir.FunctionType(ir.VoidType(), [memory.type])
        touch = ir.InlineAsm(kind, "", "r,~{memory}", side_effect=True)
        builder.call(touch, [memory])
        answer = builder.and_(builder.load(memory), ir.Constant(word, 1))
        builder.store(builder.xor(answer, ir.Constant(word, 1)), memory)
        builder.call(touch, [memory])
        return builder.trunc(answer, ir.IntType(1))

    return types.boolean(), codegen


@overload(alternate, inline="always")
def _overload_alternate():
    return lambda: _alternate()


# Inlined before it is compiled: the memory must belong to the frame of the function that asks for it.
@overload(scratch, inline="always")
def _overload_scratch(size, like):
    return lambda size, like: _scratch(size, like)
