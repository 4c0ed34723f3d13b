"""Arithmetic of the GPU that NumPy lacks: fused products, directed rounding, upper halves of products."""

import numpy as np

from ptx_interpreter.errors import PTXError

SPLITTER = np.float64((1 << 27) + 1)  # halves the digits of a float64 (Dekker)
WIDTH_64 = (1 << 64) - 1
Pair = tuple[np.ndarray, np.ndarray]


def two_sum(a: np.ndarray, b: np.ndarray) -> Pair:
    """a + b rounded, and what rounding lost."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


def two_product(a: np.ndarray, b: np.ndarray) -> Pair:
    """a * b rounded, and what rounding lost."""
    product = a * b
    a_high = SPLITTER * a - (SPLITTER * a - a)
    b_high = SPLITTER * b - (SPLITTER * b - b)
    a_low, b_low = a - a_high, b - b_high
    return product, ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low


def two_fused(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> Pair:
    """a * b + c rounded, and what rounding lost, but for a share of 2**-105."""
    product, lost_of_product = two_product(a, b)
    total, lost_of_sum = two_sum(product, c)
    lost = lost_of_sum + lost_of_product
    return total, np.where(np.isfinite(lost), lost, 0.0)


def fused(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """a * b + c, rounded once."""
    if a.dtype == np.float32:  # the product is exact in float64
        return (a.astype(np.float64) * b.astype(np.float64) + c.astype(np.float64)).astype(np.float32)
    total, lost = two_fused(a, b, c)
    return np.where(np.isfinite(total), total + lost, a * b + c)


def rounded_down(pair: Pair, mode: str) -> np.ndarray:
    """The sum of two float64 as float32: ``rm`` rounds towards minus infinity, ``rz`` towards zero."""
    high, low = pair
    near = (high + low).astype(np.float32)
    gap, rest = two_sum(high, -near.astype(np.float64))
    exact_is_above = gap + (rest + low)
    below, above = (np.nextafter(near, np.float32(limit)) for limit in (-np.inf, np.inf))
    if mode == "rm":
        return np.where(exact_is_above < 0, below, near)
    if mode == "rz":
        negative = np.where((near < 0) & (exact_is_above > 0), above, near)
        return np.where((near > 0) & (exact_is_above < 0), below, negative)
    raise PTXError(f"rounding {mode} is not supported")


def high_half(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The upper half of a product of integers."""
    dtype = np.result_type(a, b)
    bits = 8 * dtype.itemsize
    mask = (1 << bits) - 1
    a, b = np.broadcast_arrays(np.atleast_1d(a), b)
    halves = [(int(x) * int(y) >> bits) & mask for x, y in zip(a, b, strict=True)]
    return np.array(halves, f"u{dtype.itemsize}").view(dtype)


def truncated_quotient(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    quotient = a // b
    if a.dtype.kind == "u":
        return quotient
    return quotient + ((a - quotient * b != 0) & ((a < 0) != (b < 0)))


def flushed(x: np.ndarray) -> np.ndarray:
    """Denormal numbers as zeros of their sign."""
    return np.where(np.abs(x) < np.finfo(x.dtype).tiny, np.copysign(x.dtype.type(0), x), x)


def reciprocal(x: np.ndarray) -> np.ndarray:
    """``rcp.approx.ftz.f32``, without the error of up to a unit that hardware has."""
    return flushed(np.float32(1) / flushed(x))


def rough_reciprocal(x: np.ndarray) -> np.ndarray:
    """``rcp.approx.ftz.f64``, which knows the upper halves of its argument and its result alone."""

    def upper_half(values: np.ndarray) -> np.ndarray:
        return (values.view(np.uint64) & np.uint64(WIDTH_64 - 0xFFFF_FFFF)).view(np.float64)

    return upper_half(flushed(1.0 / flushed(upper_half(x))))


def power_of_two(x: np.ndarray) -> np.ndarray:
    """``ex2.approx.ftz.f32``, without the error of up to two units that hardware has."""
    return flushed(np.exp2(flushed(x).astype(np.float64)).astype(np.float32))
