"""How much of a core's peak training reaches."""

import time

import numbarnn
from benchmarks.checks import check_trainer
from benchmarks.peak import Peak
from benchmarks.problems import CELLS, LARGEST_SHAPES, inputs, parse_shape, training_operations
from benchmarks.trainer import Trainer

TURNS = 15


def seconds(call) -> float:
    """Seconds that this process had a processor: what other programs take does not count."""
    began = time.process_time()
    call()
    return time.process_time() - began


class FractionOfPeak:
    """On one thread: one of several that waits for another one takes time too, the longer the busier."""

    params = (list(CELLS), [str(shape) for shape in LARGEST_SHAPES])
    param_names = ("cell", "B,T,I,H")

    def setup(self, cell, shape):
        self.threads = numbarnn.get_num_threads()
        numbarnn.set_num_threads(1)
        sizes = parse_shape(shape)
        self.operations = training_operations(cell, sizes)
        self.trainer, self.peak = Trainer(cell, sizes.H, *inputs(sizes)), Peak(1)
        self.trainer.step()
        check_trainer(cell, self.trainer)

    def teardown(self, cell, shape):
        numbarnn.set_num_threads(self.threads)

    def track_fraction_of_peak(self, cell, shape):
        """Of the two in turns, so that both meet the same clock; the turn in the middle."""
        fractions = []
        for _ in range(TURNS):
            training, chains = seconds(self.trainer.step), seconds(self.peak.run)
            fractions.append((self.operations / training) / (self.peak.operations / chains))
        return sorted(fractions)[TURNS // 2]

    track_fraction_of_peak.unit = "of the FMA peak of a core"
