"""Arrays that own nothing, for compiled code that must not count references.

Numba counts who uses an array, by an atomic operation at every assignment and call. That costs more than a
step of a small network, and it must not be done at all for arguments that are kept (``fork.py``) when the
counters, which Numba makes for one call from Python, are gone.
"""

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic, overload


def without_owners(context, builder, value_type, value):
    """An LLVM value of arrays, tuples of them and numbers, whose arrays have no counter."""
    if isinstance(value_type, types.BaseTuple):
        values = zip(value_type, cgutils.unpack_tuple(builder, value), strict=True)
        return context.make_tuple(
            builder, value_type, [without_owners(context, builder, kind, part) for kind, part in values]
        )
    if isinstance(value_type, types.Array):
        array = context.make_array(value_type)(context, builder, value)
        array.meminfo = ir.Constant(array.meminfo.type, None)
        array.parent = ir.Constant(array.parent.type, None)
        return array._getvalue()
    return value


def unowned(value):
    """An array, or a tuple of arrays, without counters; the caller keeps them alive."""
    return value


@intrinsic
def _unowned(typingctx, value):
    def codegen(context, builder, sig, args):
        return without_owners(context, builder, sig.args[0], args[0])

    return value(value), codegen


@overload(unowned)
def _overload_unowned(value):
    return lambda value: _unowned(value)
