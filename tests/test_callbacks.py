"""Early stopping on a model that only counts, the history, and what the progress display prints."""

import contextlib
import doctest
import io
import math
import re
import sys

import numpy as np
import pytest

from numbarnn.training import callbacks, progress
from numbarnn.training.callbacks import Callback, EarlyStopping, History
from numbarnn.training.progress import SECONDS_BETWEEN_LINES, Progress


class CountingModel:
    """A model whose one parameter is the number of the latest epoch."""

    def __init__(self):
        self.parameter = -1
        self.snapshots = 0

    def snapshot(self):
        self.snapshots += 1
        return {"parameter": self.parameter}

    def restore(self, snapshot):
        self.parameter = snapshot["parameter"]


def fit(model, callback, values, name="val_loss"):
    """Epochs with these numbers, as a fit goes through them; returns how many were done."""
    callback.on_fit_begin(model)
    done = 0
    for epoch, value in enumerate(values):
        model.parameter = epoch
        callback.on_epoch_end(model, epoch, {"loss": 1.0, name: value})
        done += 1
        if callback.stop:
            break
    callback.on_fit_end(model)
    return done


# ---- early stopping --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "options", "done", "best_epoch"),
    [
        ([5, 4, 3, 2, 1], {"patience": 1}, 5, 4),
        ([5, 4, 4, 3, 1], {"patience": 1}, 3, 1),  # as good is no improvement
        ([5, 4, 6, 6, 3, 9, 9, 9, 1], {"patience": 3}, 8, 4),  # an improvement begins the count anew
        ([5, 4.95, 4.8, 4.75, 4.0], {"patience": 2, "min_delta": 0.1}, 5, 4),
        ([5, 4.95, 4.92, 4.0], {"patience": 2, "min_delta": 0.1}, 3, 0),
        ([1, 2, 3, 2, 2, 5], {"patience": 2, "mode": "max"}, 5, 2),
        ([1, 1.05, 1.08, 2.0], {"patience": 2, "mode": "max", "min_delta": 0.1}, 3, 0),
        ([math.nan, 3, math.nan, 2, math.nan, math.nan], {"patience": 2}, 6, 3),
        ([math.nan, math.nan, 1], {"patience": 2}, 2, None),
        ([math.inf, 2, 1], {"patience": 2}, 3, 2),
    ],
)
def test_stops_without_improvement_and_goes_back(values, options, done, best_epoch):
    model, stopping = CountingModel(), EarlyStopping(**options)
    assert fit(model, stopping, values) == done
    assert stopping.stop == (done < len(values) or values[-1] != values[-1])
    assert stopping.best_epoch == best_epoch
    assert stopping.best == (None if best_epoch is None else values[best_epoch])
    assert model.parameter == (done - 1 if best_epoch is None else best_epoch)


def test_goes_back_also_after_the_last_epoch():
    model = CountingModel()
    assert fit(model, EarlyStopping(patience=9), [3, 1, 2]) == 3
    assert model.parameter == 1


def test_keeps_the_last_parameters_when_asked_to():
    model = CountingModel()
    assert fit(model, EarlyStopping(patience=2, restore_best=False), [1, 2, 3, 4]) == 3
    assert (model.parameter, model.snapshots) == (2, 0)


@pytest.mark.parametrize(
    ("monitor", "larger_is_better"),
    [
        ("val_accuracy", True),
        ("accuracy", True),
        ("macro_f1", True),
        ("val_loss", False),
        ("val_mae", False),
        ("grad_norm", False),
    ],
)
def test_direction_of_an_improvement(monitor, larger_is_better):
    stopping = EarlyStopping(patience=1, monitor=monitor, restore_best=False)
    assert fit(CountingModel(), stopping, [1.0, 2.0, 3.0], monitor) == (3 if larger_is_better else 2)
    turned = EarlyStopping(1, monitor, restore_best=False, mode="min" if larger_is_better else "max")
    assert fit(CountingModel(), turned, [1.0, 2.0, 3.0], monitor) == (2 if larger_is_better else 3)


def test_can_be_used_again():
    stopping = EarlyStopping(patience=2)
    for values in ([1, 2, 3, 4], [9, 8, 9, 9, 9]):  # the second fit never gets as good as the first
        model = CountingModel()
        assert fit(model, stopping, values) == {4: 3, 5: 4}[len(values)]
        assert model.parameter == int(np.argmin(values))


def test_missing_number_is_named():
    stopping = EarlyStopping()
    with pytest.raises(ValueError, match=r"monitor='val_loss' .* 'loss', 'accuracy'; pass validation_data"):
        stopping.on_epoch_end(None, 0, {"loss": 1.0, "accuracy": 0.5})
    with pytest.raises(ValueError, match=r"monitor='acuracy' is not among .* 'loss'$"):
        EarlyStopping(monitor="acuracy").on_epoch_end(None, 0, {"loss": 1.0})


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"patience": 0}, ValueError, "patience must be at least 1, got 0"),
        ({"patience": 2.5}, TypeError, "patience must be a whole number of at least 1, got 2.5"),
        ({"min_delta": -0.1}, ValueError, "min_delta must be finite and at least 0, got -0.1"),
        ({"mode": "best"}, ValueError, "mode must be one of 'auto', 'min', 'max', got 'best'"),
        ({"monitor": 3}, TypeError, "monitor must be a name in the history, got 3"),
    ],
)
def test_wrong_settings_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        EarlyStopping(**options)


def test_early_stopping_says_how_it_is_set():
    text = repr(EarlyStopping(3, monitor="val_accuracy"))
    assert text == (
        "EarlyStopping(patience=3, monitor='val_accuracy', min_delta=0.0, restore_best=True, mode='auto')"
    )


def test_plain_callback_does_nothing():
    assert fit(CountingModel(), Callback(), [1, 2, 3]) == 3


# ---- the history -----------------------------------------------------------------------------------------


def test_history_has_one_entry_an_epoch():
    history = History()
    assert (history.epochs, repr(history)) == (0, "<History of 0 epochs>")
    history.add({"loss": 0.75, "accuracy": 0.5})
    assert repr(history) == "<History of 1 epoch: loss 0.75 to 0.75, accuracy 0.5 to 0.5>"
    history.add({"loss": 0.5, "extra": 7.0})
    assert history.epochs == 2
    assert list(history.history) == ["loss", "accuracy", "extra"]
    for name, values in {"loss": [0.75, 0.5], "accuracy": [0.5, math.nan], "extra": [math.nan, 7.0]}.items():
        np.testing.assert_array_equal(history.history[name], values)


# ---- the progress display --------------------------------------------------------------------------------


def logs_of(epoch):
    return {
        "loss": 1.0 / (1 + epoch),
        "accuracy": 0.5,
        "val_loss": 12.0,
        "val_accuracy": 0.25,
        "grad_norm": 3.0,
        "learning_rate": 0.777,
        "seconds": 0.1,
    }


def shown(epochs, done, verbose=True, seconds_an_epoch=0.0, clock=None):
    """What a fit of some epochs prints to stderr."""
    stream = io.StringIO()
    with contextlib.redirect_stderr(stream), Progress(epochs, verbose) as display:
        for epoch in range(done):
            if clock is not None:
                clock.now += seconds_an_epoch
            display.epoch_done(logs_of(epoch))
            if epoch == 0:
                display.message("a message")
    return stream.getvalue()


class Clock:
    """Stands in for the module `time`."""

    now = 100.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    stopped = Clock()
    monkeypatch.setattr(progress, "time", stopped)
    return stopped


@pytest.fixture
def without_tqdm(monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)


def test_silent(without_tqdm, capsys):
    assert shown(3, 3, verbose=False) == ""
    assert capsys.readouterr() == ("", "")


def test_lines(without_tqdm, clock):
    lines = shown(100, 100, seconds_an_epoch=2.0, clock=clock).splitlines()
    assert len(lines) == 101
    assert lines[0].startswith("epoch   1/100  loss 1           accuracy 0.5         val_loss 12          ")
    assert lines[0].endswith("  val_accuracy 0.25          198 s left")
    assert lines[1] == "a message"
    del lines[1]
    assert lines[2].startswith("epoch   3/100  loss 0.3333      accuracy 0.5  ")
    assert lines[-1].startswith("epoch 100/100  loss 0.01        accuracy 0.5  ")
    assert lines[-1].endswith("   0 s left")
    assert len({len(line) for line in lines}) == 1
    assert len({line.index("val_loss") for line in lines}) == 1


def test_lines_come_once_a_second_and_at_both_ends(without_tqdm, clock):
    lines = shown(50, 50, seconds_an_epoch=SECONDS_BETWEEN_LINES / 8, clock=clock).splitlines()
    epochs = [int(line.split()[1].split("/")[0]) for line in lines if line.startswith("epoch")]
    assert epochs == [1, 9, 17, 25, 33, 41, 49, 50]


def test_lines_show_the_last_epoch_of_a_fit_that_was_stopped(without_tqdm, clock):
    lines = shown(50, 5, seconds_an_epoch=0.01, clock=clock).splitlines()
    assert [line.split()[1] for line in lines if line.startswith("epoch")] == ["1/50", "5/50"]


def test_lines_of_a_fit_without_epochs(without_tqdm):
    assert shown(0, 0) == ""


def test_bar(capsys):
    pytest.importorskip("tqdm")
    text = shown(4, 4)
    assert text.count("a message\n") == 1
    last = re.split("[\r\n]", text.strip())[-1]
    assert last.startswith("100%")
    assert "4/4" in last
    assert "loss 0.25, accuracy 0.5, val_loss 12, val_accuracy 0.25" in last
    for hidden in ("grad_norm", "learning_rate", "seconds"):
        assert hidden not in text
    assert capsys.readouterr() == ("", "")


def test_bar_is_left_where_a_fit_was_stopped():
    pytest.importorskip("tqdm")
    last = re.split("[\r\n]", shown(8, 2).strip())[-1]
    assert "2/8" in last
    assert "loss 0.5" in last


def test_tqdm_is_not_imported_for_silence(monkeypatch):
    monkeypatch.delitem(sys.modules, "tqdm", raising=False)
    Progress(3, verbose=False)
    assert "tqdm" not in sys.modules


@pytest.mark.parametrize("tqdm", [True, False])
def test_closing_twice_changes_nothing(monkeypatch, tqdm):
    if tqdm:
        pytest.importorskip("tqdm")
    else:
        monkeypatch.setitem(sys.modules, "tqdm", None)
    stream = io.StringIO()
    with contextlib.redirect_stderr(stream):
        display = Progress(2, True)
        display.epoch_done(logs_of(0))
        display.close()
        before = stream.getvalue()
        display.close()
    assert stream.getvalue() == before


@pytest.mark.parametrize("module", [callbacks, progress], ids=lambda module: module.__name__)
def test_examples(module):
    assert doctest.testmod(module).failed == 0
