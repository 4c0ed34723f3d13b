"""Bounds on gradients, against the exploding gradients of recurrent networks.

Nothing here changes a gradient: `Optimizer.update` clips while it reads, by the two numbers of a `Clipping`.

Source: R. Pascanu, T. Mikolov and Y. Bengio (2013), "On the difficulty of training recurrent neural
networks", ICML, section 3.2.
"""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from numbarnn.engine.norms import norm_of
from numbarnn.engine.threads import run
from numbarnn.training.update_kernels import count_blocks, cuts_of, sum_blocks


class Clipping(NamedTuple):
    """What an update does with every element: bring it into [-limit, limit], then multiply it by `factor`."""

    limit: float
    factor: float


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
    sums = []
    for gradient in gradients:
        cuts, block_sums = cuts_of(gradient.size), np.empty(count_blocks(gradient.size))
        run(sum_blocks, cuts.size - 1, cuts, gradient, block_sums)
        sums.append(block_sums.tolist())
    ends = np.cumsum([0, *map(len, sums)])
    return norm_of([value for own in sums for value in own], ends)


def clipping_of(
    gradients: Sequence[NDArray], norm: float, clip_norm: float | None, clip_value: float | None
) -> Clipping:
    """How to clip gradients: by value first, then, taken together, onto the ball of radius `clip_norm`.

    Parameters
    ----------
    gradients : sequence of arrays (n,)
        As in `global_norm`.
    norm : float
        What `global_norm` says of them.
    clip_norm : float or None
        The radius, above 0.
    clip_value : float or None
        Largest magnitude of an element allowed, above 0.

    Returns
    -------
    Clipping
        The factor is ``clip_norm / norm`` where ``norm > clip_norm``, with the norm after clipping by value;
        1 otherwise, also where the norm is NaN, so that NaN is seen.

    Examples
    --------
    >>> import numpy as np
    >>> from numbarnn.training.clipping import clipping_of
    >>> clipping_of([np.array([3.0, 0.0]), np.array([4.0])], 5.0, clip_norm=1.0, clip_value=None)
    Clipping(limit=inf, factor=0.2)
    """
    limit = math.inf if clip_value is None else clip_value
    if clip_norm is None:
        return Clipping(limit, 1.0)
    if clip_value is not None:
        norm = global_norm(np.clip(gradient, -limit, limit) for gradient in gradients)
    return Clipping(limit, clip_norm / norm if norm > clip_norm else 1.0)
