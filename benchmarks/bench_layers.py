"""Recurrent layers, float32: forward, and a training step."""

from benchmarks.checks import check_trainer
from benchmarks.problems import (
    CELLS,
    RAGGED_OPTIONS,
    RAGGED_SHAPES,
    SHAPES,
    inputs,
    parse_shape,
    ragged_inputs,
)
from benchmarks.trainer import Trainer


class Layers:
    """Full batches."""

    params = (list(CELLS), [str(shape) for shape in SHAPES])
    param_names = ("cell", "B,T,I,H")

    def make_trainer(self, cell, shape):
        return Trainer(cell, parse_shape(shape).H, *inputs(parse_shape(shape)))

    def setup(self, cell, shape):
        self.trainer = self.make_trainer(cell, shape)
        self.trainer.step()
        check_trainer(cell, self.trainer)

    def time_forward(self, cell, shape):
        self.trainer.forward()

    def time_train_step(self, cell, shape):
        self.trainer.step()


class Ragged(Layers):
    """Two bidirectional layers on rows of unequal length."""

    params = (list(CELLS), [str(shape) for shape in RAGGED_SHAPES])
    shapes = {str(shape): shape for shape in RAGGED_SHAPES}

    def make_trainer(self, cell, shape):
        shape = self.shapes[shape]
        return Trainer(cell, shape.H, *ragged_inputs(shape), **RAGGED_OPTIONS)
