"""A whole fit: the ragged Japanese Vowels, with the model and the settings of ``examples/quickstart.py``."""

import numpy as np

from numbarnn.datasets import load_japanese_vowels

EPOCHS = 30
QUICK_EPOCHS = 3
BATCH_SIZE = 16
HIDDEN_SIZE = 96
CLASSES = 9
INPUT_DROPOUT, OUTPUT_DROPOUT = 0.2, 0.3
LEARNING_RATE = 6e-3  # at the start; along half a cosine to 0


def load():
    """(x_train, y_train), (x_test, y_test); rows are float32 and standardised by the training part."""
    (x_train, y_train), (x_test, y_test) = load_japanese_vowels()
    steps = np.concatenate(x_train)
    mean, deviation = steps.mean(axis=0), steps.std(axis=0)
    x_train, x_test = (
        [((x - mean) / deviation).astype(np.float32) for x in part] for part in (x_train, x_test)
    )
    return (x_train, y_train), (x_test, y_test)
