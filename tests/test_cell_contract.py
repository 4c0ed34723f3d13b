"""What a cell may be: cells of other shapes than the library's, held to plain NumPy and its derivatives."""

import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
from canaries import canaries
from conftest import assert_same, on_gpu, sized
from numba import typeof
from numba.core import config

import numbarnn
from numbarnn import cells
from numbarnn.cells.contract import Cell
from numbarnn.jit.activations import sigmoid, sigmoid_derivative, tanh, tanh_derivative
from numbarnn.jit.vectors import fma, zero_like
from numbarnn.layers import passes, sharing
from numbarnn.layers.recurrent import Recurrent

TINY = 1e-30  # the imaginary step of a derivative: nothing is subtracted, so it can be as small as this
LENGTHS = (2, 4, 1)  # of the rows, in no order
INPUTS = 3
HIDDEN = sized(35, 3)  # several blocks of panels, and a vector that is not full


class MemoryWeights(NamedTuple):
    input: np.ndarray
    recurrent: np.ndarray
    bias: np.ndarray


class FiveWeights(NamedTuple):
    input: np.ndarray
    recurrent: np.ndarray
    bias: np.ndarray


class SplitWeights(NamedTuple):
    input: np.ndarray
    recurrent: np.ndarray
    bias: np.ndarray


def forward_memory(sums, states):
    """Three states and three sums: a memory behind a memory."""
    _, c, m = states
    a = tanh(sums[0])
    f = sigmoid(sums[1])
    o = sigmoid(sums[2])
    c_new = fma(f, c - a, a)
    m_new = fma(f, m - c_new, c_new)
    return (a, f, o), (o * tanh(m_new), c_new, m_new)


def backward_memory(saved, previous, new, dstates):
    a, f, o = saved
    _, c, m = previous
    _, c_new, m_new = new
    dh_new, dc_new, dm_new = dstates
    tanh_m = tanh(m_new)
    do = dh_new * tanh_m
    dm = fma(dh_new * o, tanh_derivative(tanh_m), dm_new)
    dc = dc_new + dm - dm * f
    df = dm * (m - c_new) + dc * (c - a)
    da = dc - dc * f
    dsums = (da * tanh_derivative(a), df * sigmoid_derivative(f), do * sigmoid_derivative(o))
    return dsums, (zero_like(dc), dc * f, dm * f)


def forward_five(sums, states):
    """One state and five sums."""
    (h,) = states
    a = tanh(sums[0])
    b = sigmoid(sums[1])
    c = tanh(sums[2])
    d = sigmoid(sums[3])
    e = sigmoid(sums[4])
    return (a, b, c, d, e), (fma(b, h, d * a + e * c),)


def backward_five(saved, previous, new, dstates):
    a, b, c, d, e = saved
    (h,) = previous
    (dh,) = dstates
    dsums = (
        dh * d * tanh_derivative(a),
        dh * h * sigmoid_derivative(b),
        dh * e * tanh_derivative(c),
        dh * a * sigmoid_derivative(d),
        dh * c * sigmoid_derivative(e),
    )
    return dsums, (dh * b,)


def forward_split(sums, states):
    """Five gates, two of them split: seven sums, of which each product fills five."""
    (h,) = states
    n_input, k_input, r_sum, z_sum, u_sum, n_recurrent, k_recurrent = sums
    r = sigmoid(r_sum)
    z = sigmoid(z_sum)
    u = sigmoid(u_sum)
    n = tanh(fma(r, n_recurrent, n_input))
    k = tanh(fma(u, k_recurrent, k_input))
    return (n, k, r, z, u, n_recurrent, k_recurrent), (fma(z, h - n, n) + u * k,)


def backward_split(saved, previous, new, dstates):
    n, k, r, z, u, n_recurrent, k_recurrent = saved
    (h,) = previous
    (dh,) = dstates
    dn = (dh - dh * z) * tanh_derivative(n)
    dk = dh * u * tanh_derivative(k)
    dz = dh * (h - n)
    dr = dn * n_recurrent
    du = dh * k + dk * k_recurrent
    dsums = (
        dn,
        dk,
        dr * sigmoid_derivative(r),
        dz * sigmoid_derivative(z),
        du * sigmoid_derivative(u),
        dn * r,
        dk * u,
    )
    return dsums, (dh * z,)


MEMORY = Cell(
    "memory", MemoryWeights, ("a", "f", "o"), ("h", "c", "m"), ("a", "f", "o"), (), forward_memory,
    backward_memory,
)  # fmt: skip
FIVE = Cell(
    "five", FiveWeights, tuple("abcde"), ("h",), tuple("abcde"), (), forward_five, backward_five
)  # fmt: skip
SPLIT = Cell(
    "split", SplitWeights, tuple("rznuk"), ("h",), tuple("rzu"), tuple("nk"), forward_split, backward_split
)  # fmt: skip
PEEPHOLE = cells.CELLS["lstm_peephole"]  # the library's own cell with vectors of its units
for _cell in (MEMORY, FIVE, SPLIT):
    cells.register(_cell)


def plain_sigmoid(x):
    return 0.5 * (1.0 + np.tanh(0.5 * x))


def plain_memory(a, b, states):
    """The equations once more, from what the input and the recurrent side send to each gate."""
    _, c, m = states
    c_new = plain_sigmoid(a[1] + b[1]) * c + (1.0 - plain_sigmoid(a[1] + b[1])) * np.tanh(a[0] + b[0])
    m_new = plain_sigmoid(a[1] + b[1]) * m + (1.0 - plain_sigmoid(a[1] + b[1])) * c_new
    return plain_sigmoid(a[2] + b[2]) * np.tanh(m_new), c_new, m_new


def plain_five(a, b, states):
    s = a + b
    return (
        plain_sigmoid(s[1]) * states[0]
        + plain_sigmoid(s[3]) * np.tanh(s[0])
        + plain_sigmoid(s[4]) * np.tanh(s[2]),
    )


def plain_split(a, b, states):
    r, z, u = (plain_sigmoid(a[g] + b[g]) for g in (0, 1, 3))
    n = np.tanh(a[2] + r * b[2])
    k = np.tanh(a[4] + u * b[4])
    return ((1.0 - z) * n + z * states[0] + u * k,)


def plain_peephole(a, b, states, p_i, p_f, p_o):
    _, c = states
    s = a + b
    c_new = plain_sigmoid(s[1] + p_f * c) * c + plain_sigmoid(s[0] + p_i * c) * np.tanh(s[2])
    return plain_sigmoid(s[3] + p_o * c_new) * np.tanh(c_new), c_new


# The gates of SPLIT in the parameters: r, z, n, u, k.
PLAIN: dict[str, tuple[Cell, Callable[..., Any]]] = {
    "memory": (MEMORY, plain_memory),
    "five": (FIVE, plain_five),
    "split": (SPLIT, plain_split),
    "lstm_peephole": (PEEPHOLE, plain_peephole),
}
each_cell = pytest.mark.parametrize("name", PLAIN)


class Problem(NamedTuple):
    """All that goes into a layer, and the gradients that backward begins with."""

    parameters: dict[str, np.ndarray]
    x: list[np.ndarray]
    initial_state: tuple[np.ndarray, ...]
    dy: list[np.ndarray]
    dstate: tuple[np.ndarray, ...]


def make_layer(name, num_layers, bidirectional, device="cpu", dtype="float64"):
    cell, _ = PLAIN[name]
    layer = Recurrent(
        cell, HIDDEN, num_layers, bidirectional, True, 0.0, True, dtype, device, "float32", "glorot_uniform",
        "orthogonal",
    )  # fmt: skip
    layer.build(INPUTS, seed=3)
    return layer


def problem_for(layer, lengths):
    rng = np.random.default_rng(7)
    count = layer.num_layers * layer.directions

    def states():
        return tuple(rng.standard_normal((count, len(lengths), HIDDEN)) for _ in layer.cell.states)

    parameters = {key: rng.uniform(-0.4, 0.4, value.shape) for key, value in layer.parameters.items()}
    x, dy = (
        [rng.standard_normal((length, width)) for length in lengths]
        for width in (INPUTS, HIDDEN * layer.directions)
    )
    return Problem(parameters, x, states(), dy, states())


def plain_forward(layer, problem):
    """Outputs and final states, one row and one step at a time."""
    cell, step = PLAIN[layer.cell.name]
    finals: Any = [np.zeros_like(state) for state in problem.initial_state]
    outputs = []
    for row, inputs in enumerate(problem.x):
        for level in range(layer.num_layers):
            sides = []
            for direction in range(layer.directions):
                k = level * layer.directions + direction
                suffix = f"_l{level}" + ("_reverse" if direction else "")
                of = {key: problem.parameters[key + suffix] for key in ("weight_ih", "weight_hh")}
                biases = {key: problem.parameters[key + suffix] for key in ("bias_ih", "bias_hh")}
                vectors = [problem.parameters[key + suffix] for key in cell.vectors]
                states = tuple(state[k, row] for state in problem.initial_state)
                side: Any = [None] * len(inputs)
                for t in range(len(inputs))[:: -1 if direction else 1]:
                    a = (of["weight_ih"] @ inputs[t] + biases["bias_ih"]).reshape(len(cell.gates), HIDDEN)
                    b = (of["weight_hh"] @ states[0] + biases["bias_hh"]).reshape(len(cell.gates), HIDDEN)
                    states = step(a, b, states, *vectors)
                    side[t] = states[0]
                for final, state in zip(finals, states, strict=True):
                    final[k, row] = state
                sides.append(np.array(side))
            inputs = np.concatenate(sides, axis=1)
        outputs.append(inputs)
    return outputs, finals


def plain_derivative(layer, problem, directions):
    """The derivative of ``sum(y dy) + sum(final state * dstate)`` where the arguments move so."""
    moved = Problem(
        {key: value + 1j * TINY * directions.parameters[key] for key, value in problem.parameters.items()},
        [row + 1j * TINY * way for row, way in zip(problem.x, directions.x, strict=True)],
        tuple(
            state + 1j * TINY * way
            for state, way in zip(problem.initial_state, directions.initial_state, strict=True)
        ),
        problem.dy,
        problem.dstate,
    )
    outputs, finals = plain_forward(layer, moved)
    total = sum((y * dy).sum() for y, dy in zip(outputs, problem.dy, strict=True))
    total += sum((state * dstate).sum() for state, dstate in zip(finals, problem.dstate, strict=True))
    return total.imag / TINY


def as_given(states):
    """States as the users of a layer pass them."""
    return states[0] if len(states) == 1 else states


def run(layer, problem):
    layer.set_parameters(problem.parameters)
    y, state = layer.forward(problem.x, initial_state=as_given(problem.initial_state), training=True)
    dx, dinitial = layer.backward(problem.dy, dstate=as_given(problem.dstate))
    gradients = {key: value.copy() for key, value in layer.gradients.items()}
    one = len(layer.cell.states) == 1
    return y, (state,) if one else state, dx, (dinitial,) if one else dinitial, gradients


def check(layer, problem):
    """A layer against NumPy: outputs, final states, and the derivative along directions of each argument."""
    y, state, dx, dinitial, gradients = run(layer, problem)
    wanted, finals = plain_forward(layer, problem)
    for found, expected in zip([*y, *state], [*wanted, *finals], strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)
    rng = np.random.default_rng(11)
    still = Problem(
        {key: np.zeros_like(value) for key, value in problem.parameters.items()},
        [np.zeros_like(row) for row in problem.x],
        tuple(np.zeros_like(part) for part in problem.initial_state),
        problem.dy,
        problem.dstate,
    )
    for key, gradient in gradients.items():
        ways = {**still.parameters, key: rng.standard_normal(gradient.shape)}
        expected = plain_derivative(layer, problem, still._replace(parameters=ways))
        np.testing.assert_allclose((gradient * ways[key]).sum(), expected, rtol=1e-9, err_msg=key)
    ways = [rng.standard_normal(row.shape) for row in problem.x]
    found = sum((row * way).sum() for row, way in zip(dx, ways, strict=True))
    expected = plain_derivative(layer, problem, still._replace(x=ways))
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    ways = tuple(rng.standard_normal(part.shape) for part in dinitial)
    found = sum((part * way).sum() for part, way in zip(dinitial, ways, strict=True))
    expected = plain_derivative(layer, problem, still._replace(initial_state=ways))
    np.testing.assert_allclose(found, expected, rtol=1e-9)


@each_cell
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("num_layers", [1, 2])
def test_cells_of_other_shapes(name, num_layers, bidirectional):
    layer = make_layer(name, num_layers, bidirectional)
    check(layer, problem_for(layer, LENGTHS))


@each_cell
def test_cells_of_other_shapes_on_one_row(name):
    layer = make_layer(name, 1, False)
    check(layer, problem_for(layer, (5,)))


@pytest.mark.cuda
@on_gpu
@each_cell
@pytest.mark.parametrize("by_steps", [False, True])
def test_cells_of_other_shapes_on_a_gpu(name, by_steps, monkeypatch):
    from numbarnn.layers.cuda import recurrent_pass

    if by_steps:
        monkeypatch.setattr(recurrent_pass, "shared_memory", lambda: 0)
    layer = make_layer(name, 1, by_steps, device="cuda")
    check(layer, problem_for(layer, LENGTHS))


@each_cell
def test_threads_that_divide_the_hidden_units_of_other_cells(name, set_threads, monkeypatch):
    monkeypatch.setattr(passes, "OPERATIONS_WORTH_A_THREAD", 1)
    for least in ("WEIGHTS_BYTES_FOR_ALL_ROWS", "OPERATIONS_WORTH_A_BARRIER"):
        monkeypatch.setattr(sharing, least, 0)
    problem = problem_for(make_layer(name, 1, False), LENGTHS)
    results = []
    for threads in (1, 2):
        set_threads(threads)
        layer = make_layer(name, 1, False)
        results.append(run(layer, problem))
        assert layer.store._spare[True][0].plan.sharing.by_units == (threads == 2)
    assert_same(*results)


@each_cell
@pytest.mark.parametrize("bidirectional", [False, True])
def test_threads_that_divide_rows_and_directions_of_other_cells(
    name, bidirectional, set_threads, monkeypatch
):
    monkeypatch.setattr(passes, "OPERATIONS_WORTH_A_THREAD", 1)
    problem = problem_for(make_layer(name, 2, bidirectional), LENGTHS)
    results = []
    for threads in (1, 2):
        set_threads(threads)
        layer = make_layer(name, 2, bidirectional)
        results.append(run(layer, problem))
        sharing = layer.store._spare[True][0].plan.sharing
        assert sharing.threads == threads
        assert sharing.by_directions == (threads == 2 and bidirectional)
    assert_same(*results)


@each_cell
def test_other_cells_on_one_batch_after_another(name):
    """Nothing of a batch is left in the gradients of the next one, shorter or longer."""
    layer = make_layer(name, 1, False)
    for lengths in ((5, 3, 4, 5), LENGTHS, (6, 6, 2, 1)):
        check(layer, problem_for(layer, lengths))


@each_cell
@pytest.mark.parametrize("bidirectional", [False, True])
def test_other_cells_write_nothing_but_their_arrays(name, bidirectional):
    results = []
    for around in (canaries, contextlib.nullcontext):
        with around():
            layer = make_layer(name, 2, bidirectional)
            results.append(run(layer, problem_for(layer, LENGTHS)))
    assert_same(*results)


@each_cell
def test_steps_of_other_cells(name):
    """Step by step, and all steps in one call."""
    layer = make_layer(name, 2, False)
    layer.set_parameters(problem_for(layer, LENGTHS).parameters)
    x = np.random.default_rng(1).standard_normal((2, 4, INPUTS))
    y, state = layer.forward(x)
    so_far = None
    for t in range(x.shape[1]):
        y_t, so_far = layer.step(x[:, t], so_far)
        np.testing.assert_allclose(y_t, y[:, t], rtol=1e-12)
    assert_close = np.testing.assert_allclose
    for found, wanted in zip((so_far,) if len(layer.cell.states) == 1 else so_far,
                             (state,) if len(layer.cell.states) == 1 else state, strict=True):  # fmt: skip
        assert_close(found, wanted, rtol=1e-12)


@each_cell
def test_a_fit_of_other_cells_is_a_step_along_the_gradient(name, device):
    """The step of a fit is recorded otherwise than a call of backward."""
    rate, layer = 0.5, make_layer(name, 1, False, device=device)
    problem = problem_for(layer, LENGTHS)
    layer.set_parameters(problem.parameters)
    layer.return_sequences = False
    wanted = np.random.default_rng(2).standard_normal((len(LENGTHS), HIDDEN))
    no_states = tuple(np.zeros_like(state) for state in problem.initial_state)
    _, state = layer.forward(problem.x, training=True)
    h = state if len(no_states) == 1 else state[0]
    dh = (2.0 / wanted.size * (h[0] - wanted))[None]
    layer.backward([0.0 * row for row in problem.dy], dstate=as_given((dh, *no_states[1:])))
    expected = {key: value - rate * layer.gradients[key] for key, value in problem.parameters.items()}
    optimizer = numbarnn.SGD(learning_rate=rate)
    numbarnn.Sequential(layer).fit(
        problem.x, wanted, loss="mse", optimizer=optimizer, epochs=1, batch_size=3, verbose=False
    )
    for key, value in layer.parameters.items():
        np.testing.assert_allclose(value, expected[key], rtol=1e-10, atol=1e-13, err_msg=key)


@pytest.mark.parametrize("by_units", [False, True])
def test_long_sums_of_vectors(by_units, set_threads, monkeypatch):
    """What 200,000 equal steps give to a vector's gradient, beside float64."""
    if by_units:
        monkeypatch.setattr(passes, "OPERATIONS_WORTH_A_THREAD", 1)
        monkeypatch.setattr(sharing, "FEW_ROWS_OPERATIONS_WORTH_A_BARRIER", 0)
    set_threads(1 + by_units)
    found = {}
    for dtype in ("float32", "float64"):
        layer = make_layer("lstm_peephole", 1, False, dtype=dtype)
        layer.build(INPUTS, seed=3)
        x = np.full((1, sized(200_000, 200), INPUTS), 0.1, dtype)
        y, _ = layer.forward(x, training=True)
        layer.backward(np.full(y.shape, 0.1, dtype))
        assert layer.store._spare[True][0].plan.sharing.by_units == by_units
        found[dtype] = {name: layer.gradients[name + "_l0"].copy() for name in layer.cell.vectors}
    for name, gradient in found["float32"].items():
        wanted = found["float64"][name]
        assert np.max(np.abs(gradient - wanted)) < 1e-5 * np.max(np.abs(wanted)), name


def test_vectors_start_at_0_or_as_biases():
    layer = make_layer("lstm_peephole", 1, True)
    assert layer.parameters["weight_co_l0_reverse"].shape == (HIDDEN,)
    assert not layer.parameters["weight_co_l0_reverse"].any()
    layer.weight_initializer = "pytorch"
    layer.build(INPUTS, seed=3)
    assert 0.0 < np.abs(layer.parameters["weight_co_l0_reverse"]).max() <= HIDDEN**-0.5


@pytest.mark.skipif(bool(config.DISABLE_JIT), reason="nothing is compiled")
def test_kernels_of_other_cells_are_not_cached():
    """The stamp of the cache does not know their sources."""
    from numbarnn.cells.lstm import LSTMWeights
    from numbarnn.jit.kernel_cache import _is_of_others

    panels, bias = np.zeros((1, 1, 1)), np.zeros(1)
    for arrays in ((panels, panels, bias), (bias, bias, bias)):  # two types of tuples to Numba
        assert _is_of_others((typeof(1), typeof(FiveWeights(*arrays))))
        assert not _is_of_others((typeof(1), typeof(LSTMWeights(*arrays))))


def test_a_layer_of_three_states_reads_three():
    layer = make_layer("memory", 1, False)
    state = np.zeros((1, 1, HIDDEN))
    with pytest.raises(ValueError, match=r"initial_state must be a tuple \(h, c, m\) of arrays"):
        layer.forward(np.zeros((1, 2, INPUTS)), initial_state=(state, state))
    bad = state.copy()
    bad[0, 0, 1] = np.nan
    with pytest.raises(ValueError, match=r"initial_state \(m\)"):
        layer.forward(np.zeros((1, 2, INPUTS)), initial_state=(state, state, bad))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": tuple}, "weights must be"),
        ({"states": ("c", "h")}, "states must begin"),
        ({"states": ()}, "states must begin"),
        ({"fused": ("a", "b")}, "fused and split"),
        ({"fused": tuple("abcde"), "split": ("a",)}, "fused and split"),
        ({"gates": (), "fused": ()}, "fused and split"),
        ({"forget_gate": "f"}, "forget_gate must be"),
        ({"vectors": ("p",)}, "weights must be"),
        ({"vectors": ("p", "p"), "weights": PEEPHOLE.weights}, "vectors must be"),
        ({"vectors": ("bias_ih",), "weights": PEEPHOLE.weights}, "vectors must be"),
        ({"vectors": ("h",), "weights": PEEPHOLE.weights}, "vectors must be"),
    ],
)
def test_a_cell_that_does_not_fit_together_is_refused(changes, message):
    parts = {
        "name": "five", "weights": FiveWeights, "gates": tuple("abcde"), "states": ("h",),
        "fused": tuple("abcde"), "split": (), "forward": forward_five, "backward": backward_five,
    }  # fmt: skip
    with pytest.raises(ValueError, match=message):
        Cell(**{**parts, **changes})


def test_a_class_of_weights_stands_for_one_cell():
    cells.register(FIVE)  # once more is no harm
    other = Cell(
        "other", FiveWeights, tuple("abcde"), ("h",), tuple("abcde"), (), forward_five, backward_five
    )  # fmt: skip
    with pytest.raises(ValueError, match="FiveWeights belongs to the cell 'five' already"):
        cells.register(other)
