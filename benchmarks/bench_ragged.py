"""Two bidirectional layers on rows of unequal length."""

from benchmarks.checks import check_trainer
from benchmarks.problems import CELLS, RAGGED_OPTIONS, RAGGED_SHAPES, ragged_inputs
from benchmarks.trainer import Trainer


class Ragged:
    params = (list(CELLS), [str(shape) for shape in RAGGED_SHAPES])
    param_names = ("cell", "B,T,I,H")
    shapes = {str(shape): shape for shape in RAGGED_SHAPES}

    def setup(self, cell, shape):
        x, dy = ragged_inputs(self.shapes[shape])
        self.trainer = Trainer(cell, self.shapes[shape].H, x, dy, **RAGGED_OPTIONS)
        self.trainer.step()
        check_trainer(cell, self.trainer)

    def time_forward(self, cell, shape):
        self.trainer.forward()

    def time_train_step(self, cell, shape):
        self.trainer.step()
