"""Vector values for kernels: one register of numbers, with the operators of a number.

``load(array, index)`` gives a vector of as many numbers as a register holds; the mathematics of a cell is
then written once, and runs on vectors in the CPU's kernels, on single numbers in a CUDA thread, and on
NumPy slices where the JIT is off. Nothing is left to the auto-vectoriser: no run-time alias check, no
scalar remainder, and the order of every operation is the written one.

An index counts elements of the C-contiguous array, whatever its shape.
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


def element_pointer(context, builder, array_type, array, index):
    """The address of element `index` of a contiguous array."""
    data = context.make_array(array_type)(context, builder, array).data
    return builder.gep(data, [index])


def vector_pointer(context, builder, array_type, array, index, vector_type):
    pointer = element_pointer(context, builder, array_type, array, index)
    return builder.bitcast(pointer, vector_type.as_pointer())


def element_bytes(vector_type) -> int:
    return 4 if isinstance(vector_type.element, ir.FloatType) else 8


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


# ---- memory ----------------------------------------------------------------------------------------------


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


def transposed(values):
    """A square tuple of vectors with rows and columns exchanged."""
    return tuple(np.array(values).T)


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


@overload(load_rows)
def _overload_load_rows(array, index, stride, rows, count):
    return lambda array, index, stride, rows, count: _load_rows(array, index, stride, rows, count)


@overload(store_rows)
def _overload_store_rows(array, index, stride, values, rows, count):
    return lambda array, index, stride, values, rows, count: _store_rows(
        array, index, stride, values, rows, count
    )


@overload(transposed)
def _overload_transposed(values):
    return lambda values: _transposed(values)


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


def lane_count(array):
    """How many numbers of the array's dtype a vector holds; a constant in kernels."""
    return lanes(array.dtype)


@overload(lane_count)
def _overload_lane_count(array):
    number = lanes(str(array.dtype))
    return lambda array: number
