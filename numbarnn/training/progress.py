"""How a fit shows on the terminal that it gets on: a tqdm bar, or plain lines where tqdm is missing."""

import contextlib
import math
import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

SECONDS_BETWEEN_LINES = 1.0
# In the history, but of no use for seeing whether a fit gets on.
NOT_SHOWN = ("grad_norm", "learning_rate", "seconds")


class Progress:
    """Shows the epochs of a fit on stderr, and closes with the ``with`` block that it is used in.

    Parameters
    ----------
    epochs : int
        Epochs to come.
    verbose : bool
        False: show nothing at all.

    Notes
    -----
    With tqdm installed there is a bar. Without, there are lines, at most about one a second besides those of
    the first and the last epoch.

    Examples
    --------
    >>> from numbarnn.training.progress import Progress
    >>> with Progress(epochs=2, verbose=False) as progress:
    ...     progress.epoch_done({"loss": 0.5, "accuracy": 0.75})
    ...     progress.epoch_done({"loss": 0.25, "accuracy": 1.0})
    """

    def __init__(self, epochs: int, verbose: bool) -> None:
        self._display: _Bar | _Lines | None = None
        if verbose and sys.stderr is not None:  # None in a program without a terminal
            try:
                self._display = _Bar(epochs)
            except ImportError:
                self._display = _Lines(epochs)

    def epoch_done(self, logs: Mapping[str, float]) -> None:
        """Show one more epoch.

        Parameters
        ----------
        logs : mapping of str to float
            The numbers of the epoch.
        """
        if self._display is not None:
            self._display.epoch_done({name: logs[name] for name in logs if name not in NOT_SHOWN})

    def message(self, text: str) -> None:
        """Print a line of its own, past the bar."""
        if self._display is not None:
            self._display.message(text)

    def close(self) -> None:
        """Leave the last state on the terminal; done again it changes nothing."""
        if self._display is not None:
            self._display.close()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Bar:
    """A tqdm bar over the epochs, which itself says how much time is left."""

    def __init__(self, epochs: int) -> None:
        from tqdm import tqdm

        self._tqdm: Any = tqdm
        self._bar: Any = tqdm(total=epochs, unit="epoch", file=sys.stderr, dynamic_ncols=True)

    def epoch_done(self, logs: Mapping[str, float]) -> None:
        shown = ", ".join(f"{name} {value:.4g}" for name, value in logs.items())
        self._bar.set_postfix_str(shown, refresh=False)
        self._bar.update()

    def message(self, text: str) -> None:
        self._tqdm.write(text, file=sys.stderr)

    def close(self) -> None:
        self._bar.close()


class _Lines:
    """Aligned lines; one that comes too soon after another is kept back, and shown if none follows it."""

    def __init__(self, epochs: int) -> None:
        self._epochs = epochs
        self._done = 0
        self._began = time.monotonic()
        self._last_line_at = -math.inf
        self._kept_back = ""

    def epoch_done(self, logs: Mapping[str, float]) -> None:
        self._done += 1
        now = time.monotonic()
        left = (now - self._began) / self._done * (self._epochs - self._done)
        width = len(str(self._epochs))
        numbers = "".join(f"  {name} {value:<10.4g}" for name, value in logs.items())
        self._kept_back = f"epoch {self._done:>{width}}/{self._epochs}{numbers}  {left:>5.0f} s left"
        if now - self._last_line_at >= SECONDS_BETWEEN_LINES:
            self._last_line_at = now
            self.close()

    def message(self, text: str) -> None:
        with contextlib.suppress(ValueError):  # it has been closed
            sys.stderr.write(text + "\n")
            getattr(sys.stderr, "flush", lambda: None)()

    def close(self) -> None:
        if self._kept_back:
            self.message(self._kept_back)
            self._kept_back = ""
