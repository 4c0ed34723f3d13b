"""This library's side of the comparison on a GPU."""

import numpy as np

import numbarnn
from benchmarks import vowels
from benchmarks.comparison.work import Work
from benchmarks.cuda_trainer import CudaTrainer
from benchmarks.problems import inputs, parse_shape
from benchmarks.trainer import LAYERS
from numbarnn.engine.cuda.arrays import on_host

# Of an array's largest magnitude; those beside dtypes are of `precision`.
TOLERANCE = {"float64": 1e-10, "float32": 2e-5, "tf32": 1e-2, "float16": 1e-2}
OPTIONS = ({}, {"bidirectional": True}, {"num_layers": 2, "bidirectional": True}, {"bias": False})
PARITY_SIZES = [(1, 1, 1, 1), (3, 7, 5, 20), (9, 30, 8, 64), (4, 12, 16, 128), (3, 6, 8, 300)]  # B, T, I, H
PRECISIONS = {"": "float32", " tf32": "tf32", " fp16": "float16"}
LONG = (2, 70_000, 4, 16)  # cuDNN refuses more than 65,535 steps


def use_threads(count: int) -> None:
    numbarnn.set_num_threads(count)


def layer(cell: str, shape_text: str) -> Work:
    shape = parse_shape(shape_text)
    x, dy = inputs(shape)
    calls = {}
    trainers = {}
    for name, precision in PRECISIONS.items():
        trainers[name] = CudaTrainer(cell, shape.H, x, dy, precision=precision)
        calls[f"forward{name}"], calls[f"train{name}"] = trainers[name].forward, trainers[name].train

    def results() -> dict[str, np.ndarray]:
        trainer = trainers[""]
        y = on_host(trainer.outputs()).transpose(1, 0, 2)
        trainer.gradients()
        return {"y": y, **trainer.layer.gradients}

    return Work(calls, results)


def parity(cell: str) -> Work:
    """The largest error of each dtype and precision beside the CPU, over sizes and options, with ragged rows
    and states."""

    def results() -> dict[str, np.ndarray]:
        worst = {}
        for name, allowed in TOLERANCE.items():
            dtype = "float64" if name == "float64" else "float32"
            own = {} if name == dtype else {"precision": name}
            errors = [
                _error(cell, size, options | own, dtype) for size in PARITY_SIZES for options in OPTIONS
            ]
            errors.append(_error(cell, LONG, own, dtype))
            worst[name] = np.array(max(errors))
            if not worst[name] <= allowed:
                raise AssertionError(f"{cell} {name}: errors {errors}, {allowed} allowed")
        return worst

    return Work({}, results)


def _error(cell: str, size: tuple[int, ...], options: dict, dtype: str) -> float:
    """The largest error in outputs, states and gradients, relative to the largest number in each array."""
    rows, steps, features, hidden = size
    rng = np.random.default_rng(list(size))
    lengths = rng.integers(1, steps + 1, rows)
    lengths[0] = steps
    x = rng.standard_normal((rows, steps, features)).astype(dtype)
    devices = [LAYERS[cell](hidden, dtype=dtype, device=device, **options) for device in ("cpu", "cuda")]
    outcomes = []
    for each in devices:
        each.build(features, seed=1)
        y, state = each.forward(x, lengths=lengths, training=True)
        dy = np.random.default_rng(2).standard_normal(y.shape).astype(dtype)
        dx, dinitial = each.backward(dy, dstate=state)
        states = [*state, *dinitial] if isinstance(state, tuple) else [state, dinitial]
        outcomes.append([y, dx, *states, *each.gradients.values()])
    return max(_relative(mine, wanted) for wanted, mine in zip(*outcomes, strict=True))


def _relative(mine: np.ndarray, wanted: np.ndarray) -> float:
    """The largest error; of an array of zeros, as a recurrent weight's gradient after one step, as it is."""
    return float(np.max(np.abs(mine - wanted)) / (np.max(np.abs(wanted)) or 1.0))


def fit(device: str, epochs: int) -> Work:
    """Japanese Vowels from the first epoch to the last."""
    (x, y), _ = vowels.load()

    def run() -> None:
        model = numbarnn.Sequential(
            numbarnn.GRU(vowels.HIDDEN_SIZE, bidirectional=True, return_sequences=True),
            numbarnn.MaxOverTime(), numbarnn.Dense(vowels.CLASSES), device=device,
        )  # fmt: skip
        model.fit(x, y, epochs=epochs, batch_size=vowels.BATCH_SIZE, verbose=False)

    return Work({"fit": run}, dict)
