"""Losses: their values, the gradients that start backward, and the metric that goes with each.

Rows of a batch are sorted by falling length. Step t has ``active[t]`` rows, and row b of step t stands at
``n = offset[t] + b`` in every array of N valid positions. So nothing here ever sees padding, and one answer
a sequence is the case of a single step.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from numbarnn.arguments import from_registry, positive
from numbarnn.training.loss_kernels import (
    binary_cross_entropy,
    cross_entropy_of_labels,
    cross_entropy_of_probabilities,
    square_then_line,
)
from numbarnn.training.positions import check_positions
from numbarnn.training.targets import class_targets, probability_targets, real_targets


class Loss(ABC):
    """What all losses share. For one of your own write `name`, `metric`, `check_targets` and `kernel_for`.

    Attributes
    ----------
    name : str
        The name that `get_loss` knows.
    metric : str
        What `rows` puts into `scores`: "accuracy" or "mae", the mean absolute error.
    """

    name: ClassVar[str]
    metric: ClassVar[str]

    def probabilities(self, outputs: ArrayLike) -> np.ndarray:
        """The model's outputs as probabilities.

        Parameters
        ----------
        outputs : array (..., size)
            Outputs of the last layer; CuPy arrays where the model predicts on the GPU.

        Returns
        -------
        array (..., size)
            Of the dtype of `outputs`, and where they are.

        Raises
        ------
        ValueError
            If the outputs of this loss do not stand for probabilities.
        """
        raise ValueError(
            f"predict_proba needs a model trained with loss 'cross_entropy' or 'binary_cross_entropy', "
            f"got {self.name!r}"
        )

    @abstractmethod
    def check_targets(self, y: ArrayLike, size: int, dtype: DTypeLike) -> np.ndarray:
        """Targets in the form that `rows` reads.

        Parameters
        ----------
        y : array-like (n,) or (n, size)
            Targets of n positions.
        size : int
            Outputs of the last layer.
        dtype : dtype
            The model's: float32 or float64.

        Returns
        -------
        array (n,) of int64 or (n, size) of `dtype`
            C-contiguous. May share memory with `y`.

        Raises
        ------
        TypeError, ValueError
            If `y` is not what this loss wants; the message says what that is.
        """

    @abstractmethod
    def kernel_for(self, targets: np.ndarray) -> tuple[Callable[..., None], tuple[float, ...]]:
        """The function that `rows` calls, and the arguments that it takes before those of `rows`.

        Parameters
        ----------
        targets : array (n,) of int64 or (n, size)
            From `check_targets`.

        Returns
        -------
        function : callable
            ``function(*settings, outputs, size, targets, ..., row_start, row_stop)``, compiled or not.
        settings : tuple of float
            What this loss object is set to.
        """

    def rows(
        self,
        outputs: np.ndarray,
        size: int,
        targets: np.ndarray,
        weights: np.ndarray,
        scale: float,
        losses: np.ndarray,
        scores: np.ndarray,
        doutputs: np.ndarray,
        active: np.ndarray,
        offset: np.ndarray,
        row_start: int,
        row_stop: int,
    ) -> None:
        """Losses, scores and gradients at all valid positions of the rows `row_start` to `row_stop`.

        Serial, and without the GIL: ranges of rows may run at the same time. No position depends on
        another one, so how rows are divided changes nothing.

        Parameters
        ----------
        outputs : array (N, padded size)
            Outputs of the last layer, float32 or float64; the first `size` columns count.
        size : int
            How many columns count.
        targets : array (N,) of int64 or (N, size)
            From `check_targets`, in the order of the positions.
        weights : float64 array (N,)
            Factors of the positions' gradients.
        scale : float
            Factor of all gradients.
        losses : float64 array (N,)
            Out: the loss of each position, without weight and scale; NaN where an output is NaN.
        scores : float64 array (N,)
            Out: the metric of each position, without weight.
        doutputs : array (N, padded size)
            Out: ``weights[n] * scale * d losses[n] / d outputs``, and 0 in the columns past `size`. May be
            `outputs` itself, which is then overwritten: so an evaluation needs no second array.
        active : int64 array (T,)
            Rows of each step.
        offset : int64 array (T + 1,)
            Where each step's positions begin.
        row_start, row_stop : int
            The range of rows.

        Raises
        ------
        TypeError, ValueError
            If an argument is not as it is said here.
        """
        read = check_positions(
            outputs, size, targets, weights, losses, scores, doutputs, active, offset, row_start, row_stop
        )
        run, settings = self.kernel_for(targets)
        run(*settings, read.outputs, int(size), read.targets, read.weights, float(scale), losses, scores,
            doutputs, read.active, read.offset, int(row_start), int(row_stop))  # fmt: skip


def _as_array(outputs: Any) -> Any:
    """`outputs` as an array. CuPy's stay on the GPU: NumPy's functions hand them to CuPy's."""
    return outputs if hasattr(outputs, "__cuda_array_interface__") else np.asarray(outputs)


@dataclass(frozen=True)
class CrossEntropy(Loss):
    """Of one class among `size`: outputs are logits, targets are labels or probabilities of the classes.

    ``log(sum_j exp(x_j)) - x_label``, or ``-sum_j share_j log softmax(x)_j``. The score is 1 where the first
    largest output is the label (with probabilities: is the most probable class), else 0.

    Notes
    -----
    Labels are whole numbers (n,) from 0 to ``size - 1``; probabilities are an array (n, size) of numbers of
    at least 0, each row with the sum 1. Source: C. M. Bishop (2006), Pattern Recognition and Machine
    Learning, section 4.3.4.

    Examples
    --------
    >>> import numpy as np
    >>> from numbarnn.training.losses import CrossEntropy
    >>> CrossEntropy().probabilities(np.log([[1.0, 3.0]])).round(3).tolist()
    [[0.25, 0.75]]
    >>> CrossEntropy().check_targets([0, 3], size=3, dtype="float32")
    Traceback (most recent call last):
    ValueError: y must hold labels from 0 to 2, one for each of the 3 outputs; got 3 at position 1
    """

    name = "cross_entropy"
    metric = "accuracy"

    def probabilities(self, outputs: ArrayLike) -> np.ndarray:
        logits = _as_array(outputs)
        with np.errstate(all="ignore"):  # inf - inf: NaN tells of it
            powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
            if isinstance(powers, np.ndarray):
                # Numbers that do not follow one another NumPy adds up one by one.
                powers = np.ascontiguousarray(powers)
            probabilities: np.ndarray = powers / powers.sum(axis=-1, keepdims=True)
        return probabilities

    def check_targets(self, y: ArrayLike, size: int, dtype: DTypeLike) -> np.ndarray:
        return class_targets(y, size, dtype)

    def kernel_for(self, targets: np.ndarray) -> tuple[Callable[..., None], tuple[float, ...]]:
        return (cross_entropy_of_labels if targets.ndim == 1 else cross_entropy_of_probabilities), ()


@dataclass(frozen=True)
class BinaryCrossEntropy(Loss):
    """Of independent yes-or-no answers, one an output: outputs are logits, targets 0, 1 or between.

    ``-(y log sigmoid(x) + (1 - y) log sigmoid(-x))``, the mean over the outputs. The score is the fraction of
    outputs on the right side of 0; a target above 0.5 wants a positive one.

    Notes
    -----
    Targets are an array (n, size), or (n,) for a single output. Source: C. M. Bishop (2006), Pattern
    Recognition and Machine Learning, section 4.3.2.

    Examples
    --------
    >>> import numpy as np
    >>> from numbarnn.training.losses import BinaryCrossEntropy
    >>> BinaryCrossEntropy().probabilities(np.array([[0.0], [800.0]])).tolist()
    [[0.5], [1.0]]
    """

    name = "binary_cross_entropy"
    metric = "accuracy"

    def probabilities(self, outputs: ArrayLike) -> np.ndarray:
        logits = _as_array(outputs)
        with np.errstate(all="ignore"):
            e = np.exp(-np.abs(logits))
            probability: np.ndarray = np.where(logits < 0, e, np.ones_like(e)) / (1 + e)
        return probability

    def check_targets(self, y: ArrayLike, size: int, dtype: DTypeLike) -> np.ndarray:
        return probability_targets(y, size, dtype)

    def kernel_for(self, targets: np.ndarray) -> tuple[Callable[..., None], tuple[float, ...]]:
        return binary_cross_entropy, ()


class _Regression(Loss):
    """A loss of errors e, the mean over the outputs: ``curvature * e**2`` up to a border, then a line."""

    metric = "mae"

    def check_targets(self, y: ArrayLike, size: int, dtype: DTypeLike) -> np.ndarray:
        return real_targets(y, size, dtype)


@dataclass(frozen=True)
class MeanSquaredError(_Regression):
    """``(x - y)**2``, the mean over the outputs. The score is the mean absolute error.

    Notes
    -----
    Targets are finite numbers (n, size), or (n,) for a single output.

    Examples
    --------
    >>> from numbarnn.training.losses import MeanSquaredError
    >>> MeanSquaredError().check_targets([1, 2], size=1, dtype="float64").tolist()
    [[1.0], [2.0]]
    """

    name = "mse"

    def kernel_for(self, targets: np.ndarray) -> tuple[Callable[..., None], tuple[float, ...]]:
        return square_then_line, (1.0, 0.0, math.inf)


@dataclass(frozen=True)
class MeanAbsoluteError(_Regression):
    """``|x - y|``, the mean over the outputs; its gradient at 0 is 0. The score is the same number.

    Notes
    -----
    Targets are finite numbers (n, size), or (n,) for a single output.

    Examples
    --------
    >>> from numbarnn.training.losses import MeanAbsoluteError
    >>> MeanAbsoluteError().metric
    'mae'
    """

    name = "mae"

    def kernel_for(self, targets: np.ndarray) -> tuple[Callable[..., None], tuple[float, ...]]:
        return square_then_line, (0.0, 1.0, 0.0)


@dataclass(frozen=True)
class Huber(_Regression):
    """Half the squared error up to `delta`, a line beyond. The score is the mean absolute error.

    As in [1]_: ``(x - y)**2 / 2`` where ``|x - y| <= delta``, else ``delta * (|x - y| - delta / 2)``; the
    mean over the outputs.

    Parameters
    ----------
    delta : float, default 1.0
        The error from which on the loss grows along a line, above 0.

    Raises
    ------
    TypeError, ValueError
        If `delta` is no number, not above 0 or not finite.

    Notes
    -----
    Targets are finite numbers (n, size), or (n,) for a single output.

    References
    ----------
    .. [1] P. J. Huber (1964). Robust estimation of a location parameter. Annals of Mathematical Statistics
       35 (1), 73-101.

    Examples
    --------
    >>> from numbarnn.training.losses import Huber
    >>> Huber(delta=0.5)
    Huber(delta=0.5)
    """

    name = "huber"

    delta: float = 1.0

    def __post_init__(self) -> None:
        positive("delta", self.delta)

    def kernel_for(self, targets: np.ndarray) -> tuple[Callable[..., None], tuple[float, ...]]:
        return square_then_line, (0.5, float(self.delta), float(self.delta))


LOSSES: dict[str, type[Loss]] = {
    loss.name: loss for loss in (CrossEntropy, BinaryCrossEntropy, MeanSquaredError, MeanAbsoluteError, Huber)
}


def get_loss(loss: str | Loss) -> Loss:
    """A loss by its name, with its defaults; an object is returned as it is.

    Raises
    ------
    ValueError
        For an unknown name.
    TypeError
        For anything but a name or a loss.

    Examples
    --------
    >>> from numbarnn.training.losses import get_loss
    >>> get_loss("huber")
    Huber(delta=1.0)
    """
    return from_registry("loss", loss, LOSSES, Loss)
