"""Calls with arrays that are on the GPU already: the results stay on the GPU, and nothing is copied.

Such arrays are those of CuPy, PyTorch, JAX and others that have ``__cuda_array_interface__`` or DLPack. The
results are CuPy's, which these take without a copy. Calls of a layer do not check whether numbers are finite:
the host would have to wait for the GPU.
"""

from typing import Any

import numpy as np

from numbarnn import arguments
from numbarnn.devices import is_on_gpu
from numbarnn.engine.cuda.arrays import arrays, on_host
from numbarnn.layers.cuda.passes import to_flat, to_packed
from numbarnn.sequences.reading import (
    BatchForm,
    FlatBatch,
    array_form,
    describe_place,
    fault_error,
    in_form,
    vector_form,
)


class FlatBatchOnGPU(FlatBatch):
    """FlatBatch whose values are CuPy's."""

    @property
    def on_gpu(self) -> bool:
        return True


def _taken(array: Any) -> Any:
    """An array of some library as one of CuPy's."""
    if isinstance(array, np.ndarray) or hasattr(array, "__cuda_array_interface__"):
        return arrays().asarray(array)
    return arrays().from_dlpack(array)


def copy_to_host(array: Any) -> np.ndarray:
    """An array of some library in the host's memory."""
    return on_host(_taken(array))


def _on_gpu(array: Any, name: str, dtype: np.dtype) -> Any:
    """An array of some library as one of CuPy's, in the layer's dtype."""
    on_gpu = _taken(array)
    if on_gpu.dtype.kind not in ("iu" if dtype.kind == "i" else "f"):
        wanted = "integers" if dtype.kind == "i" else "real numbers"
        raise TypeError(f"{name} must hold {wanted}, got dtype {on_gpu.dtype}")
    return arrays().ascontiguousarray(on_gpu, dtype)


def read_steps(
    x: Any, dtype: np.dtype, name: str, *, lengths: Any = None, time: bool = True, tokens: bool = False
) -> FlatBatch:
    """The one of ``sequences/reading.py``, for an array on the GPU; its values stay on the GPU."""
    rank = 2 if tokens else 3
    array = _on_gpu(x, name, np.dtype(np.int64) if tokens else dtype)
    if array.size == 0:
        raise ValueError(f"{name} is empty: its shape is {array.shape}")
    if not time and array.ndim == rank - 1 and lengths is None:
        return FlatBatchOnGPU(array, vector_form(len(array)))
    if array.ndim != rank:
        wanted = "(B, T) array of tokens" if tokens else "(B, T, I) array"
        raise ValueError(f"{name} must be a {wanted}, not an array of shape {array.shape}")
    rows, steps = array.shape[:2]
    return FlatBatchOnGPU(array.reshape(rows * steps, *array.shape[2:]), array_form(rows, steps, lengths))


def check_finite(steps: FlatBatch, name: str) -> None:
    """The one of ``sequences/reading.py``, for steps on the GPU without padding; the host waits for it."""
    xp, values = arrays(), steps.values
    # Extremes carry NaN along, and take no memory of the size of the values.
    finite = xp.isfinite(values.min(axis=1)) & xp.isfinite(values.max(axis=1))
    if not finite.all():
        raise fault_error(steps.form, int(finite.argmin()), name, values.dtype)


def check_tokens(layer: Any, steps: FlatBatch, name: str) -> None:
    """Raise a ValueError if an embedding does not have a token; the host waits for the GPU.

    CuPy would take another row of the table for it.
    """
    tokens, count = steps.values, layer.num_embeddings
    wrong = (tokens < 0) | (tokens >= count)
    if wrong.any():
        row = int(wrong.argmax())
        place = describe_place(steps.form, row)
        raise ValueError(f"{name} must hold tokens in 0..{count - 1}; {place} holds {int(tokens[row])}")


def _read(layer: Any, x: Any, lengths: Any, name: str) -> tuple[Any, BatchForm]:
    """The flat matrix of steps, and the form of the batch."""
    vectors, tokens = layer.takes_vectors, layer.takes_tokens
    steps = read_steps(x, layer.dtype, name, lengths=lengths, time=not vectors, tokens=tokens)
    if not tokens and layer.fixes_width and steps.width() != layer.input_size:
        raise ValueError(f"{name} must have {layer.input_size} features, not {steps.width()}")
    return steps.values, steps.form


def _read_like(dy: Any, form: BatchForm, size: int, dtype: np.dtype) -> Any:
    """The flat matrix of the gradient of an output."""
    array = _on_gpu(dy, "dy", dtype)
    shape = (form.lengths.size, form.padded_steps, size) if form.has_time else (form.lengths.size, size)
    if array.shape != shape:
        raise ValueError(f"dy must have the shape of the output, {shape}, not {array.shape}")
    return array.reshape(-1, size)


def _read_states(layer: Any, given: Any, rows: int, name: str) -> tuple[Any, ...]:
    """States as a tuple of arrays (L * D, B, H); empty ones for none."""
    names = layer.cell.states
    if given is None:
        return (np.zeros(0),) * len(names)
    if len(names) > 1 and (not isinstance(given, (tuple, list)) or len(given) != len(names)):
        raise ValueError(f"{name} must be a tuple ({', '.join(names)}) of arrays")
    shape = (layer.num_layers * layer.directions, rows, layer.hidden_size)
    states = []
    for label, state in zip(names, given if len(names) > 1 else (given,), strict=True):
        array = _on_gpu(state, f"{name} ({label})", layer.dtype)
        if array.shape != shape:
            raise ValueError(f"{name} ({label}) must have shape {shape}, not {array.shape}")
        states.append(array)
    return tuple(states)


def forward_recurrent(
    layer: Any, x: Any, initial_state: Any, lengths: Any, training: bool, seed: int | None
) -> tuple[Any, Any]:
    """`Recurrent.forward`."""
    if seed is not None or (training and layer.dropout > 0.0):
        seed = arguments.seed("seed", seed)
    flat, form = _read(layer, x, _lengths(lengths), "x")
    initial = _read_states(layer, initial_state, form.layout.rows, "initial_state")
    layer.build_once(flat.shape[1])
    run = layer.acquire_pass(training)
    y, states = run.forward_there(form, seed, initial, flat)
    layer.remember_pass(run, form, form.layout, form, form.layout)
    return in_form(y, form), layer.export_states(states)


def backward_recurrent(layer: Any, entry: Any, dy: Any, dstate: Any, need_dx: bool) -> tuple[Any, Any]:
    """`Recurrent.backward`."""
    run, form, layout, _, _ = entry
    flat = _read_like(dy, form, layer.output_size(0), layer.dtype)
    dfinal = _read_states(layer, dstate, layout.rows, "dstate")
    dx, dinitial = run.backward_there(form, dfinal, flat, need_dx)
    layer.release_pass(run)
    return (None if dx is None else in_form(dx, form)), layer.export_states(dinitial)


def forward_stateless(layer: Any, x: Any, lengths: Any, training: bool, seed: int | None) -> Any:
    """`StatelessLayer.forward`."""
    if layer.follows_input_dtype and str(x.dtype).endswith("float64"):
        layer.use_dtype("float64")
    flat, form = _read(layer, x, _lengths(lengths), "x")
    store = layer.store_for(flat.shape[1] if flat.ndim == 2 else 1, layer.dtype)
    run, layout = layer.acquire_pass(training, store), form.layout
    out_layout, y = run.prepare(layout, to_packed(flat, form), seed if training else None)
    run.forward()
    out_form = form if out_layout is layout else vector_form(form.lengths.size)
    layer.remember_pass(run, form, layout, out_form, out_layout)
    # Rows of a sequence's last layout stand in the same order as those of the sequence.
    return in_form(to_flat(y, out_form) if out_form is form else y[run.rows.places], out_form)


def backward_stateless(layer: Any, entry: Any, dy: Any) -> Any:
    """`StatelessLayer.backward`."""
    run, form, _, out_form, _ = entry
    flat = _read_like(dy, out_form, layer.output_size(layer.known_input_size), layer.dtype)
    packed = to_packed(flat, form) if out_form is form else flat[run.rows.order]
    dx = run.prepare_backward(packed, need_dx=not layer.takes_tokens)
    run.backward()
    run.export_gradients()
    layer.release_pass(run)
    return None if dx is None else in_form(to_flat(dx, form), form)


def _lengths(lengths: Any) -> Any:
    """Lengths are read on the host."""
    return on_host(_on_gpu(lengths, "lengths", np.dtype(np.int64))) if is_on_gpu(lengths) else lengths
