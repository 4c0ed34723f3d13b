"""What a cell tells the rest of the library about itself."""

from collections.abc import Callable
from dataclasses import dataclass

from numbarnn.jit.cpu import PANEL_VECTORS


@dataclass(frozen=True)
class Cell:
    """One recurrent cell: its shape, and the mathematics of one step.

    A step adds up, for every hidden unit, one sum a gate: the input part ``W_i x + b_i`` and the recurrent
    part ``W_h h + b_h``. The sums of a *fused* gate are added before the nonlinearity; a *split* gate (the
    GRU's candidate) keeps its two parts separate. In memory the sums of a unit stand in the order

        input parts of the split gates, fused gates, recurrent parts of the split gates

    so that the input product fills the beginning, the recurrent product the end, both without a gap.

    Attributes
    ----------
    name : str
        The key in the registry.
    weights : type
        A NamedTuple class with the fields ``input``, ``recurrent`` and ``bias``, the packed weights. The
        class stands for the cell wherever the compiler chooses code.
    gates : tuple of str
        The gates in the order of their blocks in the parameters (PyTorch's).
    states : tuple of str
        The states, ``h`` first: the one that is the output and enters the recurrent product.
    fused, split : tuple of str
        The gates by how their sums are kept, in memory order.
    forward : callable
        ``forward(sums, states) -> (saved, new_states)``: one step of one unit, on tuples of numbers or
        vectors; `saved` takes the place of `sums` until backward.
    backward : callable
        ``backward(saved, previous, new, dstates) -> (dsums, dprevious)``: backward of `forward`; `dprevious`
        holds the direct paths only, what flows back through the sums is the scan's part.
    forget_gate : str, optional
        The gate whose input bias starts at 1.
    """

    name: str
    weights: type
    gates: tuple[str, ...]
    states: tuple[str, ...]
    fused: tuple[str, ...]
    split: tuple[str, ...]
    forward: Callable
    backward: Callable
    forget_gate: str | None = None

    @property
    def slots(self) -> int:
        """Sums kept for a hidden unit."""
        return len(self.fused) + 2 * len(self.split)

    @property
    def window(self) -> int:
        """Sums that one of the two products fills."""
        return len(self.fused) + len(self.split)

    @property
    def panel_vectors(self) -> int:
        """Vectors in a panel of the packed weights: where gates are split, one group of hidden units fills a
        panel, so that the sums that a product fills stand side by side."""
        return self.window if self.split else PANEL_VECTORS

    @property
    def input_gates(self) -> tuple[int, ...]:
        """Which gate of the parameters each sum of the input product is."""
        return tuple(self.gates.index(gate) for gate in self.split + self.fused)

    @property
    def recurrent_gates(self) -> tuple[int, ...]:
        """Which gate of the parameters each sum of the recurrent product is."""
        return tuple(self.gates.index(gate) for gate in self.fused + self.split)
