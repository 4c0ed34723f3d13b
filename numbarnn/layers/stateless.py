"""Forward and backward of the layers that work on steps or rows without a state."""

from typing import Any

from numbarnn import arguments
from numbarnn.devices import is_on_gpu
from numbarnn.engine.guards import WRITE, Hold, use_guards
from numbarnn.layers.base import Layer
from numbarnn.layers.parameters import hold_packed
from numbarnn.sequences.reading import (
    FlatBatch,
    check_finite,
    pack_steps,
    read_like,
    unpack_steps,
    vector_form,
)


class StatelessLayer(Layer):
    """Base of the layers without states: `forward` returns the output alone."""

    def forward(self, x: Any, lengths: Any = None, training: bool = False, seed: int | None = None) -> Any:
        """Compute the output.

        Parameters
        ----------
        x : array (B, T, I) or list of arrays (T_i, I), or array (B, I)
            Inputs. The layer builds itself on first use.
        lengths : array-like of int (B,), optional
            Valid steps of each row of an array.
        training : bool
            Keep what `backward` needs, and apply dropout.
        seed : int, optional
            Fixes the dropout numbers of this call.

        Returns
        -------
        array or list of arrays
            In the form of `x`.

        Raises
        ------
        TypeError, ValueError
            If `x` or `lengths` does not fit.
        """
        training, seed = arguments.flag("training", training), arguments.seed("seed", seed)
        if self.device == "cuda" and is_on_gpu(x):
            from numbarnn.layers.cuda import calls as cuda_calls  # where there is a GPU, not before

            return cuda_calls.forward_stateless(self, x, lengths, training, seed)
        steps = self.read_input(x, lengths)
        layout = steps.form.layout
        x_packed = self.pack_input(steps, layout)
        store = self.store_for(steps.width(), self.dtype if self.takes_tokens else steps.values.dtype)
        self.check_width(steps, store)
        run = self.acquire_pass(training, store)
        hold = Hold(store.guards)
        try:
            hold_packed(hold, [store], training)
            x_on_device = run.to_device(x_packed, store.input_size)
            out_layout, y = run.prepare(layout, x_on_device, seed if training else None)
            run.forward()
            run.read_change = store.packed_change(training)
        finally:
            use_guards(*hold.way_out)
        out_form = steps.form if out_layout is layout else vector_form(steps.rows)
        result = unpack_steps(run.to_host(y), self.output_size(store.input_size), out_form, out_layout)
        self.remember_pass(run, steps.form, layout, out_form, out_layout)
        return result

    def backward(self, dy: Any) -> Any:
        """Gradients of the latest ``forward(training=True)``; those of the parameters are overwritten.

        Parameters
        ----------
        dy : array or list of arrays
            Gradient of the output, in its form.

        Returns
        -------
        array or list of arrays, or None
            Gradient of the input; None where the input is tokens.

        Raises
        ------
        RuntimeError
            If there was no such forward.
        ValueError
            If `dy` does not have the form of the output.
        """
        entry = self.latest_pass()
        try:
            return self._backward(entry, dy)
        except (TypeError, ValueError):
            self.return_pass(entry)
            raise

    def _backward(self, entry: Any, dy: Any) -> Any:
        if self.device == "cuda" and is_on_gpu(dy):
            from numbarnn.layers.cuda import calls as cuda_calls  # where there is a GPU, not before

            return cuda_calls.backward_stateless(self, entry, dy)
        run, form, layout, out_form, out_layout = entry
        store = run.store
        size = self.output_size(store.input_size)
        steps = FlatBatch(read_like(dy, out_form, size, store.dtype, "dy"), out_form)
        check_finite(steps, "dy")
        packed = pack_steps(steps, out_layout)
        hold = Hold(store.guards)
        try:
            hold.take(WRITE)
            store.check_unchanged(run.read_change)
            dx = run.prepare_backward(run.to_device(packed, size), need_dx=not self.takes_tokens)
            run.backward()
            run.export_gradients()
        finally:
            use_guards(*hold.way_out)
        result = None if dx is None else unpack_steps(run.to_host(dx), store.input_size, form, layout)
        self.release_pass(run)
        return result
