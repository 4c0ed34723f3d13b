"""A thousand streaming steps in the user's own compiled loop: one row, 4 inputs."""

import numba
import numpy as np

from benchmarks.trainer import LAYERS
from numbarnn.kernels import gru_step, lstm_step, rnn_step

STEPS = 1000
INPUTS = 4


@numba.njit
def stream_lstm(weights, signal, h, c):
    for t in range(signal.shape[0]):
        lstm_step(weights, signal[t], h, c)


@numba.njit
def stream_gru(weights, signal, h):
    for t in range(signal.shape[0]):
        gru_step(weights, signal[t], h)


@numba.njit
def stream_rnn(weights, signal, h):
    for t in range(signal.shape[0]):
        rnn_step(weights, signal[t], h)


STREAMS = {"lstm": stream_lstm, "gru": stream_gru, "rnn": stream_rnn}


class Stream:
    """The loop with its weights and states, which go on from call to call."""

    def __init__(self, cell: str, hidden_size: int) -> None:
        self.layer = LAYERS[cell](hidden_size)
        self.layer.build(INPUTS, seed=0)
        self.function, self.weights = STREAMS[cell], self.layer.kernel_weights()
        self.signal = np.random.default_rng(0).standard_normal((STEPS, INPUTS), dtype=np.float32)
        self.states = [np.zeros(hidden_size, np.float32) for _ in range(2 if cell == "lstm" else 1)]
        self.run()
        y, _ = self.layer.forward(self.signal[None])
        np.testing.assert_allclose(self.states[0], y[0, -1], atol=1e-5)

    def run(self) -> None:
        self.function(self.weights, self.signal, *self.states)
