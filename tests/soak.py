"""Small fits and predictions, thousands in one process: is the memory flat, are threads left over?

    python tests/soak.py

runs 10,000 fits and 1,000,000 predictions, and prints the resident memory after each tenth;
``--fits`` and ``--predictions`` take other numbers.
"""

import argparse
import gc
import sys
import threading
import time
from pathlib import Path

import numpy as np

import numbarnn
from numbarnn import Dense, Dropout, Embedding, MaxOverTime, MeanOverTime, Sequential
from numbarnn.layers.recurrent import Recurrent

TENTHS = 10
# Caches fill up and the allocator finds its sizes in the first tenths.
WARM_UP_TENTHS = 3
# What an allocator may need more after the warm-up: blocks of a megabyte, and for each use as much as the
# holes in them came to.
ALLOWED_GROWTH = 3 * 2**20
ALLOWED_GROWTH_OF_A_USE = 8
INPUTS, CLASSES, ROWS = 3, 2, 6
PREDICTIONS_A_MODEL = 100
MOST_THREADS = 3


def resident_bytes():
    """Of this process, as Linux counts."""
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * 4096


def thread_count():
    """Of this process, those that Python does not know as well."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("Threads:")[2].split()[0])


def models():
    """Unbuilt ones, a different one each time."""
    return [
        Sequential(numbarnn.LSTM(5), Dense(CLASSES)),
        Sequential(numbarnn.GRU(4, bidirectional=True, num_layers=2, dropout=0.2), Dense(CLASSES)),
        Sequential(Dropout(0.1), numbarnn.RNN(7, return_sequences=True), MeanOverTime(), Dense(CLASSES)),
        Sequential(numbarnn.LSTM(3, return_sequences=True), MaxOverTime(), Dense(CLASSES, "tanh")),
        Sequential(Embedding(9, 4), numbarnn.GRU(6), Dense(CLASSES)),
    ]


def data(number, rng):
    """Rows of lengths that are drawn, for the model of this number."""
    lengths = rng.integers(1, 9, int(rng.integers(2, ROWS + 1)))
    if number == len(models()) - 1:
        return [rng.integers(0, 9, length) for length in lengths]
    return [rng.standard_normal((length, INPUTS)).astype(np.float32) for length in lengths]


def fit(turn, rng):
    """A model of its own, fitted in one of several ways; it is gone afterwards."""
    made = models()
    number = turn % len(made)
    x = data(number, rng)
    options = {"clip_norm": 1.0} if turn % 2 else {"sample_weight": np.ones(len(x))}
    made[number].fit(
        x, rng.integers(0, CLASSES, len(x)), epochs=2, batch_size=4, verbose=False, seed=turn,
        optimizer=("sgd", "adam", "rmsprop")[turn % 3], **options,
    )  # fmt: skip
    return made[number]


def predict(model, number, turn, rng):
    """One prediction in one of several ways."""
    recurrent = next(layer for layer in model.layers if isinstance(layer, Recurrent))
    steps = int(rng.integers(1, 9))
    x = rng.standard_normal((2, steps, recurrent.input_size)).astype(np.float32)
    if turn % 4 == 0:
        recurrent.forward(x)
    elif turn % 4 == 1 and not recurrent.bidirectional:
        recurrent.step(x[:, 0])
    else:
        model.predict(data(number, rng), batch_size=4)


def predict_on_threads(model, number, seed):
    """Callers that come and go."""

    def use(caller):
        rng = np.random.default_rng([seed, caller])
        for turn in range(3):
            predict(model, number, turn, rng)

    callers = [threading.Thread(target=use, args=(caller,)) for caller in range(2)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()


class Growth:
    """Resident memory and threads, since the warm-up."""

    def __init__(self):
        self.memory = self.threads = 0

    def note(self, tenth, count, uses):
        """After a tenth, `count` uses so far."""
        gc.collect()
        memory, threads = resident_bytes(), thread_count()
        if tenth <= WARM_UP_TENTHS:
            self.memory, self.threads = max(memory, self.memory), max(threads, self.threads)
        print(f"{count} {uses}: {memory / 2**20:.1f} MB resident, {threads} threads", flush=True)
        grown = memory - self.memory
        if grown > ALLOWED_GROWTH + ALLOWED_GROWTH_OF_A_USE * count:
            sys.exit(f"the memory grew by {grown / 2**20:.1f} MB")
        if threads > self.threads:
            sys.exit(f"{threads - self.threads} threads are left over")


def run(fits, predictions):
    """Fits, then predictions; the process ends with a word if something grows."""
    rng, growth, began = np.random.default_rng(0), Growth(), time.perf_counter()
    for tenth in range(1, TENTHS + 1):
        for turn in range(fits * (tenth - 1) // TENTHS, fits * tenth // TENTHS):
            numbarnn.set_num_threads(1 + turn % MOST_THREADS)
            fit(turn, rng)
        growth.note(tenth, fits * tenth // TENTHS, "fits")
    growth = Growth()
    count, next_tenth = 0, 1
    while count < predictions:
        number = count // PREDICTIONS_A_MODEL % len(models())
        model = fit(number, rng)
        for turn in range(min(PREDICTIONS_A_MODEL, predictions - count)):
            predict(model, number, turn, rng)
        predict_on_threads(model, number, count)
        count += PREDICTIONS_A_MODEL
        if count >= predictions * next_tenth // TENTHS:
            growth.note(next_tenth, count, "predictions")
            next_tenth += 1
    print(f"{fits} fits and {predictions} predictions in {time.perf_counter() - began:.0f} s: memory is flat")


def main(arguments):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fits", type=int, default=10_000)
    parser.add_argument("--predictions", type=int, default=1_000_000)
    options = parser.parse_args(arguments)
    run(options.fits, options.predictions)


if __name__ == "__main__":
    main(sys.argv[1:])
