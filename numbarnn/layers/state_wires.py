"""A recurrent pass whose initial states come from other passes, and whose final states go to others.

Each state is one matrix (B, L * D * H) in the order of the batch's rows: the states of layer l and direction
d stand in its columns from ``(l * D + d) * H`` on.
"""

from collections.abc import Callable, Sequence
from typing import Any

from numbarnn.engine.fork import fork
from numbarnn.engine.program import Call, record
from numbarnn.engine.states import add_to_state, copy_states
from numbarnn.jit.compile_cache import inlined, kernel
from numbarnn.jit.cpu import padded
from numbarnn.layers.recurrent_pass import RecurrentPass


@inlined
def _set_states(part, state, rows, x, column, hidden):
    for i in range(rows.size):
        for j in range(hidden):
            state[rows[i], j] = x[i, column + j]


@kernel
def set_states(team, state, rows, x, column, hidden):
    """``state[rows[i]] = x[i]``, of the columns of x from `column` on."""
    fork(team, 1, _set_states, state, rows, x, column, hidden)


class StatefulPass(RecurrentPass):
    """A `RecurrentPass` with matrices of states.

    Parameters
    ----------
    layer : Recurrent
        The layer.
    training : bool
        Keep what backward needs.
    reads, gives : tuples of bool
        For each state of the cell, whether there are initial states, and whether final ones are wanted.

    Attributes
    ----------
    initial, final : lists of arrays (B, at least L * D * H) or None
        States, one matrix for each state of the cell. `forward` reads the initial and fills the final ones.
    dfinal, dinitial : lists of arrays (B, at least L * D * H) or None
        Their gradients. `backward` reads those of the final and fills those of the initial states.
    """

    def __init__(self, layer: Any, training: bool, reads: Sequence[bool], gives: Sequence[bool]) -> None:
        super().__init__(layer, training)
        self.reads, self.gives = tuple(reads), tuple(gives)

    def _matrices(self, name: str, wanted: Sequence[bool]) -> list[Any]:
        columns = padded(self.plan.count * self.layer.hidden_size, self.layer.dtype)
        return [
            self.buffers.matrix((name, s), self.layout.rows, columns) if is_wanted else None
            for s, is_wanted in enumerate(wanted)
        ]

    def _between(
        self, kernel: Callable[..., None], states: Any, rows_of: Callable[[int], Any], matrices: Sequence[Any]
    ) -> list[Call]:
        """The calls of a kernel between the states of all layers and directions and these matrices."""
        hidden = self.layer.hidden_size
        return [
            record(kernel, states[k][s], rows_of(k), matrix, k * hidden, hidden)
            for s, matrix in enumerate(matrices)
            if matrix is not None
            for k in range(self.plan.count)
        ]

    def prepare(self, layout, x, seed):
        if self.plan is not None and layout.rows != self.plan.bands.capacity.rows:
            # What is recorded reads and writes as many states as there were rows: it does not fit.
            self.plan.bands.capacity = self.plan.bands.capacity._replace(rows=0)
        return super().prepare(layout, x, seed)

    def _forward_calls(self):
        plan = self.plan
        self.initial, self.final = self._matrices("initial", self.reads), self._matrices("final", self.gives)
        imports = self._between(set_states, plan.states, plan.first_rows, self.initial)
        exports = self._between(copy_states, plan.states, plan.final_rows, self.final)
        return imports + super()._forward_calls() + exports

    def _backward_calls(self, recorder):
        self.dfinal, self.dinitial = (
            self._matrices("dfinal", self.gives),
            self._matrices("dinitial", self.reads),
        )
        imports = self._between(add_to_state, recorder.dstates, self._dstate_rows, self.dfinal)
        exports = self._between(copy_states, recorder.dstates, self._dstate_rows, self.dinitial)
        return recorder.calls(imports) + exports

    def _dstate_rows(self, k):
        return self.plan.bands.dstate_rows
