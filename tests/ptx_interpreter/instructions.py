"""What each instruction does that computes: a function of a mask, made when the instruction is prepared.

`MAKERS` has the function that prepares it, by opcode. Modifiers that no kernel of the library has are
refused.
"""

from collections.abc import Callable

import numpy as np

from ptx_interpreter.errors import PTXError
from ptx_interpreter.operands import Mask, Operands, unsigned
from ptx_interpreter.rounding import (
    fused,
    high_half,
    power_of_two,
    reciprocal,
    rough_reciprocal,
    rounded_down,
    truncated_quotient,
    two_fused,
    two_sum,
)
from ptx_interpreter.text import DTYPES, Instruction, split_operands

Run = Callable[[Mask], None]
Maker = Callable[[Operands, Instruction], Run]
MAKERS: dict[str, Maker] = {}


def opcode(*names: str) -> Callable[[Maker], Maker]:
    """Register what prepares the instructions with these opcodes."""

    def register(maker: Maker) -> Maker:
        MAKERS.update(dict.fromkeys(names, maker))
        return maker

    return register


def unsupported(instruction: Instruction) -> PTXError:
    return PTXError(f"this {instruction.opcode} is not supported")


def only_dtype(instruction: Instruction) -> np.dtype:
    """The dtype of an instruction that has no other modifier."""
    if len(instruction.modifiers) != 1:
        raise unsupported(instruction)
    return DTYPES[instruction.modifiers[0]]


def elementwise(
    operands: Operands,
    instruction: Instruction,
    dtype: np.dtype,
    function: Callable[..., np.ndarray],
    result: np.dtype | None = None,
) -> Run:
    """The first operand becomes the function of all others, which are of one dtype."""
    first, *others = instruction.operands
    write = operands.target(first, result or dtype)
    sources = [operands.source(text, dtype) for text in others]
    return lambda mask: write(function(*(source() for source in sources)), mask)


# ---- numbers with a fraction -----------------------------------------------------------------------------


def rounding_maker(
    nearest: Callable[..., np.ndarray], exact: Callable[..., tuple[np.ndarray, np.ndarray]]
) -> Maker:
    """For operations that round: to the nearest, or in a direction, which only float32 has here."""

    def make(operands: Operands, instruction: Instruction) -> Run:
        *modes, kind = instruction.modifiers
        dtype, mode = DTYPES[kind], modes[0] if modes else "rn"
        if len(modes) > 1 or (mode != "rn" and dtype != np.float32):
            raise unsupported(instruction)

        def directed(*numbers: np.ndarray) -> np.ndarray:
            return rounded_down(exact(*(np.asarray(number, np.float64) for number in numbers)), mode)

        return elementwise(operands, instruction, dtype, nearest if mode == "rn" else directed)

    return make


add_floats = rounding_maker(np.add, two_sum)
opcode("fma")(rounding_maker(fused, two_fused))


@opcode("add")
def add(operands: Operands, instruction: Instruction) -> Run:
    if DTYPES[instruction.modifiers[-1]].kind == "f":
        return add_floats(operands, instruction)
    return elementwise(operands, instruction, only_dtype(instruction), np.add)


@opcode("mul")
def mul(operands: Operands, instruction: Instruction) -> Run:
    *part, kind = instruction.modifiers
    dtype = DTYPES[kind]
    if dtype.kind == "f":
        return elementwise(operands, instruction, only_dtype(instruction), np.multiply)
    if part == ["lo"]:
        return elementwise(operands, instruction, dtype, np.multiply)
    if part == ["hi"]:
        return elementwise(operands, instruction, dtype, high_half)
    if part == ["wide"]:
        wide = np.dtype(f"{dtype.kind}{2 * dtype.itemsize}")
        return elementwise(operands, instruction, dtype, lambda a, b: a.astype(wide) * b.astype(wide), wide)
    raise unsupported(instruction)


@opcode("mad")
def mad(operands: Operands, instruction: Instruction) -> Run:
    part, kind = instruction.modifiers
    dtype = DTYPES[kind]
    wide = np.dtype(f"{dtype.kind}{2 * dtype.itemsize}") if part == "wide" else dtype
    if part not in ("lo", "wide"):
        raise unsupported(instruction)
    to, *factors, added = instruction.operands
    write, c = operands.target(to, wide), operands.source(added, wide)
    a, b = (operands.source(text, dtype) for text in factors)
    return lambda mask: write(a().astype(wide) * b().astype(wide) + c(), mask)


@opcode("div")
def div(operands: Operands, instruction: Instruction) -> Run:
    if instruction.modifiers[0] == "rn":
        return elementwise(operands, instruction, DTYPES[instruction.modifiers[1]], np.divide)
    return integer_division(operands, instruction, truncated_quotient)


@opcode("rem")
def rem(operands: Operands, instruction: Instruction) -> Run:
    return integer_division(operands, instruction, np.fmod)


def integer_division(
    operands: Operands, instruction: Instruction, function: Callable[..., np.ndarray]
) -> Run:
    dtype = only_dtype(instruction)
    to, *others = instruction.operands
    write = operands.target(to, dtype)
    a, b = (operands.source(text, dtype) for text in others)

    def run(mask: Mask) -> None:
        divisor = operands.spread(b())
        zero = divisor == 0
        if (zero if mask is None else zero & mask).any():
            raise PTXError(f"line {instruction.line}: division by zero: {instruction.text}")
        write(function(a(), np.where(zero, dtype.type(1), divisor)), mask)

    return run


APPROXIMATIONS = {("rcp", "f32"): reciprocal, ("rcp", "f64"): rough_reciprocal, ("ex2", "f32"): power_of_two}


@opcode("rcp", "ex2")
def approximation(operands: Operands, instruction: Instruction) -> Run:
    *modes, kind = instruction.modifiers
    if modes != ["approx", "ftz"]:
        raise unsupported(instruction)
    function = APPROXIMATIONS[instruction.opcode, kind]
    return elementwise(operands, instruction, DTYPES[kind], function)


@opcode("sqrt")
def sqrt(operands: Operands, instruction: Instruction) -> Run:
    rounding, kind = instruction.modifiers
    if rounding != "rn":
        raise unsupported(instruction)
    return elementwise(operands, instruction, DTYPES[kind], np.sqrt)


# ---- operations of one dtype -----------------------------------------------------------------------------


def plain_maker(function: Callable[..., np.ndarray]) -> Maker:
    def make(operands: Operands, instruction: Instruction) -> Run:
        return elementwise(operands, instruction, only_dtype(instruction), function)

    return make


def smaller(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.fmin(a, b) if a.dtype.kind == "f" else np.minimum(a, b)


def larger(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.fmax(a, b) if a.dtype.kind == "f" else np.maximum(a, b)


PLAIN = {
    "sub": np.subtract, "neg": np.negative, "abs": np.abs, "min": smaller, "max": larger,
    "copysign": lambda sign, size: np.copysign(size, sign), "and": np.bitwise_and, "or": np.bitwise_or,
    "xor": np.bitwise_xor, "not": np.invert,
}  # fmt: skip
for name, function in PLAIN.items():
    opcode(name)(plain_maker(function))


@opcode("shl", "shr")
def shift(operands: Operands, instruction: Instruction) -> Run:
    """By the width of a number or more, all of its bits leave."""
    dtype = only_dtype(instruction)
    to, number, distance = instruction.operands
    write, value = operands.target(to, dtype), operands.source(number, dtype)
    by = operands.source(distance, unsigned(4))
    function = np.left_shift if instruction.opcode == "shl" else np.right_shift
    keeps_sign = dtype.kind == "i" and instruction.opcode == "shr"
    bits = 8 * dtype.itemsize

    def run(mask: Mask) -> None:
        count = by()
        shifted = function(value(), np.minimum(count, np.uint32(bits - 1)).astype(dtype))
        if not keeps_sign:
            shifted = np.where(count >= bits, dtype.type(0), shifted)
        write(shifted, mask)

    return run


@opcode("bfi")
def bfi(operands: Operands, instruction: Instruction) -> Run:
    """Insert the low bits of a number into another one."""
    dtype = only_dtype(instruction)
    to, inserted, into, position, length = instruction.operands
    write = operands.target(to, dtype)
    a, b = operands.source(inserted, dtype), operands.source(into, dtype)
    field = dtype.type(((1 << int(length)) - 1) << int(position))
    shift = dtype.type(int(position))
    return lambda mask: write((b() & ~field) | ((a() << shift) & field), mask)


@opcode("selp")
def selp(operands: Operands, instruction: Instruction) -> Run:
    dtype = only_dtype(instruction)
    to, if_true, if_false, predicate = instruction.operands
    write, chosen = operands.target(to, dtype), operands.predicate(predicate)
    a, b = operands.source(if_true, dtype), operands.source(if_false, dtype)
    return lambda mask: write(np.where(chosen(), a(), b()), mask)


COMPARISONS = {
    "eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater,
    "ge": np.greater_equal,
}  # fmt: skip


def compare(name: str, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Comparisons with NaN are false, but for those with a u behind their names."""
    if name in COMPARISONS and a.dtype.kind != "f":
        return COMPARISONS[name](a, b)
    unordered = np.isnan(a) | np.isnan(b)
    if name in ("num", "nan"):
        return unordered == (name == "nan")
    if name in COMPARISONS:
        return COMPARISONS[name](a, b) & ~unordered
    return COMPARISONS[name.removesuffix("u")](a, b) | unordered


@opcode("setp")
def setp(operands: Operands, instruction: Instruction) -> Run:
    name, kind = instruction.modifiers
    if name not in ("num", "nan") and name.removesuffix("u") not in COMPARISONS:
        raise unsupported(instruction)
    to, first, second = instruction.operands
    write, dtype = operands.target(to, DTYPES["pred"]), DTYPES[kind]
    a, b = operands.source(first, dtype), operands.source(second, dtype)
    return lambda mask: write(compare(name, a(), b()), mask)


# ---- moves and conversions -------------------------------------------------------------------------------


@opcode("mov")
def mov(operands: Operands, instruction: Instruction) -> Run:
    dtype = only_dtype(instruction)
    to, source = instruction.operands
    if to.startswith("{"):
        return take_apart(operands, split_operands(to[1:-1]), source, dtype)
    if source.startswith("{"):
        return put_together(operands, to, split_operands(source[1:-1]), dtype)
    return elementwise(operands, instruction, dtype, lambda a: a)


def take_apart(operands: Operands, names: list[str], source: str, dtype: np.dtype) -> Run:
    part = unsigned(dtype.itemsize // len(names))
    value, writes = operands.source(source, dtype), [operands.target(name, part) for name in names]

    def run(mask: Mask) -> None:
        parts = np.array(operands.spread(value())).view(part)
        for k, write in enumerate(writes):
            write(parts[k :: len(names)], mask)

    return run


def put_together(operands: Operands, to: str, names: list[str], dtype: np.dtype) -> Run:
    part = unsigned(dtype.itemsize // len(names))
    values, write = [operands.source(name, part) for name in names], operands.target(to, dtype)

    def run(mask: Mask) -> None:
        parts = np.stack([operands.spread(value()) for value in values], axis=1)
        write(parts.view(dtype)[:, 0], mask)

    return run


@opcode("cvt")
def cvt(operands: Operands, instruction: Instruction) -> Run:
    """Among integers, among floats, and from integers to floats."""
    *modes, to_kind, from_kind = instruction.modifiers
    to_dtype, from_dtype = DTYPES[to_kind], DTYPES[from_kind]
    to, source = instruction.operands
    write, value = operands.target(to, to_dtype), operands.source(source, from_dtype)
    is_plain = modes == [] and (from_dtype.kind == "f") == (to_dtype.kind == "f")
    if is_plain or (modes == ["rn"] and to_dtype.kind == "f"):
        return lambda mask: write(value().astype(to_dtype), mask)
    if modes == ["sat"] and to_kind == from_kind == "f32":
        # NaN becomes 0.
        return lambda mask: write(np.fmax(np.fmin(value(), np.float32(1)), np.float32(0)), mask)
    raise unsupported(instruction)


@opcode("cvta")
def cvta(operands: Operands, instruction: Instruction) -> Run:
    """Generic addresses of global memory are those of global memory."""
    if instruction.modifiers != ("to", "global", "u64"):
        raise unsupported(instruction)
    return elementwise(operands, instruction, DTYPES["u64"], lambda a: a)
