"""What ``jit/vectors.py`` does for vectors, for the single numbers of a GPU thread; sigmoid and tanh too.

The mathematics of cells and activations is written once. Numbers written out in it (``1.0``) are float64 to
the compiler; beside a float32 they must become one, or the GPU would compute in double precision, 32 times
slower.
"""

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic, overload

from numbarnn.jit import activations
from numbarnn.jit import vectors as simd

BITS = {types.float32: 32, types.float64: 64}
MANTISSA = {types.float32: 23, types.float64: 52}
ZERO_EXPONENT = {types.float32: 127, types.float64: 1023}


def _common(*kinds):
    """The dtype of a result: float32 if any operand is, else float64; None where there is no number."""
    if not all(isinstance(kind, types.Number) for kind in kinds):
        return None
    return types.float32 if types.float32 in kinds else types.float64


def _cast(context, builder, args, kinds, dtype):
    return [context.cast(builder, value, kind, dtype) for value, kind in zip(args, kinds, strict=True)]


def _fused(builder, dtype, a, b, c):
    return simd.call_llvm(builder, f"llvm.fma.f{BITS[dtype]}", simd.llvm_float(dtype), [a, b, c])


def _bits_of(builder, dtype, value):
    return builder.bitcast(value, ir.IntType(BITS[dtype]))


@intrinsic
def _fma(typingctx, a, b, c):
    dtype = _common(a, b, c)

    def codegen(context, builder, sig, args):
        return _fused(builder, dtype, *_cast(context, builder, args, sig.args, dtype))

    return dtype(a, b, c), codegen


@intrinsic
def _select(typingctx, mask, where_true, where_false):
    dtype = _common(where_true, where_false)

    def codegen(context, builder, sig, args):
        return builder.select(args[0], *_cast(context, builder, args[1:], sig.args[1:], dtype))

    return dtype(mask, where_true, where_false), codegen


@intrinsic
def _copy_sign(typingctx, magnitude, sign):
    def codegen(context, builder, sig, args):
        bits = ir.IntType(BITS[magnitude])
        sign_bit = ir.Constant(bits, 1 << (BITS[magnitude] - 1))
        size, signed = (_bits_of(builder, magnitude, value) for value in args)
        joined = builder.or_(builder.and_(size, builder.not_(sign_bit)), builder.and_(signed, sign_bit))
        return builder.bitcast(joined, args[0].type)

    return (magnitude(magnitude, magnitude), codegen) if magnitude in BITS else None


@intrinsic
def _polynomial(typingctx, x, coefficients):
    def codegen(context, builder, sig, args):
        kinds = sig.args[1]
        values = [builder.extract_value(args[1], i) for i in range(kinds.count)]
        numbers = _cast(context, builder, values, kinds, x)
        result = numbers.pop()
        while numbers:
            result = _fused(builder, x, result, args[0], numbers.pop())
        return result

    return x(x, coefficients), codegen


@intrinsic(prefer_literal=True)
def _power_of_rounded(typingctx, shifted, bias):
    offset = bias.literal_value

    def codegen(context, builder, sig, args):
        bits = ir.IntType(BITS[shifted])
        mantissa = ir.Constant(bits, MANTISSA[shifted])
        exponent = builder.shl(_bits_of(builder, shifted, args[0]), mantissa)
        zero = ir.Constant(bits, (ZERO_EXPONENT[shifted] + offset) << MANTISSA[shifted])
        return builder.bitcast(builder.add(exponent, zero), args[0].type)

    return shifted(shifted, bias), codegen


@intrinsic
def _divide_float32(typingctx, a, b):
    """By an approximate reciprocal and what is left over: a rounded quotient, but for the rare last bit. A
    plain division also tests for what cannot come here, and branches."""
    dtype = types.float32

    def codegen(context, builder, sig, args):
        a_number, b_number = _cast(context, builder, args, sig.args, dtype)
        kind = simd.llvm_float(dtype)
        instruction = ir.InlineAsm(ir.FunctionType(kind, [kind]), "rcp.approx.ftz.f32 $0, $1;", "=f,f")
        reciprocal = builder.call(instruction, [b_number])
        quotient = builder.fmul(a_number, reciprocal)
        negative = builder.fsub(kind(-0.0), b_number)
        left_over = _fused(builder, dtype, negative, quotient, a_number)
        return _fused(builder, dtype, left_over, reciprocal, quotient)

    return dtype(a, b), codegen


@overload(simd.divide, target="cuda")
def _overload_divide(a, b):
    if _common(a, b) == types.float32:
        return lambda a, b: _divide_float32(a, b)
    return lambda a, b: a / b


@overload(simd.fma, target="cuda")
def _overload_fma(a, b, c):
    return (lambda a, b, c: _fma(a, b, c)) if _common(a, b, c) else None


@overload(simd.select, target="cuda")
def _overload_select(mask, where_true, where_false):
    if _common(where_true, where_false) is None:
        return None
    return lambda mask, where_true, where_false: _select(mask, where_true, where_false)


@overload(simd.absolute, target="cuda")
def _overload_absolute(x):
    return (lambda x: abs(x)) if x in BITS else None


@overload(simd.copy_sign, target="cuda")
def _overload_copy_sign(magnitude, sign):
    return (lambda magnitude, sign: _copy_sign(magnitude, sign)) if magnitude in BITS else None


@overload(simd.zero_like, target="cuda")
def _overload_zero_like(x):
    if x not in BITS:
        return None
    zero = getattr(np, str(x))(0.0)
    return lambda x: zero


@overload(simd.polynomial, target="cuda")
def _overload_polynomial(x, coefficients):
    return (lambda x, coefficients: _polynomial(x, coefficients)) if x in BITS else None


@overload(simd.power_of_rounded, target="cuda", prefer_literal=True)
def _overload_power_of_rounded(shifted, bias):
    if shifted not in BITS:
        return None
    offset = bias.literal_value
    return lambda shifted, bias: _power_of_rounded(shifted, offset)


def _make_known(function):
    """Let code of a GPU call a function of ``jit/activations.py`` on single numbers."""

    @overload(function, target="cuda")
    def for_the_compiler(x):
        return activations.function_of(function.__name__, x) if x in BITS else None


for _function in activations.FUNCTIONS:
    _make_known(_function)
