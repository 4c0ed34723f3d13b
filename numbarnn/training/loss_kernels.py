"""The kernels of the losses, in the layout and with the arguments of `numbarnn.training.losses.Loss.rows`.

Each writes the loss, the score and the gradient of every valid position. All that it needs of a row of
`outputs` it reads before it writes the same row of `doutputs`, for the two may be one array.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from numbarnn.engine.fork import ALONE, fork
from numbarnn.engine.program import Work, by_cuts
from numbarnn.jit.activations import sigmoid
from numbarnn.jit.compile_cache import inlined, kernel
from numbarnn.jit.vector_memory import load, store
from numbarnn.jit.vectors import lane_count, select

AFTER_SCALE = 5  # arguments of `Loss.rows` between the scale and the range of rows


class LossKernel:
    """A compiled loss: called with the arguments of `Loss.rows`, or recorded as a part of a step.

    Parameters
    ----------
    kernel : callable
        ``kernel(team, cuts, *settings, outputs, ..., offset)``: part p of it does the rows from cut p to cut
        p + 1. The scale comes as an array of at least one number, so that a recorded call can get
        another one.
    """

    def __init__(self, kernel: Callable[..., None]) -> None:
        self.kernel = kernel

    def __call__(self, *arguments: Any) -> None:
        *given, row_start, row_stop = arguments
        *before, scale = given[:-AFTER_SCALE]
        cuts = np.array([row_start, row_stop])
        self.kernel(ALONE, cuts, *before, np.array([scale]), *given[-AFTER_SCALE:])

    def work(self, cuts: np.ndarray, *arguments: Any) -> Work:
        """The same for rows divided among threads; `arguments` are those of the kernel after the cuts."""
        return by_cuts(self.kernel, cuts, *arguments)


@inlined
def _clear_padding(drow, size):
    for j in range(size, drow.size):
        drow[j] = 0.0


@inlined
def first_maximum(row, size):
    best = 0
    for j in range(1, size):
        if row[j] > row[best]:
            best = j
    return best


@inlined
def _exponentials(outputs, n, peak, size, doutputs):
    """exp(outputs[n] - peak) into the row of `doutputs`, in the dtype of both; returns their sum.

    None exceeds 1. What stands in the padding afterwards means nothing.
    """
    width, first = lane_count(outputs), n * outputs.shape[1]
    for i in range(first, first + outputs.shape[1], width):
        x = load(outputs, i) - peak
        share = sigmoid(select(x > 0.0, 0.0, x))  # only padding can be above the peak
        store(doutputs, i, share / (1.0 - share))
    powers = doutputs[n, :size]
    total, second, third, fourth = 0.0, 0.0, 0.0, 0.0  # four, lest each addition wait for the last one
    whole = size // 4 * 4
    for j in range(0, whole, 4):
        total += np.float64(powers[j])
        second += np.float64(powers[j + 1])
        third += np.float64(powers[j + 2])
        fourth += np.float64(powers[j + 3])
    for j in range(whole, size):
        total += np.float64(powers[j])
    return (total + second) + (third + fourth)


@inlined
def _cross_entropy_of_labels_part(part, cuts, outputs, size, targets, weights, scale, losses, scores,
                                  doutputs, active, offset):  # fmt: skip
    row_start, row_stop = cuts[part], cuts[part + 1]
    for t in range(active.size):
        for n in range(offset[t] + row_start, offset[t] + min(row_stop, active[t])):
            row, drow, label = outputs[n], doutputs[n], targets[n]
            best = first_maximum(row, size)
            peak = row[best]
            gap = np.float64(peak) - np.float64(row[label])
            total = _exponentials(outputs, n, peak, size, doutputs)
            loss = gap + math.log(total)  # log sum exp(x) - x_label
            losses[n] = loss
            scores[n] = 1.0 if best == label and not math.isnan(loss) else 0.0
            factor = weights[n] * scale[0]
            # The label's 1 is taken off in float64, lest a sure and right answer lose all its digits.
            dlabel = factor * (np.float64(drow[label]) / total - 1.0)
            share = factor / total
            for j in range(size):
                drow[j] = share * drow[j]
            drow[label] = dlabel
            _clear_padding(drow, size)


@kernel
def _cross_entropy_of_labels(team, cuts, outputs, size, targets, weights, scale,
         losses, scores, doutputs, active, offset):  # fmt: skip
    fork(team, cuts.size - 1, _cross_entropy_of_labels_part, cuts, outputs, size, targets, weights, scale,
         losses, scores, doutputs, active, offset)  # fmt: skip


cross_entropy_of_labels = LossKernel(_cross_entropy_of_labels)


@inlined
def _cross_entropy_of_probabilities_part(part, cuts, outputs, size, targets, weights, scale, losses, scores,
                                         doutputs, active, offset):  # fmt: skip
    row_start, row_stop = cuts[part], cuts[part + 1]
    for t in range(active.size):
        for n in range(offset[t] + row_start, offset[t] + min(row_stop, active[t])):
            row, drow, wanted = outputs[n], doutputs[n], targets[n]
            best = first_maximum(row, size)
            peak = row[best]
            gap, shares = 0.0, 0.0
            for j in range(size):
                if wanted[j] > 0.0:  # an impossible class (output -inf) with probability 0 costs nothing
                    gap += wanted[j] * (np.float64(peak) - np.float64(row[j]))
                    shares += wanted[j]
            total = _exponentials(outputs, n, peak, size, doutputs)
            loss = gap + shares * math.log(total)  # - sum_j share_j log p_j
            losses[n] = loss
            right = best == first_maximum(wanted, size)
            scores[n] = 1.0 if right and not math.isnan(loss) else 0.0
            factor = weights[n] * scale[0]
            for j in range(size):
                drow[j] = factor * (shares * (np.float64(drow[j]) / total) - wanted[j])
            _clear_padding(drow, size)


@kernel
def _cross_entropy_of_probabilities(team, cuts, outputs, size, targets, weights, scale,
         losses, scores, doutputs, active, offset):  # fmt: skip
    fork(team, cuts.size - 1, _cross_entropy_of_probabilities_part, cuts, outputs, size, targets, weights,
         scale, losses, scores, doutputs, active, offset)  # fmt: skip


cross_entropy_of_probabilities = LossKernel(_cross_entropy_of_probabilities)


@inlined
def _binary_cross_entropy_part(part, cuts, outputs, size, targets, weights, scale, losses, scores, doutputs,
                               active, offset):  # fmt: skip
    row_start, row_stop = cuts[part], cuts[part + 1]
    for t in range(active.size):
        for n in range(offset[t] + row_start, offset[t] + min(row_stop, active[t])):
            row, drow, wanted = outputs[n], doutputs[n], targets[n]
            factor = weights[n] * scale[0] / size
            loss, right = 0.0, 0.0
            for j in range(size):
                x, share = np.float64(row[j]), np.float64(wanted[j])
                e = math.exp(-abs(x))
                # sigmoid(x) = up / (1 + e) and sigmoid(-x) = down / (1 + e): neither overflows
                up, down = (1.0, e) if x >= 0.0 else (e, 1.0)
                loss += max(x, 0.0) - x * share + math.log1p(e)
                is_right = x > 0.0 if share > 0.5 else x <= 0.0  # NaN never is
                right += 1.0 if is_right else 0.0
                # sigmoid(x) - share; a difference of the two would lose a sure answer's digits
                drow[j] = factor * (up * (1.0 - share) - down * share) / (1.0 + e)
            losses[n] = loss / size
            scores[n] = right / size
            _clear_padding(drow, size)


@kernel
def _binary_cross_entropy(team, cuts, outputs, size, targets, weights, scale,
         losses, scores, doutputs, active, offset):  # fmt: skip
    fork(team, cuts.size - 1, _binary_cross_entropy_part, cuts, outputs, size, targets, weights, scale,
         losses, scores, doutputs, active, offset)  # fmt: skip


binary_cross_entropy = LossKernel(_binary_cross_entropy)


@inlined
def _square_then_line_part(part, cuts, curvature, slope, border, outputs, size, targets, weights, scale,
                           losses, scores, doutputs, active, offset):  # fmt: skip
    row_start, row_stop = cuts[part], cuts[part + 1]
    step = slope * border - curvature * border * border  # the line meets the square at the border
    for t in range(active.size):
        for n in range(offset[t] + row_start, offset[t] + min(row_stop, active[t])):
            row, drow, wanted = outputs[n], doutputs[n], targets[n]
            factor = weights[n] * scale[0] / size
            loss, distances = 0.0, 0.0
            for j in range(size):
                error = np.float64(row[j]) - np.float64(wanted[j])
                distance = abs(error)
                distances += distance
                if distance <= border:
                    loss += curvature * error * error
                    derivative = 2.0 * curvature * error
                else:
                    loss += slope * distance - step
                    # NaN, on neither side of 0, stays
                    derivative = slope if error > 0.0 else (-slope if error < 0.0 else error)
                drow[j] = factor * derivative
            losses[n] = loss / size
            scores[n] = distances / size
            _clear_padding(drow, size)


@kernel
def _square_then_line(team, cuts, curvature, slope, border, outputs, size, targets, weights, scale,
         losses, scores, doutputs, active, offset):  # fmt: skip
    fork(team, cuts.size - 1, _square_then_line_part, cuts, curvature, slope, border, outputs, size, targets,
         weights, scale, losses, scores, doutputs, active, offset)  # fmt: skip


square_then_line = LossKernel(_square_then_line)
