"""Single time steps to call from your own ``@numba.njit`` functions.

They work on one sequence, in place, in compiled code from end to end: no Python, no allocation. Weights come
from ``layer.kernel_weights()``.

Examples
--------
>>> import numba
>>> import numpy as np
>>> import numbarnn
>>> from numbarnn.kernels import lstm_step
>>> layer = numbarnn.LSTM(8)
>>> layer.build(3, seed=0)
>>> weights = layer.kernel_weights()
>>> @numba.njit
... def run(signal, weights, h, c, out):
...     for t in range(signal.shape[0]):
...         lstm_step(weights, signal[t], h, c)
...         out[t] = h
>>> signal = np.ones((5, 3), np.float32)
>>> h, c, out = np.zeros(8, np.float32), np.zeros(8, np.float32), np.zeros((5, 8), np.float32)
>>> run(signal, weights, h, c, out)
>>> y, state = layer.forward(signal[None])
>>> bool(np.allclose(out, y[0], atol=1e-6))
True
"""

from numba.core import types
from numba.core.errors import TypingError
from numba.extending import overload

from numbarnn.cells.gru import GRUWeights
from numbarnn.cells.lstm import LSTMWeights
from numbarnn.cells.rnn import ReLURNNWeights, TanhRNNWeights
from numbarnn.engine.compile_cache import INLINED_OPTIONS, inlined
from numbarnn.engine.ownership import unowned
from numbarnn.engine.step import advance

__all__ = ["gru_step", "lstm_step", "rnn_step"]


def rnn_step(weights, x, h):
    """Advance a plain recurrent network by one time step, in place.

    Parameters
    ----------
    weights : NamedTuple
        From ``RNN(...).kernel_weights()``.
    x : contiguous array (I,)
        The input, of the weights' dtype.
    h : contiguous array (H,)
        The state; overwritten.
    """
    check_sizes(weights, x, h)
    advance(unowned(weights), unowned(x), unowned((h,)))


def lstm_step(weights, x, h, c):
    """Advance an LSTM by one time step, in place.

    Parameters
    ----------
    weights : NamedTuple
        From ``LSTM(...).kernel_weights()``.
    x : contiguous array (I,)
        The input, of the weights' dtype.
    h, c : contiguous arrays (H,)
        The states; overwritten.
    """
    check_sizes(weights, x, h)
    check_sizes(weights, x, c)
    advance(unowned(weights), unowned(x), unowned((h, c)))


def gru_step(weights, x, h):
    """Advance a GRU by one time step, in place.

    Parameters
    ----------
    weights : NamedTuple
        From ``GRU(...).kernel_weights()``.
    x : contiguous array (I,)
        The input, of the weights' dtype.
    h : contiguous array (H,)
        The state; overwritten.
    """
    check_sizes(weights, x, h)
    advance(unowned(weights), unowned(x), unowned((h,)))


@inlined
def check_sizes(weights, x, state):
    """Raise a ValueError before anything is read or written out of bounds."""
    if x.size != weights.input.shape[1]:
        raise ValueError("x must have as many elements as the layer has inputs")
    if state.size != weights.recurrent.shape[1]:
        raise ValueError("h (and c) must have as many elements as the layer has hidden units")


def _check_types(function, classes, weights, **arrays):
    """Raise a short error while the caller's function is compiled, before Numba's own long one."""
    known = isinstance(weights, types.NamedTuple) and weights.instance_class in classes
    if not known:
        wanted = " or ".join(cls.__name__ for cls in classes)
        raise TypingError(
            f"{function}: weights must be a {wanted} from layer.kernel_weights(), not {weights}"
        )
    dtype = weights.types[0].dtype
    for name, array in arrays.items():
        fits = isinstance(array, types.Array) and (array.ndim, array.layout, array.dtype) == (1, "C", dtype)
        if not fits:
            raise TypingError(f"{function}: {name} must be a contiguous 1-D {dtype} array, not {array}")
        if name != "x" and not array.mutable:
            raise TypingError(f"{function}: {name} must be writable, as it is overwritten, not {array}")


@overload(rnn_step, jit_options=INLINED_OPTIONS)
def _overload_rnn_step(weights, x, h):
    _check_types("rnn_step", (TanhRNNWeights, ReLURNNWeights), weights, x=x, h=h)
    return rnn_step


@overload(lstm_step, jit_options=INLINED_OPTIONS)
def _overload_lstm_step(weights, x, h, c):
    _check_types("lstm_step", (LSTMWeights,), weights, x=x, h=h, c=c)
    return lstm_step


@overload(gru_step, jit_options=INLINED_OPTIONS)
def _overload_gru_step(weights, x, h):
    _check_types("gru_step", (GRUWeights,), weights, x=x, h=h)
    return gru_step
