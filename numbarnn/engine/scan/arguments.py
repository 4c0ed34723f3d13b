"""What the kernels of a scan hand on together; ``scan/__init__.py`` explains the notation."""

from typing import NamedTuple

import numpy as np


class Inputs(NamedTuple):
    """What a layer reads: a matrix, and where the inputs of each step stand in it."""

    matrix: np.ndarray  # (at least N, at least I)
    offset: np.ndarray  # int64 (bands, at least T): the first row of each band at each step
    in_bands: bool  # whether those of a band follow one another from step to step
    rows: np.ndarray  # int64 (N,): the row of each step, by partial sums (see `layers.bands.Bands`)


class BandIndex(NamedTuple):
    """Which rows run at each step, and where each band stands; `layers.bands.Bands` explains the fields."""

    active: np.ndarray  # int64 (T,)
    offset: np.ndarray  # int64 (T + 1,)
    gate_offset: np.ndarray  # int64 (bands, T + 1)
    state_offset: np.ndarray  # int64 (bands, T + 1)
    dstate_offset: np.ndarray  # int64 (bands,)


class Partials(NamedTuple):
    """The steps of each partial sum of the weight gradients, and what they read."""

    offset: np.ndarray  # int64 (partials + 1,): those of partial sum s are from offset[s] to offset[s + 1]
    previous_rows: np.ndarray  # int64 (at least N,): the row of the states that each step read
    gate_rows: np.ndarray  # int64 (at least N,): its row among the gates
