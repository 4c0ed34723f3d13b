"""Recurrent networks as compiled kernels."""

__version__ = "0.1.0"
from numbarnn.engine.threads import get_num_threads, set_num_threads
from numbarnn.layers.recurrent import GRU, LSTM, RNN
