"""This library's side of the comparison on a GPU."""

import numpy as np

import numbarnn
from benchmarks.comparison.work import Work
from benchmarks.cuda.beside_cudnn import steps_a_call
from benchmarks.cuda_trainer import CudaTrainer
from benchmarks.problems import inputs, parse_shape, spread_lengths
from numbarnn.engine.cuda.arrays import on_host


def use_threads(count: int) -> None:
    numbarnn.set_num_threads(count)


def layer(cell: str, shape_text: str, kind: str) -> Work:
    shape = parse_shape(shape_text)
    x, dy = inputs(shape)
    lengths = spread_lengths(shape) if kind == "ragged" else None
    trainer = CudaTrainer(cell, shape.H, x, dy, lengths, steps_a_call(shape))

    def results() -> dict[str, np.ndarray]:
        y = on_host(trainer.outputs()).transpose(1, 0, 2)
        trainer.gradients()
        return {"y": y, **trainer.layer.gradients}

    return Work({"forward": trainer.forward, "train": trainer.train}, results)
