"""The gated recurrent unit, with the reset gate applied after the recurrent product.

    r = sigmoid(W_ir x + b_ir + W_hr h + b_hr)      reset gate
    z = sigmoid(W_iz x + b_iz + W_hz h + b_hz)      update gate
    n = tanh   (W_in x + b_in + r (W_hn h + b_hn))  candidate
    h' = (1 - z) n + z h

Source: Cho et al., "Learning Phrase Representations using RNN Encoder-Decoder", 2014, arXiv:1406.1078, in
its first version's form, which has one product a step. Gate order and both biases as in PyTorch.

Runs on the CPU in the time loops of ``engine/scan/`` (one step: ``engine/step.py``), on a GPU in those of
``engine/cuda/scan.py`` or, where a layer does not fit on the chip, ``engine/cuda/scan_by_steps.py`` (one
step: ``engine/cuda/step.py``).
"""

from typing import NamedTuple

import numpy as np

from numbarnn.cells.contract import Cell
from numbarnn.jit.activations import sigmoid, sigmoid_derivative, tanh, tanh_derivative
from numbarnn.jit.stamped_classes import stamped
from numbarnn.jit.vectors import fma


@stamped
class GRUWeights(NamedTuple):
    """The packed weights of one GRU layer and direction; the class is the cell for the compiler."""

    input: np.ndarray
    recurrent: np.ndarray
    bias: np.ndarray


def forward(sums, states):
    """One step from the gates' sums: what backward needs of the gates, and the new state."""
    (h,) = states
    n_input, r_sum, z_sum, n_recurrent = sums
    r = sigmoid(r_sum)
    z = sigmoid(z_sum)
    n = tanh(fma(r, n_recurrent, n_input))
    h_new = fma(z, h - n, n)
    return (n, r, z, n_recurrent), (h_new,)


def backward(saved, previous, new, dstates):
    """Backward of `forward`, last line first: gradients of the sums, and of the state by the direct path."""
    n, r, z, n_recurrent = saved
    (h,) = previous
    (dh_new,) = dstates
    dz = dh_new * (h - n)  # h' = (1 - z) n + z h
    dn = fma(-dh_new, z, dh_new)
    dn_sum = dn * tanh_derivative(n)  # n = tanh(n_input + r n_recurrent)
    dr = dn_sum * n_recurrent
    dsums = (dn_sum, dr * sigmoid_derivative(r), dz * sigmoid_derivative(z), dn_sum * r)
    return dsums, (dh_new * z,)


GRU = Cell(
    name="gru",
    weights=GRUWeights,
    gates=("reset", "update", "candidate"),
    states=("h",),
    fused=("reset", "update"),
    split=("candidate",),
    forward=forward,
    backward=backward,
)
