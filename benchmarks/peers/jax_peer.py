"""JAX's side of the comparison: cells with PyTorch's equations under `jax.lax.scan`, compiled.

The inputs of all steps are multiplied at once, ahead of the scan. Inputs are (T, B, I), since a scan walks
along the first axis, and weights (I, G * H), which was faster more often than not. How many steps a scan had
better unroll depends on the problem: both ways are compiled, and the faster one is taken.
"""

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.comparison.serve import median_milliseconds
from benchmarks.comparison.work import Work
from benchmarks.problems import Alternation, Shape, inputs, parameters, parse_shape


def use_threads(count: int) -> None:
    """XLA's pool has as many threads as the process has cores, and that was settled when it started."""


# Each cell takes its states and what the input and the recurrent side send to the gates.


def lstm(state, a, b):
    _, c = state
    i, f, g, o = jnp.split(a + b, 4, axis=-1)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jax.nn.sigmoid(o) * jnp.tanh(c), c


def gru(state, a, b):
    (h,) = state
    a_r, a_z, a_n = jnp.split(a, 3, axis=-1)
    b_r, b_z, b_n = jnp.split(b, 3, axis=-1)
    r, z = jax.nn.sigmoid(a_r + b_r), jax.nn.sigmoid(a_z + b_z)
    n = jnp.tanh(a_n + r * b_n)
    return ((1.0 - z) * n + z * h,)


def rnn(state, a, b):
    return (jnp.tanh(a + b),)


STEPS = {"lstm": lstm, "gru": gru, "rnn": rnn}
STATES = {"lstm": 2, "gru": 1, "rnn": 1}
UNROLLED_STEPS = (1, 4)
SECONDS_A_TRIAL = 0.1


def layer(cell: str, shape_text: str) -> Work:
    ways = [compile_layer(cell, parse_shape(shape_text), unroll) for unroll in UNROLLED_STEPS]
    calls = {name: fastest([way.calls[name] for way in ways]) for name in ways[0].calls}
    return Work(calls, ways[0].results)


def fastest(calls):
    for call in calls:
        call()  # compiles
    return min(calls, key=lambda call: median_milliseconds(call, SECONDS_A_TRIAL, least=3))


def compile_layer(cell: str, shape: Shape, unroll: int) -> Work:
    x, dy = (jnp.asarray(array.transpose(1, 0, 2)) for array in inputs(shape))
    current = {name: jnp.asarray(values.T) for name, values in parameters(cell, shape.I, shape.H).items()}
    alternation = Alternation()

    @jax.jit
    def outputs(weights, x):
        bias = weights["bias_hh_l0"]
        sums = x @ weights["weight_ih_l0"] + weights["bias_ih_l0"]
        if cell != "gru":  # whose reset gate scales that bias
            sums, bias = sums + bias, 0.0

        def step(state, a):
            state = STEPS[cell](state, a, state[0] @ weights["weight_hh_l0"] + bias)
            return state, state[0]

        zeros = (jnp.zeros((x.shape[1], shape.H)),) * STATES[cell]
        return jax.lax.scan(step, zeros, sums, unroll=unroll)[1]

    @jax.jit
    def train(weights, x, dy, factor):
        _, pull_back = jax.vjp(lambda weights: outputs(weights, x), weights)
        (gradients,) = pull_back(dy)
        # Gradients are handed out: unused, they would not be computed.
        return {name: values * factor for name, values in weights.items()}, gradients

    def forward():
        return outputs(current, x).block_until_ready()

    def step() -> None:
        new, _ = jax.block_until_ready(train(current, x, dy, alternation.next()))
        current.update(new)

    def results() -> dict[str, np.ndarray]:
        _, gradients = train(current, x, dy, 1.0)
        return {
            "y": np.asarray(forward()),
            **{name: np.asarray(values.T) for name, values in gradients.items()},
        }

    return Work({"forward": forward, "train": step}, results)
