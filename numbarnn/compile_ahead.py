"""Compile kernels before they are needed, in the foreground or beside the user's own work."""

import atexit
import functools
import threading
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from numbarnn import arguments
from numbarnn.engine.fork import make_board, serve
from numbarnn.engine.program import record_together
from numbarnn.jit.compile_cache import compile_clock
from numbarnn.layers.base import Layer
from numbarnn.layers.dense import Dense
from numbarnn.layers.dropout import Dropout
from numbarnn.layers.embedding import Embedding
from numbarnn.layers.pooling import MaxOverTime, MeanOverTime
from numbarnn.layers.recurrent import GRU, LSTM, RNN
from numbarnn.models.sequential import Sequential
from numbarnn.training.losses import LOSSES
from numbarnn.training.optimizers import OPTIMIZERS

# The layers of each cell; an activation has kernels of its own.
LAYERS: dict[str, list[Callable[..., Layer]]] = {
    "rnn": [functools.partial(RNN, activation="tanh"), functools.partial(RNN, activation="relu")],
    "lstm": [LSTM],
    "gru": [GRU],
}
LENGTHS = (5, 3, 4)  # rows of the tiny problems
CLASSES = 2


def warmup(
    cells: str | Iterable[str] = ("lstm",), dtype: str = "float32", background: bool = False
) -> threading.Thread | None:
    """Compile ahead what fits and predictions need, or load it where it is in the compile cache.

    Parameters
    ----------
    cells : {"rnn", "lstm", "gru"} or iterable of them, default ("lstm",)
        The recurrent layers that will be used. All other layers, the losses and the optimisers are always
        compiled.
    dtype : {"float32", "float64"}, default "float32"
        That of the models to come.
    background : bool, default False
        Return at once, and compile on a thread of its own.

    Returns
    -------
    threading.Thread or None
        With ``background=True`` the thread; its ``join()`` waits until all is compiled.

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit.

    Notes
    -----
    Compiling takes about 25 seconds for one cell and 5 for each further one, once on a machine. Tiny models
    of made-up numbers are fitted for it; nothing of that is left but the kernels: random states and the
    number of threads are as before. What layers of several hundred units use besides (threads that divide
    the units) is compiled when it is first used.

    Everything else may be used while a background thread compiles. Numba compiles one kernel at a time, so
    that a fit which needs a kernel waits for the one in hand, then compiles its own. The times of its
    history count all that is compiled meanwhile as compiling, whoever asked for it. An error on the
    background thread goes to `threading.excepthook`, which prints it; later fits then compile what they
    lack. Join the thread before the process forks: a child of a process that is just compiling could never
    compile itself. A process that ends earlier stops the thread at the next kernel.

    Examples
    --------
    >>> import numbarnn
    >>> thread = numbarnn.warmup("lstm", background=True)
    >>> thread.join()                    # read and prepare the data meanwhile
    """
    names = _read_cells(cells)
    dtype = Layer(dtype).dtype.name
    if not arguments.flag("background", background):
        _compile(names, dtype)
        return None
    thread = _Background(names, dtype).thread
    thread.start()
    return thread


def _read_cells(cells: Any) -> list[str]:
    if isinstance(cells, str):
        return [arguments.one_of("cells", cells, list(LAYERS))]
    if not isinstance(cells, Iterable):
        raise TypeError(f"cells must be a name or several ({', '.join(map(repr, LAYERS))}), got {cells!r}")
    names = [arguments.one_of(f"cells[{i}]", cell, list(LAYERS)) for i, cell in enumerate(cells)]
    if not names:
        raise ValueError("cells must name at least one cell")
    return names


class _Background:
    """Compiles on a thread beside the user's own work. The process may end before it is done."""

    def __init__(self, cells: list[str], dtype: str) -> None:
        self.cells, self.dtype = cells, dtype
        self.exiting = False
        self.thread = threading.Thread(target=self.compile, name="numbarnn warmup", daemon=True)

    def compile(self) -> None:
        compile_clock.on_start.append(self.before_kernel)
        atexit.register(self.stop)
        try:
            _compile(self.cells, self.dtype)
        finally:
            compile_clock.on_start.remove(self.before_kernel)
            atexit.unregister(self.stop)

    def before_kernel(self) -> None:
        if self.exiting and threading.current_thread() is self.thread:
            raise SystemExit  # ends this thread alone, without a word

    def stop(self) -> None:
        # LLVM must not be in the midst of a kernel while the process takes it down.
        self.exiting = True
        self.thread.join()


def _compile(cells: list[str], dtype: str) -> None:
    """Fit and predict with tiny models, those that most users need first."""
    rows = [np.linspace(-1.0, 1.0, 2 * length).reshape(length, 2) for length in LENGTHS]
    array = np.stack([rows[0]] * len(rows))
    labels = np.arange(len(rows)) % CLASSES
    labels_of_steps = [np.arange(len(row)) % CLASSES for row in rows]
    layers = [layer for cell in cells for layer in LAYERS[cell]]
    for layer in layers:
        _fit(Sequential(layer(3, dtype=dtype), Dense(CLASSES, dtype=dtype)), rows, labels)
    # What no tiny model comes to: the life of the other threads, and two directions on two of them.
    board, _ = make_board()
    serve(board, 0, 0)
    record_together([])
    deep: dict[str, Any] = {"num_layers": 2, "bidirectional": True, "return_sequences": True, "dropout": 0.5}
    for layer in layers:
        _fit(Sequential(layer(3, dtype=dtype, **deep), Dense(CLASSES, dtype=dtype)), rows, labels_of_steps)
    for pooling in (MaxOverTime(), MeanOverTime()):
        sequence = layers[0](3, dtype=dtype, return_sequences=True)
        _fit(Sequential(Dropout(0.5), sequence, pooling, Dense(CLASSES, dtype=dtype)), array, labels)
    tokens = np.zeros((len(rows), 4), int)
    _fit(
        Sequential(Embedding(2, 3, dtype=dtype), MeanOverTime(), Dense(CLASSES, dtype=dtype)), tokens, labels
    )
    shares = np.full((len(rows), CLASSES), 1.0 / CLASSES)  # targets that every loss takes
    for loss in LOSSES:
        _fit(Sequential(Dense(CLASSES, dtype=dtype)), array[:, 0], shares, loss=loss)
    for optimizer in OPTIMIZERS:
        options = {"clip_norm": 1.0, "clip_value": 1.0, "sample_weight": np.ones(len(rows))}
        _fit(Sequential(Dense(CLASSES, dtype=dtype)), array[:, 0], labels, optimizer=optimizer, **options)


def _fit(model: Sequential, x: Any, y: Any, **options: Any) -> None:
    model.fit(x, y, epochs=1, batch_size=2, verbose=False, **options)
    model.predict(x)
