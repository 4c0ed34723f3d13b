"""Whole fits: an epoch of a small classifier on the ragged Japanese Vowels."""

import numpy as np

import numbarnn
from benchmarks import vowels

SMALL_ROWS, SMALL_BATCH, SMALL_EPOCHS = 640, 32, 10
SMALL_LENGTHS, SMALL_INPUTS = (7, 30), 12
SMALL_MODELS = {"gru 16": (numbarnn.GRU, 16), "lstm 32": (numbarnn.LSTM, 32), "gru 64": (numbarnn.GRU, 64)}
ENOUGH = 0.8  # accuracy on the training part after the epochs of `setup`; guessing has 0.11


class Fit:
    def setup(self):
        (self.x, self.y), _ = vowels.load()
        self.model = numbarnn.Sequential(
            numbarnn.GRU(vowels.HIDDEN_SIZE, bidirectional=True), numbarnn.Dense(vowels.CLASSES)
        )
        self.fit(vowels.QUICK_EPOCHS)
        assert self.model.evaluate(self.x, self.y)["accuracy"] > ENOUGH

    def fit(self, epochs):
        optimizer = numbarnn.Adam(vowels.LEARNING_RATE)
        self.model.fit(
            self.x, self.y, optimizer=optimizer, epochs=epochs, batch_size=vowels.BATCH_SIZE, verbose=False
        )

    def time_epoch(self):
        self.fit(1)

    def time_predict(self):
        self.model.predict(self.x)

    def peakmem_epoch(self):
        self.fit(1)


class SmallFit:
    """Ten epochs of a small classifier on ragged rows: what is not a kernel counts here."""

    params = list(SMALL_MODELS)
    param_names = ("layer",)

    def setup(self, layer):
        rng = np.random.default_rng(0)
        lengths = rng.integers(*SMALL_LENGTHS, SMALL_ROWS)
        self.x = [rng.standard_normal((length, SMALL_INPUTS)).astype(np.float32) for length in lengths]
        self.y = np.array([int(row[:, 0].sum() > 0.0) for row in self.x])
        make, hidden_size = SMALL_MODELS[layer]
        self.model = numbarnn.Sequential(make(hidden_size), numbarnn.Dense(2))
        self.time_fit(layer)
        assert self.model.evaluate(self.x, self.y)["accuracy"] > ENOUGH

    def time_fit(self, layer):
        self.model.fit(
            self.x, self.y, optimizer=numbarnn.Adam(vowels.LEARNING_RATE), epochs=SMALL_EPOCHS,
            batch_size=SMALL_BATCH, verbose=False, seed=0,
        )  # fmt: skip
