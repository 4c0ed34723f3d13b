"""The counterparts on a GPU of the kernels in ``loss_kernels.py``: a thread has a valid position.

They work in the dtype of the outputs, and take a position's weight and the scale as one factor.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from numbarnn.engine.cuda.device import cuda, device
from numbarnn.engine.cuda.launch import launch_each
from numbarnn.training import loss_kernels
from numbarnn.training.losses import Loss

_first_maximum = device(loss_kernels.first_maximum)


@functools.cache
def _cross_entropy_of_labels(number):
    zero, one = number(0.0), number(1.0)

    @cuda.jit
    def cross_entropy(outputs, targets, factors, losses, scores, doutputs):
        n = cuda.grid(1)
        if n < outputs.shape[0]:
            row, drow, label = outputs[n], doutputs[n], targets[n]
            size = outputs.shape[1]
            best = _first_maximum(row, size)
            peak, total, others = row[best], zero, zero
            for j in range(size):
                power = math.exp(row[j] - peak)
                drow[j] = power
                total += power
                if j != label:
                    others += power
            loss = peak - row[label] + math.log(total)
            losses[n] = loss
            scores[n] = one if best == label and loss == loss else zero
            share = factors[n] / total
            for j in range(size):
                drow[j] = share * drow[j]
            # Not the label's own share less 1, which loses all digits where the answer is sure and right.
            drow[label] = -share * others

    return cross_entropy


@functools.cache
def _cross_entropy_of_probabilities(number):
    zero, one = number(0.0), number(1.0)

    @cuda.jit
    def cross_entropy(outputs, targets, factors, losses, scores, doutputs):
        n = cuda.grid(1)
        if n < outputs.shape[0]:
            row, drow, wanted = outputs[n], doutputs[n], targets[n]
            size = outputs.shape[1]
            best = _first_maximum(row, size)
            peak, total, gap, shares = row[best], zero, zero, zero
            for j in range(size):
                power = math.exp(row[j] - peak)
                drow[j] = power
                total += power
                if wanted[j] > zero:  # an impossible class (output -inf) with probability 0 costs nothing
                    gap += wanted[j] * (peak - row[j])
                    shares += wanted[j]
            loss = gap + shares * math.log(total)
            losses[n] = loss
            scores[n] = one if best == _first_maximum(wanted, size) and loss == loss else zero
            for j in range(size):
                drow[j] = factors[n] * (shares * (drow[j] / total) - wanted[j])

    return cross_entropy


@functools.cache
def _binary_cross_entropy(number):
    zero, half, one = number(0.0), number(0.5), number(1.0)

    @cuda.jit
    def binary_cross_entropy(outputs, targets, factors, losses, scores, doutputs):
        n = cuda.grid(1)
        if n < outputs.shape[0]:
            size = outputs.shape[1]
            factor = factors[n] / number(size)
            loss, right = zero, zero
            for j in range(size):
                x, share = outputs[n, j], targets[n, j]
                e = math.exp(-abs(x))
                # sigmoid(x) = up / (1 + e) and sigmoid(-x) = down / (1 + e): neither overflows
                up, down = (one, e) if x >= zero else (e, one)
                loss += (x if x > zero else zero) - x * share + math.log1p(e)
                if (share > half and x > zero) or (share <= half and x <= zero):  # NaN never is
                    right += one
                doutputs[n, j] = factor * (up * (one - share) - down * share) / (one + e)
            losses[n] = loss / number(size)
            scores[n] = right / number(size)

    return binary_cross_entropy


@functools.cache
def _square_then_line(number, curvature, slope, border):
    zero, two = number(0.0), number(2.0)
    # The line meets the square at the border; of a border at infinity there is no line.
    step = number(slope * border - curvature * border * border) if math.isfinite(border) else zero
    curvature, slope, border = number(curvature), number(slope), number(border)

    @cuda.jit
    def square_then_line(outputs, targets, factors, losses, scores, doutputs):
        n = cuda.grid(1)
        if n < outputs.shape[0]:
            size = outputs.shape[1]
            factor = factors[n] / number(size)
            loss, distances = zero, zero
            for j in range(size):
                error = outputs[n, j] - targets[n, j]
                distance = abs(error)
                distances += distance
                if distance <= border:
                    loss += curvature * error * error
                    derivative = two * curvature * error
                else:
                    loss += slope * distance - step
                    # NaN, on neither side of 0, stays
                    derivative = slope if error > zero else (-slope if error < zero else error)
                doutputs[n, j] = factor * derivative
            losses[n] = loss / number(size)
            scores[n] = distances / number(size)

    return square_then_line


_TWINS: dict[Callable[..., None], Callable[..., Any]] = {
    loss_kernels.cross_entropy_of_labels: _cross_entropy_of_labels,
    loss_kernels.cross_entropy_of_probabilities: _cross_entropy_of_probabilities,
    loss_kernels.binary_cross_entropy: _binary_cross_entropy,
    loss_kernels.square_then_line: _square_then_line,
}


def kernel_for(loss: Loss, targets: np.ndarray, dtype) -> Any:
    """The kernel of a loss for targets like these.

    Its arguments are outputs (N, size), targets (N,) or (N, size), factors (N,), and, to be filled, losses
    (N,), scores (N,) and doutputs (N, size); see `Loss.rows`.

    Raises
    ------
    ValueError
        If the loss is one of the user's own, which has no kernel here.
    """
    on_cpu, settings = loss.kernel_for(targets)
    if on_cpu not in _TWINS:
        raise ValueError(f'loss {loss!r} has no kernel for device="cuda"; fit on device="cpu"')
    return _TWINS[on_cpu](np.dtype(dtype).type, *settings)


def run(kernel: Any, outputs: Any, *others: Any) -> None:
    """Losses, scores and gradients at all positions."""
    launch_each(kernel, outputs.shape[0], outputs, *others)
