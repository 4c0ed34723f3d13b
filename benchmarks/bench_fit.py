"""Whole fits: an epoch of a small classifier on the ragged Japanese Vowels."""

import numbarnn
from benchmarks import vowels

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
