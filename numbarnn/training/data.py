"""Samples, targets and weights of a fit, checked once and handed out in batches."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from numbarnn import arguments
from numbarnn.jit.cpu import padded
from numbarnn.layers.passes import Buffers
from numbarnn.sequences.layout import Layout, flat_rows
from numbarnn.sequences.reading import BatchForm, FlatBatch, check_finite, pack_steps, pack_tokens, read_steps
from numbarnn.training.losses import Loss


class Batch(NamedTuple):
    """One batch in packed order."""

    layout: Any  # a tuple where there are several inputs, as x
    x: Any  # on the GPU where the samples are
    targets: np.ndarray
    weights: np.ndarray
    total_weight: float


class Samples:
    """Sequences that batches are drawn from.

    Parameters
    ----------
    steps : FlatBatch
        All sequences, flat.
    tokens : bool
        Whether they hold tokens.
    """

    def __init__(self, steps: FlatBatch, tokens: bool) -> None:
        self.steps = steps
        self.tokens = tokens
        self.on_gpu = steps.on_gpu
        self._buffers = Buffers(steps.values.dtype)
        self._is_full = bool((steps.lengths == steps.form.padded_steps).all())

    @property
    def rows(self) -> int:
        return self.steps.rows

    @property
    def features(self) -> int:
        """Of the inputs."""
        return self.steps.width()

    @property
    def parts(self) -> "Sequence[Samples]":
        """The samples of each input."""
        return (self,)

    def form_of(self, rows: np.ndarray) -> BatchForm:
        """The form of a batch of these rows, in this order."""
        form = self.steps.form
        starts, lengths = form.starts[rows], form.lengths[rows]
        return BatchForm(True, form.has_time, starts, lengths, form.padded_steps, self._is_full)

    def inputs(self, rows: np.ndarray) -> tuple[Any, Any]:
        """The layout of a batch of these rows, and its inputs in packed order."""
        form = self.form_of(rows)
        return form.layout, self.pack(form, form.layout)

    def whole(self) -> tuple[Any, Any]:
        """`inputs` of all samples, in the buffer of `pack_in_place`."""
        form = self.steps.form
        return form.layout, self.pack_in_place(form, form.layout)

    @property
    def buffers(self) -> list[Buffers]:
        """Those of each input, for the next samples of the same model."""
        return [part._buffers for part in self.parts]

    def take_buffers(self, buffers: Sequence[Buffers]) -> None:
        """Go on with the buffers of earlier samples of the same model: arrays stay where they are."""
        for part, own in zip(self.parts, buffers, strict=True):
            part._buffers = own

    def pack(self, form: BatchForm, layout: Layout) -> Any:
        """The inputs of a batch in packed order, where those of all samples are."""
        if self.on_gpu:
            from numbarnn.layers.cuda.passes import to_packed  # where there is a GPU, not before

            return to_packed(self.steps.values, form)
        batch = FlatBatch(self.steps.values, form)
        return pack_tokens(batch, layout) if self.tokens else pack_steps(batch, layout)

    def pack_in_place(self, form: BatchForm, layout: Layout) -> Any:
        """`pack`, into a buffer of the host that the next batch overwrites."""
        if self.tokens or self.on_gpu:
            return self.pack(form, layout)
        values = self.steps.values
        x = self._buffers.matrix("x", layout.total, padded(values.shape[1], values.dtype))
        return pack_steps(FlatBatch(values, form), layout, x)


class LabelledSamples(Samples):
    """Samples with targets, one a sequence or one a step, and weights.

    Parameters
    ----------
    steps, tokens
        As in `Samples`.
    y : array or list
        Targets as the user passed them.
    per_step : bool
        Whether there is one target a step.
    loss : Loss
        Says what targets must be.
    size : int
        Features of the model's output.
    sample_weight : array-like (B,), optional
        A weight for every sequence.
    class_weight : dict of int to float, or "balanced", optional
        A weight for every label.
    """

    leading = 0  # the number of the input whose rows or steps the targets belong to

    def __init__(
        self,
        steps: FlatBatch,
        tokens: bool,
        y: Any,
        per_step: bool,
        loss: Loss,
        size: int,
        dtype: DTypeLike,
        sample_weight: Any = None,
        class_weight: Any = None,
    ) -> None:
        super().__init__(steps, tokens)
        self.per_step, self.dtype = per_step, np.dtype(dtype)
        flat = _flat_targets(y, steps.form) if per_step else _row_targets(y, steps.rows)
        self.targets = loss.check_targets(flat, size, dtype)
        self.weights = np.ones(len(self.targets))
        self.weighs = sample_weight is not None or class_weight is not None
        if sample_weight is not None:
            rows = _read_sample_weight(sample_weight, steps.rows)
            self.weights *= rows[_row_of_each_step(steps.form)] if per_step else rows
        with np.errstate(all="ignore"):
            if class_weight is not None:
                self.weights *= _class_weights(class_weight, self.targets, size)
            total = self.weights.sum()
        if not total > 0.0:
            raise ValueError("sample_weight and class_weight leave nothing to learn from: their sum is 0")
        if not np.isfinite(total):
            raise ValueError("sample_weight and class_weight are too large: their sum is infinite")

    def join(self, parts: Sequence[Any]) -> Any:
        """What a model takes, from that of each input."""
        return parts[0]

    def batch(self, rows: np.ndarray) -> Batch:
        """The batch of these rows. It is valid until the next one, which uses the same buffer."""
        form = self.form_of(rows)
        layout = form.layout
        x = self.pack_in_place(form, layout)
        places = flat_rows(form.starts, layout) if self.per_step else rows[layout.order]
        targets = self.targets.take(places, axis=0)
        if not self.weighs:
            return Batch(layout, x, targets, self.weights[: places.size], float(places.size))
        weights = self.weights.take(places)
        return Batch(layout, x, targets, weights, float(weights.sum()))


def _row_of_each_step(form: BatchForm) -> np.ndarray:
    return np.repeat(np.arange(form.lengths.size), form.lengths)


def _row_targets(y: Any, rows: int) -> np.ndarray:
    array = arguments.regular_array("y", y)
    if array.ndim == 0 or len(array) != rows:
        given = "a single value" if array.ndim == 0 else f"{len(array)}"
        raise ValueError(f"y must have one target for each of the {rows} rows of x, not {given}")
    return array


def _flat_targets(y: Any, form: BatchForm) -> np.ndarray:
    """Targets of every step, flat and in the order of the steps of x."""
    if not isinstance(y, (list, tuple, np.ndarray)):
        y = arguments.regular_array("y", y)  # a table
    if isinstance(y, np.ndarray) and y.ndim == 0:
        raise TypeError("y must be a list or an array of targets, not a single value")
    if len(y) != form.lengths.size:
        raise ValueError(
            f"y must have targets for each of the {form.lengths.size} rows of x, not for {len(y)}"
        )
    rows = [arguments.regular_array(f"y[{i}]", row) for i, row in enumerate(y)]
    for i, (row, count) in enumerate(zip(rows, form.lengths, strict=True)):
        if row.ndim == 0 or len(row) != count:
            raise ValueError(
                f"y[{i}] must have one target for each of the {count} steps of x[{i}]: the model's output is"
                f" a sequence; it has shape {row.shape}"
            )
    ranks = {row.ndim for row in rows}
    if len(ranks) > 1:
        raise ValueError(f"y must have targets of one rank in all rows, not of {sorted(ranks)}")
    return np.concatenate(rows)


def _read_sample_weight(sample_weight: Any, rows: int) -> np.ndarray:
    array = arguments.array("sample_weight", sample_weight)
    if array.shape == (rows, 1):
        array = array[:, 0]  # a column, as tables give it
    if array.shape != (rows,):
        raise ValueError(f"sample_weight must have shape ({rows},), one a row of x, not {array.shape}")
    if not np.isfinite(array).all() or (array < 0).any():
        raise ValueError("sample_weight must be finite and not negative")
    return arguments.rounded(array, np.float64)


def _class_weights(class_weight: Any, targets: np.ndarray, size: int) -> np.ndarray:
    """The weight of every target."""
    if targets.shape[1:] == (1,) and np.isin(targets, (0.0, 1.0)).all():
        targets, size = targets[:, 0].astype(np.int64), 2  # yes or no
    if targets.ndim != 1 or targets.dtype.kind != "i":
        raise ValueError("class_weight needs integer labels in y, one class a target")
    if isinstance(class_weight, str):
        if class_weight != "balanced":
            raise ValueError(f'class_weight must be a dict or "balanced", not {class_weight!r}')
        counts = np.bincount(targets, minlength=size)
        per_class: np.ndarray = len(targets) / (np.count_nonzero(counts) * np.maximum(counts, 1))
        return per_class.take(targets)
    if not isinstance(class_weight, dict):
        raise TypeError(f'class_weight must be a dict or "balanced", not {type(class_weight).__name__}')
    per_class = np.ones(size)
    for label, weight in class_weight.items():
        if isinstance(label, bool) or not isinstance(label, (int, np.integer)) or not 0 <= label < size:
            raise ValueError(f"class_weight has the label {label!r}; labels are 0..{size - 1}")
        per_class[label] = arguments.nonnegative(f"class_weight[{label}]", weight)
    return per_class.take(targets)


def read_samples(x: Any, dtype: DTypeLike, name: str, *, time: bool, tokens: bool) -> FlatBatch:
    """`read_steps` for a fit, with a check that all numbers are finite before anything begins."""
    steps = read_steps(x, dtype, name, time=time, tokens=tokens)
    if not tokens:
        check_finite(steps, name)
    return steps
