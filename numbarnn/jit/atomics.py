"""Atomic reads and writes of one number in a shared int64 array, for threads in compiled code.

The plain Python bodies serve where the JIT is off, and no second thread runs kernels.
"""

import platform

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic, overload

from numbarnn.jit.vector_memory import element_pointer

WORD_BYTES = 8
IS_X86 = platform.machine().lower() in ("x86_64", "amd64", "i386", "i686")


def atomic_load(words, index):
    """Read one number, and see all that was written before it was."""
    return words[index]


def atomic_store(words, index, value):
    """Write one number, after all that was written before."""
    words[index] = value


def atomic_add(words, index, value):
    """Add to one number; what it was."""
    words[index] += value
    return words[index] - value


def compare_exchange(words, index, expected, value):
    """Write `value` where `expected` stands, or nothing; whether it was written."""
    if words[index] != expected:
        return False
    words[index] = value
    return True


def relax():
    """Say that this thread only waits: another one that shares its core gets more of it."""


@intrinsic
def _relax(typingctx):
    def codegen(context, builder, sig, args):
        if IS_X86:
            function_type = ir.FunctionType(ir.VoidType(), [])
            pause = cgutils.get_or_insert_function(builder.module, function_type, "llvm.x86.sse2.pause")
            builder.call(pause, [])
        return context.get_dummy_value()

    return types.void(), codegen


@overload(relax)
def _overload_relax():
    return lambda: _relax()


@intrinsic
def _load(typingctx, words, index):
    def codegen(context, builder, sig, args):
        pointer = element_pointer(context, builder, sig.args[0], args[0], args[1])
        return builder.load_atomic(pointer, ordering="acquire", align=WORD_BYTES)

    return types.int64(words, types.intp), codegen


@intrinsic
def _store(typingctx, words, index, value):
    def codegen(context, builder, sig, args):
        pointer = element_pointer(context, builder, sig.args[0], args[0], args[1])
        builder.store_atomic(args[2], pointer, ordering="release", align=WORD_BYTES)
        return context.get_dummy_value()

    return types.void(words, types.intp, types.int64), codegen


@intrinsic
def _add(typingctx, words, index, value):
    def codegen(context, builder, sig, args):
        pointer = element_pointer(context, builder, sig.args[0], args[0], args[1])
        return builder.atomic_rmw("add", pointer, args[2], "acq_rel")

    return types.int64(words, types.intp, types.int64), codegen


@intrinsic
def _compare_exchange(typingctx, words, index, expected, value):
    def codegen(context, builder, sig, args):
        pointer = element_pointer(context, builder, sig.args[0], args[0], args[1])
        result = builder.cmpxchg(pointer, args[2], args[3], "acq_rel", "acquire")
        return builder.extract_value(result, 1)

    return types.boolean(words, types.intp, types.int64, types.int64), codegen


@overload(atomic_load)
def _overload_load(words, index):
    return lambda words, index: _load(words, index)


@overload(atomic_store)
def _overload_store(words, index, value):
    return lambda words, index, value: _store(words, index, value)


@overload(atomic_add)
def _overload_add(words, index, value):
    return lambda words, index, value: _add(words, index, value)


@overload(compare_exchange)
def _overload_compare_exchange(words, index, expected, value):
    return lambda words, index, expected, value: _compare_exchange(words, index, expected, value)
