"""What may look on at a fit and stop it: callbacks, early stopping, and the history that a fit returns."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from numbarnn.arguments import count, flag, nonnegative, one_of, shown

# Metrics that are better when larger, by their name or the last word of it: "val_accuracy", "macro_f1".
LARGER_IS_BETTER = ("accuracy", "acc", "auc", "f1", "r2")


class Callback:
    """Called in the course of a fit. Subclass it and write the methods that you need.

    Attributes
    ----------
    stop : bool
        Set it to True and the fit ends after the present epoch. A fit begins with False, whatever an
        earlier one left.

    Examples
    --------
    >>> from numbarnn.training.callbacks import Callback
    >>> class StopWhenGood(Callback):
    ...     def on_epoch_end(self, model, epoch, logs):
    ...         self.stop = logs["loss"] < 0.1
    >>> callback = StopWhenGood()
    >>> callback.on_epoch_end(None, 0, {"loss": 0.05})
    >>> callback.stop
    True
    """

    stop: bool = False

    def check_numbers(self, names: Sequence[str]) -> None:
        """Before anything else: raise a ValueError if a number that the callback needs is not among these.

        Parameters
        ----------
        names : sequence of str
            What the history will keep of every epoch.
        """

    def on_fit_begin(self, model: Any) -> None:
        """Before the first epoch; a callback that is used again begins anew here."""

    def on_epoch_end(self, model: Any, epoch: int, logs: Mapping[str, float]) -> None:
        """After every epoch.

        Parameters
        ----------
        model : Sequential
            The model, as the epoch left it.
        epoch : int
            Which epoch it was, from 0.
        logs : mapping of str to float
            What the history keeps of this epoch: "loss", "accuracy" or "mae", and so on.
        """

    def on_fit_end(self, model: Any) -> None:
        """After the last epoch, not after an error."""

    def on_exception(self, model: Any, error: BaseException) -> None:
        """When the fit ends by an error or an interrupt, in place of `on_fit_end`, or while that runs.

        Parameters
        ----------
        model : Model
            The model, as the last step left it.
        error : BaseException
            What is raised when all callbacks have been told.
        """


class EarlyStopping(Callback):
    """Stop when a number has not improved for some epochs, and go back to the best epoch's parameters.

    See [1]_ for when to stop.

    Parameters
    ----------
    patience : int, default 5
        Epochs in a row without an improvement after which the fit stops, at least 1.
    monitor : str, default "val_loss"
        The number to watch, by its name in the history.
    min_delta : float, default 0.0
        An improvement is a change for the better by more than this, at least 0.
    restore_best : bool, default True
        Give the model the parameters of the best epoch at the end of the fit, however it ended.
    mode : {"auto", "min", "max"}, default "auto"
        Whether smaller or larger is better; "auto" takes "max" for accuracies and their kind, else "min".

    Attributes
    ----------
    best : float or None
        The best number so far; None before the first epoch, and while all were NaN.
    best_epoch : int or None
        The epoch it belongs to, from 0.

    Raises
    ------
    TypeError, ValueError
        If an argument is of another type or outside of its range.

    Notes
    -----
    NaN is never an improvement.

    References
    ----------
    .. [1] L. Prechelt (1998). Early stopping - but when? Neural Networks: Tricks of the Trade, Springer.

    Examples
    --------
    >>> from numbarnn.training.callbacks import EarlyStopping
    >>> stopping = EarlyStopping(patience=2, monitor="loss", restore_best=False)
    >>> for epoch, loss in enumerate([0.5, 0.4, 0.6, 0.7]):
    ...     stopping.on_epoch_end(None, epoch, {"loss": loss})
    >>> stopping.stop, stopping.best, stopping.best_epoch
    (True, 0.4, 1)
    """

    def __init__(
        self,
        patience: int = 5,
        monitor: str = "val_loss",
        min_delta: float = 0.0,
        restore_best: bool = True,
        mode: str = "auto",
    ) -> None:
        if not isinstance(monitor, str):
            raise TypeError(f"monitor must be a name in the history, got {shown(monitor)}")
        self.patience = count("patience", patience)
        self.monitor = monitor
        self.min_delta = nonnegative("min_delta", min_delta)
        self.restore_best = flag("restore_best", restore_best)
        self.mode = one_of("mode", mode, ("auto", "min", "max"))
        self._begin()

    def _begin(self) -> None:
        self.stop = False
        self.best: float | None = None
        self.best_epoch: int | None = None
        self._last_epoch: int | None = None
        self._waited = 0
        self._snapshot: Any = None

    def check_numbers(self, names: Sequence[str]) -> None:
        if self.monitor not in names:
            hint = "; pass validation_data to fit" if self.monitor.startswith("val_") else ""
            raise ValueError(
                f"monitor={self.monitor!r} is not among the numbers of this fit, "
                f"{', '.join(map(repr, names))}{hint}"
            )

    def on_fit_begin(self, model: Any) -> None:
        self._begin()

    def on_epoch_end(self, model: Any, epoch: int, logs: Mapping[str, float]) -> None:
        self.check_numbers(list(logs))
        self._last_epoch = epoch
        value = logs[self.monitor]
        if self._is_better(value):
            snapshot = model.snapshot() if self.restore_best else None
            # All at once: an interrupt finds either the last best epoch here or this one.
            self._snapshot, self.best, self.best_epoch, self._waited = snapshot, value, epoch, 0
        else:
            self._waited += 1
            self.stop = self._waited >= self.patience

    def on_fit_end(self, model: Any) -> None:
        if self._snapshot is not None and self.best_epoch != self._last_epoch:
            model.restore(self._snapshot)
        self._snapshot = None  # as large as the model

    def on_exception(self, model: Any, error: BaseException) -> None:
        if self._snapshot is not None:
            model.restore(self._snapshot)
        self._snapshot = None

    def _is_better(self, value: float) -> bool:
        if self.best is None:
            return not math.isnan(value)
        if self._larger_is_better():
            return value > self.best + self.min_delta
        return value < self.best - self.min_delta

    def _larger_is_better(self) -> bool:
        if self.mode == "auto":
            return self.monitor.rpartition("_")[2] in LARGER_IS_BETTER
        return self.mode == "max"

    def __repr__(self) -> str:
        return (
            f"EarlyStopping(patience={self.patience}, monitor={self.monitor!r}, min_delta={self.min_delta}, "
            f"restore_best={self.restore_best}, mode={self.mode!r})"
        )


class History:
    """What a fit returns: the numbers of every epoch.

    Attributes
    ----------
    history : dict of str to list of float
        "loss", "accuracy" or "mae", the same with ``val_`` in front, "grad_norm", "learning_rate" and
        "seconds"; each list has one entry an epoch.
    compile_seconds : float
        Time spent compiling kernels, 0 when they came from the cache.
    fit_seconds : float
        Time spent on everything else.

    Examples
    --------
    >>> from numbarnn.training.callbacks import History
    >>> history = History()
    >>> for loss in (0.9, 0.5, 0.25):
    ...     history.add({"loss": loss})
    >>> history.history["loss"]
    [0.9, 0.5, 0.25]
    >>> history
    <History of 3 epochs: loss 0.9 to 0.25>
    """

    def __init__(self) -> None:
        self.history: dict[str, list[float]] = {}
        self.compile_seconds = 0.0
        self.fit_seconds = 0.0
        self._epochs = 0

    @property
    def epochs(self) -> int:
        """Epochs done."""
        return self._epochs

    def add(self, logs: Mapping[str, float]) -> None:
        """Append the numbers of one epoch; one that comes late or is left out is NaN in the gaps."""
        for name in logs:
            self.history.setdefault(name, [math.nan] * self._epochs)
        for name, values in self.history.items():
            values.append(logs.get(name, math.nan))
        self._epochs += 1

    def __repr__(self) -> str:
        epochs = f"{self._epochs} epoch{'' if self._epochs == 1 else 's'}"
        courses = ", ".join(
            f"{name} {values[0]:.4g} to {values[-1]:.4g}" for name, values in self.history.items()
        )
        return f"<History of {epochs}: {courses}>" if courses else f"<History of {epochs}>"
