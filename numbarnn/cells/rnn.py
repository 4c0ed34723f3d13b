"""The plain recurrent cell of Elman, with tanh or rectified linear units.

    h' = tanh(W_i x + b_i + W_h h + b_h)    or    h' = max(0, ...)

Sources: Elman, "Finding Structure in Time", Cognitive Science 14(2), 1990; Le, Jaitly and Hinton, "A Simple
Way to Initialize Recurrent Networks of Rectified Linear Units", 2015, arXiv:1504.00941. Both biases as in
PyTorch.

Runs on the CPU in the time loops of ``engine/scan/`` (one step: ``engine/step.py``), on a GPU in those of
``engine/cuda/scan.py`` or, where a layer does not fit on the chip, ``engine/cuda/scan_by_steps.py`` (one
step: ``engine/cuda/step.py``).
"""

from typing import NamedTuple

import numpy as np

from numbarnn.cells.contract import Cell
from numbarnn.jit.activations import tanh, tanh_derivative
from numbarnn.jit.stamped_classes import stamped
from numbarnn.jit.vectors import select, zero_like


@stamped
class TanhRNNWeights(NamedTuple):
    """The packed weights of one plain tanh layer and direction; the class is the cell for the compiler."""

    input: np.ndarray
    recurrent: np.ndarray
    bias: np.ndarray


@stamped
class ReLURNNWeights(NamedTuple):
    """The packed weights of one plain ReLU layer and direction; the class is the cell for the compiler."""

    input: np.ndarray
    recurrent: np.ndarray
    bias: np.ndarray


def forward_tanh(sums, states):
    """One step from the unit's sum: what backward needs (the output itself), and the new state."""
    h_new = tanh(sums[0])
    return (h_new,), (h_new,)


def backward_tanh(saved, previous, new, dstates):
    """Backward of `forward_tanh`: gradients of the sum, and of the state by the direct path (there is
    none)."""
    return (dstates[0] * tanh_derivative(saved[0]),), (zero_like(dstates[0]),)


def forward_relu(sums, states):
    """One step from the unit's sum; written so that NaN stays NaN."""
    h_new = select(sums[0] < 0.0, 0.0, sums[0])
    return (h_new,), (h_new,)


def backward_relu(saved, previous, new, dstates):
    """Backward of `forward_relu`; the derivative at 0 is 0, as in PyTorch."""
    return (select(saved[0] > 0.0, dstates[0], 0.0),), (zero_like(dstates[0]),)


TANH = Cell(
    name="rnn_tanh",
    weights=TanhRNNWeights,
    gates=("unit",),
    states=("h",),
    fused=("unit",),
    split=(),
    forward=forward_tanh,
    backward=backward_tanh,
)
RELU = Cell(
    name="rnn_relu",
    weights=ReLURNNWeights,
    gates=("unit",),
    states=("h",),
    fused=("unit",),
    split=(),
    forward=forward_relu,
    backward=backward_relu,
)
