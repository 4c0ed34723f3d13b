"""What a library does for one task, as its process times it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np


class Work(NamedTuple):
    """One task, ready to run.

    Attributes
    ----------
    calls : dict of str to callable
        What is timed, by name. A name says the same work in every library.
    results : callable
        Gives arrays by name, to be compared with those of other libraries.
    """

    calls: dict[str, Callable[[], Any]]
    results: Callable[[], dict[str, np.ndarray]]
