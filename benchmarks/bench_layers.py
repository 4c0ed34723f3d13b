"""Recurrent layers on full batches, float32: forward, and a training step."""

from benchmarks.checks import check_trainer
from benchmarks.problems import CELLS, SHAPES, inputs, parse_shape
from benchmarks.trainer import Trainer


class Layers:
    params = (list(CELLS), [str(shape) for shape in SHAPES])
    param_names = ("cell", "B,T,I,H")

    def setup(self, cell, shape):
        self.trainer = Trainer(cell, parse_shape(shape).H, *inputs(parse_shape(shape)))
        self.trainer.step()
        check_trainer(cell, self.trainer)

    def time_forward(self, cell, shape):
        self.trainer.forward()

    def time_train_step(self, cell, shape):
        self.trainer.step()
