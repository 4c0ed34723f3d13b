"""Optimisers, with PyTorch's names, defaults and meanings of the arguments.

An optimiser object holds settings only and never changes; what it remembers between steps belongs to a fit
and is made by `Optimizer.start`. So one object may serve many fits, also at the same time.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from numbarnn.arguments import (
    for_kernels,
    fraction,
    from_registry,
    nonnegative,
    shown,
)
from numbarnn.engine.guards import WRITE, Guards, Hold, use_guards
from numbarnn.engine.packing import aligned_zeros
from numbarnn.engine.threads import run
from numbarnn.training.schedules import Constant, Schedule, as_schedule
from numbarnn.training.update_checks import check_flat, check_update
from numbarnn.training.update_kernels import adam, cuts_of, rmsprop, sgd


@dataclass
class OptimizerState:
    """What an optimiser remembers of one fit.

    Attributes
    ----------
    step : int
        Updates done so far.
    averages : list of tuples of arrays (n,)
        For each parameter its running averages, of the parameter's shape and dtype.
    """

    step: int
    averages: list[tuple[np.ndarray, ...]]


@dataclass(frozen=True)
class Optimizer(ABC):
    """What all optimisers share.

    A subclass names its kernel and how many running averages it keeps, and turns its settings into the
    kernel's numbers. Kernels take (team, cuts, values, gradients, averages..., limit, factor, numbers...).
    """

    averages_kept: ClassVar[int]
    update_kernel: ClassVar[Callable[..., None]]

    learning_rate: float | Schedule

    def __post_init__(self) -> None:
        as_schedule(self.learning_rate)

    @property
    def schedule(self) -> Schedule:
        """The learning rate as a schedule; a plain number is a constant one."""
        return as_schedule(self.learning_rate)

    @abstractmethod
    def numbers_at(self, step: int, learning_rate: float) -> tuple[float, ...]:
        """The kernel's last arguments, its settings, for update number `step` (from 1)."""

    def start(self, arrays: Sequence[np.ndarray]) -> OptimizerState:
        """A fresh state for a list of parameters.

        Parameters
        ----------
        arrays : sequence of arrays (n,)
            Flat, contiguous parameters of float32 or float64.

        Returns
        -------
        OptimizerState
            No step done, all averages 0.
        """
        if not isinstance(arrays, (list, tuple)):
            raise TypeError(f"arrays must be a list of arrays, not {type(arrays).__name__}")
        for i, array in enumerate(arrays):
            check_flat(f"arrays[{i}]", array)
        kept = range(self.averages_kept)
        averages = [tuple(aligned_zeros(array.shape, array.dtype) for _ in kept) for array in arrays]
        return OptimizerState(0, averages)

    def update(
        self,
        state: OptimizerState,
        values: Sequence[np.ndarray],
        gradients: Sequence[np.ndarray],
        learning_rate: float,
        limit: float = math.inf,
        factor: float = 1.0,
    ) -> None:
        """One step: change `values` and `state` in place.

        Parameters
        ----------
        state : OptimizerState
            From `start`, for the same list of parameters.
        values, gradients : sequences of arrays (n,)
            Flat and contiguous, float32 or float64, a gradient of its parameter's dtype. Gradients are read
            only.
        learning_rate : float
            The rate of this step, as the `schedule` says.
        limit, factor : float
            Clip the gradients on the way: the step is that of elements brought into [-limit, limit] and
            then multiplied by `factor`. NaN stays NaN.

        Raises
        ------
        TypeError, ValueError
            If an argument does not fit; nothing is changed then.
        """
        if not isinstance(state, OptimizerState):
            raise TypeError(f"state must be one from start(values), not {type(state).__name__}")
        check_update(state.averages, values, gradients)
        rate = nonnegative("learning_rate", learning_rate)
        state.step += 1
        numbers = self.numbers_at(state.step, rate)
        clipping = float(limit), float(factor)
        for value, gradient, averages in zip(values, gradients, state.averages, strict=True):
            cuts = cuts_of(value.size)
            value, gradient = np.asarray(value), for_kernels(np.asarray(gradient))
            run(
                self.update_kernel, cuts.size - 1, cuts, value, gradient, *averages, *clipping, *numbers
            )  # fmt: skip

    def step(self, model: Any, learning_rate: float | None = None) -> None:
        """One step on all parameters of a model, by the gradients that its latest `backward` left.

        What the optimiser remembers from step to step belongs to the model, until another optimiser makes a
        step on it.

        Parameters
        ----------
        model : Model
            The model, built.
        learning_rate : float, optional
            The rate of this step; by default that of the optimiser, which must be a plain number then.

        Raises
        ------
        TypeError, ValueError
            If the rate does not fit, or is missing where the optimiser has a schedule.
        RuntimeError
            If the model has not been built.
        """
        if not hasattr(model, "updates_of"):
            raise TypeError(f"model must be a model, got {shown(model)}")
        if learning_rate is not None:
            rate = nonnegative("learning_rate", learning_rate)
        elif isinstance(self.schedule, Constant):
            rate = float(self.schedule.rate)
        else:
            raise ValueError("learning_rate must be given: a step by itself has no place in the schedule")
        layers, state = model.updates_of(self)
        for layer in layers:
            _ = layer.gradients  # those of a GPU are brought to the host
        hold = Hold(Guards.together(layer.store.guards for layer in layers))
        try:
            hold.take(WRITE)
            for layer in layers:
                layer.count_change()
            values = [layer.flat_values for layer in layers]
            self.update(state, values, [layer.flat_gradients for layer in layers], rate)
        finally:
            use_guards(*hold.way_out)


@dataclass(frozen=True)
class SGD(Optimizer):
    """Stochastic gradient descent, with momentum if wanted.

    As in [1]_::

        g = gradient + weight_decay * value
        velocity = momentum * velocity + g
        value = value - learning_rate * velocity                       nesterov=False
        value = value - learning_rate * (g + momentum * velocity)      nesterov=True

    Parameters
    ----------
    learning_rate : float or Schedule, default 0.01
        Step size, at least 0.
    momentum : float, default 0.0
        Fraction of the last step that is kept, at least 0 and below 1.
    nesterov : bool, default False
        Look one step ahead; needs a momentum above 0.
    weight_decay : float, default 0.0
        Factor of the L2 penalty's gradient, at least 0.

    Raises
    ------
    TypeError, ValueError
        If an argument is of another type or outside of its range.

    References
    ----------
    .. [1] I. Sutskever, J. Martens, G. Dahl and G. Hinton (2013). On the importance of initialization and
       momentum in deep learning. ICML. The form is that of ``torch.optim.SGD``.

    Examples
    --------
    >>> import numpy as np
    >>> from numbarnn.training.optimizers import SGD
    >>> optimizer, value = SGD(0.5), np.array([1.0, 2.0])
    >>> state = optimizer.start([value])
    >>> optimizer.update(state, [value], [np.array([1.0, -1.0])], learning_rate=0.5)
    >>> value.tolist()
    [0.5, 2.5]
    """

    averages_kept = 1
    update_kernel = staticmethod(sgd)

    learning_rate: float | Schedule = 0.01
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        fraction("momentum", self.momentum)
        nonnegative("weight_decay", self.weight_decay)
        if not isinstance(self.nesterov, (bool, np.bool_)):
            raise TypeError(f"nesterov must be True or False, got {shown(self.nesterov)}")
        if self.nesterov and self.momentum == 0.0:
            raise ValueError("nesterov=True needs a momentum above 0, got momentum=0.0")

    def numbers_at(self, step: int, learning_rate: float) -> tuple[float, ...]:
        return learning_rate, float(self.momentum), bool(self.nesterov), float(self.weight_decay)


@dataclass(frozen=True)
class RMSprop(Optimizer):
    """Steps divided by a running root mean square of the gradients.

    As in [1]_::

        g = gradient + weight_decay * value
        square = alpha * square + (1 - alpha) * g**2
        velocity = momentum * velocity + g / (sqrt(square) + eps)
        value = value - learning_rate * velocity

    Parameters
    ----------
    learning_rate : float or Schedule, default 0.01
        Step size, at least 0.
    alpha : float, default 0.99
        Fraction of the old mean square that is kept, at least 0 and below 1.
    eps : float, default 1e-8
        Added to the root, at least 0.
    momentum : float, default 0.0
        Fraction of the last step that is kept, at least 0 and below 1.
    weight_decay : float, default 0.0
        Factor of the L2 penalty's gradient, at least 0.

    Raises
    ------
    TypeError, ValueError
        If an argument is of another type or outside of its range.

    References
    ----------
    .. [1] G. Hinton (2012). Neural networks for machine learning, lecture 6e. The form is that of
       ``torch.optim.RMSprop``.

    Examples
    --------
    >>> from numbarnn.training.optimizers import RMSprop
    >>> RMSprop(1e-3, momentum=0.9)
    RMSprop(learning_rate=0.001, alpha=0.99, eps=1e-08, momentum=0.9, weight_decay=0.0)
    """

    averages_kept = 2
    update_kernel = staticmethod(rmsprop)

    learning_rate: float | Schedule = 0.01
    alpha: float = 0.99
    eps: float = 1e-8
    momentum: float = 0.0
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        fraction("alpha", self.alpha)
        nonnegative("eps", self.eps)
        fraction("momentum", self.momentum)
        nonnegative("weight_decay", self.weight_decay)

    def numbers_at(self, step: int, learning_rate: float) -> tuple[float, ...]:
        return (learning_rate, *map(float, (self.alpha, self.eps, self.momentum, self.weight_decay)))


@dataclass(frozen=True)
class Adam(Optimizer):
    """Adaptive moment estimation.

    As in [1]_::

        g = gradient + weight_decay * value
        mean   = beta1 * mean   + (1 - beta1) * g
        square = beta2 * square + (1 - beta2) * g**2
        value = value - learning_rate * mean / (1 - beta1**step)
                        / (sqrt(square / (1 - beta2**step)) + eps)

    Parameters
    ----------
    learning_rate : float or Schedule, default 0.001
        Step size, at least 0.
    betas : pair of floats, default (0.9, 0.999)
        Fractions of the old mean and of the old mean square that are kept, each at least 0 and below 1.
    eps : float, default 1e-8
        Added to the root, at least 0.
    weight_decay : float, default 0.0
        Factor of the L2 penalty's gradient, at least 0.

    Raises
    ------
    TypeError, ValueError
        If an argument is of another type or outside of its range.

    References
    ----------
    .. [1] D. P. Kingma and J. Ba (2015). Adam: a method for stochastic optimization. ICLR. The form is that
       of ``torch.optim.Adam``.

    Examples
    --------
    >>> import numpy as np
    >>> from numbarnn.training.optimizers import Adam
    >>> optimizer, value = Adam(), np.zeros(2)
    >>> state = optimizer.start([value])
    >>> for _ in range(3):
    ...     optimizer.update(state, [value], [np.array([1.0, -5.0])], learning_rate=0.1)
    >>> value.round(6).tolist()
    [-0.3, 0.3]
    """

    averages_kept = 2
    update_kernel = staticmethod(adam)
    decays_apart: ClassVar[bool] = False  # weight decay is a part of the gradient

    learning_rate: float | Schedule = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.betas, (tuple, list)) or len(self.betas) != 2:
            raise TypeError(f"betas must be a pair of numbers, got {shown(self.betas)}")
        for place, beta in enumerate(self.betas):
            fraction(f"betas[{place}]", beta)
        nonnegative("eps", self.eps)
        nonnegative("weight_decay", self.weight_decay)

    def numbers_at(self, step: int, learning_rate: float) -> tuple[float, ...]:
        beta1, beta2 = map(float, self.betas)
        step_size = learning_rate / (1.0 - beta1**step)
        root_scale = 1.0 / math.sqrt(1.0 - beta2**step)
        decay, shrink = float(self.weight_decay), 1.0
        if self.decays_apart:
            decay, shrink = 0.0, 1.0 - learning_rate * decay
        return step_size, beta1, beta2, root_scale, float(self.eps), decay, shrink


@dataclass(frozen=True)
class AdamW(Adam):
    """Adam with weight decay apart from the gradient.

    As in [1]_: as `Adam`, but for ``g = gradient``; instead, before each step,
    ``value = value * (1 - learning_rate * weight_decay)``.

    Parameters
    ----------
    learning_rate, betas, eps
        As in `Adam`.
    weight_decay : float, default 0.01
        Fraction of a value that is taken off at a learning rate of 1, at least 0.

    References
    ----------
    .. [1] I. Loshchilov and F. Hutter (2019). Decoupled weight decay regularization. ICLR. The form is that
       of ``torch.optim.AdamW``.

    Examples
    --------
    >>> from numbarnn.training.optimizers import AdamW
    >>> from numbarnn.training.schedules import CosineDecay
    >>> AdamW(CosineDecay(3e-3)).schedule.at(epoch=10, epochs=20)
    0.0015
    """

    decays_apart = True

    weight_decay: float = 1e-2


OPTIMIZERS: dict[str, type[Optimizer]] = {"sgd": SGD, "rmsprop": RMSprop, "adam": Adam, "adamw": AdamW}


def get_optimizer(optimizer: str | Optimizer) -> Optimizer:
    """An optimiser by its name in lower case, with its defaults; an object is returned as it is.

    Raises
    ------
    TypeError, ValueError
        If it is neither a name that is known nor an optimiser.

    Examples
    --------
    >>> from numbarnn.training.optimizers import get_optimizer
    >>> get_optimizer("sgd")
    SGD(learning_rate=0.01, momentum=0.0, nesterov=False, weight_decay=0.0)
    """
    return from_registry("optimizer", optimizer, OPTIMIZERS, Optimizer)
