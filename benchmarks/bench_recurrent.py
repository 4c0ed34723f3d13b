"""Layers on full batches: forward, a training step, and the streaming step."""

import numba
import numpy as np

import numbarnn
from benchmarks.problems import CELLS, LAYERS, SHAPES, Trainer, parse_shape
from numbarnn.kernels import gru_step, lstm_step, rnn_step


class Layers:
    """Forward, and forward with backward and changed weights, float32."""

    params = (list(CELLS), [str(shape) for shape in SHAPES])
    param_names = ("cell", "B,T,I,H")

    def setup(self, cell, shape):
        self.trainer = Trainer(cell, parse_shape(shape))
        self.trainer.step()
        self.trainer.forward()

    def time_forward(self, cell, shape):
        self.trainer.forward()

    def time_train_step(self, cell, shape):
        self.trainer.step()

    def peakmem_train_step(self, cell, shape):
        self.trainer.step()


class Ragged:
    """Two bidirectional layers on rows of every length from 1 to 100."""

    params = ("lstm", "gru")
    param_names = ("cell",)

    def setup(self, cell):
        rng = np.random.default_rng(0)
        lengths = np.linspace(1, 100, 32).astype(int)
        self.x = [rng.standard_normal((length, 32), dtype=np.float32) for length in lengths]
        self.dy = [rng.standard_normal((length, 128), dtype=np.float32) for length in lengths]
        self.layer = LAYERS[cell](64, num_layers=2, bidirectional=True)
        self.time_train_step(cell)

    def time_train_step(self, cell):
        self.layer.forward(self.x, training=True)
        self.layer.backward(self.dy)


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


class Streaming:
    """A thousand steps in the user's own compiled loop, one row, 4 inputs."""

    params = (list(CELLS), [16, 32, 64])
    param_names = ("cell", "H")
    streams = {"lstm": stream_lstm, "gru": stream_gru, "rnn": stream_rnn}

    def setup(self, cell, hidden_size):
        layer = LAYERS[cell](hidden_size)
        layer.build(4, seed=0)
        self.weights = layer.kernel_weights()
        self.signal = np.random.default_rng(0).standard_normal((1000, 4), dtype=np.float32)
        count = 2 if cell == "lstm" else 1
        self.states = [np.zeros(hidden_size, np.float32) for _ in range(count)]
        self.time_thousand_steps(cell, hidden_size)
        y, _ = layer.forward(self.signal[None])
        np.testing.assert_allclose(self.states[0], y[0, -1], atol=1e-5)

    def time_thousand_steps(self, cell, hidden_size):
        self.streams[cell](self.weights, self.signal, *self.states)


class Fit:
    """An epoch of a small classifier on the ragged Japanese Vowels."""

    def setup(self):
        (self.x, self.y), _ = numbarnn.datasets.load_japanese_vowels()
        self.model = numbarnn.Sequential(numbarnn.GRU(64, bidirectional=True), numbarnn.Dense(9))
        self.time_epoch()

    def time_epoch(self):
        self.model.fit(self.x, self.y, epochs=1, batch_size=16, verbose=False)

    def peakmem_epoch(self):
        self.model.fit(self.x, self.y, epochs=1, batch_size=16, verbose=False)
