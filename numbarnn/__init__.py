"""Recurrent neural networks as compiled kernels, for NumPy arrays.

    model = numbarnn.Sequential(numbarnn.LSTM(64, bidirectional=True), numbarnn.Dense(9))
    model.fit(x, y)                 # x: a list of (T_i, I) arrays, y: integer labels
    model.predict(x_new)

Nothing heavy happens on import: the parts are loaded when they are first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Where each public name lives; also the order in which they are listed.
_PLACES = {
    "RNN": "layers.recurrent",
    "LSTM": "layers.recurrent",
    "GRU": "layers.recurrent",
    "Dense": "layers.dense",
    "Embedding": "layers.embedding",
    "Dropout": "layers.dropout",
    "MeanOverTime": "layers.pooling",
    "MaxOverTime": "layers.pooling",
    "Sequential": "models.sequential",
    "CrossEntropy": "training.losses",
    "BinaryCrossEntropy": "training.losses",
    "MeanSquaredError": "training.losses",
    "MeanAbsoluteError": "training.losses",
    "Huber": "training.losses",
    "SGD": "training.optimizers",
    "RMSprop": "training.optimizers",
    "Adam": "training.optimizers",
    "AdamW": "training.optimizers",
    "Constant": "training.schedules",
    "CosineDecay": "training.schedules",
    "StepDecay": "training.schedules",
    "Callback": "training.callbacks",
    "EarlyStopping": "training.callbacks",
    "History": "training.callbacks",
    "cuda_available": "devices",
    "get_num_threads": "engine.threads",
    "set_num_threads": "engine.threads",
    "warmup": "compile_ahead",
}
_MODULES = ("datasets", "kernels")

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "SGD",
    "Adam",
    "AdamW",
    "BinaryCrossEntropy",
    "Callback",
    "Constant",
    "CosineDecay",
    "CrossEntropy",
    "Dense",
    "Dropout",
    "EarlyStopping",
    "Embedding",
    "History",
    "Huber",
    "MaxOverTime",
    "MeanAbsoluteError",
    "MeanOverTime",
    "MeanSquaredError",
    "RMSprop",
    "Sequential",
    "StepDecay",
    "__version__",
    "cuda_available",
    "datasets",
    "get_num_threads",
    "kernels",
    "set_num_threads",
    "warmup",
]

if TYPE_CHECKING:
    from numbarnn import datasets, kernels
    from numbarnn.compile_ahead import warmup
    from numbarnn.devices import cuda_available
    from numbarnn.engine.threads import get_num_threads, set_num_threads
    from numbarnn.layers.dense import Dense
    from numbarnn.layers.dropout import Dropout
    from numbarnn.layers.embedding import Embedding
    from numbarnn.layers.pooling import MaxOverTime, MeanOverTime
    from numbarnn.layers.recurrent import GRU, LSTM, RNN
    from numbarnn.models.sequential import Sequential
    from numbarnn.training.callbacks import Callback, EarlyStopping, History
    from numbarnn.training.losses import (
        BinaryCrossEntropy,
        CrossEntropy,
        Huber,
        MeanAbsoluteError,
        MeanSquaredError,
    )
    from numbarnn.training.optimizers import SGD, Adam, AdamW, RMSprop
    from numbarnn.training.schedules import Constant, CosineDecay, StepDecay


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        value = getattr(importlib.import_module(f"numbarnn.{_PLACES[name]}"), name)
    elif name in _MODULES:
        value = importlib.import_module(f"numbarnn.{name}")
    else:
        raise AttributeError(f"module 'numbarnn' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
