"""A layer on a GPU that takes several training steps a call, on arrays that are there already."""

from typing import Any

import numpy as np

import numbarnn
from benchmarks.problems import Alternation, parameters
from benchmarks.trainer import LAYERS

STEPS_A_CALL = 10  # between two waits for the GPU, so that a step's time is not that of waiting


class CudaTrainer:
    """The counterpart of `Trainer`.

    Parameters
    ----------
    cell, hidden_size
        As there.
    x, dy : arrays (B, T, I), (B, T, H)
        In the host's memory; they go to the GPU once.
    lengths : int64 array (B,), optional
        Valid steps of each row.
    steps_a_call : int
        Of `forward` and `train`.
    options
        Of the layer.
    """

    def __init__(
        self,
        cell: str,
        hidden_size: int,
        x: np.ndarray,
        dy: np.ndarray,
        lengths: np.ndarray | None = None,
        steps_a_call: int = STEPS_A_CALL,
        **options: Any,
    ) -> None:
        from numbarnn.engine.cuda.arrays import arrays, wait  # where there is a GPU

        self.wait, self.lengths, self.steps_a_call = wait, lengths, steps_a_call
        self.layer = LAYERS[cell](hidden_size, device="cuda", **options)
        self.layer.build(x.shape[2])
        self.layer.set_parameters(parameters(cell, x.shape[2], hidden_size))
        self.x, self.dy = arrays().asarray(x), arrays().asarray(dy)
        self.on_gpu = self.layer.cuda_parameters()
        self.alternation = Alternation()

    def outputs(self) -> Any:
        """Without a tape."""
        return self.layer.forward(self.x, lengths=self.lengths)[0]

    def gradients(self) -> None:
        """Forward and backward; the gradients stay on the GPU."""
        self.layer.forward(self.x, lengths=self.lengths, training=True)
        self.layer.backward(self.dy, input_gradient=False)

    def forward(self) -> None:
        """So many forward passes."""
        for _ in range(self.steps_a_call):
            self.outputs()
        self.wait()

    def train(self) -> None:
        """So many training steps."""
        for _ in range(self.steps_a_call):
            self.gradients()
            self.on_gpu.flat_values *= self.alternation.next()  # as an optimiser changes them
        self.wait()


def require_gpu() -> None:
    """For asv: a benchmark whose setup raises this is skipped."""
    if not numbarnn.cuda_available():
        raise NotImplementedError("needs an NVIDIA GPU")
