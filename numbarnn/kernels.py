"""Single time steps to call from your own ``@numba.njit`` and ``@cuda.jit`` functions.

They work on one sequence, in place, in compiled code from end to end: no Python, no allocation. Weights come
from ``layer.kernel_weights()``.

In a kernel of a GPU, a block of threads takes a step together: all of its threads call the function with the
same arguments, and find the new states when it returns. Weights are those of a layer on
``device="cuda"``; x, h and c lie in the GPU's memory or the block's shared one. Blocks have one dimension,
best with as many threads as there are hidden units, of which there may be 1024. Where sizes do not fit, h
becomes NaN.

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

import importlib
from collections.abc import Callable

import numpy as np
from numba.core import types
from numba.core.errors import TypingError
from numba.extending import overload

from numbarnn.cells import cell_of
from numbarnn.cells.gru import GRUWeights
from numbarnn.cells.lstm import LSTMWeights, PeepholeLSTMWeights
from numbarnn.cells.rnn import PLAIN_CELLS
from numbarnn.engine.step import advance
from numbarnn.jit.compile_cache import INLINED_OPTIONS, inlined
from numbarnn.jit.ownership import unowned

CPU_RANK, GPU_RANK = 3, 2  # of the weights' matrices: in panels, or plain
DEVICES = {CPU_RANK: "cpu", GPU_RANK: "cuda"}

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
    _step_in_python(rnn_step, weights, x, h=h)


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
    _step_in_python(lstm_step, weights, x, h=h, c=c)


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
    _step_in_python(gru_step, weights, x, h=h)


@np.errstate(all="ignore")
def _step_in_python(function, weights, x, **states):
    """A step without the compiler: with the JIT off, or in the simulator of GPUs."""
    if type(weights) not in _CLASSES[function]:
        wanted = " or ".join(cls.__name__ for cls in _CLASSES[function])
        raise TypeError(
            f"weights must be a {wanted} from layer.kernel_weights(), not {type(weights).__name__}"
        )
    if weights.input.ndim == GPU_RANK:
        step_cuda = importlib.import_module("numbarnn.engine.cuda.step")  # where there is a GPU, not before
        step_cuda.advance(cell_of(type(weights)), str(weights.bias.dtype))(weights, x, tuple(states.values()))
    else:
        for name, array in {"x": x, **states}.items():
            _check_array(name, array, weights.bias.dtype)
        for state in states.values():
            check_sizes(weights, x, state)
        advance(weights, x, tuple(states.values()))


def _check_array(name, array, dtype):
    """What `_check_types` asks of types, of an array itself."""
    if (
        type(array) is not np.ndarray
        or (array.ndim, array.dtype) != (1, dtype)
        or not array.flags.c_contiguous
    ):
        given = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
        raise TypeError(f"{name} must be a contiguous 1-D {dtype} array, not {given}")
    if name != "x" and not array.flags.writeable:
        raise TypeError(f"{name} must be writable, as it is overwritten")


@inlined
def check_sizes(weights, x, state):
    """Raise a ValueError before anything is read or written out of bounds."""
    if x.size != weights.input.shape[1]:
        raise ValueError("x must have as many elements as the layer has inputs")
    if state.size != weights.recurrent.shape[1]:
        raise ValueError("h (and c) must have as many elements as the layer has hidden units")


def _check_types(function, rank, classes, weights, **arrays):
    """Raise a short error while the caller's function is compiled, before Numba's own long one."""
    known = isinstance(weights, types.NamedTuple) and weights.instance_class in classes
    if not known:
        wanted = " or ".join(cls.__name__ for cls in classes)
        raise TypingError(
            f"{function}: weights must be a {wanted} from layer.kernel_weights(), not {weights}"
        )
    if weights.types[0].ndim != rank:
        where = DEVICES[rank]
        raise TypingError(f"{function}: weights must be those of a layer on device={where!r}")
    dtype = weights.types[0].dtype
    for name, array in arrays.items():
        fits = isinstance(array, types.Array) and (array.ndim, array.layout, array.dtype) == (1, "C", dtype)
        if not fits:
            raise TypingError(f"{function}: {name} must be a contiguous 1-D {dtype} array, not {array}")
        if name != "x" and not array.mutable:
            raise TypingError(f"{function}: {name} must be writable, as it is overwritten, not {array}")


# Of each step function, the classes of weights that it takes.
_CLASSES: dict[Callable[..., None], tuple[type, ...]] = {
    rnn_step: tuple(cell.weights for cell in PLAIN_CELLS.values()),
    lstm_step: (LSTMWeights, PeepholeLSTMWeights),
    gru_step: (GRUWeights,),
}


def _step_of_one_state(weights, x, h):
    check_sizes(weights, x, h)
    advance(unowned(weights), unowned(x), unowned((h,)))


def _step_of_two_states(weights, x, h, c):
    check_sizes(weights, x, h)
    check_sizes(weights, x, c)
    advance(unowned(weights), unowned(x), unowned((h, c)))


@overload(rnn_step, jit_options=INLINED_OPTIONS)
def _overload_rnn_step(weights, x, h):
    _check_types("rnn_step", CPU_RANK, _CLASSES[rnn_step], weights, x=x, h=h)
    return _step_of_one_state


@overload(lstm_step, jit_options=INLINED_OPTIONS)
def _overload_lstm_step(weights, x, h, c):
    _check_types("lstm_step", CPU_RANK, _CLASSES[lstm_step], weights, x=x, h=h, c=c)
    return _step_of_two_states


@overload(gru_step, jit_options=INLINED_OPTIONS)
def _overload_gru_step(weights, x, h):
    _check_types("gru_step", CPU_RANK, _CLASSES[gru_step], weights, x=x, h=h)
    return _step_of_one_state


def _advance_block(weights):
    """The step of a block of a GPU, for weights of these types."""
    step_cuda = importlib.import_module("numbarnn.engine.cuda.step")  # where there is a GPU, not before
    return step_cuda.advance(cell_of(weights.instance_class), str(weights.types[0].dtype))


@overload(rnn_step, target="cuda")
def _overload_rnn_step_of_block(weights, x, h):
    _check_types("rnn_step", GPU_RANK, _CLASSES[rnn_step], weights, x=x, h=h)
    step = _advance_block(weights)
    return lambda weights, x, h: step(weights, x, (h,))


@overload(lstm_step, target="cuda")
def _overload_lstm_step_of_block(weights, x, h, c):
    _check_types("lstm_step", GPU_RANK, _CLASSES[lstm_step], weights, x=x, h=h, c=c)
    step = _advance_block(weights)
    return lambda weights, x, h, c: step(weights, x, (h, c))


@overload(gru_step, target="cuda")
def _overload_gru_step_of_block(weights, x, h):
    _check_types("gru_step", GPU_RANK, _CLASSES[gru_step], weights, x=x, h=h)
    step = _advance_block(weights)
    return lambda weights, x, h: step(weights, x, (h,))
