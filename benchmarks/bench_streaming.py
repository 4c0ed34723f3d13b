"""One row, one step at a time: in the user's own compiled loop, and from Python."""

import numpy as np

from benchmarks.problems import CELLS
from benchmarks.streaming import INPUTS, Stream
from benchmarks.trainer import LAYERS


class Streaming:
    """4 inputs; `Stream` compares its last step with the layer's own."""

    params = (list(CELLS), [16, 32, 64])
    param_names = ("cell", "H")

    def setup(self, cell, hidden_size):
        self.stream = Stream(cell, hidden_size)
        self.layer = LAYERS[cell](hidden_size)
        self.layer.build(INPUTS, seed=0)
        self.x = np.ones((1, INPUTS), np.float32)
        y, self.state = self.layer.step(self.x)
        np.testing.assert_allclose(y, self.layer.forward(self.x[None])[0][:, 0], atol=1e-6)

    def time_thousand_compiled_steps(self, cell, hidden_size):
        self.stream.run()

    def time_step_from_python(self, cell, hidden_size):
        self.layer.step(self.x, self.state)
