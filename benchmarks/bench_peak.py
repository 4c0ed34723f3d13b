"""How much of the processor's peak training reaches."""

import statistics
import time

import numbarnn
from benchmarks.checks import check_trainer
from benchmarks.peak import Peak
from benchmarks.problems import CELLS, LARGEST_SHAPES, inputs, parse_shape, training_operations
from benchmarks.trainer import Trainer

TURNS = 7


def seconds(call) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


class FractionOfPeak:
    params = (list(CELLS), [str(shape) for shape in LARGEST_SHAPES])
    param_names = ("cell", "B,T,I,H")

    def setup(self, cell, shape):
        sizes = parse_shape(shape)
        self.operations = training_operations(cell, sizes)
        self.trainer, self.peak = Trainer(cell, sizes.H, *inputs(sizes)), Peak(numbarnn.get_num_threads())
        self.trainer.step()
        check_trainer(cell, self.trainer)

    def track_fraction_of_peak(self, cell, shape):
        """Of the two in turns, so that both meet the same clock."""
        turns = [(seconds(self.trainer.step), seconds(self.peak.run)) for _ in range(TURNS)]
        training, chains = (statistics.median(times) for times in zip(*turns, strict=True))
        return (self.operations / training) / (self.peak.operations / chains)

    track_fraction_of_peak.unit = "of the FMA peak"
