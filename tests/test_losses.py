"""The losses against PyTorch's and central differences, and at the edges of the numbers."""

import doctest

import numpy as np
import pytest

from numbarnn.jit.cpu import padded
from numbarnn.training import losses as losses_module
from numbarnn.training.losses import (
    LOSSES,
    BinaryCrossEntropy,
    CrossEntropy,
    Huber,
    Loss,
    MeanAbsoluteError,
    MeanSquaredError,
    get_loss,
)

# Against a float64 oracle, relative to the largest magnitude of an array.
TOLERANCE = {"float64": 1e-12, "float32": 1e-6}
DIFFERENCE_STEP, DIFFERENCE_TOLERANCE = 1e-5, 1e-8

LENGTHS = [5, 4, 4, 1]  # rows sorted by falling length
SCALE = 0.375
UNTOUCHED = 123.0

CASES = {
    "labels": (CrossEntropy(), "labels"),
    "shares": (CrossEntropy(), "shares"),
    "binary": (BinaryCrossEntropy(), "bits"),
    "probabilities": (BinaryCrossEntropy(), "probabilities"),
    "mse": (MeanSquaredError(), "reals"),
    "mae": (MeanAbsoluteError(), "reals"),
    "huber": (Huber(), "reals"),
    "huber-wide": (Huber(delta=1.75), "reals"),
}

each_case = pytest.mark.parametrize("case", CASES)
each_dtype = pytest.mark.parametrize("dtype", TOLERANCE)
each_size = pytest.mark.parametrize("size", [1, 5, 19])


def layout_of(lengths):
    """`active` and `offset` of rows sorted by falling length."""
    active = np.array([sum(length > t for length in lengths) for t in range(max(lengths))], np.int64)
    return active, np.concatenate([[0], np.cumsum(active)]).astype(np.int64)


def random_targets(kind, count, size, rng):
    if kind == "labels":
        return rng.integers(0, size, count)
    if kind == "shares":
        shares = rng.uniform(0.0, 1.0, (count, size)) * (rng.uniform(size=(count, size)) < 0.7)
        shares[:, 0] += 0.01
        return shares / shares.sum(axis=1, keepdims=True)
    if kind == "bits":
        return rng.integers(0, 2, (count, size))
    if kind == "probabilities":
        return rng.uniform(size=(count, size))
    return 2.0 * rng.standard_normal((count, size))


class Run:
    """One call of `rows` on arrays whose other elements can be seen to be left alone."""

    def __init__(
        self, loss, outputs, targets, weights, lengths=LENGTHS, rows=None, in_place=False, scale=SCALE
    ):
        count, size = outputs.shape
        wide = np.full((count, padded(size, outputs.dtype)), UNTOUCHED, outputs.dtype)
        wide[:, :size] = outputs
        self.losses, self.scores = np.full(count, UNTOUCHED), np.full(count, UNTOUCHED)
        self.wide = wide if in_place else np.full_like(wide, UNTOUCHED)
        active, offset = layout_of(lengths)
        start, stop = rows or (0, len(lengths))
        loss.rows(
            wide, size, loss.check_targets(targets, size, outputs.dtype), weights, scale,
            self.losses, self.scores, self.wide, active, offset, start, stop,
        )  # fmt: skip
        self.doutputs, self.padding = self.wide[:, :size], self.wide[:, size:]


def problem(case, size, dtype, seed=0):
    loss, kind = CASES[case]
    rng = np.random.default_rng([seed, size])
    count = sum(LENGTHS)
    outputs = (2.0 * rng.standard_normal((count, size))).astype(dtype)
    targets = random_targets(kind, count, size, rng)
    if targets.dtype.kind == "f":
        targets = targets.astype(dtype)
    weights = rng.uniform(0.5, 2.0, count)
    weights[2] = 0.0
    return loss, outputs, targets, weights


def single(loss, outputs, targets, **options):
    """A run on sequences of one step, all of weight 1 and without a scale."""
    outputs = np.array(outputs, options.pop("dtype", "float64"))
    return Run(
        loss, outputs, targets, np.ones(len(outputs)), lengths=[1] * len(outputs), scale=1.0, **options
    )


def assert_close(actual, expected, tolerance):
    error = np.max(np.abs(np.asarray(actual, np.float64) - expected))
    assert error <= tolerance * np.max(np.abs(expected))  # also fails on NaN


# ---- values and gradients --------------------------------------------------------------------------------


def torch_losses(case, x, targets):
    """PyTorch's losses, one a position."""
    import torch
    from torch.nn import functional

    y = torch.from_numpy(targets)
    if case in ("labels", "shares"):
        return functional.cross_entropy(x, y, reduction="none")
    y = y.to(x.dtype)
    if case in ("binary", "probabilities"):
        each = functional.binary_cross_entropy_with_logits(x, y, reduction="none")
    elif case.startswith("huber"):
        each = functional.huber_loss(x, y, reduction="none", delta=CASES[case][0].delta)
    else:
        function = {"mse": functional.mse_loss, "mae": functional.l1_loss}[case]
        each = function(x, y, reduction="none")
    return each.mean(dim=1)


@each_dtype
@each_size
@each_case
def test_loss_and_gradient_are_pytorchs(case, size, dtype):
    torch = pytest.importorskip("torch")
    loss, outputs, targets, weights = problem(case, size, dtype)
    run = Run(loss, outputs, targets, weights)
    x = torch.from_numpy(outputs.astype("float64")).requires_grad_()
    as_read = targets if targets.dtype.kind == "i" else targets.astype("float64")
    expected = torch_losses(case, x, as_read)
    (SCALE * torch.from_numpy(weights) * expected).sum().backward()
    assert_close(run.losses, expected.detach().numpy(), TOLERANCE[dtype])
    if size > 1 or case not in ("labels", "shares"):  # a single class has gradient 0
        assert_close(run.doutputs, x.grad.numpy(), TOLERANCE[dtype])
    assert run.doutputs.dtype == dtype
    np.testing.assert_array_equal(run.padding, 0.0)


@each_size
@each_case
def test_gradient_is_the_central_difference(case, size):
    loss, outputs, targets, weights = problem(case, size, "float64", seed=1)
    run = Run(loss, outputs, targets, weights)
    for j in range(size):
        above, below = outputs.copy(), outputs.copy()
        above[:, j] += DIFFERENCE_STEP
        below[:, j] -= DIFFERENCE_STEP
        rise = Run(loss, above, targets, weights).losses - Run(loss, below, targets, weights).losses
        expected = SCALE * weights * rise / (2.0 * DIFFERENCE_STEP)
        np.testing.assert_allclose(run.doutputs[:, j], expected, rtol=0.0, atol=DIFFERENCE_TOLERANCE)


@each_size
@each_case
def test_score(case, size):
    loss, outputs, targets, weights = problem(case, size, "float64", seed=2)
    if case == "labels":
        expected = outputs.argmax(axis=1) == targets
    elif case == "shares":
        expected = outputs.argmax(axis=1) == targets.argmax(axis=1)
    elif loss.metric == "accuracy":
        expected = ((outputs > 0.0) == (targets > 0.5)).mean(axis=1)
    else:
        expected = np.abs(outputs - targets).mean(axis=1)
    np.testing.assert_allclose(Run(loss, outputs, targets, weights).scores, expected, rtol=1e-14)


def test_the_first_of_equal_outputs_counts():
    assert single(CrossEntropy(), [[1.0, 1.0, 0.0]] * 3, [0, 1, 2]).scores.tolist() == [1.0, 0.0, 0.0]
    shares = [[0.4, 0.4, 0.2], [0.2, 0.4, 0.4]]
    assert single(CrossEntropy(), [[0.0, 1.0, 1.0]] * 2, shares).scores.tolist() == [0.0, 1.0]
    assert single(BinaryCrossEntropy(), [[0.0], [0.0]], [0, 1]).scores.tolist() == [1.0, 0.0]


@each_dtype
@each_case
def test_gradient_may_overwrite_the_outputs(case, dtype):
    apart, together = (Run(*problem(case, 5, dtype), in_place=in_place) for in_place in (False, True))
    for name in ("losses", "scores", "wide"):
        assert getattr(apart, name).tobytes() == getattr(together, name).tobytes()


@each_case
def test_rows_in_ranges_are_all_rows(case):
    """Each range writes its own positions, to the bit, and no others."""
    arguments = problem(case, 5, "float32")
    whole = Run(*arguments)
    active, offset = layout_of(LENGTHS)
    for start, stop in [(0, 1), (1, 3), (3, 4), (2, 2)]:
        part = Run(*arguments, rows=(start, stop))
        inside = np.zeros(sum(LENGTHS), bool)
        for t in range(active.size):
            inside[offset[t] + start : offset[t] + min(stop, active[t])] = True
        for name in ("losses", "scores", "wide"):
            np.testing.assert_array_equal(getattr(part, name)[inside], getattr(whole, name)[inside])
            np.testing.assert_array_equal(getattr(part, name)[~inside], UNTOUCHED)


def test_batch_without_rows():
    active, offset = np.zeros(0, np.int64), np.zeros(1, np.int64)
    nothing, matrix = np.zeros(0), np.zeros((0, 16), np.float32)
    targets = CrossEntropy().check_targets(np.zeros(0, int), 3, "float32")
    CrossEntropy().rows(matrix, 3, targets, nothing, 1.0, nothing, nothing, matrix, active, offset, 0, 0)


# ---- the edges of the numbers ----------------------------------------------------------------------------


@each_dtype
def test_cross_entropy_of_huge_logits(dtype):
    outputs = [[1e4, -1e4, 0.0], [-1e4, -1e4 - 3.0, -3e4]]
    run = single(CrossEntropy(), outputs, [1, 1], dtype=dtype)
    assert run.losses == pytest.approx([2e4, 3.0 + np.log1p(np.exp(-3.0))], rel=1e-7)
    assert run.doutputs[0].tolist() == [1.0, -1.0, 0.0]
    impossible = single(CrossEntropy(), [[0.0, 0.0, -np.inf]], [[0.5, 0.5, 0.0]], dtype=dtype)
    assert impossible.losses == pytest.approx([np.log(2.0)])
    assert impossible.doutputs.tolist() == [[0.0, 0.0, 0.0]]


@each_dtype
def test_binary_cross_entropy_of_huge_logits(dtype):
    run = single(BinaryCrossEntropy(), [[1e4], [-1e4], [1e4], [-1e4]], [0, 1, 1, 0], dtype=dtype)
    assert run.losses.tolist() == [1e4, 1e4, 0.0, 0.0]
    assert run.doutputs[:, 0].tolist() == [1.0, -1.0, 0.0, 0.0]


@each_dtype
def test_sure_and_right_answers_keep_their_digits(dtype):
    """A probability within rounding of 1 has a gradient all the same."""
    tiny = np.exp(-40.0)
    run = single(BinaryCrossEntropy(), [[40.0], [-40.0]], [1, 0], dtype=dtype)
    np.testing.assert_allclose(run.doutputs[:, 0], [-tiny, tiny], rtol=1e-6)
    np.testing.assert_allclose(run.losses, tiny, rtol=1e-12)
    gap = 25.0  # 1 - p is below float32's rounding of 1
    labels = single(CrossEntropy(), [[gap, 0.0]], [0], dtype=dtype)
    np.testing.assert_allclose(labels.doutputs[0], [-np.exp(-gap), np.exp(-gap)], rtol=1e-4)


@each_dtype
@pytest.mark.parametrize("place", [0, 1, 2])
@each_case
def test_nan_is_never_hidden(case, place, dtype):
    loss, outputs, targets, weights = problem(case, 3, dtype)
    outputs[4, place] = np.nan
    if case == "labels":
        targets[4] = 0
    run = Run(loss, outputs, targets, weights)
    assert np.isnan(run.losses[4])
    assert np.isnan(run.doutputs[4, place])
    assert run.scores[4] < 1.0 or np.isnan(run.scores[4])
    others = np.arange(sum(LENGTHS)) != 4
    assert np.isfinite(run.losses[others]).all()
    assert np.isfinite(run.doutputs[others]).all()


@each_dtype
def test_infinite_outputs_give_no_finite_loss(dtype):
    for loss in (MeanSquaredError(), MeanAbsoluteError(), Huber()):
        assert single(loss, [[np.inf], [-np.inf]], [0.0, 0.0], dtype=dtype).losses.tolist() == [
            np.inf,
            np.inf,
        ]
    with np.errstate(invalid="ignore"):  # only with the JIT off does NumPy see it
        assert np.isnan(single(CrossEntropy(), [[np.inf, 0.0]], [0], dtype=dtype).losses).all()


def test_shares_with_a_rounded_sum_have_the_gradient_of_their_loss():
    run = single(CrossEntropy(), [[1.0, 1.0]], [[0.7505, 0.25]])
    assert run.losses == pytest.approx([1.0005 * np.log(2.0)])
    np.testing.assert_allclose(run.doutputs, [[0.50025 - 0.7505, 0.50025 - 0.25]], rtol=1e-14)


def test_absolute_error_of_zero_has_gradient_zero():
    run = single(MeanAbsoluteError(), [[1.5], [2.0], [1.0]], [1.5, 1.5, 1.5])
    assert run.doutputs[:, 0].tolist() == [0.0, 1.0, -1.0]


def test_huber_meets_its_line():
    run = single(Huber(delta=0.5), [[0.25], [0.5], [-0.5], [1.0], [-1.0]], np.zeros(5))
    assert run.losses.tolist() == [0.03125, 0.125, 0.125, 0.375, 0.375]
    assert run.doutputs[:, 0].tolist() == [0.25, 0.5, -0.5, 0.5, -0.5]


# ---- probabilities ---------------------------------------------------------------------------------------


@each_dtype
def test_probabilities(dtype):
    outputs = np.array([[[0.0, 1.0, -2.0], [1e4, 0.0, -1e4]], [[-1e4, -1e4, -1e4], [3.0, 2.0, 1.0]]], dtype)
    soft = CrossEntropy().probabilities(outputs)
    assert (soft.dtype, soft.shape) == (dtype, outputs.shape)
    np.testing.assert_allclose(soft.sum(axis=-1), 1.0, rtol=1e-6)
    np.testing.assert_allclose(soft[1, 0], 1.0 / 3.0, rtol=1e-6)
    np.testing.assert_allclose(soft[1, 1, 0] / soft[1, 1, 2], np.exp(2.0), rtol=1e-6)
    binary = BinaryCrossEntropy().probabilities(outputs)
    assert (binary.dtype, binary.shape) == (dtype, outputs.shape)
    np.testing.assert_allclose(binary[0, 0], [0.5, 0.7310585786300049, 0.11920292202211755], rtol=1e-6)
    assert binary[0, 1].tolist() == [1.0, 0.5, 0.0]
    for loss in (CrossEntropy(), BinaryCrossEntropy()):
        assert np.isnan(loss.probabilities(np.array([[np.nan, 0.0]], dtype))[0, 0])


@pytest.mark.parametrize("name", ["mse", "mae", "huber"])
def test_regressions_have_no_probabilities(name):
    with pytest.raises(ValueError, match=f"predict_proba needs .*cross_entropy.*{name}"):
        get_loss(name).probabilities(np.zeros((2, 3)))


# ---- the registry ----------------------------------------------------------------------------------------


def test_losses_by_name():
    assert list(LOSSES) == ["cross_entropy", "binary_cross_entropy", "mse", "mae", "huber"]
    for name, loss_class in LOSSES.items():
        loss = get_loss(name)
        assert (type(loss), loss.name) == (loss_class, name)
        assert loss.metric == ("accuracy" if name.endswith("cross_entropy") else "mae")
    mine = Huber(2.0)
    assert get_loss(mine) is mine


def test_unknown_losses_are_refused():
    with pytest.raises(ValueError, match=r"loss must be one of 'cross_entropy', .*'huber' or a Loss.*'l1'"):
        get_loss("l1")
    with pytest.raises(TypeError, match=r"loss must be a name .* or a Loss object, got 3"):
        get_loss(3)
    with pytest.raises(TypeError, match=r"call it: Huber\(\)"):
        get_loss(Huber)


@pytest.mark.parametrize(("delta", "error"), [(0.0, ValueError), (np.nan, ValueError), ("1", TypeError)])
def test_wrong_delta_is_refused(delta, error):
    with pytest.raises(error, match=r"delta must be .*finite and above 0, got"):
        Huber(delta)


def test_a_loss_of_ones_own():
    def weighted_outputs(factor, outputs, size, targets, weights, scale, losses, scores, doutputs,
                         active, offset, row_start, row_stop):  # fmt: skip
        losses[:] = factor * (outputs[:, :size] * targets).sum(axis=1)
        doutputs[:, :size] = factor * targets * weights[:, None] * scale

    class Linear(Loss):
        name, metric = "linear", "mae"

        def check_targets(self, y, size, dtype):
            return np.asarray(y, dtype)

        def kernel_for(self, targets):
            return weighted_outputs, (3.0,)

    loss = Linear()
    assert get_loss(loss) is loss
    run = single(loss, [[1.0, 2.0]], [[0.5, 0.25]])
    assert (run.losses.tolist(), run.doutputs.tolist()) == ([3.0], [[1.5, 0.75]])


def test_examples():
    assert doctest.testmod(losses_module).failed == 0
