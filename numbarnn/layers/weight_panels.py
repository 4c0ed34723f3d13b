"""The parameters of a recurrent layer, and its weights in the form that kernels read."""

from typing import Any

import numpy as np

from numbarnn.cells.contract import WEIGHT_FIELDS, Cell
from numbarnn.engine.packing import (
    aligned_zeros,
    gate_map,
    pack_recurrent,
    pack_recurrent_transposed,
    pack_unit_vectors,
    panels_for,
)
from numbarnn.engine.program import Call, Program, record, record_together
from numbarnn.engine.threads import even_cuts, get_num_threads
from numbarnn.jit.cpu import PANEL_VECTORS, lanes, padded
from numbarnn.layers.parameters import ParameterStore

PACKED_NUMBERS_WORTH_A_THREAD = 100_000
PACKED_NUMBERS_WORTH_A_FORK = 40_000


class WeightPanels:
    """The weights of one layer and direction as the scan reads them."""

    def __init__(self, cell: Cell, input_size: int, hidden_size: int, dtype) -> None:
        self.cell = cell
        self.input_map = gate_map(cell.input_gates, hidden_size, dtype)
        self.recurrent_map = gate_map(cell.recurrent_gates, hidden_size, dtype)
        vectors = cell.panel_vectors
        units = padded(hidden_size, dtype)
        self.weights = cell.weights(
            panels_for(self.input_map.size, input_size, vectors, dtype),
            panels_for(self.recurrent_map.size, hidden_size, vectors, dtype),
            aligned_zeros(cell.sum_count * units, dtype),
            *([aligned_zeros(len(cell.vectors) * units, dtype)] if cell.vectors else []),
        )
        self.input_transposed = panels_for(
            padded(input_size, dtype), self.input_map.size, PANEL_VECTORS, dtype
        )
        self.recurrent_transposed = panels_for(units, self.recurrent_map.size, PANEL_VECTORS, dtype)
        self.groups = units // lanes(dtype)
        self.blocks = -(-self.groups // cell.groups_at_once)

    def pack_calls(self, parameters, vectors, with_transposed: bool, threads: int) -> list[Call]:
        """What packs the weights and vectors that forward reads and, if wanted, the weights that backward
        reads."""
        numbers = sum(array.size for array in parameters)
        parts = max(1, min(threads, numbers // PACKED_NUMBERS_WORTH_A_THREAD))
        cell, maps = self.cell, (self.input_map, self.recurrent_map)
        calls = [
            record(
                pack_recurrent,
                even_cuts(self.groups, parts),
                parameters,
                *maps,
                cell.sum_count,
                *self.weights[: len(WEIGHT_FIELDS)],
            )
        ]
        if vectors:
            calls.append(record(pack_unit_vectors, vectors, self.weights.vectors))
        if with_transposed:
            cuts = even_cuts(self.input_map.size, parts)
            calls.append(
                record(
                    pack_recurrent_transposed,
                    cuts,
                    parameters,
                    *maps,
                    self.input_transposed,
                    self.recurrent_transposed,
                )
            )
        return calls


class RecurrentParameters(ParameterStore):
    """The parameters of a built recurrent layer, and the panels of each layer and direction.

    Attributes
    ----------
    direction_values, direction_gradients : lists of tuples of arrays
        For each layer and direction its parameters, and their gradients.
    panels : list of WeightPanels
        What kernels read in their place.
    """

    def __init__(self, layer: Any, input_size: int, rng: np.random.Generator, dtype: np.dtype) -> None:
        super().__init__(layer, input_size, rng, dtype)
        self.direction_values = layer.by_direction(self.values)
        self.direction_gradients = layer.by_direction(self.gradients)
        self.direction_vectors = layer.vectors_by_direction(self.values)
        self.direction_vector_gradients = layer.vectors_by_direction(self.gradients)
        self.panels = [
            WeightPanels(layer.cell, values[0].shape[1], layer.hidden_size, dtype)
            for values in self.direction_values
        ]
        self._packing_programs: dict[tuple[bool, int], Program] = {}

    def pack(self, training: bool) -> None:
        self.packing_program(training, get_num_threads()).run()

    def packing_program(self, with_transposed: bool, threads: int) -> Program:
        """What brings the packed weights up to date, on this many threads."""
        program = self._packing_programs.get((with_transposed, threads))
        if program is None:
            chains = [
                packed.pack_calls(values, vectors, with_transposed, threads)
                for packed, values, vectors in zip(
                    self.panels, self.direction_values, self.direction_vectors, strict=True
                )
            ]
            # A thread that packs the weights of a direction has them in its cache when it runs it.
            if 1 < threads <= len(chains) and self.flat_values.size >= PACKED_NUMBERS_WORTH_A_FORK:
                calls = [record_together(chains)]
            else:
                calls = [call for chain in chains for call in chain]
            program = self._packing_programs[with_transposed, threads] = Program(calls)
        return program
