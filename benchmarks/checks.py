"""What a benchmark computes, beside the plain NumPy of ``tests/reference.py``.

The tests are no package, and asv puts nothing but `benchmarks` on the path: so the file is loaded by its
place, which is the same where asv runs an installed build.
"""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.trainer import Trainer

TOLERANCE = 1e-4  # of an array's largest magnitude, for float32


def load_reference() -> Any:
    path = Path(__file__).resolve().parent.parent / "tests" / "reference.py"
    spec = importlib.util.spec_from_file_location("numbarnn_reference", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def assert_close(actual: np.ndarray, expected: np.ndarray) -> None:
    """Raise unless all values agree to `TOLERANCE`."""
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=0.0, atol=TOLERANCE * np.max(np.abs(expected)))


def check_trainer(cell: str, trainer: Trainer, row: int = -1) -> None:
    """Outputs and gradients of one row of a trainer's batch; the others get no gradient of their outputs.

    The reference takes a row at a time, and seconds for a whole batch.
    """
    reference, layer = load_reference(), trainer.layer
    name = "rnn_tanh" if cell == "rnn" else cell
    y, _, tape = reference.forward(
        name, layer.parameters, [trainer.x[row]], None, layer.num_layers, layer.bidirectional
    )
    assert_close(trainer.forward()[row], y[0])

    dy = [np.zeros_like(each) for each in trainer.dy]
    dy[row] = trainer.dy[row]
    layer.forward(trainer.x, training=True)
    layer.backward(dy if isinstance(trainer.dy, list) else np.stack(dy), input_gradient=False)
    _, _, gradients = reference.backward(tape, [trainer.dy[row]])
    for parameter, gradient in gradients.items():
        assert_close(layer.gradients[parameter], gradient)
