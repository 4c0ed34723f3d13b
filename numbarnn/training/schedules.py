"""Schedules: how a learning rate changes in the course of a fit."""

import math
import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass
from numbers import Real
from typing import Any

from numbarnn.arguments import nonnegative, positive, shown

# A moment is off by up to an epsilon, a number of epochs and the quotient by half of one.
ROUNDED_BY = 4 * sys.float_info.epsilon


class Schedule(ABC):
    """A rate that depends on how far a fit has come. Subclass it and write `at` for one of your own."""

    @abstractmethod
    def at(self, epoch: float, epochs: float) -> float:
        """The rate at one moment of a fit.

        Parameters
        ----------
        epoch : float
            Epochs done so far, with the fraction of the present one: 2.5 is half-way through the third.
        epochs : float
            Epochs of the whole fit.

        Returns
        -------
        float
            The rate.
        """


@dataclass(frozen=True)
class Constant(Schedule):
    """The same rate throughout; what a plain number stands for.

    Parameters
    ----------
    rate : float
        The rate, at least 0.

    Raises
    ------
    TypeError, ValueError
        If `rate` is no number, negative or not finite.

    Examples
    --------
    >>> from numbarnn.training.schedules import Constant
    >>> Constant(0.01).at(epoch=7.5, epochs=20)
    0.01
    """

    rate: float

    def __post_init__(self) -> None:
        nonnegative("rate", self.rate)

    def at(self, epoch: float, epochs: float) -> float:
        return float(self.rate)


@dataclass(frozen=True)
class CosineDecay(Schedule):
    """From `initial` to `final` along half a cosine over the whole fit.

    ``final + (initial - final) * (1 + cos(pi * epoch / epochs)) / 2``, as in [1]_.

    Parameters
    ----------
    initial : float
        The rate at the start, at least 0.
    final : float, default 0.0
        The rate at the end, at least 0.

    Raises
    ------
    TypeError, ValueError
        If an argument is no number, negative or not finite.

    References
    ----------
    .. [1] I. Loshchilov and F. Hutter (2017). SGDR: stochastic gradient descent with warm restarts. ICLR.

    Examples
    --------
    >>> from numbarnn.training.schedules import CosineDecay
    >>> schedule = CosineDecay(0.4)
    >>> [round(schedule.at(epoch, epochs=4), 4) for epoch in range(5)]
    [0.4, 0.3414, 0.2, 0.0586, 0.0]
    """

    initial: float
    final: float = 0.0

    def __post_init__(self) -> None:
        nonnegative("initial", self.initial)
        nonnegative("final", self.final)

    def at(self, epoch: float, epochs: float) -> float:
        share = (1.0 + math.cos(math.pi * min(max(epoch / epochs, 0.0), 1.0))) / 2.0
        # In this form the first and the last rate are those that were asked for, to the last bit.
        return float(self.initial) * share + float(self.final) * (1.0 - share)


@dataclass(frozen=True)
class StepDecay(Schedule):
    """Multiplied by `factor` every `every` epochs.

    ``initial * factor ** floor(epoch / every)``, with the quotient of the numbers that are meant: of
    ``every=0.1`` the third step comes at epoch 0.3, though the quotient of the floats is below 3.

    Parameters
    ----------
    initial : float
        The rate at the start, at least 0.
    factor : float, default 0.1
        What the rate is multiplied by, at least 0.
    every : float, default 10
        Epochs between two steps, above 0.

    Raises
    ------
    TypeError, ValueError
        If an argument is no number or outside of its range.

    Examples
    --------
    >>> from numbarnn.training.schedules import StepDecay
    >>> schedule = StepDecay(0.8, factor=0.5, every=2)
    >>> [schedule.at(epoch, epochs=6) for epoch in range(6)]
    [0.8, 0.8, 0.4, 0.4, 0.2, 0.2]
    """

    initial: float
    factor: float = 0.1
    every: float = 10

    def __post_init__(self) -> None:
        nonnegative("initial", self.initial)
        nonnegative("factor", self.factor)
        positive("every", self.every)

    def at(self, epoch: float, epochs: float) -> float:
        steps = _floor(float(epoch) / float(self.every))
        try:
            return float(self.initial) * math.pow(self.factor, steps)
        except OverflowError:  # a factor above 1
            return math.inf


def _floor(quotient: float) -> float:
    """`math.floor`, but of a quotient that rounding has moved below a whole number that number.

    The moments of two batches differ by far more.
    """
    if math.isinf(quotient):
        return quotient
    nearest = round(quotient)
    is_close = abs(quotient - nearest) <= ROUNDED_BY * abs(quotient)
    return float(nearest if is_close else math.floor(quotient))


def as_schedule(learning_rate: Any) -> Schedule:
    """A learning rate as a schedule: a number is a `Constant`.

    Raises
    ------
    TypeError, ValueError
        If `learning_rate` is neither a schedule nor a finite number of at least 0.

    Examples
    --------
    >>> from numbarnn.training.schedules import as_schedule
    >>> as_schedule(0.01)
    Constant(rate=0.01)
    """
    if isinstance(learning_rate, Schedule):
        return learning_rate
    if not isinstance(learning_rate, Real):
        raise TypeError(f"learning_rate must be a number or a Schedule, got {shown(learning_rate)}")
    return Constant(nonnegative("learning_rate", learning_rate))
