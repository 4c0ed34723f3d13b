"""Is there memory for the parameters of a layer? Asked before any is taken.

The operating system promises more than it has and ends the process that makes use of it, so that trying is no
way to find out.
"""

import os

import numpy as np

# Parameters and their gradients are there twice, and once more in the order that kernels read.
COPIES = 3


def memory_bytes() -> int | None:
    """How much memory the machine has; None where that is not known."""
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return None
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def check_memory(layer: str, input_size: int, numbers: int, dtype: np.dtype) -> None:
    """Raise a MemoryError if the machine is too small for a layer with so many parameters."""
    there, wanted = memory_bytes(), COPIES * numbers * dtype.itemsize
    if there is not None and wanted > there:
        raise MemoryError(
            f"{layer} with input_size={input_size} needs {wanted:.3g} bytes for {numbers:.3g} parameters"
            f" and the machine has {there:.3g}; hidden_size, units, num_embeddings, embedding_dim or"
            " input_size must be smaller"
        )
