"""
Tell nine speakers apart by the way they say two Japanese vowels
================================================================

Fits a bidirectional GRU on 270 utterances of 7 to 26 steps and 12 channels, and tests it on 370 others.
The settings were chosen by cross-validation within the 270: accuracy 0.985 over random folds, 0.967 over
folds that leave out consecutive recordings, 0.950 where one half of a speaker's recordings predicts the
other.
"""

import argparse

import numpy as np

import numbarnn

EPOCHS = 30
QUICK_EPOCHS = 3


def standardise(train, test):
    """Scale every channel by the mean and deviation of the training part."""
    steps = np.concatenate(train)
    mean, deviation = steps.mean(axis=0), steps.std(axis=0)
    return [[(x - mean) / deviation for x in part] for part in (train, test)]


def print_confusion(true, predicted, speakers=9):
    """Rows: who spoke. Columns: who the model heard."""
    counts = np.zeros((speakers, speakers), int)
    np.add.at(counts, (true, predicted), 1)
    print("\nconfusion (row: speaker, column: prediction)")
    print("      " + "".join(f"{speaker:5d}" for speaker in range(speakers)))
    for speaker, row in enumerate(counts):
        print(f"{speaker:5d} " + "".join(f"{count:5d}" if count else "    ." for count in row))


# %%
# The settings of the command line.

parser = argparse.ArgumentParser(description="Tell nine speakers apart by two Japanese vowels.")
parser.add_argument("--quick", action="store_true", help=f"{QUICK_EPOCHS} epochs, to see that all works")
parser.add_argument("--seed", type=int, default=0)
arguments = parser.parse_args()

# %%
# The data: lists of arrays (T_i, 12), and the speaker of each.

(x_train, y_train), (x_test, y_test) = numbarnn.datasets.load_japanese_vowels()
x_train, x_test = standardise(x_train, x_test)

# %%
# The model, and the fit. The first one on a machine compiles its kernels.

model = numbarnn.Sequential(
    numbarnn.Dropout(0.2),
    numbarnn.GRU(96, bidirectional=True, return_sequences=True),
    numbarnn.MaxOverTime(),
    numbarnn.Dropout(0.3),
    numbarnn.Dense(9),
)
history = model.fit(
    x_train,
    y_train,
    optimizer=numbarnn.AdamW(numbarnn.CosineDecay(6e-3)),
    epochs=QUICK_EPOCHS if arguments.quick else EPOCHS,
    batch_size=16,
    seed=arguments.seed,
)
model.summary()
print(
    f"\ncompiling took {history.compile_seconds:.1f} s (kept for next time),"
    f" fitting took {history.fit_seconds:.2f} s"
)

# %%
# The test part, speaker by speaker.

predicted = model.predict(x_test).argmax(axis=1)
print(f"test accuracy: {np.mean(predicted == y_test):.4f}")
print_confusion(y_test, predicted)
