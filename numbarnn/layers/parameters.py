"""The parameters of a built layer, and who may use them when.

`Layer.build` makes a store whole before it puts it into its place, by one assignment: a call that took the
store of before goes on with it. What a call needs to be consistent is what it takes from one store.
"""

import math
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from numbarnn.engine.guards import (
    CHANGES,
    PACKED,
    PACKED_TRANSPOSED,
    READ,
    WRITE,
    Guards,
    Hold,
    make_guard,
    register,
    use_guards,
)
from numbarnn.engine.packing import aligned_zeros
from numbarnn.layers.memory import check_memory
from numbarnn.layers.passes import Pass

if TYPE_CHECKING:
    from numbarnn.layers.base import Layer

CHANGED_SINCE = (
    "backward: the parameters of the layer were changed after forward(training=True), and are in use by"
    " another call; call forward again"
)
IN_A_FIT = "{} must wait: another call of fit is training this layer"
LARGEST_SPARE_BYTES = 64 * 2**20  # buffers of a prediction that are kept for the next


class ParameterStore:
    """The parameters of a layer and their gradients, what kernels read in their place, and spare passes.

    Parameters
    ----------
    layer : Layer
        Which has options, but perhaps no parameters yet.
    input_size : int
        Features of the input.
    rng : Generator
        Draws the first values.
    dtype : dtype
        That of parameters and results.

    Attributes
    ----------
    flat_values, flat_gradients : arrays (n,)
        All parameters one after the other, and their gradients.
    values, gradients : dict of str to array
        Views of them by name.
    guard : int64 array
        See ``engine/guards.py``. Who reads parameters or packed weights has it, and who changes them.
    """

    def __init__(self, layer: "Layer", input_size: int, rng: np.random.Generator, dtype: np.dtype) -> None:
        self.input_size, self.dtype = input_size, dtype
        shapes = layer.parameter_shapes(input_size)
        sizes = [math.prod(shape) for shape in shapes.values()]
        check_memory(repr(layer), input_size, sum(sizes), dtype)
        self.flat_values = aligned_zeros(sum(sizes), dtype)
        self.flat_gradients = aligned_zeros(sum(sizes), dtype)
        self.values: dict[str, np.ndarray] = {}
        self.gradients: dict[str, np.ndarray] = {}
        end = 0
        for (name, shape), size in zip(shapes.items(), sizes, strict=True):
            begin, end = end, end + size
            self.values[name] = self.flat_values[begin:end].reshape(shape)
            self.gradients[name] = self.flat_gradients[begin:end].reshape(shape)
            self.values[name][...] = layer.initialize(name, shape, input_size, rng)
        self.guard = make_guard()
        self.guards = Guards.of(self.guard)
        register(self.guards)
        self._spare: dict[bool, list[Pass]] = {True: [], False: []}  # by training

    # ---- what kernels read -------------------------------------------------------------------------------

    def pack(self, training: bool) -> None:
        """Bring up to date what kernels read in place of the parameters; the thread writes, see `Hold`."""

    def count_change(self) -> None:
        """Say that the parameters change, before they do; the thread writes."""
        self.guard[CHANGES] += 1

    def packed_change(self, training: bool) -> int:
        """Which change of the parameters kernels read; a training pass reads more."""
        return self.guard.item(PACKED_TRANSPOSED if training else PACKED)

    def is_packed(self, training: bool) -> bool:
        """Whether kernels read what the parameters are."""
        return self.packed_change(training) == self.guard.item(CHANGES)

    def check_unchanged(self, read_change: int) -> None:
        """Raise a RuntimeError where a backward would read other weights than its forward did."""
        if self.packed_change(training=True) != read_change:
            raise RuntimeError(CHANGED_SINCE)

    def refresh(self, training: bool) -> None:
        """`pack` where that is needed; the thread writes, or it is not needed."""
        if not self.is_packed(training):
            self.pack(training)
            packed = (PACKED, PACKED_TRANSPOSED) if training else (PACKED,)
            for word in packed:
                self.guard[word] = self.guard[CHANGES]

    # ---- passes ------------------------------------------------------------------------------------------

    def spare_pass(self, training: bool) -> Pass | None:
        """A pass of an earlier call, which nobody else uses from now on."""
        try:
            return self._spare[training].pop()
        except IndexError:
            return None

    def keep_pass(self, run: Pass) -> None:
        """A pass is free for another call."""
        spare = self._spare[run.training]
        if run.training or (not spare and run.buffers.nbytes <= LARGEST_SPARE_BYTES):
            spare.append(run)

    def drop_passes(self) -> None:
        """What passes know is no longer right."""
        self._spare = {True: [], False: []}

    # ---- fits --------------------------------------------------------------------------------------------

    def claim(self, fit: Any) -> None:
        """Keep others from fitting or building the layer until `release`, or until `fit` is gone.

        Raises
        ------
        RuntimeError
            If another fit has it.
        """
        mine = weakref.ref(fit)
        if vars(self).setdefault("_fit", mine) is not mine:
            self.check_free("fit")
            self._fit = mine  # the other one is gone
        if self._fit is not mine:
            raise RuntimeError(IN_A_FIT.format("fit"))

    def check_free(self, what: str) -> None:
        """Raise a RuntimeError where a fit has the layer."""
        reference = vars(self).get("_fit")
        fit = reference and reference()
        if fit is not None and fit.is_running():
            raise RuntimeError(IN_A_FIT.format(what))

    def release(self, fit: Any) -> None:
        """The fit ends."""
        claim = vars(self).get("_fit")
        if claim is not None and claim() is fit:
            del vars(self)["_fit"]


def hold_packed(hold: Hold, stores: Sequence[ParameterStore], training: bool) -> None:
    """Take the guards of stores to read, with all that kernels read up to date."""
    hold.take(READ)
    for store in stores:
        if not store.is_packed(training):
            break
    else:
        return
    use_guards(*hold.way_out)
    hold.take(WRITE)
    for store in stores:
        store.refresh(training)
    hold.let_readers_in()
