"""The inputs of a fit's batches on a GPU: drawn from data on the GPU, or copied batch by batch.

Copied batches use two slots alternately, each with memory on both sides. Three work on a slot:

    the host       waits for the slot's earlier copy, then gathers the rows in pinned memory
    copying        a stream that waits for the step that read the slot, then copies it to the GPU
    computing      the stream of the steps, which waits for that copy

The host only asks for the latter two and goes on. So it gathers and copies a batch while the GPU computes the
one before.
"""

from typing import Any

import numpy as np

from numbarnn.engine.cuda.arrays import arrays
from numbarnn.engine.cuda.device import SIMULATED
from numbarnn.engine.cuda.pointwise import gather


class Resident:
    """Values that stay on the GPU: a batch costs the transfer of its row numbers.

    Parameters
    ----------
    values : array (n,) or (n, features)
        Of the host, or of the GPU already.
    """

    def __init__(self, values: Any) -> None:
        self.values = arrays().asarray(values)

    def take(self, rows: np.ndarray) -> Any:
        """These rows of the values."""
        places = arrays().asarray(rows)
        if self.values.ndim == 1:
            return self.values[places]
        taken = arrays().empty((len(rows), self.values.shape[1]), self.values.dtype)
        gather(places, self.values, taken)
        return taken


class Streams:
    """CuPy's streams and events, and memory that the GPU copies from while the host goes on."""

    def __init__(self) -> None:
        self.copying = arrays().cuda.Stream(non_blocking=True)  # others wait for the default stream

    @property
    def computing(self) -> Any:
        return arrays().cuda.get_current_stream()

    def event(self) -> Any:
        return arrays().cuda.Event(disable_timing=True)

    def pinned(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        import cupyx  # only where there is a GPU

        return cupyx.empty_pinned(shape, dtype)

    def copy(self, source: np.ndarray, target: Any) -> None:
        target.set(source, self.copying)


class _Simulated:
    """Streams and events where all is done at once: there is nothing to wait for."""

    def record(self, event: Any) -> None:
        """The event happens when the stream has done what it was given so far."""

    def wait_event(self, event: Any) -> None:
        """The stream goes on when the event has happened."""

    def synchronize(self) -> None:
        """The host goes on when this event has happened."""


class SimulatedStreams:
    """`Streams` in the simulator."""

    def __init__(self) -> None:
        self.copying, self.computing = _Simulated(), _Simulated()

    def event(self) -> Any:
        return _Simulated()

    def pinned(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        return np.empty(shape, dtype)

    def copy(self, source: np.ndarray, target: Any) -> None:
        target[...] = source


class _Slot:
    """Room for a batch on both sides.

    Attributes
    ----------
    pinned, on_gpu : arrays (n,) or (n, features)
        The host's and the GPU's.
    copied, read : events
        The latest copy to the GPU is done; so is the step that reads it.
    """

    def __init__(self, streams: Any) -> None:
        self.pinned = self.on_gpu = np.empty(0)
        self.copied, self.read = streams.event(), streams.event()


class Streamed:
    """Values that stay in the host's memory.

    Parameters
    ----------
    values : array (n,) or (n, features)
        C-contiguous.
    streams : Streams, optional
        By default those that work here.
    """

    def __init__(self, values: np.ndarray, streams: Any = None) -> None:
        self.values = values
        self.streams = streams or (SimulatedStreams() if SIMULATED else Streams())
        self._latest, self._next = (_Slot(self.streams) for _ in range(2))

    def take(self, rows: np.ndarray) -> Any:
        """These rows of the values, on the GPU, for what is launched until the next call."""
        streams, slot, count = self.streams, self._next, len(rows)
        streams.computing.record(self._latest.read)  # all that reads it is launched by now
        self._latest, self._next = slot, self._latest
        slot.copied.synchronize()
        if len(slot.pinned) < count:
            self._grow(slot, count)
        pinned, on_gpu = slot.pinned[:count], slot.on_gpu[:count]
        # No row lies outside; to raise an error if one did, NumPy would write to a buffer of its own first.
        np.take(self.values, rows, axis=0, out=pinned, mode="clip")
        streams.copying.wait_event(slot.read)
        streams.copy(pinned, on_gpu)
        streams.copying.record(slot.copied)
        streams.computing.wait_event(slot.copied)
        return on_gpu

    def _grow(self, slot: _Slot, count: int) -> None:
        shape = (count, *self.values.shape[1:])
        slot.pinned = self.streams.pinned(shape, self.values.dtype)
        slot.on_gpu = arrays().empty(shape, self.values.dtype)
        # What had this memory before may still be in use by kernels that were launched.
        self.streams.computing.record(slot.read)
