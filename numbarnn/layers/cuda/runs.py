"""Gates that stand side by side in the parameters and among the sums of a layer on the GPU.

Each such run is one matrix product.
"""

from typing import Any, NamedTuple

import numpy as np

from numbarnn.engine.cuda.arrays import for_kernels


class Run(NamedTuple):
    """Gates that follow one another both in the parameters and among the sums."""

    gate: int
    slot: int
    gates: int  # how many

    def of_parameter(self, hidden: int) -> slice:
        return slice(self.gate * hidden, (self.gate + self.gates) * hidden)

    def of_sums(self, hidden: int) -> slice:
        return slice(self.slot * hidden, (self.slot + self.gates) * hidden)


def runs_of(gates: tuple[int, ...], first_slot: int) -> list[Run]:
    """The runs of the gates whose sums begin at a slot."""
    runs: list[Run] = []
    for slot, gate in enumerate(gates, first_slot):
        if runs and runs[-1].gate + runs[-1].gates == gate:
            runs[-1] = runs[-1]._replace(gates=runs[-1].gates + 1)
        else:
            runs.append(Run(gate, slot, 1))
    return runs


def weights_of_steps(layer: Any) -> Any:
    """The weights of a layer for the step functions in the user's kernels; see ``engine/cuda/step.py``."""
    cell, hidden = layer.cell, layer.hidden_size
    weight_ih, weight_hh, *biases = layer.store.direction_values[0]
    size = cell.sum_count * hidden
    bias = np.zeros(size, layer.dtype)
    parts = []
    for weight, gates, first_slot, own_bias in (
        (weight_ih, cell.input_gates, 0, biases[0]),
        (weight_hh, cell.recurrent_gates, cell.sum_count - cell.product_width, biases[1]),
    ):
        runs = runs_of(gates, 0)
        parts.append(np.concatenate([weight[run.of_parameter(hidden)] for run in runs]).T)
        if own_bias.size > 0:
            of_slots = np.concatenate([own_bias[run.of_parameter(hidden)] for run in runs])
            begin = first_slot * hidden
            bias[begin : begin + of_slots.size] += of_slots
    weights = [for_kernels(np.ascontiguousarray(array)) for array in (*parts, bias)]
    vectors = tuple(for_kernels(vector.copy()) for vector in layer.store.direction_vectors[0])
    return cell.weights(*weights, *([vectors] if cell.vectors else []))
