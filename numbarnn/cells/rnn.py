"""The plain recurrent cell of Elman, with a choice of nonlinearities.

    h' = f(W_i x + b_i + W_h h + b_h)

Sources: Elman, "Finding Structure in Time", Cognitive Science 14(2), 1990; with rectified linear units: Le,
Jaitly and Hinton, "A Simple Way to Initialize Recurrent Networks of Rectified Linear Units", 2015,
arXiv:1504.00941. Both biases as in PyTorch. The nonlinearities f: ``jit/nonlinearities.py``.

Runs on the CPU in the time loops of ``engine/scan/`` (one step: ``engine/step.py``), on a GPU in those of
``engine/cuda/scan.py`` or, where a layer does not fit on the chip, ``engine/cuda/scan_by_steps.py`` (one
step: ``engine/cuda/step.py``).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from numbarnn.cells.contract import Cell
from numbarnn.jit.nonlinearities import ACTIVATIONS
from numbarnn.jit.stamped_classes import stamped
from numbarnn.jit.vectors import zero_like


class _Weights(NamedTuple):
    input: np.ndarray
    recurrent: np.ndarray
    bias: np.ndarray


def _cell(activation: str, prefix: str) -> Cell:
    """The cell of one activation. Its class of weights is that cell for the compiler."""
    function, function_backward = ACTIVATIONS[activation]
    weights = NamedTuple(f"{prefix}RNNWeights", list(_Weights.__annotations__.items()))  # type: ignore[misc]
    weights.__doc__ = f"The packed weights of one plain {activation} layer and direction."
    forward, backward = _step(function, function_backward)
    return Cell(
        name=f"rnn_{activation}",
        weights=stamped(weights),
        gates=("unit",),
        states=("h",),
        fused=("unit",),
        split=(),
        forward=forward,
        backward=backward,
    )


def _step(function: Callable[..., Any], function_backward: Callable[..., Any]) -> tuple[Any, Any]:
    """One step with a nonlinearity, and its backward."""

    def forward(sums, states):
        """One step from the unit's sum: what backward needs (the output itself), and the new state."""
        h_new = function(sums[0])
        return (h_new,), (h_new,)

    def backward(saved, previous, new, dstates):
        """Gradients of the sum, and of the state by the direct path (there is none)."""
        return (function_backward(saved[0], dstates[0]),), (zero_like(dstates[0]),)

    return forward, backward


# What the name of the class of each activation's weights begins with.
_PREFIXES = {
    "tanh": "Tanh",
    "relu": "ReLU",
    "sigmoid": "Sigmoid",
    "identity": "Identity",
    "leaky_relu": "LeakyReLU",
    "elu": "ELU",
    "softsign": "Softsign",
    "softplus": "Softplus",
    "hard_tanh": "HardTanh",
    "hard_sigmoid": "HardSigmoid",
}
PLAIN_CELLS = {activation: _cell(activation, prefix) for activation, prefix in _PREFIXES.items()}
