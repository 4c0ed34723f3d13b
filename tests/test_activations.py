"""tanh and sigmoid over the whole range of their dtype, in units of the last place of the exact result."""

import numpy as np
import pytest

from numbarnn.jit.activations import sigmoid_array, tanh_array

FUNCTIONS = {"tanh": tanh_array, "sigmoid": sigmoid_array}
FLOAT32_ULP = {"tanh": 2.0, "sigmoid": 3.0}
FLOAT64_ULP = 4.0
CHUNK = 1 << 20


def call(name, x):
    out = np.full_like(x, 77.0)
    FUNCTIONS[name](x, out)
    return out


def exact_float64(name, x):
    """The function by NumPy, in the precision of ``x``."""
    if name == "tanh":
        return np.tanh(x)
    e = np.exp(-np.abs(x))
    return np.where(x < 0, e, 1) / (1 + e)


def exact_in_two_parts(name, x):
    """The function of float64 ``x``, exact to far more than float64, as a sum high + low of two float64."""
    try:
        import mpmath
    except ImportError:
        if np.finfo(np.longdouble).nmant <= np.finfo(np.float64).nmant:
            pytest.skip("needs mpmath where long double is float64")
        exact = exact_float64(name, x.astype(np.longdouble))
        high = exact.astype(np.float64)
        return high, (exact - high).astype(np.float64)
    functions = {"tanh": mpmath.tanh, "sigmoid": mpmath.sigmoid}
    with mpmath.workprec(1200):  # 1 + exp(-746) takes that many bits
        exact = [functions[name](mpmath.mpf(value)) for value in x.tolist()]
        high = np.array([float(value) for value in exact])
        low = np.array([float(value - float(value)) for value in exact])
    return high, low


def float32_sweep():
    """Every 997th bit pattern, and all the patterns where a branch or a rounding may go wrong, in chunks."""
    yield from np.array_split(np.arange(0, 1 << 32, 997, dtype=np.uint64).astype(np.uint32), 5)
    around = [0.0, 2.0**-149, 2.0**-126, 2.0**-12, 0.3, 0.5, 0.625, 1.0, np.log(2) / 2, 8.3, 9.0, 9.011]
    around += [16.0, 17.0, 17.33, 87.3, 88.0, 88.72, 103.2, 103.9, 104.0, np.finfo(np.float32).max]
    centres = np.array(around + [-value for value in around], np.float32).view(np.uint32)
    offsets = np.arange(-10_000, 10_000)
    yield (centres[:, None].astype(np.int64) + offsets).ravel().astype(np.uint32)  # wraps where it must
    for low, high in [(0.5, 1.0), (-1.0, -0.5), (-104.5, -87.0)]:
        first, last = np.sort(np.array([low, high], np.float32).view(np.uint32))
        for start in range(first, last + 1, CHUNK):
            yield np.arange(start, min(start + CHUNK, last + 1), dtype=np.uint32)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_float32_over_its_whole_range(name):
    for patterns in float32_sweep():
        x = patterns.view(np.float32)
        x = x[~np.isnan(x)]
        y = call(name, x)
        exact = exact_float64(name, x.astype(np.float64))
        errors = np.abs(y - exact) / np.spacing(np.abs(exact).astype(np.float32))
        worst = np.argmax(errors)  # argmax finds a NaN too
        assert errors[worst] <= FLOAT32_ULP[name], f"{errors[worst]:.2f} ulp at x = {x[worst]!r}"
        assert np.all(np.abs(y) <= 1), "beyond 1, a derivative would change its sign"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_float64_over_its_whole_range(name):
    rng = np.random.default_rng(0)
    magnitudes = np.concatenate(
        [
            np.exp2(rng.uniform(-1074, 10, 3000)),
            np.exp2(rng.uniform(-30, 6, 3000)),
            rng.uniform(0.25, 1.0, 2000),
            rng.uniform(700.0, 750.0, 2000),
        ]
    )
    x = np.concatenate([magnitudes, -magnitudes])
    high, low = exact_in_two_parts(name, x)
    errors = np.abs((call(name, x) - high) - low) / np.spacing(np.abs(high))
    worst = np.argmax(errors)
    assert errors[worst] <= FLOAT64_ULP, f"{errors[worst]:.2f} ulp at x = {x[worst]!r}"


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_special_values(name, dtype):
    x = np.array([np.nan, -np.nan, np.inf, -np.inf, 0.0, -0.0], dtype)
    limits = {"tanh": [np.nan, np.nan, 1, -1, 0, -0.0], "sigmoid": [np.nan, np.nan, 1, 0, 0.5, 0.5]}
    expected = np.array(limits[name], dtype)
    y = call(name, x)
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(np.signbit(y[2:]), np.signbit(expected[2:]))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_tanh_is_odd(dtype):
    x = np.random.default_rng(0).standard_normal(10_001).astype(dtype) * 4
    np.testing.assert_array_equal(call("tanh", -x), -call("tanh", x))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_any_length(name, dtype):
    """A number has one result wherever it stands, and nothing is written past the end."""
    x = np.random.default_rng(0).standard_normal(70).astype(dtype)
    y = call(name, x)
    for size in range(71):
        out = np.full(72, 77.0, dtype)
        FUNCTIONS[name](x[:size], out[:size])
        np.testing.assert_array_equal(out[:size], y[:size])
        assert np.all(out[size:] == 77.0)
