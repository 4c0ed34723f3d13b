"""The nonlinearities of plain cells, and their derivatives from what they gave.

Each activation is a pair of functions: ``y = name(x)``, and ``dx = name_backward(y, dy)``. Where the
derivative jumps, it is that of the side that PyTorch takes. All functions keep NaN. Products and sums with
constants are `fma`, which takes them in the dtype of the others, on a GPU too.

Sources: Clevert, Unterthiner and Hochreiter, "Fast and Accurate Deep Network Learning by Exponential Linear
Units", 2015, arXiv:1511.07289; Maas, Hannun and Ng, "Rectifier Nonlinearities Improve Neural Network Acoustic
Models", ICML Workshop 2013 (leaky units); Glorot and Bengio, "Understanding the Difficulty of Training Deep
Feedforward Neural Networks", AISTATS 2010 (softsign); Dugas et al., "Incorporating Second-Order Functional
Knowledge", NIPS 2000 (softplus). The slope of leaky units and the hard sigmoid are PyTorch's.
"""

from numbarnn.jit.activations import expm1, sigmoid, sigmoid_derivative, softplus, tanh, tanh_derivative
from numbarnn.jit.compile_cache import inlined
from numbarnn.jit.vectors import absolute, divide, fma, select

LEAKY_SLOPE = 0.01  # of leaky rectified linear units below 0
HARD_SIGMOID_SLOPE = 1.0 / 6.0


@inlined
def tanh_backward(y, dy):
    """Backward of tanh."""
    return dy * tanh_derivative(y)


@inlined
def sigmoid_backward(y, dy):
    """Backward of the logistic function."""
    return dy * sigmoid_derivative(y)


@inlined
def relu(x):
    """max(0, x)."""
    return select(x < 0.0, 0.0, x)


@inlined
def relu_backward(y, dy):
    """Backward of `relu`; the derivative at 0 is 0."""
    return select(y > 0.0, dy, 0.0)


@inlined
def identity(x):
    """x itself."""
    return x


@inlined
def identity_backward(y, dy):
    """Backward of `identity`."""
    return dy


@inlined
def leaky_relu(x):
    """x, a hundredth of it below 0."""
    return select(x < 0.0, fma(x, LEAKY_SLOPE, 0.0), x)


@inlined
def leaky_relu_backward(y, dy):
    """Backward of `leaky_relu`; the derivative at 0 is that below it."""
    return select(y > 0.0, dy, fma(dy, LEAKY_SLOPE, 0.0))


@inlined
def elu(x):
    """x, exp(x) - 1 below 0."""
    return select(x < 0.0, expm1(select(x < 0.0, x, 0.0)), x)  # expm1 is for numbers below 0 only


@inlined
def elu_backward(y, dy):
    """Backward of `elu`."""
    return select(y < 0.0, fma(dy, y, dy), dy)


@inlined
def softsign(x):
    """x / (1 + |x|)."""
    return divide(x, fma(absolute(x), 1.0, 1.0))


@inlined
def softsign_backward(y, dy):
    """Backward of `softsign`: 1 / (1 + |x|) is 1 - |y|."""
    rest = fma(absolute(y), -1.0, 1.0)
    return dy * (rest * rest)


@inlined
def softplus_backward(y, dy):
    """Backward of softplus: 1 - exp(-y)."""
    return -dy * expm1(-y)


@inlined
def hard_tanh(x):
    """x cut off at -1 and 1."""
    x = select(x < -1.0, -1.0, x)
    return select(x > 1.0, 1.0, x)


@inlined
def hard_tanh_backward(y, dy):
    """Backward of `hard_tanh`; the derivative at -1 and 1 is 0."""
    return select(absolute(y) < 1.0, dy, 0.0)


@inlined
def hard_sigmoid(x):
    """x / 6 + 1/2, cut off at 0 and 1."""
    six_times = fma(x, 1.0, 3.0)  # 0 and 6 at the ends to the last bit, for the derivative there
    six_times = select(six_times < 0.0, 0.0, six_times)
    six_times = select(six_times > 6.0, 6.0, six_times)
    return fma(six_times, HARD_SIGMOID_SLOPE, 0.0)


@inlined
def hard_sigmoid_backward(y, dy):
    """Backward of `hard_sigmoid`; the derivative at its ends is 0."""
    inside = select(y > 0.0, fma(dy, HARD_SIGMOID_SLOPE, 0.0), 0.0)
    return select(y < 1.0, inside, 0.0)


# By the names that layers take.
ACTIVATIONS = {
    "tanh": (tanh, tanh_backward),
    "relu": (relu, relu_backward),
    "sigmoid": (sigmoid, sigmoid_backward),
    "identity": (identity, identity_backward),
    "leaky_relu": (leaky_relu, leaky_relu_backward),
    "elu": (elu, elu_backward),
    "softsign": (softsign, softsign_backward),
    "softplus": (softplus, softplus_backward),
    "hard_tanh": (hard_tanh, hard_tanh_backward),
    "hard_sigmoid": (hard_sigmoid, hard_sigmoid_backward),
}
