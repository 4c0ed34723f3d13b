"""What a cell tells the rest of the library about itself."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from numbarnn.jit.cpu import PANEL_VECTORS

WEIGHT_FIELDS = ("input", "recurrent", "bias")
PARAMETERS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")  # of every layer and direction
WIDEST_PANEL = 4  # vectors, that the product has tiles for


@dataclass(frozen=True)
class Cell:
    """One recurrent cell: its shape, and the mathematics of one step.

    A step adds up, for every hidden unit, one sum a gate: the input part ``W_i x + b_i`` and the recurrent
    part ``W_h h + b_h``. The sums of a *fused* gate are added before the nonlinearity; a *split* gate (the
    GRU's candidate) keeps its two parts separate. In memory the sums of a unit stand in the order

        input parts of the split gates, fused gates, recurrent parts of the split gates

    so that the input product fills the beginning, the recurrent product the end, both without a gap.

    What a cell may be, on the CPU and on a GPU alike: any number of states, the first of which is the output
    and the only one that enters the recurrent product; any number of gates, fused, split or both, each with a
    row in both weight matrices for every hidden unit; any number of *vectors*, parameters that are one number
    for every hidden unit (an LSTM's peepholes). A unit sees its own number of each vector, its sums and its
    states, and nothing of other units. The step functions of `numbarnn.kernels` are for the library's own
    cells, of at most two states.

    A cell of the library has its file in ``cells/`` and its place in the registry. Another one is made known
    by `numbarnn.cells.register`; kernels that contain it are compiled anew in every process.

    Attributes
    ----------
    name : str
        The key in the registry.
    weights : type
        A NamedTuple class with the fields ``input``, ``recurrent`` and ``bias``, and ``vectors`` if the cell
        has any: the packed weights. The class stands for the cell wherever the compiler chooses code.
    gates : tuple of str
        The gates in the order of their blocks in the parameters (PyTorch's).
    states : tuple of str
        The states, ``h`` first: the one that is the output and enters the recurrent product.
    fused, split : tuple of str
        The gates by how their sums are kept, in memory order.
    forward : callable
        ``forward(sums, states) -> (saved, new_states)``: one step of one unit, on tuples of numbers or
        vectors; `saved` takes the place of `sums` until backward. A cell with `vectors` takes their values
        as a third tuple.
    backward : callable
        ``backward(saved, previous, new, dstates) -> (dsums, dprevious)``: backward of `forward`; `dprevious`
        holds the direct paths only, what flows back through the sums is the scan's part. A cell with
        `vectors` takes their values as a fifth tuple and returns a third one, what this step adds to their
        gradients: for each row the steps are added up from the last one on, then the rows (where blocks of a
        GPU share out the units of a layer, the rows of a team step by step).
    forget_gate : str, optional
        The gate whose input bias starts at 1.
    vectors : tuple of str
        Names of the parameters of shape (H,), which get the suffix of their layer and direction. They start
        at 0, with ``weight_initializer="pytorch"`` as biases do.

    Raises
    ------
    ValueError
        If these do not fit one another.
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
    vectors: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        fields = (*WEIGHT_FIELDS, "vectors") if self.vectors else WEIGHT_FIELDS
        if getattr(self.weights, "_fields", None) != fields:
            raise ValueError(f"weights must be a NamedTuple class with the fields {fields}")
        if len({*self.vectors, *PARAMETERS, *self.states}) < len(self.vectors + PARAMETERS + self.states):
            raise ValueError(
                f"vectors must be names that differ from one another, from {PARAMETERS} and from the states,"
                f" not {self.vectors}"
            )
        if self.states[:1] != ("h",):
            raise ValueError(f'states must begin with "h", not be {self.states}')
        if not self.gates or sorted(self.fused + self.split) != sorted(set(self.gates)):
            raise ValueError(
                f"fused and split must name each of the gates {self.gates} once, not be {self.fused} and"
                f" {self.split}"
            )
        if self.forget_gate is not None and self.forget_gate not in self.gates:
            raise ValueError(f"forget_gate must be one of {self.gates}, not {self.forget_gate!r}")

    def __deepcopy__(self, memo: dict[int, Any]) -> "Cell":
        return self  # its class of weights belongs to it alone

    @property
    def sum_count(self) -> int:
        """Sums kept for a hidden unit."""
        return len(self.fused) + 2 * len(self.split)

    @property
    def product_width(self) -> int:
        """Sums that one of the two products fills."""
        return len(self.fused) + len(self.split)

    @property
    def panel_vectors(self) -> int:
        """Vectors in a panel of the packed weights.

        Where gates are split, the sums that a product fills do not follow one another from one group of
        hidden units to the next: panels then end where a group does, and a group fills one or a few.
        """
        if not self.split:
            return PANEL_VECTORS
        return max(size for size in range(1, WIDEST_PANEL + 1) if self.product_width % size == 0)

    @property
    def groups_at_once(self) -> int:
        """Groups of hidden units that fill whole panels together."""
        return math.lcm(self.product_width, self.panel_vectors) // self.product_width

    @property
    def input_gates(self) -> tuple[int, ...]:
        """Which gate of the parameters each sum of the input product is."""
        return tuple(self.gates.index(gate) for gate in self.split + self.fused)

    @property
    def recurrent_gates(self) -> tuple[int, ...]:
        """Which gate of the parameters each sum of the recurrent product is."""
        return tuple(self.gates.index(gate) for gate in self.fused + self.split)
