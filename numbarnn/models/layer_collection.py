"""LayerCollection: the layers of a model, and their parameters as those of one thing."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

import numpy as np

from numbarnn.engine.guards import READ, WRITE, Guards, Hold, use_guards
from numbarnn.layers.base import Layer


class LayerCollection(ABC):
    """Layers of one dtype on one device, in no order that matters here.

    Parameters
    ----------
    layers : sequence of Layer
        Different layers.
    device : {"cpu", "cuda"}, optional
        Where all layers work from now on. By default where they do.

    Attributes
    ----------
    layers : list of Layer
        The layers.
    dtype : dtype
        That of all layers.

    Raises
    ------
    ValueError
        If the layers differ in dtype or device.
    """

    def __init__(self, layers: Sequence[Layer], device: str | None = None) -> None:
        self.layers = list(layers)
        self._settled = self._settle_dtype(self.layers)
        if device is not None:
            self.to(device)
        self._check_devices(self.layers)

    def _settle(self) -> None:
        """Take note of what users did to the list `layers` since the last call, or refuse it.

        Raises
        ------
        TypeError, ValueError
            If the layers in the list are none that the constructor would take.
        """
        # Layers compare by identity.
        if type(self.layers) is list and self.layers == self._settled:
            return
        if not isinstance(self.layers, (list, tuple)):
            raise TypeError(f"layers must be a list of layers, not {type(self.layers).__name__}")
        layers = list(self.layers)
        self._check_layers(layers)
        self._check_devices(layers)
        self._settled = self._settle_dtype(layers)
        self.layers = layers
        self._forget_passes()

    @abstractmethod
    def _check_layers(self, layers: Sequence[Layer]) -> None:
        """Raise an error where the model cannot be made of these layers."""

    @abstractmethod
    def _forget_passes(self) -> None:
        """Passes of earlier calls are those of other layers."""

    @abstractmethod
    def _describe_layers(self) -> Iterable[tuple[Layer, bool, int]]:
        """For `summary`: each layer, whether its output is a sequence, and features of that."""

    # ---- dtype and device --------------------------------------------------------------------------------

    def _settle_dtype(self, layers: list[Layer]) -> list[Layer]:
        """Give the model the dtype that its layers have; a copy of the list."""
        dtypes = {layer.dtype for layer in layers if not _has_no_dtype(layer)}
        if len(dtypes) > 1:
            said = ", ".join(f"{layer!r}: {layer.dtype}" for layer in layers)
            raise ValueError(f"all layers must have one dtype; {said}")
        self.dtype = dtypes.pop() if dtypes else np.dtype("float32")
        for layer in layers:
            if _has_no_dtype(layer):
                layer.use_dtype(self.dtype)
                # From now on it has the model's.
                layer.follows_input_dtype, layer.follows_model_dtype = False, True
        return list(layers)

    def _check_devices(self, layers: Sequence[Layer]) -> None:
        devices = [layer.device for layer in layers]
        if len(set(devices)) > 1:
            raise ValueError(f"all layers must work on one device, not on {devices}")

    @property
    def device(self) -> str:
        """Where the layers work."""
        return self.layers[0].device

    def to(self, device: str) -> Self:
        """Work on another device from now on.

        Parameters
        ----------
        device : {"cpu", "cuda"}
            "cuda" is an NVIDIA GPU.

        Returns
        -------
        Model
            The model itself.

        Raises
        ------
        ValueError
            If there is no such device.
        RuntimeError
            If there is no GPU. Nothing is changed then.
        """
        self._settle()
        for layer in self.layers:
            layer.to(device)
        return self

    # ---- parameters --------------------------------------------------------------------------------------

    @property
    def built(self) -> bool:
        """Whether all layers have their parameters."""
        return all(layer.built for layer in self.layers)

    @property
    def parameters(self) -> dict[str, np.ndarray]:
        """Read-only views of all parameters, named ``"<layer>.<parameter>"``."""
        self._settle()
        return {
            f"{i}.{name}": values
            for i, layer in enumerate(self.layers)
            for name, values in layer.parameters.items()
        }

    def set_parameters(self, parameters: Mapping[str, Any]) -> None:
        """Replace all parameters.

        Parameters
        ----------
        parameters : mapping of str to array
            Every parameter, named as in `parameters`.

        Raises
        ------
        ValueError
            If a name is missing or unknown, or a value does not fit. Nothing is changed then.
        """
        self._require_built("set_parameters")
        if not isinstance(parameters, Mapping):
            raise TypeError(f"parameters must be a dict of arrays, not {type(parameters).__name__}")
        names = list(self.parameters)
        unknown = [name for name in parameters if name not in names]
        if unknown:
            raise ValueError(f"parameters must be exactly {names}; unknown: {', '.join(map(repr, unknown))}")
        split: list[dict[str, Any]] = [{} for _ in self.layers]
        for name, values in parameters.items():
            number, _, short = name.partition(".")
            split[int(number)][short] = values
        new = []
        for i, layer in enumerate(self.layers):
            checked = layer.check_parameters(split[i], owner=f"layer {i}: ")
            new.append(layer.flatten(checked))  # copies, for they may be views of these very parameters
        self._write(new)

    def _guards(self) -> Guards:
        return Guards.together(layer.store.guards for layer in self.layers)

    def _write(self, new: Sequence[np.ndarray]) -> None:
        """Give all layers these parameters, while nobody reads any."""
        hold = Hold(self._guards())
        try:
            hold.take(WRITE)
            for layer, values in zip(self.layers, new, strict=True):
                layer.count_change()
                layer.flat_values[...] = values
        finally:
            use_guards(*hold.way_out)

    def snapshot(self) -> list[np.ndarray]:
        """A copy of all parameters, for `restore`."""
        self._require_built("snapshot")
        hold = Hold(self._guards())
        try:
            hold.take(READ)
            return [layer.flat_values.copy() for layer in self.layers]
        finally:
            use_guards(*hold.way_out)

    def restore(self, snapshot: Sequence[np.ndarray]) -> None:
        """Go back to the parameters of a `snapshot`."""
        self._require_built("restore")
        if not isinstance(snapshot, (list, tuple)):
            raise TypeError(f"snapshot must be one of this model, not {type(snapshot).__name__}")
        sizes = [layer.flat_values.size for layer in self.layers]
        if [np.size(values) for values in snapshot] != sizes:
            raise ValueError(f"snapshot must be one of this model, with parts of {sizes} numbers")
        self._write(snapshot)

    def count_parameters(self) -> int:
        """How many numbers all parameters hold."""
        self._require_built("count_parameters")
        return sum(layer.count_parameters() for layer in self.layers)

    def summary(self) -> None:
        """Print a table of the layers, their outputs and their numbers of parameters."""
        self._require_built("summary")
        rows = [("layer", "output", "parameters")]
        for layer, sequence, size in self._describe_layers():
            output = f"(B, T, {size})" if sequence else f"(B, {size})"
            rows.append((repr(layer), output, f"{layer.count_parameters():,}"))
        rows.append(("total", "", f"{self.count_parameters():,}"))
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        rule = "  ".join("-" * width for width in widths)
        for i, (name, output, count) in enumerate(rows):
            if i in (1, len(rows) - 1):
                print(rule)
            print(f"{name:<{widths[0]}}  {output:<{widths[1]}}  {count:>{widths[2]}}")

    def _require_built(self, what: str) -> None:
        self._settle()
        if not self.built:
            raise RuntimeError(f"{what} needs a built model: fit it, or call build(input_size) first")


def _has_no_dtype(layer: Layer) -> bool:
    """Whether a layer has the dtype of what it reads, or of the model that it stands in."""
    return layer.follows_input_dtype or layer.follows_model_dtype
