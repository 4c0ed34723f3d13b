"""What users do: whole fits, predictions, arrays of CuPy and PyTorch in and out, step functions."""

import time

import numpy as np

import numbarnn
from benchmarks import vowels

EPOCHS = 30
MOST_TIMES_THE_CPU = 1.0


def cases(part: str, quick: bool) -> list[str]:
    small = ["arrays of CuPy", "arrays of PyTorch", "step function"]
    return (
        small
        if quick
        else ["Japanese Vowels", "small fits", "token fit", "break-even", "streamed fit", *small]
    )


def run(case: str) -> dict:
    functions = {
        "arrays of CuPy": arrays_of_cupy, "arrays of PyTorch": arrays_of_torch,
        "step function": step_function, "small fits": small_fits, "token fit": token_fit,
        "streamed fit": streamed_fit, "Japanese Vowels": japanese_vowels, "break-even": break_even,
    }  # fmt: skip
    return functions[case]()


def problem() -> tuple[np.ndarray, numbarnn.LSTM, np.ndarray]:
    layer = numbarnn.LSTM(8, bidirectional=True)
    layer.build(3, seed=0)
    x = np.random.default_rng(0).standard_normal((4, 6, 3)).astype(np.float32)
    return x, layer, layer.forward(x)[0]


def arrays_of_cupy() -> dict:
    import cupy

    x, layer, wanted = problem()
    layer.to("cuda")
    y, (h, c) = layer.forward(cupy.asarray(x), training=True)
    assert all(isinstance(array, cupy.ndarray) for array in (y, h, c))
    np.testing.assert_allclose(cupy.asnumpy(y), wanted, atol=2e-5)
    dx, _ = layer.backward(cupy.ones_like(y))
    assert isinstance(dx, cupy.ndarray)
    assert bool(cupy.isfinite(dx).all())
    return {}


def arrays_of_torch() -> dict:
    import torch

    x, layer, wanted = problem()
    layer.to("cuda")
    y, _ = layer.forward(torch.from_numpy(x).cuda())
    back = torch.from_dlpack(y)
    assert back.is_cuda
    np.testing.assert_allclose(back.cpu().numpy(), wanted, atol=2e-5)
    return {}


def step_function() -> dict:
    """`lstm_step` in a user's own kernel, against the layer on the CPU."""
    from numba import cuda

    from numbarnn.kernels import lstm_step

    layer = numbarnn.LSTM(20, device="cuda")
    layer.build(3, seed=0)
    weights = layer.kernel_weights()
    signal = np.random.default_rng(0).standard_normal((7, 3)).astype(np.float32)

    @cuda.jit
    def run_steps(weights, signal, h, c, out):
        for t in range(signal.shape[0]):
            lstm_step(weights, signal[t], h, c)
            if cuda.threadIdx.x < h.size:
                out[t, cuda.threadIdx.x] = h[cuda.threadIdx.x]
            cuda.syncthreads()

    h, c, out = (cuda.to_device(np.zeros(shape, np.float32)) for shape in (20, 20, (7, 20)))
    run_steps[1, 32](weights, cuda.to_device(signal), h, c, out)
    wanted = layer.to("cpu").forward(signal[None])[0][0]
    np.testing.assert_allclose(out.copy_to_host(), wanted, atol=2e-5)
    return {}


def ragged(rows: int, longest: int, features: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, longest + 1, rows)
    return [rng.standard_normal((length, features)).astype(np.float32) for length in lengths]


def both(model_of, x, y, **options) -> dict[str, float]:
    """The largest difference of predictions after the same fit on either device, and the seconds of each."""
    outcomes, seconds = {}, {}
    for device in ("cpu", "cuda"):
        model = model_of(device)
        model.fit(x, y, verbose=False, **options)  # compiles
        model = model_of(device)
        began = time.perf_counter()
        model.fit(x, y, verbose=False, **options)
        seconds[device] = time.perf_counter() - began
        predicted = model.predict(x)
        outcomes[device] = np.concatenate(predicted) if isinstance(predicted, list) else predicted
    difference = np.max(np.abs(outcomes["cpu"] - outcomes["cuda"])) / np.max(np.abs(outcomes["cpu"]))
    return {"difference": float(difference), **{f"{name}_seconds": value for name, value in seconds.items()}}


def small_fits() -> dict:
    """Every optimiser, clipping, losses by sequence and by step; float64, so that devices agree closely."""
    x = ragged(20, 9, 3)
    labels = np.arange(20) % 3
    found = {}
    for name in ("sgd", "rmsprop", "adam", "adamw"):

        def model_of(device):
            return numbarnn.Sequential(
                numbarnn.GRU(6, bidirectional=True, return_sequences=True, dtype="float64"),
                numbarnn.MeanOverTime(dtype="float64"), numbarnn.Dropout(0.2, dtype="float64"),
                numbarnn.Dense(3, dtype="float64"), device=device,
            )  # fmt: skip

        found[name] = both(model_of, x, labels, optimizer=name, epochs=3, batch_size=8, clip_norm=1.0)
    worst = max(one["difference"] for one in found.values())
    assert worst <= 1e-8, found
    return {"difference": worst}


def token_fit() -> dict:
    rng = np.random.default_rng(0)
    x = [rng.integers(0, 11, length) for length in rng.integers(2, 12, 24)]

    def model_of(device):
        return numbarnn.Sequential(
            numbarnn.Embedding(11, 5, dtype="float64"),
            numbarnn.LSTM(7, return_sequences=True, dtype="float64"), numbarnn.Dense(11, dtype="float64"),
            device=device,
        )  # fmt: skip

    found = both(model_of, x, x, loss="cross_entropy", optimizer="adam", epochs=3, batch_size=8)
    assert found["difference"] <= 1e-8, found
    return found


def streamed_fit() -> dict:
    """Data that do not fit, by pretending that the GPU has little memory."""
    from unittest import mock

    from numbarnn.training.cuda import step

    x, labels = ragged(40, 12, 3), np.arange(40) % 2

    def model_of(device):
        return numbarnn.Sequential(
            numbarnn.RNN(6, dtype="float64"), numbarnn.Dense(2, dtype="float64"), device=device
        )

    with mock.patch.object(step, "free_bytes", lambda: 0.0):
        found = both(model_of, x, labels, optimizer="adam", epochs=3, batch_size=8)
    assert found["difference"] <= 1e-8, found
    return found


def japanese_vowels() -> dict:
    (x, y), _ = vowels.load()

    def model_of(device):
        return numbarnn.Sequential(
            numbarnn.GRU(vowels.HIDDEN_SIZE, bidirectional=True, return_sequences=True),
            numbarnn.MaxOverTime(), numbarnn.Dense(vowels.CLASSES), device=device,
        )  # fmt: skip

    found = both(model_of, x, y, optimizer="adam", epochs=EPOCHS, batch_size=vowels.BATCH_SIZE)
    found["ratio"] = found["cpu_seconds"] / found["cuda_seconds"]
    return found


def break_even() -> dict:
    """Milliseconds of a training step on either device, by rows and hidden units."""
    from benchmarks.cuda_trainer import CudaTrainer
    from benchmarks.problems import Shape, inputs
    from benchmarks.trainer import Trainer

    found = {}
    for shape in (
        Shape(1, 100, 16, 16),
        Shape(1, 100, 64, 64),
        Shape(16, 100, 16, 16),
        Shape(16, 100, 64, 64),
    ):
        x, dy = inputs(shape)
        times = []
        for make in (Trainer, CudaTrainer):
            trainer = make("lstm", shape.H, x, dy)
            step = trainer.step if make is Trainer else trainer.gradients
            for _ in range(5):
                step()
            getattr(trainer, "wait", lambda: None)()
            began = time.perf_counter()
            for _ in range(20):
                step()
            getattr(trainer, "wait", lambda: None)()
            times.append(1e3 * (time.perf_counter() - began) / 20)
        found[f"lstm {shape}"] = times
    return found
