"""sigmoid, tanh, expm1 and softplus that vectorise, keep NaN and lose no digits in the tails.

Each is written once and takes its constants by dtype. The errors, over the whole range of float32: tanh
and expm1 within 2 ulp, sigmoid within 3, softplus within 4 (``tests/test_activations.py``).

exp(x) = 2**n * exp(r) with n = round(x / ln 2) and |r| <= ln 2 / 2 (Cody and Waite, "Software Manual for
the Elementary Functions", 1980, chapter 6); exp(r) is a Chebyshev fit.
"""

from typing import NamedTuple

import numpy as np
from numba.extending import overload

from numbarnn.jit.compile_cache import INLINED_OPTIONS, inlined, kernel
from numbarnn.jit.vector_memory import load, load_part, store, store_part
from numbarnn.jit.vectors import (
    absolute,
    copy_sign,
    divide,
    fma,
    is_float_vector,
    lane_count,
    polynomial,
    power_of_rounded,
    select,
)


class Constants(NamedTuple):
    """What the functions need for one dtype."""

    rounder: float  # adding it leaves round(x) in the last bits of the mantissa
    ln2_high: float  # ln 2 in two parts: n * ln2_high is exact
    ln2_low: float
    exp_tail: tuple[float, ...]  # (exp(r) - 1 - r) / r**2 as a polynomial in r
    sigmoid_lowest: float  # sigmoid of anything smaller rounds to 0
    sigmoid_highest: float  # and of anything larger to 1
    sigmoid_scale: int  # a power of two that keeps exp(-sigmoid_lowest) finite, and all steps normal numbers
    tanh_highest: float  # tanh of anything larger rounds to 1
    exp_lowest: float  # exp of anything smaller is no normal number
    log1p_terms: int  # of its series that count

    def of_dtype(self, dtype):
        """The numbers in the dtype that they are for: beside a plain one, which is float64 to the compiler,
        a single float32 would become float64."""
        return Constants(*(_of_dtype(dtype, value) for value in self))


def _of_dtype(dtype, value):
    if isinstance(value, tuple):
        return tuple(map(dtype, value))
    return value if isinstance(value, int) else dtype(value)


FLOAT32 = Constants(
    rounder=1.5 * 2.0**23,
    ln2_high=0.693359375,
    ln2_low=-0.00021219444005469057,
    exp_tail=(
        0.4999999403953552,
        0.1666652113199234,
        0.04166838899254799,
        0.00836874544620514,
        0.0013814540579915047,
    ),
    sigmoid_lowest=-104.0,
    sigmoid_highest=40.0,
    sigmoid_scale=-32,
    tanh_highest=10.0,
    exp_lowest=-87.0,
    log1p_terms=8,
)
FLOAT64 = Constants(
    rounder=1.5 * 2.0**52,
    ln2_high=0.6931471803691238,
    ln2_low=1.9082149292705877e-10,
    exp_tail=(
        0.5,
        0.16666666666666669,
        0.04166666666662399,
        0.008333333333330051,
        0.0013888888917281794,
        0.00019841269863105968,
        2.480152119021773e-05,
        2.7557268378684192e-06,
        2.7620138719733994e-07,
        2.5100424157005067e-08,
    ),
    sigmoid_lowest=-746.0,
    sigmoid_highest=40.0,
    sigmoid_scale=-64,
    tanh_highest=20.0,
    exp_lowest=-708.0,
    log1p_terms=17,
)
LOG2_E = 1.4426950408889634


def _sigmoid(constants):
    """1 / (1 + exp(-x)) as s / (s + s exp(-x)): with a small s nothing overflows, and the tail keeps its
    digits down to the denormal numbers."""
    rounder, ln2_high, ln2_low = constants.rounder, constants.ln2_high, constants.ln2_low
    lowest, highest, bias = constants.sigmoid_lowest, constants.sigmoid_highest, constants.sigmoid_scale
    dtype = type(rounder)
    scale = dtype(2.0**bias)
    # exp(-r) = 1 - r + r**2 (c0 - c1 r + ...)
    exp_minus = (dtype(1.0), dtype(-1.0), *(dtype((-1.0) ** k * c) for k, c in enumerate(constants.exp_tail)))

    def sigmoid(x):
        x = select(x > highest, highest, x)  # NaN stays
        x = select(x < lowest, lowest, x)
        shifted = fma(x, -LOG2_E, rounder)
        n = shifted - rounder
        r = fma(n, ln2_low, fma(n, ln2_high, x))
        return divide(scale, fma(polynomial(r, exp_minus), power_of_rounded(shifted, bias), scale))

    return sigmoid


def _tanh(constants):
    """-f / (1 + f) with f = (exp(-2 |x|) - 1) / 2, which is put together without cancellation."""
    rounder, highest = constants.rounder, constants.tanh_highest
    dtype = type(rounder)
    half_ln2_high, half_ln2_low = dtype(constants.ln2_high / 2.0), dtype(constants.ln2_low / 2.0)
    minus_two_log2_e = -2.0 * LOG2_E
    # (exp(-2 r) - 1) / 2 = -r + r**2 (2 c0 - 4 c1 r + ...)
    tail = tuple(dtype(2.0 * (-2.0) ** k * c) for k, c in enumerate(constants.exp_tail))

    def tanh(x):
        size = absolute(x)
        size = select(size > highest, highest, size)  # NaN stays
        shifted = fma(size, minus_two_log2_e, rounder)
        n = shifted - rounder
        r = fma(n, half_ln2_low, fma(n, half_ln2_high, size))
        near_zero = fma(r * r, polynomial(r, tail), -r)
        power = power_of_rounded(shifted, 0)
        f = fma(power, near_zero, fma(power, 0.5, -0.5))
        # Rounded once; f + 1.0 would round what is rounded already.
        f_plus_1 = fma(power, near_zero, fma(power, 0.5, 0.5))
        return copy_sign(divide(f, f_plus_1), x)

    return tanh


def _expm1(constants):
    """exp(x) - 1 for x <= 0, as 2**n (exp(r) - 1) + (2**n - 1), without cancellation."""
    rounder, ln2_high, ln2_low = constants.rounder, constants.ln2_high, constants.ln2_low
    lowest = -type(rounder)(4.0) * constants.tanh_highest  # of anything smaller it rounds to -1
    tail = constants.exp_tail

    def expm1(x):
        x = select(x < lowest, lowest, x)  # NaN stays
        shifted = fma(x, LOG2_E, rounder)
        n = shifted - rounder
        r = fma(n, -ln2_low, fma(n, -ln2_high, x))
        power = power_of_rounded(shifted, 0)
        return fma(power, fma(r * r, polynomial(r, tail), r), fma(power, 1.0, -1.0))

    return expm1


def _softplus(constants):
    """max(0, x) + log1p(exp(-|x|)), and log1p(u) = 2 artanh(s) with s = u / (2 + u), which is at most 1/3, by
    the series s + s**3 / 3 + s**5 / 5 + ..."""
    rounder, ln2_high, ln2_low = constants.rounder, constants.ln2_high, constants.ln2_low
    lowest, dtype = constants.exp_lowest, type(constants.rounder)
    exp_series = (dtype(1.0), dtype(1.0), *constants.exp_tail)
    artanh_series = tuple(dtype(2.0 / (2 * k + 1)) for k in range(constants.log1p_terms))

    def softplus(x):
        size = -absolute(x)
        size = select(size < lowest, lowest, size)  # NaN stays
        shifted = fma(size, LOG2_E, rounder)
        n = shifted - rounder
        r = fma(n, -ln2_low, fma(n, -ln2_high, size))
        u = polynomial(r, exp_series) * power_of_rounded(shifted, 0)
        s = divide(u, fma(u, 1.0, 2.0))
        return fma(s, polynomial(s * s, artanh_series), select(x < 0.0, 0.0, x))

    return softplus


_BY_DTYPE = {}
for _dtype, _constants in ((np.float32, FLOAT32), (np.float64, FLOAT64)):
    _typed = _constants.of_dtype(_dtype)
    _BY_DTYPE[np.dtype(_dtype)] = {
        made.__name__: made for made in (_tanh(_typed), _sigmoid(_typed), _expm1(_typed), _softplus(_typed))
    }


def tanh(x):
    """Hyperbolic tangent of a vector."""
    return function_of("tanh", x.dtype)(x)


def sigmoid(x):
    """Logistic function 1 / (1 + exp(-x)) of a vector."""
    return function_of("sigmoid", x.dtype)(x)


def expm1(x):
    """exp(x) - 1 of a vector of numbers that are not positive."""
    return function_of("expm1", x.dtype)(x)


def softplus(x):
    """log(1 + exp(x)) of a vector; where that is no normal number, next to 0."""
    return function_of("softplus", x.dtype)(x)


FUNCTIONS = (tanh, sigmoid, expm1, softplus)


def function_of(name, dtype):
    """One of these functions for vectors, or single numbers, of a floating dtype."""
    return _BY_DTYPE[np.dtype(str(dtype))][name]


def _make_known(function):
    """Let compiled code call a function on vectors."""

    @overload(function, jit_options=INLINED_OPTIONS)
    def for_the_compiler(x):
        return function_of(function.__name__, x.dtype) if is_float_vector(x) else None


for _function in FUNCTIONS:
    _make_known(_function)


@inlined
def tanh_derivative(y):
    """d tanh(x) / dx from ``y = tanh(x)``."""
    return fma(-y, y, 1.0)


@inlined
def sigmoid_derivative(y):
    """d sigmoid(x) / dx from ``y = sigmoid(x)``."""
    return fma(-y, y, y)


@inlined
def apply(function, x, out):
    """A function of vectors, of each number of a contiguous 1-D array, into `out`."""
    width = lane_count(x)
    whole = x.size // width * width
    for i in range(0, whole, width):
        store(out, i, function(load(x, i)))
    if whole < x.size:
        store_part(out, whole, function(load_part(x, whole, x.size - whole)), x.size - whole)


@kernel
def tanh_array(x, out):
    """tanh of a contiguous 1-D array into `out`."""
    apply(tanh, x, out)


@kernel
def sigmoid_array(x, out):
    """Sigmoid of a contiguous 1-D array into `out`."""
    apply(sigmoid, x, out)
