"""Where everything is that a recurrent pass reads and writes, for one batch and for those that fit."""

from typing import Any

import numpy as np
from numba.core import config

from numbarnn.engine.program import address_of, make_bindings
from numbarnn.engine.scan.arguments import Inputs
from numbarnn.engine.scan.forward import ROWS_PROJECTED_AT_ONCE
from numbarnn.engine.threads import get_num_threads
from numbarnn.jit.cpu import padded
from numbarnn.layers.bands import NO_CAPACITY, Bands, Capacity
from numbarnn.layers.passes import Buffers
from numbarnn.layers.sharing import sharing_of
from numbarnn.sequences.layout import Layout

# Gates, states and outputs of this many bytes are no longer in a cache when they are used, and kernels
# prefetch them a step ahead. Where they are, asking costs 2 % of a step, and 20 % of a small one.
PREFETCH_FROM_BYTES = 4 * 1024 * 1024
# A batch uses buffers of at most this many times its steps: kernels walk over all of them.
LARGEST_STEPS_RATIO = 2


def buffer_key(matrix: np.ndarray | None) -> tuple[int, int] | None:
    """What identifies a buffer: matrices that agree in it are the same but for the number of rows."""
    return None if matrix is None else (address_of(matrix), matrix.shape[1])


class Plan:
    """The buffers of a stack of layers for a batch, and how threads share them.

    States and gates of layer l and direction d stand under the index ``k = l * D + d``. What is recorded with
    a plan holds for another batch too, if that one `fits` and `rebind` has taken it in.

    Parameters
    ----------
    layer : recurrent layer
        The layer.
    store : RecurrentParameters
        Its parameters.
    training : bool
        Whether what backward needs is saved, and dropout applied.
    buffers : Buffers
        Where arrays come from.
    layout : Layout
        The batch.
    x : array (N, at least I) or None
        The inputs in packed order; None where they come from a caller's matrix: then they are copied into one
        of our own, in bands, and the outputs of a single direction go to the caller's, not into one of ours.
    sequence : bool
        Whether there are outputs of every step; if not, only the final states are wanted.
    capacity : Capacity
        The largest batch that must fit, if that is larger than this one.

    Attributes
    ----------
    sharing : Sharing
        How threads share the batch.
    cuts : int64 array
        The cuts between the rows of each thread.
    bands : Bands
        The bands of gates and states.
    states, gates : list of tuples of arrays (B + N, H padded), list of arrays (N, G * H padded)
        For each k. Gates that are not saved have few rows.
    inputs : list of Inputs
        What each level reads.
    output, last : array or None
        Outputs (N, D * H padded) in packed order or final states (B, D * H padded), if they are ours.
    bindings, seeds : int64 array, uint64 array (L,)
        The caller's arrays, and the seeds of dropout: what recorded calls read anew at each run.
    """

    def __init__(
        self,
        layer: Any,
        store: Any,
        training: bool,
        buffers: Buffers,
        layout: Layout,
        x: np.ndarray | None,
        sequence: bool,
        capacity: Capacity = NO_CAPACITY,
    ) -> None:
        self.layer, self.store, self.training, self.buffers = layer, store, training, buffers
        self.layout, self.sequence = layout, sequence
        self.source, self.num_threads = buffer_key(x), get_num_threads()
        self.bindings, self.seeds = (
            make_bindings(len(layer.cell.states), store.guards.keys[0]),
            np.zeros(layer.num_layers, np.uint64),
        )
        self.packed = store.panels
        self.count = layer.num_layers * layer.directions
        self.units = padded(layer.hidden_size, layer.dtype)
        self.sharing = self._sharing(layout)
        self.cuts = layout.row_cuts(min(self.sharing.threads, layout.rows)).copy()
        partial_cuts = layout.row_cuts(self.sharing.partial_count)
        self.bands = Bands(layout, self._band_cuts(), partial_cuts, capacity)
        self._make_states_and_gates()
        self._clear_first_states()
        self.inputs = [self._own_inputs() if x is None else self._packed_inputs(x)]
        self.inputs += [self._inputs_from(level) for level in range(layer.num_layers - 1)]
        self.output = self.last = None
        if not sequence:
            columns = padded(self.width, layer.dtype)
            self.last = buffers.matrix("last", self.bands.capacity.rows, columns)
        elif x is not None or layer.directions == 2:
            self.output = self._output_matrix(layer.num_layers - 1)

    def _make_states_and_gates(self) -> None:
        cell, units, capacity = self.layer.cell, self.units, self.bands.capacity
        if self.training:
            saved_rows = capacity.total
        else:
            saved_rows = max(capacity.rows, ROWS_PROJECTED_AT_ONCE) if self.sharing.by_units else 0
        rows = capacity.rows + capacity.total
        self.states = [
            tuple(self.buffers.matrix((name, k), rows, units) for name in cell.states)
            for k in range(self.count)
        ]
        self.gates = [
            self.buffers.matrix(("gates", k), saved_rows, cell.sum_count * units) for k in range(self.count)
        ]

    # ---- other batches -----------------------------------------------------------------------------------

    def fits(self, layout: Layout, x: np.ndarray) -> bool:
        """Whether what was recorded holds for this batch. One of far fewer steps is planned anew.

        Without compiled code a matrix is as long as it was when it was recorded: only the same batch fits.
        """
        return (
            self.source == buffer_key(x)
            and self.num_threads == get_num_threads()
            and (layout is self.layout or (self._sizes_fit(layout) and not config.DISABLE_JIT))
        )

    def _sizes_fit(self, layout: Layout) -> bool:
        capacity = self.bands.capacity
        # Without sequences what is recorded reads and writes as many final states as there were rows.
        enough_rows = layout.rows <= capacity.rows if self.sequence else layout.rows == capacity.rows
        enough_steps = layout.steps <= capacity.steps <= LARGEST_STEPS_RATIO * layout.steps
        enough = enough_rows and enough_steps and layout.total <= capacity.total
        return enough and self._sharing(layout) == self.sharing

    def capacity_for(self, layout: Layout, sequence: bool) -> Capacity:
        """The capacity of the plan that follows this one with a batch that did not fit."""
        capacity = self.bands.capacity
        if capacity.steps > LARGEST_STEPS_RATIO * layout.steps:
            return NO_CAPACITY
        return capacity if sequence else capacity._replace(rows=0)

    def rebind(self, layout: Layout) -> None:
        """Take a batch that fits."""
        self.layout = layout
        self.cuts[:] = layout.row_cuts(self.cuts.size - 1)
        self.bands.rebind(layout, self._band_cuts(), layout.row_cuts(self.sharing.partial_count))
        self._clear_first_states()

    def _sharing(self, layout):
        return sharing_of(self.layer, layout, self.store)

    def _band_cuts(self):
        return self.cuts if self.sharing.by_rows else self.layout.row_cuts(1)

    def _clear_first_states(self):
        """Zeros for initial states: other batches may have left other values."""
        for k, states in enumerate(self.states):
            for state in states:
                state[self.first_rows(k)[: self.layout.rows]] = 0.0

    # ---- what is where -----------------------------------------------------------------------------------

    @property
    def width(self) -> int:
        """Features of a level's output."""
        return self.layer.directions * self.layer.hidden_size

    @property
    def prefetches(self) -> bool:
        """Whether kernels fetch what one step needs while the step before runs."""
        cell = self.layer.cell
        vectors = len(cell.states) + 1 + (cell.sum_count if self.training else 0)
        row_bytes = self.units * self.layer.dtype.itemsize
        return vectors * self.layout.total * row_bytes > PREFETCH_FROM_BYTES

    @property
    def is_packed(self) -> bool:
        """Whether the outputs of a level, those of one direction and band, are in packed order by
        themselves."""
        return self.layer.directions == 1 and self.bands.count == 1

    def numbers(self, level: int) -> range:
        """The numbers k of the directions of a level."""
        return range(level * self.layer.directions, (level + 1) * self.layer.directions)

    def first_rows(self, k: int) -> np.ndarray:
        """Rows of the initial state among the states."""
        reverse = k % self.layer.directions
        return self.bands.last_state_rows if reverse else self.bands.first_state_rows

    def final_rows(self, k: int) -> np.ndarray:
        """Rows of the final state among the states."""
        reverse = k % self.layer.directions
        return self.bands.first_state_rows if reverse else self.bands.last_state_rows

    def drops(self, level: int) -> bool:
        """Whether the outputs of a level go through dropout."""
        return self.training and self.layer.dropout > 0.0 and level < self.layer.num_layers - 1

    def packed_order(self) -> tuple[np.ndarray, np.ndarray]:
        """A matrix in packed order, as the one band that it is: its cuts and offsets."""
        return self.layout.row_cuts(1), self.bands.offset[None]

    def _packed_inputs(self, x):
        bands = self.bands
        return Inputs(x, bands.packed_offset, bands.count == 1, bands.packed_rows)

    def _own_inputs(self):
        layer, bands = self.layer, self.bands
        x = self.buffers.matrix("x", bands.capacity.total, padded(self.store.input_size, layer.dtype))
        return Inputs(x, bands.gate_offset, True, bands.gate_rows)

    def _inputs_from(self, level):
        """What the level above reads: the states themselves, without a copy, where nothing else has to be
        read."""
        bands = self.bands
        if self.layer.directions == 2:
            return self._packed_inputs(self._output_matrix(level))
        if self.drops(level):
            left = self.buffers.matrix(("output", level), bands.capacity.total, self.units)
            return Inputs(left, bands.gate_offset, True, bands.gate_rows)
        return Inputs(self.states[level][0], bands.output_offset, True, bands.next_state_rows)

    def _output_matrix(self, level):
        """Outputs of a level in packed order."""
        if self.is_packed:
            return self.states[level][0][self.bands.capacity.rows :]
        columns = padded(self.width, self.layer.dtype)
        return self.buffers.matrix(("output", level), self.bands.capacity.total, columns)
