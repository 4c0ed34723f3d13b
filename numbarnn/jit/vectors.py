"""Vector values for kernels: one register of numbers, with the operators of a number.

``load(array, index)`` of ``vector_memory.py`` gives a vector of as many numbers as a register holds; the
mathematics of a cell is then written once, and runs on vectors in the CPU's kernels, on single numbers in a
CUDA thread, and on NumPy slices where the JIT is off. Nothing is left to the auto-vectoriser: no run-time
alias check, no scalar remainder, and the order of every operation is the written one.
"""

import operator

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.core.datamodel import models, register_default
from numba.core.imputils import lower_builtin
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, overload

from numbarnn.jit.cpu import lanes

FLOAT_TYPES = (types.float32, types.float64)


class VectorType(types.Type):
    """The type of one register full of `dtype`; `dtype` boolean is a mask."""

    def __init__(self, dtype, count):
        self.dtype = dtype
        self.count = count
        super().__init__(name=f"vector({dtype} x {count})")


@register_default(VectorType)
class VectorModel(models.PrimitiveModel):
    def __init__(self, dmm, fe_type):
        element = ir.IntType(1) if fe_type.dtype == types.boolean else llvm_float(fe_type.dtype)
        super().__init__(dmm, fe_type, ir.VectorType(element, fe_type.count))


def llvm_float(dtype):
    return {types.float32: ir.FloatType(), types.float64: ir.DoubleType()}[dtype]


def vector_of(dtype):
    """The vector type of a floating dtype on this machine."""
    if dtype not in FLOAT_TYPES:
        raise TypeError(f"kernels take float32 or float64, not {dtype}")
    return VectorType(dtype, lanes(str(dtype)))


def is_float_vector(value_type) -> bool:
    return isinstance(value_type, VectorType) and value_type.dtype in FLOAT_TYPES


def splat(builder, value, vector_type):
    """A vector with `value` in every lane."""
    undefined = ir.Constant(vector_type, ir.Undefined)
    first = builder.insert_element(undefined, value, ir.Constant(ir.IntType(32), 0))
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), vector_type.count), None)
    return builder.shuffle_vector(first, undefined, zeros)


def call_llvm(builder, name, return_type, arguments):
    """Call the LLVM intrinsic `name`, mangled with its vector type."""
    function_type = ir.FunctionType(return_type, [a.type for a in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, function_type, name), arguments)


def mangled(vector_type) -> str:
    """The suffix of an LLVM intrinsic for this vector type: ``v16f32``."""
    return f"v{vector_type.count}f{32 if isinstance(vector_type.element, ir.FloatType) else 64}"


def element_bytes(vector_type) -> int:
    return 4 if isinstance(vector_type.element, ir.FloatType) else 8


def lane_count(array):
    """How many numbers of the array's dtype a vector holds; a constant in kernels."""
    return lanes(array.dtype)


@overload(lane_count)
def _overload_lane_count(array):
    number = lanes(str(array.dtype))
    return lambda array: number


# ---- arithmetic ------------------------------------------------------------------------------------------

ARITHMETIC = {
    operator.add: ir.IRBuilder.fadd,
    operator.sub: ir.IRBuilder.fsub,
    operator.mul: ir.IRBuilder.fmul,
    operator.truediv: ir.IRBuilder.fdiv,
}
COMPARISONS = {operator.lt: "<", operator.gt: ">", operator.le: "<=", operator.ge: ">="}


def _as_vector(context, builder, value, value_type, vector_numba_type):
    """`value` as an LLVM vector; a number of any type is rounded to the vector's own and spread out."""
    if isinstance(value_type, VectorType):
        return value
    number = context.cast(builder, value, value_type, vector_numba_type.dtype)
    return splat(builder, number, context.get_value_type(vector_numba_type))


def _vector_operand(left, right):
    for one, other in ((left, right), (right, left)):
        if is_float_vector(one) and (other == one or isinstance(other, types.Number)):
            return one
    return None


def _declare_operator(symbol, emit, result_of):
    @infer_global(symbol)
    class VectorOperator(AbstractTemplate):
        key = symbol

        def generic(self, args, kws):
            if len(args) == 2 and (vector := _vector_operand(*args)):
                return signature(result_of(vector), *args)
            return None

    def lower(context, builder, sig, args):
        vector = _vector_operand(*sig.args)
        operands = [_as_vector(context, builder, a, t, vector) for a, t in zip(args, sig.args, strict=True)]
        return emit(builder, *operands)

    lower_builtin(symbol, VectorType, VectorType)(lower)
    lower_builtin(symbol, VectorType, types.Number)(lower)
    lower_builtin(symbol, types.Number, VectorType)(lower)


def _comparison(predicate):
    return lambda builder, left, right: builder.fcmp_ordered(predicate, left, right)


for _symbol, _emit in ARITHMETIC.items():
    _declare_operator(_symbol, _emit, lambda vector: vector)
for _symbol, _predicate in COMPARISONS.items():
    _declare_operator(
        _symbol, _comparison(_predicate), lambda vector: VectorType(types.boolean, vector.count)
    )


@infer_global(operator.neg)
class _VectorNegation(AbstractTemplate):
    key = operator.neg

    def generic(self, args, kws):
        return signature(args[0], args[0]) if is_float_vector(args[0]) else None


@lower_builtin(operator.neg, VectorType)
def _lower_negation(context, builder, sig, args):
    return builder.fneg(args[0])


def fma(a, b, c):
    """``a * b + c``, rounded once where the processor can."""
    return a * b + c


def select(mask, where_true, where_false):
    """Lane by lane, one value or the other."""
    return np.where(mask, where_true, where_false)


def absolute(x):
    """``|x|``, keeping NaN."""
    return np.abs(x)


def copy_sign(magnitude, sign):
    """`magnitude` with the sign of `sign`."""
    return np.copysign(magnitude, sign)


def divide(a, b):
    """The quotient; 1 / b is a normal number."""
    return a / b


def zero_like(x):
    """0 in every lane."""
    return np.zeros_like(x)


@intrinsic
def _zero_like(typingctx, x):
    def codegen(context, builder, sig, args):
        return ir.Constant(args[0].type, None)

    return x(x), codegen


@overload(zero_like)
def _overload_zero_like(x):
    return (lambda x: _zero_like(x)) if is_float_vector(x) else None


@intrinsic
def _fma(typingctx, a, b, c):
    vector = next((t for t in (a, b, c) if is_float_vector(t)), None)
    if vector is None:
        return None

    def codegen(context, builder, sig, args):
        operands = [_as_vector(context, builder, v, t, vector) for v, t in zip(args, sig.args, strict=True)]
        kind = operands[0].type
        return call_llvm(builder, f"llvm.fmuladd.{mangled(kind)}", kind, operands)

    return vector(a, b, c), codegen


@intrinsic
def _select(typingctx, mask, where_true, where_false):
    vector = where_true if is_float_vector(where_true) else where_false

    def codegen(context, builder, sig, args):
        yes, no = (
            _as_vector(context, builder, v, t, vector) for v, t in zip(args[1:], sig.args[1:], strict=True)
        )
        return builder.select(args[0], yes, no)

    return vector(mask, where_true, where_false), codegen


@intrinsic
def _absolute(typingctx, x):
    def codegen(context, builder, sig, args):
        return call_llvm(builder, f"llvm.fabs.{mangled(args[0].type)}", args[0].type, args)

    return x(x), codegen


@intrinsic
def _copy_sign(typingctx, magnitude, sign):
    def codegen(context, builder, sig, args):
        return call_llvm(builder, f"llvm.copysign.{mangled(args[0].type)}", args[0].type, args)

    return magnitude(magnitude, sign), codegen


@overload(fma)
def _overload_fma(a, b, c):
    if any(is_float_vector(t) for t in (a, b, c)):
        return lambda a, b, c: _fma(a, b, c)
    return lambda a, b, c: a * b + c


@overload(select)
def _overload_select(mask, where_true, where_false):
    if isinstance(mask, VectorType):
        return lambda mask, where_true, where_false: _select(mask, where_true, where_false)
    return lambda mask, where_true, where_false: where_true if mask else where_false


@overload(absolute)
def _overload_absolute(x):
    return (lambda x: _absolute(x)) if is_float_vector(x) else (lambda x: abs(x))


@overload(copy_sign)
def _overload_copy_sign(magnitude, sign):
    if is_float_vector(magnitude):
        return lambda magnitude, sign: _copy_sign(magnitude, sign)
    return lambda magnitude, sign: np.copysign(magnitude, sign)


@overload(divide)
def _overload_divide(a, b):
    return lambda a, b: a / b


def all_true(mask):
    """Whether a mask is true in every lane."""
    return np.all(mask)


@intrinsic
def _all_true(typingctx, mask):
    def codegen(context, builder, sig, args):
        bits = ir.IntType(args[0].type.count)
        return builder.icmp_unsigned("==", builder.bitcast(args[0], bits), ir.Constant(bits, -1))

    return types.boolean(mask), codegen


@overload(all_true)
def _overload_all_true(mask):
    return lambda mask: _all_true(mask)


def polynomial(x, coefficients):
    """``c[0] + c[1] x + c[2] x**2 + ...`` by Horner's rule."""
    result = x.dtype.type(coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        result = fma(result, x, x.dtype.type(coefficient))
    return result


@intrinsic
def _polynomial(typingctx, x, coefficients):
    def codegen(context, builder, sig, args):
        kind = args[0].type
        numbers = [
            _as_vector(context, builder, value, value_type, sig.args[0])
            for value, value_type in zip(cgutils.unpack_tuple(builder, args[1]), sig.args[1], strict=True)
        ]
        result = numbers.pop()
        while numbers:
            result = call_llvm(
                builder, f"llvm.fmuladd.{mangled(kind)}", kind, [result, args[0], numbers.pop()]
            )
        return result

    return x(x, coefficients), codegen


@overload(polynomial)
def _overload_polynomial(x, coefficients):
    return lambda x, coefficients: _polynomial(x, coefficients)


def add_each(left, right):
    """The sums of two tuples of vectors, vector by vector."""
    return tuple(a + b for a, b in zip(left, right, strict=True))


@intrinsic
def _add_each(typingctx, left, right):
    if left != right:
        return None

    def codegen(context, builder, sig, args):
        pairs = zip(*(cgutils.unpack_tuple(builder, arg) for arg in args), strict=True)
        return context.make_tuple(builder, sig.return_type, [builder.fadd(a, b) for a, b in pairs])

    return left(left, right), codegen


@overload(add_each)
def _overload_add_each(left, right):
    return lambda left, right: _add_each(left, right)


def transposed(values):
    """A square tuple of vectors with rows and columns exchanged."""
    return tuple(np.array(values).T)


@intrinsic
def _transposed(typingctx, values):
    def codegen(context, builder, sig, args):
        rows = cgutils.unpack_tuple(builder, args[0])
        size = len(rows)
        numbers = ir.VectorType(ir.IntType(32), size)
        halves = [
            ir.Constant(numbers, [first + lane // 2 + lane % 2 * size for lane in range(size)])
            for first in (0, size // 2)
        ]
        # Each round interleaves row i with row i + size / 2; log2(size) rounds exchange rows and columns.
        for _ in range(size.bit_length() - 1):
            pairs = zip(rows[: size // 2], rows[size // 2 :], strict=True)
            rows = [builder.shuffle_vector(a, b, half) for a, b in pairs for half in halves]
        return context.make_tuple(builder, sig.return_type, rows)

    return values(values), codegen


@overload(transposed)
def _overload_transposed(values):
    return lambda values: _transposed(values)


# ---- powers of two by their bits, for exp ----------------------------------------------------------------


def power_of_rounded(shifted, bias):
    """``2**(n + bias)``, where n sits in the last bits of `shifted` (a number plus 1.5 * 2**mantissa)."""
    dtype = shifted.dtype.type
    return np.exp2(shifted - dtype(1.5 * 2.0 ** np.finfo(dtype).nmant) + dtype(bias))


@intrinsic(prefer_literal=True)
def _power_of_rounded(typingctx, shifted, bias):
    offset = bias.literal_value

    def codegen(context, builder, sig, args):
        kind = args[0].type
        bits, mantissa, zero_exponent = (32, 23, 127) if element_bytes(kind) == 4 else (64, 52, 1023)
        integers = ir.VectorType(ir.IntType(bits), kind.count)

        def constant(value):
            return ir.Constant(integers, [value] * kind.count)

        exponent = builder.shl(builder.bitcast(args[0], integers), constant(mantissa))
        power = builder.add(exponent, constant((zero_exponent + offset) << mantissa))
        return builder.bitcast(power, kind)

    return shifted(shifted, bias), codegen


@overload(power_of_rounded, prefer_literal=True)
def _overload_power_of_rounded(shifted, bias):
    if is_float_vector(shifted):
        offset = bias.literal_value
        return lambda shifted, bias: _power_of_rounded(shifted, offset)
    return None
