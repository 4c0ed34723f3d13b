"""The long short-term memory cell.

    i = sigmoid(W_ii x + b_ii + W_hi h + b_hi)      input gate
    f = sigmoid(W_if x + b_if + W_hf h + b_hf)      forget gate
    g = tanh   (W_ig x + b_ig + W_hg h + b_hg)      candidate
    o = sigmoid(W_io x + b_io + W_ho h + b_ho)      output gate
    c' = f c + i g
    h' = o tanh(c')

With peepholes i and f see the cell state too, and o the new one, each unit its own: ``p_i c`` is added to the
sum of i, ``p_f c`` to that of f and ``p_o c'`` to that of o.

Sources: Hochreiter and Schmidhuber, "Long Short-Term Memory", Neural Computation 9(8), 1997; Gers,
Schmidhuber and Cummins, "Learning to Forget", Neural Computation 12(10), 2000 (the forget gate); Gers and
Schmidhuber, "Recurrent Nets that Time and Count", IJCNN 2000, and Graves, "Generating Sequences with
Recurrent Neural Networks", 2013, arXiv:1308.0850, equations 7 to 11 (peepholes). Gate order and both biases
as in PyTorch.

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


@stamped
class PeepholeLSTMWeights(NamedTuple):
    """The packed weights of one LSTM layer and direction with peepholes; the class is the cell for the
    compiler."""

    input: np.ndarray
    recurrent: np.ndarray
    bias: np.ndarray
    vectors: np.ndarray


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


def forward_peephole(sums, states, vectors):
    """`forward` with peepholes."""
    _, c = states
    p_i, p_f, p_o = vectors
    i = sigmoid(fma(p_i, c, sums[0]))
    f = sigmoid(fma(p_f, c, sums[1]))
    g = tanh(sums[2])
    c_new = fma(f, c, i * g)
    o = sigmoid(fma(p_o, c_new, sums[3]))
    return (i, f, g, o), (o * tanh(c_new), c_new)


def backward_peephole(saved, previous, new, dstates, vectors):
    """Backward of `forward_peephole`: gradients of the sums, of the states by the direct paths, and of the
    peepholes."""
    i, f, g, o = saved
    _, c = previous
    _, c_new = new
    dh_new, dc_new = dstates
    p_i, p_f, p_o = vectors
    tanh_c = tanh(c_new)
    do_sum = dh_new * tanh_c * sigmoid_derivative(o)
    dc = fma(dh_new * o, tanh_derivative(tanh_c), fma(do_sum, p_o, dc_new))
    df_sum = dc * c * sigmoid_derivative(f)
    di_sum = dc * g * sigmoid_derivative(i)
    dg_sum = dc * i * tanh_derivative(g)
    dc_previous = fma(di_sum, p_i, fma(df_sum, p_f, dc * f))
    dsums = (di_sum, df_sum, dg_sum, do_sum)
    return dsums, (zero_like(dc), dc_previous), (di_sum * c, df_sum * c, do_sum * c_new)


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
PEEPHOLE_LSTM = Cell(
    name="lstm_peephole",
    weights=PeepholeLSTMWeights,
    gates=LSTM.gates,
    states=LSTM.states,
    fused=LSTM.fused,
    split=(),
    forward=forward_peephole,
    backward=backward_peephole,
    vectors=("weight_ci", "weight_cf", "weight_co"),
    forget_gate="forget",
)
