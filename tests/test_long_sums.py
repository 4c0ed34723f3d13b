"""Sums of a million numbers in float32 are as exact as a few roundings, for any number of threads."""

import numpy as np
import pytest
from conftest import assert_same, on_gpu, sized

import numbarnn
from numbarnn.engine.sums import LEVEL_ROWS, LEVELS, ONE_BLOCK_ROWS, SUMMED_AT_ONCE, level_count
from numbarnn.training.clipping import global_norm
from numbarnn.training.losses import CrossEntropy

STEPS = sized(1_000_000, 3 * SUMMED_AT_ONCE + 1)
ALLOWED = 1e-5  # a plain sum is off by a thousand times that
TENTH = np.float32(0.1)
THREADS = [1, 2, 5]


def off(value, expected):
    """The largest error, relative to what is expected."""
    return np.max(np.abs(np.asarray(value, np.float64) / expected - 1.0))


@pytest.mark.parametrize("rows", [(1, STEPS), (3, STEPS // 3)])
def test_mean_over_time(device, rows):
    x = np.full((*rows, 2), TENTH)
    assert off(numbarnn.MeanOverTime(device=device).forward(x), TENTH) < ALLOWED


def test_mean_of_rows_that_end_anywhere(device):
    lengths = [1, SUMMED_AT_ONCE - 1, SUMMED_AT_ONCE, SUMMED_AT_ONCE + 1, 3 * SUMMED_AT_ONCE]
    rng = np.random.default_rng(0)
    x = [rng.standard_normal((length, 3)).astype("f4") for length in lengths]
    wanted = [row.mean(axis=0, dtype=np.float64) for row in x]
    found = numbarnn.MeanOverTime(device=device).forward(x)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("units", [1, 70])
def test_dense(units, device):
    steps = STEPS // units
    layer = numbarnn.Dense(units, device=device)
    layer.build(2, seed=0)
    layer.forward(np.full((1, steps, 2), 3 * TENTH), training=True)
    layer.backward(np.full((1, steps, units), TENTH))
    expected = float(TENTH) * steps
    assert off(layer.gradients["bias"], expected) < ALLOWED
    assert off(layer.gradients["weight"], float(3 * TENTH) * expected) < ALLOWED


@pytest.mark.parametrize("vocabulary", [1, 2, 1000])
def test_embedding(vocabulary, device):
    layer = numbarnn.Embedding(vocabulary, 3, device=device)
    tokens = np.arange(STEPS) % 2 % vocabulary
    layer.forward(tokens[None], training=True)
    layer.backward(np.full((1, STEPS, 3), TENTH))
    counts = np.bincount(tokens, minlength=vocabulary)
    used = counts > 0
    found = layer.gradients["weight"]
    assert off(found[used], float(TENTH) * counts[used, None]) < ALLOWED
    assert not found[~used].any()


@pytest.mark.parametrize("rows", [1, 4])  # one partial sum, and two
@pytest.mark.parametrize("cell", ["RNN", "LSTM", "GRU"])
def test_recurrent(cell, rows):
    """Beside float64, on inputs that make all steps but the first ones alike."""
    found = {}
    for dtype in ("float32", "float64"):
        layer = getattr(numbarnn, cell)(2, return_sequences=True, dtype=dtype)
        layer.build(3, seed=1)
        x = np.full((rows, STEPS // rows // 2, 3), TENTH, dtype)
        y, _ = layer.forward(x, training=True)
        layer.backward(np.full(y.shape, TENTH, dtype))
        found[dtype] = {name: gradient.copy() for name, gradient in layer.gradients.items()}
    for name, gradient in found["float32"].items():
        wanted = found["float64"][name]
        assert np.max(np.abs(gradient - wanted)) < ALLOWED * np.max(np.abs(wanted)), name


def test_loss_and_weights_of_a_million_rows():
    model = numbarnn.Sequential(numbarnn.Dense(1))
    model.build(1, seed=0)
    zeros = {name: np.zeros_like(value) for name, value in model.parameters.items()}
    model.set_parameters(zeros)
    x, y, weights = np.zeros((STEPS, 1), "f4"), np.full((STEPS, 1), TENTH), np.full(STEPS, TENTH)
    options = {"loss": "mse", "optimizer": numbarnn.SGD(1e-3), "epochs": 1, "batch_size": STEPS}
    history = model.fit(x, y, sample_weight=weights, verbose=False, **options).history
    assert off(history["loss"], float(TENTH) ** 2) < ALLOWED
    # d/db (b - y)**2 at b = 0, the mean over all rows
    (bias,) = (value for name, value in model.parameters.items() if name.endswith("bias"))
    assert off(bias, 1e-3 * 2 * float(TENTH)) < ALLOWED
    model.set_parameters(zeros)
    assert off(model.evaluate(x, y)["loss"], float(TENTH) ** 2) < ALLOWED


def test_norm_of_a_million_gradients():
    assert off(global_norm([np.full(STEPS, TENTH)]), float(TENTH) * STEPS**0.5) < 1e-7


@pytest.mark.parametrize("order", ["C", "F"])
def test_probabilities_of_a_million_classes(order):
    logits = np.full((2, STEPS), TENTH, order=order)
    logits[:, 0] = 1.0
    found = CrossEntropy().probabilities(logits)
    assert found.dtype == np.float32
    power = np.exp(float(TENTH) - 1.0)
    assert off(found[:, 1:], power / (1.0 + (STEPS - 1) * power)) < ALLOWED


@pytest.mark.cuda
@on_gpu
@pytest.mark.parametrize("rows", [SUMMED_AT_ONCE - 1, SUMMED_AT_ONCE, 3 * SUMMED_AT_ONCE + 5])
def test_sums_in_blocks_on_a_gpu(rows, monkeypatch):
    """As if few rows were many: gradients beside those of the CPU."""
    from numbarnn.engine.cuda import matmul
    from numbarnn.layers.cuda import passes

    rng = np.random.default_rng(0)
    x, dy = rng.standard_normal((1, rows, 2)), rng.standard_normal((1, rows, 3))
    for module in (matmul, passes):
        monkeypatch.setattr(module, "ROWS_AT_ONCE", 8)
    found = {}
    for device in ("cpu", "cuda"):
        layer = numbarnn.Dense(3, device=device, dtype="float64")
        found[device] = layer_gradients(layer, x, dy)
    for name, gradient in found["cpu"].items():
        np.testing.assert_allclose(found["cuda"][name], gradient, rtol=0, atol=1e-12, err_msg=name)


# ---- one order, whatever the threads and the buffers ------------------------------------------------------

# At, before and behind the ends of blocks and levels. An even number is of two sequences, and of recurrent
# layers two partial sums.
ROW_COUNTS = [ONE_BLOCK_ROWS - 1, ONE_BLOCK_ROWS + 1, 2 * ONE_BLOCK_ROWS + 2, LEVEL_ROWS, LEVEL_ROWS + 1,
              2 * LEVEL_ROWS + 2, 2 * LEVEL_ROWS + 3]  # fmt: skip


def test_levels_come_as_they_are_needed():
    assert [level_count(rows) for rows in ROW_COUNTS] == [1, 1, 1, 1, LEVELS, LEVELS, LEVELS]
    assert level_count(1) == 1


def layer_gradients(layer, x, dy):
    if not layer.built:
        layer.build(x.shape[2] if x.ndim == 3 else 1, seed=0)
    layer.forward(x, training=True)
    layer.backward(dy)
    return {name: gradient.copy() for name, gradient in layer.gradients.items()}


def random_problem(layer_name, rows, dtype):
    rng = np.random.default_rng(rows)
    sequences = 1 if rows % 2 else 2
    shape = sequences, rows // sequences
    dy = rng.standard_normal((*shape, 33)).astype(dtype)
    if layer_name == "Embedding":
        return rng.integers(0, 3, shape), dy
    return rng.standard_normal((*shape, 5)).astype(dtype), dy


MAKE = {
    "Dense": lambda dtype: numbarnn.Dense(33, dtype=dtype),
    "Embedding": lambda dtype: numbarnn.Embedding(3, 33, dtype=dtype),
    "LSTM": lambda dtype: numbarnn.LSTM(33, return_sequences=True, dtype=dtype),
    "GRU": lambda dtype: numbarnn.GRU(33, return_sequences=True, dtype=dtype),
}


@pytest.mark.parametrize("rows", ROW_COUNTS)
@pytest.mark.parametrize("layer_name", MAKE)
def test_bits_depend_neither_on_threads_nor_on_larger_buffers(layer_name, rows, set_threads):
    x, dy = random_problem(layer_name, rows, "float32")
    larger = np.concatenate([x] * 9, axis=1), np.concatenate([dy] * 9, axis=1)
    results = []
    for threads in THREADS:
        set_threads(threads)
        layer = MAKE[layer_name]("float32")
        results.append(layer_gradients(layer, x, dy))
        layer_gradients(layer, *larger)  # leaves buffers of more levels
        results.append(layer_gradients(layer, x, dy))
    for other in results[1:]:
        assert_same(other, results[0])


@pytest.mark.parametrize("rows", [ONE_BLOCK_ROWS, 2 * ONE_BLOCK_ROWS + 4, 2 * LEVEL_ROWS + 2])
@pytest.mark.parametrize("layer_name", ["Dense", "LSTM", "GRU"])
def test_blocks_lose_no_row(layer_name, rows):
    """Dense beside NumPy's products; recurrent layers: a batch beside its rows one by one."""
    x, dy = random_problem(layer_name, rows, "float64")
    layer = MAKE[layer_name]("float64")
    found = layer_gradients(layer, x, dy)
    if layer_name == "Dense":
        flat_x, flat_dy = x.reshape(-1, 5), dy.reshape(-1, 33)
        np.testing.assert_allclose(found["weight"], flat_dy.T @ flat_x, rtol=0, atol=1e-10)
        np.testing.assert_allclose(found["bias"], flat_dy.sum(axis=0), rtol=0, atol=1e-10)
        return
    parts = [layer_gradients(layer, x[b : b + 1], dy[b : b + 1]) for b in range(len(x))]
    for name, gradient in found.items():
        np.testing.assert_allclose(gradient, sum(part[name] for part in parts), rtol=0, atol=1e-9)
