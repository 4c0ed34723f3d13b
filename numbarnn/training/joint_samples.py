"""Samples of models with several inputs."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from numbarnn.training.data import Batch, LabelledSamples, Samples
from numbarnn.training.losses import Loss


class JointSamples(Samples):
    """Samples of which each has several inputs. What it gives are tuples, with one item for each input.

    Parameters
    ----------
    parts : sequence of Samples
        Those of each input: as many rows, of lengths of their own.
    leading : int
        The input whose rows, or whose steps, the output of the model has.
    """

    def __init__(self, parts: Sequence[Samples], leading: int) -> None:
        super().__init__(parts[leading].steps, parts[leading].tokens)
        self._parts = tuple(parts)

    @property
    def parts(self) -> Sequence[Samples]:
        return self._parts

    @property
    def features(self) -> Any:
        return tuple(part.features for part in self.parts)

    def inputs(self, rows: np.ndarray) -> tuple[Any, Any]:
        layouts, matrices = zip(*(part.inputs(rows) for part in self.parts), strict=True)
        return layouts, matrices

    def whole(self) -> tuple[Any, Any]:
        layouts, matrices = zip(*(part.whole() for part in self.parts), strict=True)
        return layouts, matrices


class JointLabelledSamples(LabelledSamples):
    """`JointSamples` with targets and weights, which are as in `LabelledSamples`."""

    def __init__(
        self,
        parts: Sequence[Samples],
        leading: int,
        y: Any,
        per_step: bool,
        loss: Loss,
        size: int,
        dtype: DTypeLike,
        sample_weight: Any = None,
        class_weight: Any = None,
    ) -> None:
        first = parts[leading]
        super().__init__(
            first.steps, first.tokens, y, per_step, loss, size, dtype, sample_weight, class_weight
        )
        self.leading, self._parts = leading, tuple(parts)

    @property
    def parts(self) -> Sequence[Samples]:
        return self._parts

    @property
    def features(self) -> Any:
        return tuple(part.features for part in self._parts)

    def join(self, parts: Sequence[Any]) -> Any:
        return tuple(parts)

    def batch(self, rows: np.ndarray) -> Batch:
        leading = super().batch(rows)
        layouts, inputs = [], []
        for i, part in enumerate(self._parts):
            if i == self.leading:
                layouts.append(leading.layout)
                inputs.append(leading.x)
            else:
                form = part.form_of(rows)
                layouts.append(form.layout)
                inputs.append(part.pack_in_place(form, form.layout))
        return leading._replace(layout=tuple(layouts), x=tuple(inputs))
