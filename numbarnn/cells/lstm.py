"""The long short-term memory cell.

    i = sigmoid(W_ii x + b_ii + W_hi h + b_hi)      input gate
    f = sigmoid(W_if x + b_if + W_hf h + b_hf)      forget gate
    g = tanh   (W_ig x + b_ig + W_hg h + b_hg)      candidate
    o = sigmoid(W_io x + b_io + W_ho h + b_ho)      output gate
    c' = f c + i g
    h' = o tanh(c')

Sources: Hochreiter and Schmidhuber, "Long Short-Term Memory", Neural Computation 9(8), 1997; Gers,
Schmidhuber and Cummins, "Learning to Forget", Neural Computation 12(10), 2000 (the forget gate). Gate order
and both biases as in PyTorch.

Runs on the CPU in the time loops of ``engine/scan/`` (one step: ``engine/step.py``), on a GPU in those of
``engine/cuda/scan.py`` or, where a layer does not fit on the chip, ``engine/cuda/scan_by_steps.py`` (one
step: ``engine/cuda/step.py``).
"""

from typing import NamedTuple

import numpy as np

from numbarnn.cells.contract import Cell
from numbarnn.jit.activations import sigmoid, sigmoid_derivative, tanh, tanh_derivative
from numbarnn.jit.stamped_classes import stamped
from numbarnn.jit.vectors import fma, zero_like


@stamped
class LSTMWeights(NamedTuple):
    """The packed weights of one LSTM layer and direction; the class is the cell for the compiler."""

    input: np.ndarray
    recurrent: np.ndarray
    bias: np.ndarray


def forward(sums, states):
    """One step from the gates' sums: what backward needs of the gates, and the new states."""
    _, c = states
    i = sigmoid(sums[0])
    f = sigmoid(sums[1])
    g = tanh(sums[2])
    o = sigmoid(sums[3])
    c_new = fma(f, c, i * g)
    h_new = o * tanh(c_new)
    return (i, f, g, o), (h_new, c_new)


def backward(saved, previous, new, dstates):
    """Backward of `forward`, last line first: gradients of the sums, and of the states by the direct
    paths."""
    i, f, g, o = saved
    _, c = previous
    _, c_new = new
    dh_new, dc_new = dstates
    tanh_c = tanh(c_new)
    do = dh_new * tanh_c  # h' = o tanh(c')
    dc = fma(dh_new * o, tanh_derivative(tanh_c), dc_new)  # and c' itself
    df = dc * c  # c' = f c + i g
    di = dc * g
    dg = dc * i
    dsums = (
        di * sigmoid_derivative(i),
        df * sigmoid_derivative(f),
        dg * tanh_derivative(g),
        do * sigmoid_derivative(o),
    )
    return dsums, (zero_like(dc), dc * f)


LSTM = Cell(
    name="lstm",
    weights=LSTMWeights,
    gates=("input", "forget", "candidate", "output"),
    states=("h", "c"),
    fused=("input", "forget", "candidate", "output"),
    split=(),
    forward=forward,
    backward=backward,
    forget_gate="forget",
)
