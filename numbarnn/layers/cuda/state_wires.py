"""The counterpart of ``state_wires.py`` on a GPU."""

from collections.abc import Sequence
from typing import Any

from numbarnn.engine.cuda.scan import FIRST, LAST
from numbarnn.layers.cuda.recurrent_pass import RecurrentCuda


class StatefulCuda(RecurrentCuda):
    """`StatefulPass` on the GPU, which describes the parameters and the attributes."""

    def __init__(self, layer: Any, training: bool, reads: Sequence[bool], gives: Sequence[bool]) -> None:
        super().__init__(layer, training)
        self.reads, self.gives = tuple(reads), tuple(gives)

    def _matrices(self, name: str, wanted: Sequence[bool]) -> list[Any]:
        columns = len(self.numbers) * self.layer.hidden_size
        return [
            self.buffers.matrix((name, s), self.layout.rows, columns) if is_wanted else None
            for s, is_wanted in enumerate(wanted)
        ]

    def _by_number(self, matrix: Any) -> Any:
        """A view of a matrix of states as an array (L * D, B, H)."""
        rows = self.layout.rows
        return matrix.reshape(rows, len(self.numbers), self.layer.hidden_size).transpose(1, 0, 2)

    def _bring(self, matrices: Sequence[Any], key: str, states: Any) -> None:
        """Matrices into states (L * D, S, B, H), which are those of the array of `key`."""
        for s, matrix in enumerate(matrices):
            if matrix is not None:
                self._zeros.pop(key, None)  # they are no zeros any more
                states[:, s] = self._by_number(matrix)

    def _hand_out(self, states: Any, matrices: Sequence[Any]) -> None:
        for s, matrix in enumerate(matrices):
            if matrix is not None:
                self._by_number(matrix)[...] = states[:, s]

    def prepare(self, layout, x, seed):
        prepared = super().prepare(layout, x, seed)
        self.initial, self.final = self._matrices("initial", self.reads), self._matrices("final", self.gives)
        return prepared

    def forward(self):
        self._bring(self.initial, "states", self.states[:, FIRST])
        super().forward()
        self._hand_out(self.states[:, LAST], self.final)

    def prepare_backward(self, dy, need_dx):
        dx = super().prepare_backward(dy, need_dx)
        self.dfinal, self.dinitial = (
            self._matrices("dfinal", self.gives),
            self._matrices("dinitial", self.reads),
        )
        return dx

    def backward(self):
        self._bring(self.dfinal, "dstates", self.dstates[:, LAST])
        super().backward()
        self._hand_out(self.dstates[:, FIRST], self.dinitial)
