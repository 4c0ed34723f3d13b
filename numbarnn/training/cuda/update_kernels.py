"""The counterparts on a GPU of the updates in ``update_kernels.py``: a thread has a parameter.

Numbers come in the dtype of the parameters, the factor of clipping as an array of one number: it is made on
the GPU and the host never learns it.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

from numbarnn.engine.cuda.arrays import arrays
from numbarnn.engine.cuda.device import cuda, device
from numbarnn.engine.cuda.launch import launch_each
from numbarnn.training import update_kernels
from numbarnn.training.optimizers import Optimizer

_within = device(update_kernels.within)


@cuda.jit
def _sgd(values, gradients, velocities, factor, limit, learning_rate, momentum, nesterov, weight_decay):
    i = cuda.grid(1)
    if i < values.size:
        gradient = factor[0] * _within(gradients[i], limit) + weight_decay * values[i]
        velocity = momentum * velocities[i] + gradient
        velocities[i] = velocity
        step = gradient + momentum * velocity if nesterov else velocity
        values[i] -= learning_rate * step


@cuda.jit
def _rmsprop(values, gradients, squares, velocities, factor, limit, learning_rate, alpha, new_share, eps,
             momentum, weight_decay):  # fmt: skip
    i = cuda.grid(1)
    if i < values.size:
        gradient = factor[0] * _within(gradients[i], limit) + weight_decay * values[i]
        square = alpha * squares[i] + new_share * gradient * gradient
        squares[i] = square
        velocity = momentum * velocities[i] + gradient / (math.sqrt(square) + eps)
        velocities[i] = velocity
        values[i] -= learning_rate * velocity


@cuda.jit
def _adam(values, gradients, means, squares, factor, limit, step_size, beta1, new_share1, beta2, new_share2,
          root_scale, eps, weight_decay, shrink):  # fmt: skip
    i = cuda.grid(1)
    if i < values.size:
        gradient = factor[0] * _within(gradients[i], limit) + weight_decay * values[i]
        mean = beta1 * means[i] + new_share1 * gradient
        square = beta2 * squares[i] + new_share2 * gradient * gradient
        means[i] = mean
        squares[i] = square
        values[i] = shrink * values[i] - step_size * mean / (root_scale * math.sqrt(square) + eps)


# 1 - x is taken while x still has all its digits.


def _rmsprop_numbers(learning_rate, alpha, eps, momentum, weight_decay):
    return learning_rate, alpha, 1.0 - alpha, eps, momentum, weight_decay


def _adam_numbers(step_size, beta1, beta2, root_scale, eps, weight_decay, shrink):
    return step_size, beta1, 1.0 - beta1, beta2, 1.0 - beta2, root_scale, eps, weight_decay, shrink


# The kernel, and its numbers from those of the CPU's.
_TWINS: dict[Callable[..., None], tuple[Any, Callable[..., tuple[Any, ...]]]] = {
    update_kernels.sgd: (_sgd, lambda *numbers: numbers),
    update_kernels.rmsprop: (_rmsprop, _rmsprop_numbers),
    update_kernels.adam: (_adam, _adam_numbers),
}


def kernel_for(optimizer: Optimizer) -> tuple[Any, Callable[..., tuple[Any, ...]]]:
    """The kernel of an optimiser, and what brings its numbers into the order of the kernel's arguments.

    Raises
    ------
    ValueError
        If the optimiser is one of the user's own, which has no kernel here.
    """
    if optimizer.update_kernel not in _TWINS:
        raise ValueError(f'optimizer {optimizer!r} has no kernel for device="cuda"; fit on device="cpu"')
    return _TWINS[optimizer.update_kernel]


class Updates:
    """An optimiser on the GPU, with what it remembers of one fit.

    Parameters
    ----------
    optimizer : Optimizer
        Its settings.
    values, gradients : arrays (n,)
        All parameters of a model, and their gradients.

    Raises
    ------
    ValueError
        If the optimiser is one of the user's own, which has no kernel here.
    """

    def __init__(self, optimizer: Optimizer, values: Any, gradients: Any) -> None:
        self.optimizer, self.values, self.gradients = optimizer, values, gradients
        self.kernel, self._numbers_of = kernel_for(optimizer)
        self.averages: Sequence[Any] = [arrays().zeros_like(values) for _ in range(optimizer.averages_kept)]
        self.step = 0

    def update(self, learning_rate: float, limit: float, factor: Any) -> None:
        """One step; `limit` and `factor` clip as in `Optimizer.update`, the latter an array (1,)."""
        self.step += 1
        numbers = self._numbers_of(*self.optimizer.numbers_at(self.step, learning_rate))
        number = self.values.dtype.type
        typed = (value if isinstance(value, bool) else number(value) for value in (limit, *numbers))
        launch_each(
            self.kernel, self.values.size, self.values, self.gradients, *self.averages, factor, *typed
        )


def norm_of(gradients: Any) -> Any:
    """The Euclidean norm, an array without a shape; NaN or infinite if an element is."""
    return arrays().sqrt(arrays().dot(gradients, gradients))


def clipping_factor(gradients: Any, norm: Any, clip_norm: float | None, clip_value: float | None) -> Any:
    """What to multiply gradients by that were clipped by value, an array (1,); see `clipping_of`."""
    xp = arrays()
    if clip_norm is None:
        return xp.ones(1, gradients.dtype)
    if clip_value is not None:
        norm = norm_of(xp.clip(gradients, -clip_value, clip_value))
    radius = gradients.dtype.type(clip_norm)
    # Where the norm is NaN the factor is 1, so that NaN is seen.
    return (radius / xp.where(norm > radius, norm, radius)).reshape(1)
