"""Bounds on gradients, against the exploding gradients of recurrent networks.

Source: R. Pascanu, T. Mikolov and Y. Bengio (2013), "On the difficulty of training recurrent neural
networks", ICML, section 3.2.
"""

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from numbarnn.engine.compile_cache import kernel

# Sums kept side by side, so that additions do not wait for each other. From this number on the compiler
# makes a vector loop of them (measured: 0.10 ns an element, against 0.28 to 0.33 with 8 to 32 sums).
PARTIAL_SUMS = 64


@kernel
def _sum_of_squares(array):
    """Sum of squares of a 1-D array, in float64."""
    # Which element goes into which sum depends on its place alone, so the result never varies.
    sums = np.zeros(PARTIAL_SUMS)
    whole = array.size // PARTIAL_SUMS * PARTIAL_SUMS
    runs = array[:whole].reshape(-1, PARTIAL_SUMS)
    for i in range(runs.shape[0]):
        run = runs[i]
        for k in range(PARTIAL_SUMS):
            value = np.float64(run[k])
            sums[k] += value * value
    rest = array[whole:]
    for k in range(rest.size):
        value = np.float64(rest[k])
        sums[k] += value * value
    total = 0.0
    for k in range(PARTIAL_SUMS):
        total += sums[k]
    return total


def global_norm(gradients: Iterable[NDArray]) -> float:
    """The Euclidean norm of all gradients taken together.

    Parameters
    ----------
    gradients : iterable of arrays (n,)
        Flat, contiguous float32 or float64 arrays.

    Returns
    -------
    float
        Summed up in float64, in an order that depends on the shapes alone. NaN or infinite if an element is.

    Examples
    --------
    >>> import numpy as np
    >>> from numbarnn.training.clipping import global_norm
    >>> global_norm([np.array([3.0, 0.0]), np.array([4.0])])
    5.0
    """
    total = 0.0
    for gradient in gradients:
        total += _sum_of_squares(gradient)
    return math.sqrt(total)


def clip_by_norm(gradients: Iterable[NDArray], max_norm: float, norm: float) -> None:
    """Project all gradients, taken together, onto the ball of radius `max_norm`, in place.

    Parameters
    ----------
    gradients : iterable of arrays
        Become ``gradient * max_norm / norm`` where ``norm > max_norm``; are left alone otherwise.
    max_norm : float
        The radius, above 0.
    norm : float
        What `global_norm` says of the gradients. An infinite one leaves 0, and NaN for the infinite
        elements; with NaN nothing is touched, so that it is seen.

    Examples
    --------
    >>> import numpy as np
    >>> from numbarnn.training.clipping import clip_by_norm, global_norm
    >>> gradients = [np.array([3.0, 0.0]), np.array([4.0])]
    >>> clip_by_norm(gradients, 1.0, global_norm(gradients))
    >>> [gradient.tolist() for gradient in gradients]
    [[0.6000000000000001, 0.0], [0.8]]
    """
    if norm > max_norm:
        for gradient in gradients:
            with np.errstate(invalid="ignore"):  # infinity times 0
                np.multiply(gradient, max_norm / norm, out=gradient)


def clip_by_value(gradients: Iterable[NDArray], limit: float) -> None:
    """Bring every element into [-limit, limit], in place; NaN stays.

    Parameters
    ----------
    gradients : iterable of arrays
        Changed in place.
    limit : float
        Largest magnitude allowed, above 0.

    Examples
    --------
    >>> import numpy as np
    >>> from numbarnn.training.clipping import clip_by_value
    >>> gradient = np.array([-3.0, 0.5, 2.0])
    >>> clip_by_value([gradient], 1.0)
    >>> gradient.tolist()
    [-1.0, 0.5, 1.0]
    """
    for gradient in gradients:
        np.clip(gradient, -limit, limit, out=gradient)
