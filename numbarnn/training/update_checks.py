"""Checks of the arrays that an optimiser changes: its kernels look at one size alone."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from numbarnn.arguments import has_masked


def check_flat(name: str, array: Any) -> None:
    """Raise an error unless this is a flat array of floats as kernels take it."""
    if has_masked(array):
        raise ValueError(f"{name} must not have masked elements")
    if not isinstance(array, np.ndarray) or array.dtype not in (np.float32, np.float64):
        kind = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
        raise TypeError(f"{name} must be an array of float32 or float64, not {kind}")
    if array.ndim != 1 or not (array.flags.c_contiguous and array.flags.aligned):
        raise ValueError(f"{name} must be flat and contiguous, its shape is {array.shape}")


def check_update(
    kept: Sequence[tuple[np.ndarray, ...]], values: Sequence[np.ndarray], gradients: Sequence[np.ndarray]
) -> None:
    """Raise an error that names what does not fit: the kernels look at one size alone."""
    for name, given in (("values", values), ("gradients", gradients)):
        if not isinstance(given, (list, tuple)):
            raise TypeError(f"{name} must be a list of arrays, not {type(given).__name__}")
    if not len(values) == len(gradients) == len(kept):
        raise ValueError(
            f"values, gradients and state must have as many arrays as one another, not {len(values)},"
            f" {len(gradients)} and {len(kept)}"
        )
    for i, (value, gradient, averages) in enumerate(zip(values, gradients, kept, strict=True)):
        check_flat(f"values[{i}]", value)
        check_flat(f"gradients[{i}]", gradient)
        if not value.flags.writeable:
            raise ValueError(f"values[{i}] must be writable: it is changed in place")
        for name, other in [(f"gradients[{i}]", gradient), *((f"state of {i}", each) for each in averages)]:
            if (other.size, other.dtype) != (value.size, value.dtype):
                raise ValueError(
                    f"{name} must have {value.size} numbers of {value.dtype} as values[{i}], not"
                    f" {other.size} of {other.dtype}"
                )
