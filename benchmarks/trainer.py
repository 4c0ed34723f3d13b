"""A layer of this library that takes one training step a call."""

from typing import Any

import numpy as np

import numbarnn
from benchmarks.problems import Alternation, parameters

LAYERS = {"lstm": numbarnn.LSTM, "gru": numbarnn.GRU, "rnn": numbarnn.RNN}


class Trainer:
    """Forward, backward without the input's gradient, and a change of the weights: they are packed anew.

    Parameters
    ----------
    cell : str
        One of `LAYERS`.
    hidden_size : int
        H.
    x, dy : array or list of arrays
        Inputs, and the gradient of the outputs.
    initial_state : array or pair of arrays, optional
        Handed to every forward pass.
    lengths : array of int (B,), optional
        Valid steps of each row of an array.
    options
        Of the layer.
    """

    def __init__(
        self,
        cell: str,
        hidden_size: int,
        x: Any,
        dy: Any,
        initial_state: Any = None,
        lengths: np.ndarray | None = None,
        **options: Any,
    ) -> None:
        self.x, self.dy, self.initial_state, self.lengths = x, dy, initial_state, lengths
        self.layer = LAYERS[cell](hidden_size, **options)
        self.layer.build(x[0].shape[1])
        shared = {name: options[name] for name in ("num_layers", "bidirectional") if name in options}
        self.layer.set_parameters(parameters(cell, x[0].shape[1], hidden_size, **shared))
        self.alternation = Alternation()

    def forward(self) -> Any:
        """Outputs, without a tape."""
        return self.layer.forward(self.x, self.initial_state, self.lengths)[0]

    def gradients(self) -> dict[str, np.ndarray]:
        """Forward and backward; the layer's own arrays, which the next call overwrites."""
        self.layer.forward(self.x, self.initial_state, self.lengths, training=True)
        self.layer.backward(self.dy, input_gradient=False)
        return self.layer.gradients

    def step(self) -> None:
        """A whole training step."""
        self.gradients()
        self.layer.flat_values *= self.alternation.next()  # as an optimiser changes them
        self.layer.count_change()
