"""Optimisers against PyTorch's, clipping, schedules, and what is refused."""

import doctest
import inspect
import math

import numpy as np
import pytest

from numbarnn.training import clipping, optimizers, schedules
from numbarnn.training.clipping import Clipping, clipping_of, global_norm
from numbarnn.training.optimizers import OPTIMIZERS, SGD, Adam, AdamW, Optimizer, RMSprop, get_optimizer
from numbarnn.training.schedules import Constant, CosineDecay, Schedule, StepDecay
from numbarnn.training.update_kernels import BLOCK, BLOCKS_WORTH_A_THREAD, PARTIAL_SUMS, cuts_of

# Relative to the largest magnitude of an array, after all steps.
TOLERANCE = {"float64": 1e-12, "float32": 1e-6}
STEPS = 10
SIZES = [1, 37, 200]  # less than a vector, and not whole vectors
TORCH_NAMES = {"learning_rate": "lr"}

CASES = [
    (SGD, {}),
    (SGD, {"learning_rate": 0.3, "weight_decay": 0.1}),
    (SGD, {"momentum": 0.9}),
    (SGD, {"momentum": 0.8, "nesterov": True, "weight_decay": 0.05}),
    (RMSprop, {}),
    (RMSprop, {"learning_rate": 0.05, "alpha": 0.8, "eps": 1e-3, "weight_decay": 0.1}),
    (RMSprop, {"momentum": 0.7}),
    (Adam, {}),
    (Adam, {"learning_rate": 1.0}),
    (Adam, {"learning_rate": 0.1, "betas": (0.7, 0.95), "eps": 1e-3, "weight_decay": 0.1}),
    (AdamW, {}),
    (AdamW, {"learning_rate": 0.1, "betas": (0.7, 0.95), "eps": 1e-3, "weight_decay": 0.3}),
]

each_case = pytest.mark.parametrize(
    ("optimizer_class", "options"), CASES, ids=[f"{each.__name__}-{'-'.join(opt)}" for each, opt in CASES]
)
each_dtype = pytest.mark.parametrize("dtype", TOLERANCE)
each_class = pytest.mark.parametrize("optimizer_class", OPTIMIZERS.values())


def random_arrays(seed, dtype, sizes=SIZES):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(size).astype(dtype) for size in sizes]


def run_steps(optimizer, dtype, steps=STEPS):
    values = random_arrays(0, dtype)
    state = optimizer.start(values)
    rate = optimizer.schedule.at(0.0, 1.0)
    for step in range(steps):
        optimizer.update(state, values, random_arrays(1 + step, dtype), rate)
    return values


# ---- optimisers ------------------------------------------------------------------------------------------


@each_dtype
@each_case
def test_steps_are_pytorchs(optimizer_class, options, dtype):
    torch = pytest.importorskip("torch")
    parameters = [torch.from_numpy(value).requires_grad_() for value in random_arrays(0, dtype)]
    theirs = getattr(torch.optim, optimizer_class.__name__)(
        parameters,
        **{TORCH_NAMES.get(name, name): value for name, value in options.items()},
        **({"lr": 0.01} if optimizer_class is SGD and "learning_rate" not in options else {}),
    )
    for step in range(STEPS):
        for parameter, gradient in zip(parameters, random_arrays(1 + step, dtype), strict=True):
            parameter.grad = torch.from_numpy(gradient)
        theirs.step()
    for value, parameter in zip(run_steps(optimizer_class(**options), dtype), parameters, strict=True):
        expected = parameter.detach().numpy()
        assert value.dtype == expected.dtype
        assert np.max(np.abs(value - expected)) <= TOLERANCE[dtype] * np.max(np.abs(expected))


@each_class
def test_defaults_are_pytorchs(optimizer_class):
    torch = pytest.importorskip("torch")
    theirs = inspect.signature(getattr(torch.optim, optimizer_class.__name__)).parameters
    for name, parameter in inspect.signature(optimizer_class).parameters.items():
        assert parameter.default == theirs[TORCH_NAMES.get(name, name)].default or (
            optimizer_class is SGD and name == "learning_rate"  # PyTorch versions differ
        )


@each_class
def test_one_object_serves_many_fits(optimizer_class):
    """State belongs to the fit: fits one after the other, and side by side, are each like the first."""
    optimizer = optimizer_class()
    before = repr(optimizer)
    first = run_steps(optimizer, "float64")
    pair = [random_arrays(0, "float64") for _ in range(2)]
    states = [optimizer.start(values) for values in pair]
    for step in range(STEPS):
        for state, values in zip(states, pair, strict=True):
            optimizer.update(state, values, random_arrays(1 + step, "float64"), 1e-3)
    again = run_steps(optimizer, "float64")
    assert all(map(np.array_equal, first, again))
    assert all(map(np.array_equal, *pair))
    assert [state.step for state in states] == [STEPS, STEPS]
    assert repr(optimizer) == before


@each_class
def test_gradients_are_left_alone(optimizer_class):
    optimizer, values = optimizer_class(weight_decay=0.1), random_arrays(0, "float32")
    gradients = random_arrays(1, "float32")
    optimizer.update(optimizer.start(values), values, gradients, 0.1)
    assert all(map(np.array_equal, gradients, random_arrays(1, "float32")))


@each_class
def test_nan_is_never_hidden(optimizer_class):
    optimizer, values = optimizer_class(), [np.ones(3)]
    optimizer.update(optimizer.start(values), values, [np.array([1.0, np.nan, 1.0])], 0.1)
    assert np.isnan(values[0]).tolist() == [False, True, False]


@each_class
def test_lists_must_match(optimizer_class):
    optimizer, values = optimizer_class(), random_arrays(0, "float64")
    with pytest.raises(ValueError, match="values, gradients and state must have as many arrays"):
        optimizer.update(optimizer.start(values), values, values[:1], 0.1)


def test_optimizers_by_name():
    assert list(OPTIMIZERS) == ["sgd", "rmsprop", "adam", "adamw"]
    for name, optimizer_class in OPTIMIZERS.items():
        assert get_optimizer(name) == optimizer_class()
        assert isinstance(get_optimizer(name), Optimizer)
    mine = Adam(3e-4)
    assert get_optimizer(mine) is mine


def test_unknown_optimizers_are_refused():
    with pytest.raises(
        ValueError, match=r"optimizer must be one of 'sgd', .* or an? Optimizer object.*'Adam'"
    ):
        get_optimizer("Adam")
    with pytest.raises(TypeError, match=r"optimizer must be a name .*, got 0.1"):
        get_optimizer(0.1)
    with pytest.raises(TypeError, match=r"call it: SGD\(\)"):
        get_optimizer(SGD)


@pytest.mark.parametrize(
    ("optimizer_class", "options", "error", "message"),
    [
        (SGD, {"learning_rate": -0.1}, ValueError, "learning_rate must be finite and at least 0, got -0.1"),
        (Adam, {"learning_rate": math.nan}, ValueError, "learning_rate must be finite .*, got nan"),
        (Adam, {"learning_rate": math.inf}, ValueError, "learning_rate must be finite .*, got inf"),
        (
            Adam,
            {"learning_rate": "0.1"},
            TypeError,
            "learning_rate must be a number or a Schedule, got '0.1'",
        ),
        (SGD, {"momentum": 1.0}, ValueError, "momentum must be at least 0 and below 1, got 1.0"),
        (SGD, {"momentum": -0.5}, ValueError, "momentum must be at least 0 and below 1, got -0.5"),
        (SGD, {"nesterov": True}, ValueError, "nesterov=True needs a momentum above 0, got momentum=0.0"),
        (SGD, {"nesterov": 0.9}, TypeError, "nesterov must be True or False, got 0.9"),
        (SGD, {"weight_decay": -1.0}, ValueError, "weight_decay must be finite and at least 0, got -1.0"),
        (RMSprop, {"alpha": 1.0}, ValueError, "alpha must be at least 0 and below 1, got 1.0"),
        (RMSprop, {"eps": -1e-8}, ValueError, "eps must be finite and at least 0, got -1e-08"),
        (RMSprop, {"momentum": 2}, ValueError, "momentum must be at least 0 and below 1, got 2"),
        (RMSprop, {"weight_decay": None}, TypeError, "weight_decay must be a number, .*, got None"),
        (Adam, {"betas": (0.9, 1.0)}, ValueError, r"betas\[1\] must be at least 0 and below 1, got 1.0"),
        (Adam, {"betas": (-0.1, 0.9)}, ValueError, r"betas\[0\] must be at least 0 and below 1, got -0.1"),
        (Adam, {"betas": 0.9}, TypeError, "betas must be a pair of numbers, got 0.9"),
        (AdamW, {"betas": (0.9,)}, TypeError, r"betas must be a pair of numbers, got \(0.9,\)"),
        (AdamW, {"eps": math.inf}, ValueError, "eps must be finite and at least 0, got inf"),
        (AdamW, {"weight_decay": True}, TypeError, "weight_decay must be a number, .*, got True"),
    ],
)
def test_wrong_settings_are_refused(optimizer_class, options, error, message):
    with pytest.raises(error, match=message):
        optimizer_class(**options)


# ---- clipping --------------------------------------------------------------------------------------------


def clip(gradients, clip_norm=None, clip_value=None):
    """The gradients as an update takes them: its step at a rate of 1 is the clipped gradient."""
    clipping = clipping_of(gradients, global_norm(gradients), clip_norm, clip_value)
    optimizer, values = SGD(), [np.zeros_like(gradient) for gradient in gradients]
    optimizer.update(optimizer.start(values), values, gradients, 1.0, *clipping)
    return [-value for value in values]


@each_dtype
@pytest.mark.parametrize(
    "sizes",
    [[1], [PARTIAL_SUMS], [5 * PARTIAL_SUMS + 3, 7, 2 * PARTIAL_SUMS], [0, 3], [BLOCK], [3 * BLOCK + 70]],
    ids=str,
)
def test_global_norm(sizes, dtype):
    gradients = random_arrays(0, dtype, sizes)
    expected = np.linalg.norm(np.concatenate(gradients).astype("float64"))
    assert global_norm(gradients) == pytest.approx(expected, rel=1e-14)


def test_global_norm_sums_in_float64():
    assert global_norm([np.full(1000, 1e30, "float32")]) == pytest.approx(1e30 * math.sqrt(1000), rel=1e-6)
    assert global_norm([np.full(3, 1e-30, "float32")]) == pytest.approx(1e-30 * math.sqrt(3), rel=1e-6)
    assert global_norm([]) == 0.0
    for bad in (np.nan, np.inf):
        for place in (0, 99):
            gradient = np.zeros(100)
            gradient[place] = bad
            assert not math.isfinite(global_norm([gradient]))


@each_dtype
@pytest.mark.parametrize("max_norm", [0.5, 3.0])
def test_clipping_by_norm_is_pytorchs(max_norm, dtype):
    """But for the 1e-6 that PyTorch adds to the norm, which keeps it off the ball's surface."""
    torch = pytest.importorskip("torch")
    gradients = random_arrays(0, dtype)
    parameters = [torch.zeros(size) for size in SIZES]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.data = torch.from_numpy(np.zeros_like(gradient))
        parameter.grad = torch.from_numpy(gradient.copy())
    norm = float(torch.nn.utils.clip_grad_norm_(parameters, max_norm))
    assert global_norm(gradients) == pytest.approx(norm, rel=1e-6)
    clipped = clip(gradients, clip_norm=max_norm)
    assert global_norm(clipped) == pytest.approx(max_norm, rel=1e-6 if dtype == "float32" else 1e-15)
    for parameter, gradient in zip(parameters, clipped, strict=True):
        np.testing.assert_allclose(gradient * (norm / (norm + 1e-6)), parameter.grad.numpy(), rtol=1e-6)


def test_clipping_by_norm_leaves_what_is_inside():
    gradients = random_arrays(0, "float32")
    norm = global_norm(gradients)
    for max_norm in (norm, 2.0 * norm):
        assert clipping_of(gradients, norm, max_norm, None) == Clipping(math.inf, 1.0)
        assert all(map(np.array_equal, clip(gradients, clip_norm=max_norm), gradients))


def test_clipping_never_hides_nan():
    gradients = [np.array([1.0, np.nan]), np.array([2.0])]
    np.testing.assert_array_equal(clip(gradients, clip_norm=0.5)[0], [1.0, np.nan])
    np.testing.assert_array_equal(clip(gradients, clip_value=0.5)[0], [0.5, np.nan])
    with np.errstate(invalid="ignore"):  # only with the JIT off does NumPy see it
        np.testing.assert_array_equal(clip([np.array([1.0, np.inf])], clip_norm=0.5)[0], [0.0, np.nan])


@each_dtype
def test_clipping_by_value(dtype):
    gradients = random_arrays(0, dtype)
    for clipped, gradient in zip(clip(gradients, clip_value=0.25), gradients, strict=True):
        assert clipped.dtype == dtype
        np.testing.assert_array_equal(clipped, np.clip(gradient, -0.25, 0.25))


@each_dtype
def test_clipping_by_value_comes_first(dtype):
    gradients = random_arrays(0, dtype, [3, BLOCK + 5])
    norm = global_norm([np.clip(gradient, -0.25, 0.25) for gradient in gradients])
    clipping = clipping_of(gradients, global_norm(gradients), 0.5 * norm, 0.25)
    assert clipping == Clipping(0.25, 0.5)


@each_class
@each_dtype
def test_updates_clip_on_the_way(optimizer_class, dtype):
    """The bits of an update by gradients that were clipped before."""
    optimizer = optimizer_class(weight_decay=0.1)
    sizes = [5, 2 * BLOCK + 3]
    before, after = random_arrays(0, dtype, sizes), random_arrays(0, dtype, sizes)
    states = optimizer.start(before), optimizer.start(after)
    real = np.dtype(dtype).type
    for step in range(3):
        gradients = random_arrays(1 + step, dtype, sizes)
        clipped = [np.clip(gradient, -0.25, 0.25) * real(0.3) for gradient in gradients]
        optimizer.update(states[0], before, clipped, 0.1)
        optimizer.update(states[1], after, gradients, 0.1, limit=0.25, factor=0.3)
    assert all(map(np.array_equal, before, after))


@each_class
@each_dtype
def test_threads_change_no_bit(optimizer_class, dtype, set_threads):
    optimizer, results = optimizer_class(), []
    for count in (1, 2, 5):
        set_threads(count)
        values, gradients = (
            random_arrays(seed, dtype, [3 * BLOCKS_WORTH_A_THREAD * BLOCK + 11]) for seed in (0, 1)
        )
        assert cuts_of(values[0].size).size == 1 + min(count, 3)
        optimizer.update(optimizer.start(values), values, gradients, 0.1)
        results.append((global_norm(gradients), values[0].tobytes()))
    assert results == results[:1] * 3


# ---- schedules -------------------------------------------------------------------------------------------


def test_constant():
    assert Constant(0.1).at(3.5, 7) == 0.1
    assert Adam(0.1).schedule == Constant(0.1)
    assert Adam().schedule.at(0, 1) == 1e-3


def test_cosine_decay_runs_over_the_whole_fit():
    schedule = CosineDecay(0.5, final=0.1)
    assert schedule.at(0, 8) == 0.5
    assert schedule.at(2, 8) == pytest.approx(0.1 + 0.4 * (1.0 + math.sqrt(0.5)) / 2.0)
    assert schedule.at(4.0, 8) == pytest.approx(0.3)
    assert schedule.at(8, 8) == pytest.approx(0.1)
    rates = [schedule.at(epoch / 10, 8) for epoch in range(81)]
    assert rates == sorted(rates, reverse=True)


def test_step_decay_steps_after_whole_periods():
    schedule = StepDecay(0.8, factor=0.5, every=3)
    assert [schedule.at(epoch, 9) for epoch in (0, 2.99, 3, 5.5, 6, 8.9)] == [0.8, 0.8, 0.4, 0.4, 0.2, 0.2]
    assert StepDecay(1.0).at(10, 20) == pytest.approx(0.1)


def test_a_schedule_of_ones_own():
    class Halved(Schedule):
        def at(self, epoch, epochs):
            return 1.0 / (1.0 + epoch)

    assert SGD(Halved()).schedule.at(1, 4) == 0.5


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Constant(-1.0), ValueError, "rate must be finite and at least 0, got -1.0"),
        (lambda: CosineDecay(math.nan), ValueError, "initial must be finite and at least 0, got nan"),
        (lambda: CosineDecay(0.1, -0.1), ValueError, "final must be finite and at least 0, got -0.1"),
        (lambda: CosineDecay("0.1"), TypeError, "initial must be a number, .*, got '0.1'"),
        (lambda: StepDecay(-0.1), ValueError, "initial must be finite and at least 0, got -0.1"),
        (lambda: StepDecay(0.1, factor=-1), ValueError, "factor must be finite and at least 0, got -1"),
        (lambda: StepDecay(0.1, every=0), ValueError, "every must be finite and above 0, got 0"),
    ],
)
def test_wrong_schedules_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize("module", [optimizers, clipping, schedules], ids=lambda module: module.__name__)
def test_examples(module):
    assert doctest.testmod(module).failed == 0
