"""ConnectedLayers: what a model says of itself, and how it reads what users pass."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

from numbarnn.devices import is_on_gpu
from numbarnn.layers.base import Layer
from numbarnn.models.layer_collection import LayerCollection
from numbarnn.sequences.layout import Layout
from numbarnn.sequences.reading import FlatBatch
from numbarnn.training.data import LabelledSamples, Samples, read_samples
from numbarnn.training.losses import Loss


class ConnectedLayers(LayerCollection):
    """Layers of which each takes what an input or another layer gives.

    A model says in these methods how. What they call *steps* is what `_read` made of the user's x: a
    `FlatBatch`, or one for each input.
    """

    # ---- what a model says of itself ---------------------------------------------------------------------

    @abstractmethod
    def new_graph(self, training: bool) -> Any:
        """The passes of all layers, a `Chain` or a `Graph`; the layers are built."""

    @abstractmethod
    def build(self, input_size: Any, seed: int | None = None) -> None:
        """Build all layers that are not built; `input_size` is as `_features` gives it."""

    @abstractmethod
    def _read(self, x: Any, name: str, features: Any = None) -> Any:
        """Check the user's x; return its steps. `features` are those that it must have, where known."""

    @abstractmethod
    def _features(self, steps: Any) -> Any:
        """Features of the input, of several inputs a tuple."""

    @abstractmethod
    def _size_of_output(self, features: Any) -> int:
        """Features of the output for an input of these, if all layers fit one another."""

    @abstractmethod
    def _leading(self, steps: Any) -> FlatBatch:
        """The input whose rows, and where it is a sequence whose steps, the output has."""

    @abstractmethod
    def _gives_sequence(self, steps: Any) -> bool:
        """Whether the output has one vector a step (and not one a row)."""

    @abstractmethod
    def _samples(self, steps: Any) -> Samples:
        """The steps as samples that batches are drawn from."""

    @abstractmethod
    def _label(
        self,
        steps: Any,
        y: Any,
        loss: Loss,
        size: int,
        sample_weight: Any = None,
        class_weight: Any = None,
    ) -> LabelledSamples:
        """The steps and their targets, checked."""

    # ---- what users pass ---------------------------------------------------------------------------------

    def _read_input(
        self, x: Any, name: str, time: bool, readers: Sequence[Layer], features: int | None
    ) -> FlatBatch:
        """Check one input, which these layers read; it must have so many features, where that is known."""
        tokens = any(layer.takes_tokens for layer in readers)
        read = _cuda_calls().read_steps if self._is_on_gpu(x, name) else read_samples
        steps: FlatBatch = read(x, self.dtype, name, time=time, tokens=tokens)
        if not tokens and features is not None and steps.width() != features:
            raise ValueError(f"{name} must have {features} features, not {steps.width()}")
        for layer in readers if tokens else ():
            if steps.on_gpu:
                _cuda_calls().check_tokens(layer, steps, name)
            else:
                layer.pack_input(steps, Layout(steps.lengths))  # checks the range of the tokens
        return steps

    @staticmethod
    def _check_on_gpu(steps: FlatBatch, tokens: bool, name: str) -> None:
        """Numbers that are not finite, in an input on the GPU: `_read_input` does not wait for the GPU."""
        if steps.on_gpu and not tokens:
            _cuda_calls().check_finite(steps, name)

    def _is_on_gpu(self, given: Any, name: str) -> bool:
        """Whether an argument is on the GPU already; a TypeError where it cannot be."""
        is_list = isinstance(given, (list, tuple)) and len(given) > 0
        array = given[0] if is_list else given
        if not is_on_gpu(array):
            return False
        kind = f"{type(array).__module__}.{type(array).__qualname__}"
        if self.device == "cpu":
            raise TypeError(
                f'{name} must be in the host\'s memory for a model on device="cpu", not a {kind} on a GPU;'
                ' copy it to the host, or move the model with to("cuda")'
            )
        if is_list:
            raise TypeError(f"{name} must be one array where it is on the GPU, not a list of {kind}")
        return True

    def _on_host(self, given: Any, name: str) -> Any:
        """Targets or weights, which are checked on the host: those on the GPU are copied, once a call."""
        return _cuda_calls().copy_to_host(given) if self._is_on_gpu(given, name) else given


def _cuda_calls() -> Any:
    from numbarnn.layers.cuda import calls as cuda_calls  # where there is a GPU, not before

    return cuda_calls
