"""How much of the processor's peak training reaches."""

import time

import numbarnn
from benchmarks.checks import check_trainer
from benchmarks.peak import Peak
from benchmarks.problems import CELLS, LARGEST_SHAPES, inputs, parse_shape, training_operations
from benchmarks.trainer import Trainer

TURNS = 15


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
        # A turn of the peak takes about as long as a step: so both are as likely to be interrupted.
        times = [(seconds(self.trainer.step), seconds(self.peak.run)) for _ in range(TURNS)]
        step, chains = map(min, zip(*times, strict=True))
        self.repeats = max(1, round(step / chains))

    def run_peak(self):
        for _ in range(self.repeats):
            self.peak.run()

    def track_fraction_of_peak(self, cell, shape):
        """Of the two in turns, as long as each other, so that both meet the same clock; of the least times,
        which other programs have disturbed least."""
        turns = [(seconds(self.trainer.step), seconds(self.run_peak)) for _ in range(TURNS)]
        training, chains = map(min, zip(*turns, strict=True))
        return (self.operations / training) / (self.repeats * self.peak.operations / chains)

    track_fraction_of_peak.unit = "of the FMA peak"
