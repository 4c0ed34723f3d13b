"""Single steps from a user's own compiled loop: the layer's numbers, in place, without allocation."""

import hashlib
import sys
import threading
from pathlib import Path

import numba
import numpy as np
import pytest
from conftest import LAYERS, TOLERANCE, assert_close
from numba.core.runtime import _nrt_python, rtsys

import numbarnn
from numbarnn import kernels
from numbarnn.jit.compile_cache import kernel
from numbarnn.kernels import gru_step, lstm_step, rnn_step

GUARD = 7.0  # stands around the arrays that a step may write to
STEPS = {"rnn_tanh": rnn_step, "rnn_relu": rnn_step, "lstm": lstm_step, "gru": gru_step}


KERNELS_DIGEST = hashlib.sha256(Path(kernels.__file__).read_bytes()).hexdigest()


def cached_loop(function):
    """As ``@numba.njit(nogil=True)``, but from the package's disk cache: compiling all of these takes 20 s.

    The stamp of an entry covers this file, the engine and the cells; kernels.py is covered by the name.
    """
    function.__qualname__ += KERNELS_DIGEST
    return kernel(function)


@cached_loop
def run_rnn(weights, signal, h, out):
    for t in range(signal.shape[0]):
        rnn_step(weights, signal[t], h)
        out[t] = h


@cached_loop
def run_gru(weights, signal, h, out):
    for t in range(signal.shape[0]):
        gru_step(weights, signal[t], h)
        out[t] = h


@cached_loop
def run_lstm(weights, signal, h, c, out):
    for t in range(signal.shape[0]):
        lstm_step(weights, signal[t], h, c)
        out[t] = h


RUNS = {"rnn_tanh": run_rnn, "rnn_relu": run_rnn, "lstm": run_lstm, "gru": run_gru}

each_cell = pytest.mark.parametrize("cell", LAYERS)
each_dtype = pytest.mark.parametrize("dtype", TOLERANCE)


def make_layer(cell, hidden_size, input_size, dtype="float32"):
    """A layer whose parameters, biases too, are all different from 0 and from each other."""
    name, options = LAYERS[cell]
    layer = getattr(numbarnn, name)(hidden_size, dtype=dtype, weight_initializer="pytorch", **options)
    layer.build(input_size, seed=hidden_size)
    return layer


def random_array(seed, *shape, dtype="float32"):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(dtype)


def states_of(cell, hidden_size, dtype="float32"):
    """h, and for an LSTM c."""
    return [random_array(seed, hidden_size, dtype=dtype) for seed in range(2 if cell == "lstm" else 1)]


def guarded(array):
    """A copy in the middle of a larger array, and that larger array."""
    room = np.full(array.size + 128, GUARD, array.dtype)
    inside = room[64 : 64 + array.size]
    inside[:] = array
    return inside, room


# ---- numbers ---------------------------------------------------------------------------------------------


@each_dtype
@pytest.mark.parametrize("input_size", [1, 4, 40])
@pytest.mark.parametrize("hidden_size", [1, 5, 16, 17, 64])
@each_cell
def test_steps_are_forward(cell, hidden_size, input_size, dtype):
    layer = make_layer(cell, hidden_size, input_size, dtype)
    signal = random_array(2, 6, input_size, dtype=dtype)
    states = states_of(cell, hidden_size, dtype)
    initial = tuple(state[None, None].copy() for state in states)
    y, final = layer.forward(signal[None], initial_state=initial if cell == "lstm" else initial[0])
    out = np.empty_like(y[0])
    RUNS[cell](layer.kernel_weights(), signal, *states, out)
    tolerance = {"float64": 1e-12, "float32": 1e-6}[dtype]
    assert_close(out, y[0], tolerance, dtype)
    for state, wanted in zip(states, final if cell == "lstm" else (final,), strict=True):
        assert_close(state, wanted[0, 0], tolerance, dtype)


@each_dtype
@each_cell
def test_step_from_plain_python(cell, dtype):
    layer = make_layer(cell, 17, 4, dtype)
    x, states = (
        random_array(2, 4, dtype=dtype),
        [np.zeros_like(state) for state in states_of(cell, 17, dtype)],
    )
    STEPS[cell](layer.kernel_weights(), x, *states)
    y, _ = layer.forward(x[None, None])
    assert_close(states[0], y[0, 0], 1e-6, dtype)


def test_plain_njit_gives_the_same_bits():
    """What the other tests run comes from the package's own decorator; users write Numba's."""
    weights, signal = make_layer("lstm", 17, 4).kernel_weights(), random_array(2, 6, 4)
    outs = np.empty((2, 6, 17), np.float32)
    run_lstm(weights, signal, *states_of("lstm", 17), outs[0])
    signal.flags.writeable = False  # it is only read
    numba.njit(run_lstm.py_func)(weights, signal, *states_of("lstm", 17), outs[1])
    np.testing.assert_array_equal(outs[1], outs[0])


@each_cell
def test_weights_are_a_copy(cell):
    layer = make_layer(cell, 5, 4)
    signal, weights = random_array(2, 6, 4), layer.kernel_weights()
    y, _ = layer.forward(signal[None])
    layer.set_parameters({name: values + 1.0 for name, values in layer.parameters.items()})
    layer.forward(signal[None])
    out = np.empty_like(y[0])
    RUNS[cell](weights, signal, *(np.zeros_like(state) for state in states_of(cell, 5)), out)
    assert_close(out, y[0], 1e-6)
    for array in weights:
        assert array.flags.c_contiguous
        assert array.dtype == "float32"


# ---- memory ----------------------------------------------------------------------------------------------


@each_cell
def test_nothing_is_allocated(cell):
    """What a run allocates does not depend on the number of its steps."""
    weights, states = make_layer(cell, 17, 4).kernel_weights(), states_of(cell, 17)

    def allocated_by(steps):
        signal, out = random_array(2, steps, 4), np.empty((steps, 17), np.float32)
        before = rtsys.get_allocation_stats().mi_alloc
        RUNS[cell](weights, signal, *states, out)
        return rtsys.get_allocation_stats().mi_alloc - before

    were_on = _nrt_python.memsys_stats_enabled()
    _nrt_python.memsys_enable_stats()
    try:
        assert allocated_by(1000) == allocated_by(1)
    finally:
        if not were_on:
            _nrt_python.memsys_disable_stats()


def test_long_loop():
    """A million steps take no more of the stack than one, and leave every counter as it was."""
    weights, steps = make_layer("lstm", 4, 1).kernel_weights(), 1_000_000
    signal, out = random_array(2, steps, 1), np.empty((2, steps, 4), np.float32)
    h, c = states_of("lstm", 4)
    run_lstm(weights, signal[:1], h.copy(), c.copy(), out[0])  # compiled before anything is counted
    kept = [*weights, signal, out, h, c]
    were_on = _nrt_python.memsys_stats_enabled()
    _nrt_python.memsys_enable_stats()
    try:
        users, before = [sys.getrefcount(array) for array in kept], rtsys.get_allocation_stats()
        run_lstm(weights, signal, h, c, out[0])
        after = rtsys.get_allocation_stats()
        assert [sys.getrefcount(array) for array in kept] == users
    finally:
        if not were_on:
            _nrt_python.memsys_disable_stats()
    assert after.mi_alloc - before.mi_alloc == after.mi_free - before.mi_free
    assert after.alloc - before.alloc == after.free - before.free

    # The same in many short loops, each with a stack of its own.
    h, c = states_of("lstm", 4)
    for begin in range(0, steps, 1000):
        here = slice(begin, begin + 1000)
        run_lstm(weights, signal[here], h, c, out[1, here])
    np.testing.assert_array_equal(out[1], out[0])


@each_dtype
@pytest.mark.parametrize(("hidden_size", "input_size"), [(1, 1), (5, 3), (16, 16), (17, 33)])
@each_cell
def test_nothing_around_the_arrays_is_touched(cell, hidden_size, input_size, dtype):
    weights = make_layer(cell, hidden_size, input_size, dtype).kernel_weights()
    signal, signal_room = guarded(random_array(2, 3 * input_size, dtype=dtype))
    rooms, states = [], []
    for state in states_of(cell, hidden_size, dtype):
        inside, room = guarded(state)
        states.append(inside)
        rooms.append(room)
    copies = [array.copy() for array in (signal_room, *weights)]
    out = np.empty((3, hidden_size), dtype)
    RUNS[cell](weights, signal.reshape(3, input_size), *states, out)
    for array, copy in zip((signal_room, *weights), copies, strict=True):
        np.testing.assert_array_equal(array, copy)
    for room in rooms:
        np.testing.assert_array_equal(room[:64], GUARD)
        np.testing.assert_array_equal(room[64 + hidden_size :], GUARD)
        assert not np.any(room[64 : 64 + hidden_size] == GUARD)


@each_cell
def test_two_threads_with_the_same_weights(cell):
    weights = make_layer(cell, 17, 4).kernel_weights()
    signals = [random_array(seed, 20_000, 4) for seed in range(2)]
    outs = [np.empty((20_000, 17), np.float32) for _ in range(4)]

    def run(number):
        RUNS[cell](weights, signals[number % 2], *states_of(cell, 17), outs[number])

    run(0)
    run(1)
    threads = [threading.Thread(target=run, args=(number,)) for number in (2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.testing.assert_array_equal(outs[2], outs[0])
    np.testing.assert_array_equal(outs[3], outs[1])


# ---- what is refused -------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", [-1, 1, 100])
@pytest.mark.parametrize(
    ("cell", "wrong"), [("lstm", "c"), *((cell, name) for cell in LAYERS for name in "xh")]
)
def test_wrong_sizes(cell, wrong, change):
    sizes = {"x": 4, "h": 17, "c": 17}
    sizes[wrong] += change
    names = ["h", "c"] if cell == "lstm" else ["h"]
    states = [random_array(0, sizes[name]) for name in names]
    copies = [state.copy() for state in states]
    weights = make_layer(cell, 17, 4).kernel_weights()
    signal, out = random_array(2, 3, sizes["x"]), np.zeros((3, sizes["h"]), np.float32)
    said = "x must have as many" if wrong == "x" else "h .*must have as many"
    with pytest.raises(ValueError, match=said):
        RUNS[cell](weights, signal, *states, out)
    for state, copy in zip(states, copies, strict=True):
        np.testing.assert_array_equal(state, copy)
    np.testing.assert_array_equal(out, 0.0)


def arguments(cell):
    """Good arguments of a step by name."""
    names = ["h", "c"] if cell == "lstm" else ["h"]
    return {
        "weights": make_layer(cell, 5, 4).kernel_weights(),
        "x": random_array(2, 4),
        **dict(zip(names, states_of(cell, 5), strict=True)),
    }


# Every entry is refused while the user's function is compiled; the text is that of the step, not Numba's.
WRONG_TYPES = [
    ("lstm", "x", np.zeros(4), "x must be a contiguous 1-D float32 array, not"),
    ("lstm", "h", np.zeros(5), "h must be a contiguous 1-D float32 array, not"),
    ("lstm", "c", np.zeros(5, int), "c must be a contiguous 1-D float32 array, not"),
    ("lstm", "c", np.zeros(10, np.float32)[::2], "c must be a contiguous 1-D float32 array, not"),
    ("lstm", "x", np.zeros((1, 4), np.float32), "x must be a contiguous 1-D float32 array, not"),
    ("lstm", "h", 0.0, "h must be a contiguous 1-D float32 array, not"),
    ("lstm", "weights", make_layer("gru", 5, 4).kernel_weights(), "weights must be a LSTMWeights"),
    ("lstm", "weights", tuple(make_layer("lstm", 5, 4).kernel_weights()), "weights must be a LSTMWeights"),
    ("gru", "weights", make_layer("lstm", 5, 4).kernel_weights(), "weights must be a GRUWeights"),
    ("gru", "h", np.zeros(8, np.float32)[::2], "h must be a contiguous 1-D float32 array, not"),
    ("rnn_tanh", "weights", None, "weights must be a TanhRNNWeights or ReLURNNWeights"),
    ("rnn_relu", "x", np.zeros(4, np.float16), "x must be a contiguous 1-D float32 array, not"),
]


@pytest.mark.parametrize(("cell", "name", "value", "message"), WRONG_TYPES)
def test_wrong_types(cell, name, value, message):
    step, given = STEPS[cell], {**arguments(cell), name: value}
    copies = [given[key].copy() for key in given if key not in ("weights", name)]
    loop = numba.njit(lambda *args: step(*args))
    with pytest.raises(numba.TypingError, match=f"{step.__name__}: {message}"):
        loop(*given.values())
    for copy, key in zip(copies, [key for key in given if key not in ("weights", name)], strict=True):
        np.testing.assert_array_equal(given[key], copy)


@pytest.mark.parametrize(("cell", "name"), [("lstm", "h"), ("lstm", "c"), ("gru", "h")])
def test_read_only_states_are_refused(cell, name):
    given, step = arguments(cell), STEPS[cell]
    given[name].flags.writeable = False
    with pytest.raises(numba.TypingError, match=f"{step.__name__}: {name} must be"):
        numba.njit(lambda *args: step(*args))(*given.values())
