"""Recurrent layers on a GPU, float32: several forward passes or training steps, and the transfers apart."""

from benchmarks.checks import assert_close
from benchmarks.cuda_trainer import CudaTrainer, require_gpu
from benchmarks.problems import CELLS, SHAPES, inputs, parse_shape
from benchmarks.trainer import Trainer


class CudaLayers:
    """Full batches whose arrays are on the GPU: ten forward passes or training steps, and a wait."""

    params = (list(CELLS), [str(shape) for shape in SHAPES])
    param_names = ("cell", "B,T,I,H")

    def setup(self, cell, shape):
        require_gpu()
        from numbarnn.engine.cuda.arrays import arrays, on_host

        self.arrays, self.on_host, shape = arrays(), on_host, parse_shape(shape)
        self.x, dy = inputs(shape)
        self.trainer, beside = (make(cell, shape.H, self.x, dy) for make in (CudaTrainer, Trainer))
        assert_close(on_host(self.trainer.outputs()), beside.forward())
        self.trainer.gradients()
        for name, gradient in beside.gradients().items():
            assert_close(self.trainer.layer.gradients[name], gradient)
        self.trainer.train()

    def time_ten_forward(self, cell, shape):
        self.trainer.forward()

    def time_ten_train_steps(self, cell, shape):
        self.trainer.train()

    def time_transfers(self, cell, shape):
        """Inputs to the GPU and back."""
        self.on_host(self.arrays.asarray(self.x))
