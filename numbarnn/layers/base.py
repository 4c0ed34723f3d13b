"""What all layers share: parameters, the public forward and backward, and passes.

A layer holds parameters. A *pass* holds the buffers of one forward and backward through a layer; it belongs
to a call or to a fit, so that two threads may predict with one layer. The public methods and `Sequential.fit`
drive passes in the same way:

    prepare           set up for a batch, hand out the matrix of the output
    forward           fill it
    prepare_backward  take the matrix of the output's gradient, hand out the input's
    backward          fill that
    weight_gradients  gradients of the parameters
"""

import os
import threading
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from numbarnn.engine.packing import aligned_zeros
from numbarnn.engine.threads import get_num_threads, run
from numbarnn.sequences import (
    Form,
    Layout,
    Steps,
    layout_of,
    pack_steps,
    read_like,
    read_steps,
    unpack_steps,
    vector_form,
)

FLOAT_DTYPES = ("float32", "float64")
OPERATIONS_WORTH_A_THREAD = 500_000  # a share of about 5 microseconds, several times the price of a fork
LARGEST_SPARE_BYTES = 64 * 2**20  # buffers of a prediction that are kept for the next


class Buffers:
    """Named arrays that grow when a larger batch comes and are otherwise used again."""

    def __init__(self, dtype) -> None:
        self.dtype = np.dtype(dtype)
        self._arrays: dict[Any, np.ndarray] = {}

    def matrix(self, key: Any, rows: int, columns: int) -> np.ndarray:
        """A contiguous (rows, columns) array; what it holds is left from earlier use, or 0."""
        array = self._arrays.get(key)
        if array is None or array.shape[0] < rows or array.shape[1] != columns:
            array = self._arrays[key] = aligned_zeros((rows, columns), self.dtype)
        return array if array.shape[0] == rows else array[:rows]

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self._arrays.values())


class Pass:
    """One way forward and back through a layer, with its buffers.

    Attributes
    ----------
    layout : Layout
        The present batch's.
    threads : int
        How many are worth it for the batch.
    cuts : int64 array
        How they share the rows.
    """

    def __init__(self, layer: "Layer", training: bool) -> None:
        self.layer = layer
        self.training = training
        self.buffers = Buffers(layer.dtype)

    def begin(self, layout: Layout, operations: int) -> None:
        """Take a batch that costs this many multiplications and additions."""
        self.layout = layout
        self.threads = max(1, min(get_num_threads(), operations // OPERATIONS_WORTH_A_THREAD))
        self.cuts = layout.row_cuts(min(self.threads, layout.rows))

    def run(self, kernel: Callable, *arguments: Any) -> None:
        """Run a kernel that works on parts of the rows."""
        run(kernel, self.cuts.size - 1, self.cuts, *arguments)

    def prepare(self, layout: Layout, x: np.ndarray, seed: int | None) -> tuple[Layout, np.ndarray]:
        """Take a batch; return the layout and the matrix that `forward` will fill."""
        raise NotImplementedError

    def forward(self) -> None:
        """Compute the output."""
        raise NotImplementedError

    def prepare_backward(self, dy: np.ndarray, need_dx: bool) -> np.ndarray | None:
        """Take the gradient of the output, to be filled later; return the input's, if wanted."""
        raise NotImplementedError

    def backward(self) -> None:
        """Compute the input gradient, and what `weight_gradients` needs."""
        raise NotImplementedError

    def weight_gradients(self) -> None:
        """Compute the gradients of the parameters."""


class Layer:
    """Base of all layers.

    Parameters
    ----------
    dtype : {"float32", "float64"}
        What parameters and results are made of.

    Attributes
    ----------
    input_size : int or None
        Features of the input, once the layer is built.
    gradients : dict of str to array
        Gradients of the parameters by name, as the latest backward left them.
    """

    pass_class: type[Pass]
    takes_tokens = False
    takes_vectors = True  # (B, I) as well as sequences
    follows_input_dtype = False  # without parameters and a dtype of its own

    def __init__(self, dtype: str) -> None:
        if str(np.dtype(dtype) if isinstance(dtype, type) else dtype) not in FLOAT_DTYPES:
            raise ValueError(f"dtype must be one of {', '.join(map(repr, FLOAT_DTYPES))}, not {dtype!r}")
        self.dtype = np.dtype(dtype)
        self.input_size: int | None = None
        self.version = 0  # counts changes of the parameters
        self.values: dict[str, np.ndarray] = {}
        self.gradients: dict[str, np.ndarray] = {}
        self.flat_values = np.zeros(0, self.dtype)
        self.flat_gradients = np.zeros(0, self.dtype)
        self._spare: dict[bool, list[Pass]] = {True: [], False: []}  # by training
        self._latest: tuple[Pass, Form, Layout, Form, Layout] | None = None
        self._packing = threading.Lock()

    # ---- what a layer says of itself ---------------------------------------------------------------------

    def output_size(self, input_size: int) -> int:
        """Features of the output for this many features of the input."""
        return input_size

    def gives_sequence(self, takes_sequence: bool) -> bool:
        """Whether the output has one vector a step (and not one a row)."""
        return takes_sequence

    def parameter_shapes(self, input_size: int) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the parameters, in order."""
        return {}

    def initialize(self, name: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        """First values of one parameter."""
        raise NotImplementedError

    # ---- parameters --------------------------------------------------------------------------------------

    def use_dtype(self, dtype) -> None:
        """Work in another dtype from now on; for layers without parameters."""
        if np.dtype(dtype) != self.dtype:
            self.dtype = np.dtype(dtype)
            self._spare, self._latest = {True: [], False: []}, None

    def build(self, input_size: int, seed: int | None = None) -> None:
        """Allocate the parameters and give them their first values.

        Parameters
        ----------
        input_size : int
            Features of the input.
        seed : int, optional
            Fixes the values; None draws new ones.

        Raises
        ------
        TypeError, ValueError
            If `input_size` is not a positive integer.
        """
        input_size = check_size(input_size, "input_size")
        shapes = self.parameter_shapes(input_size)
        rng = np.random.default_rng(seed)
        sizes = [int(np.prod(shape)) for shape in shapes.values()]
        self.flat_values = aligned_zeros(sum(sizes), self.dtype)
        self.flat_gradients = aligned_zeros(sum(sizes), self.dtype)
        self.values, self.gradients = {}, {}
        end = 0
        for (name, shape), size in zip(shapes.items(), sizes, strict=True):
            begin, end = end, end + size
            self.values[name] = self.flat_values[begin:end].reshape(shape)
            self.gradients[name] = self.flat_gradients[begin:end].reshape(shape)
            self.values[name][...] = self.initialize(name, shape, rng)
        self.input_size = input_size
        self._spare = {True: [], False: []}
        self._latest = None
        self.version += 1

    @property
    def built(self) -> bool:
        """Whether the parameters exist."""
        return self.input_size is not None

    @property
    def parameters(self) -> dict[str, np.ndarray]:
        """Read-only views of the parameters by name."""
        views = {}
        for name, values in self.values.items():
            views[name] = values.view()
            views[name].flags.writeable = False
        return views

    def set_parameters(self, parameters: Mapping[str, Any]) -> None:
        """Replace all parameters.

        Parameters
        ----------
        parameters : mapping of str to array
            Every parameter of the layer, by its name in `parameters`.

        Raises
        ------
        ValueError
            If a name is missing or unknown, a shape does not fit or a value is not finite. Nothing is
            changed then.
        RuntimeError
            If the layer has not been built.
        """
        if not self.built:
            raise RuntimeError("build(input_size) the layer, or use it once, before setting its parameters")
        new = self.check_parameters(parameters)
        for name, values in new.items():
            self.values[name][...] = values
        self.version += 1

    def check_parameters(self, parameters: Mapping[str, Any], owner: str = "") -> dict[str, np.ndarray]:
        """`parameters` as arrays that fit, or a ValueError that names the entry that does not."""
        missing = [name for name in self.values if name not in parameters]
        unknown = [name for name in parameters if name not in self.values]
        if missing or unknown:
            said = [f"missing: {', '.join(map(repr, missing))}"] if missing else []
            said += [f"unknown: {', '.join(map(repr, unknown))}"] if unknown else []
            raise ValueError(f"{owner}parameters must be exactly {list(self.values)}; {'; '.join(said)}")
        new = {}
        for name, values in self.values.items():
            array = np.asarray(parameters[name])
            if array.dtype.kind not in "fiub":
                raise TypeError(f"{owner}{name} must hold real numbers, not {array.dtype}")
            if array.shape != values.shape:
                raise ValueError(f"{owner}{name} must have shape {values.shape}, not {array.shape}")
            if not np.isfinite(array).all():
                raise ValueError(f"{owner}{name} must be finite; it holds NaN or infinity")
            new[name] = array.astype(self.dtype)
        return new

    def count_parameters(self) -> int:
        """How many numbers the parameters hold."""
        return int(self.flat_values.size)

    # ---- forward and backward ----------------------------------------------------------------------------

    def forward(self, x: Any, lengths: Any = None, training: bool = False, seed: int | None = None) -> Any:
        """Compute the output.

        Parameters
        ----------
        x : array (B, T, I) or list of arrays (T_i, I), or array (B, I)
            Inputs. The layer builds itself on first use.
        lengths : array-like of int (B,), optional
            Valid steps of each row of an array.
        training : bool
            Keep what `backward` needs, and apply dropout.
        seed : int, optional
            Fixes the dropout numbers of this call.

        Returns
        -------
        array or list of arrays
            In the form of `x`.

        Raises
        ------
        TypeError, ValueError
            If `x` or `lengths` does not fit.
        """
        steps = self.read_input(x, lengths)
        run, layout, out_layout, y = self._run_forward(steps, training, seed)
        out_form = steps.form if out_layout is layout else vector_form(steps.rows)
        result = unpack_steps(y, self.output_size(self.known_input_size), out_form, out_layout)
        self._keep(run, steps.form, layout, out_form, out_layout)
        return result

    def backward(self, dy: Any) -> Any:
        """Gradients of the latest ``forward(training=True)``; those of the parameters are overwritten.

        Parameters
        ----------
        dy : array or list of arrays
            Gradient of the output, in its form.

        Returns
        -------
        array or list of arrays, or None
            Gradient of the input; None where the input is tokens.

        Raises
        ------
        RuntimeError
            If there was no such forward.
        ValueError
            If `dy` does not have the form of the output.
        """
        run, form, layout, out_form, out_layout = self.latest_pass()
        size = self.output_size(self.known_input_size)
        flat = read_like(dy, out_form, size, self.dtype, "dy")
        packed = pack_steps(Steps(flat, out_form), out_layout, "dy")
        dx = run.prepare_backward(packed, need_dx=not self.takes_tokens)
        run.backward()
        run.weight_gradients()
        if dx is None:
            return None
        return unpack_steps(dx, self.known_input_size, form, layout)

    def read_input(self, x: Any, lengths: Any, name: str = "x") -> Steps:
        """Check the input; a layer without a dtype of its own takes the input's."""
        if self.follows_input_dtype:
            self.use_dtype(_float_dtype_of(x))
        steps = read_steps(
            x,
            self.dtype,
            name,
            lengths=lengths,
            time=not self.takes_vectors,
            tokens=self.takes_tokens,
        )
        if self.built and not self.takes_tokens and steps.width() != self.input_size:
            raise ValueError(f"{name} must have {self.input_size} features, not {steps.width()}")
        return steps

    @property
    def known_input_size(self) -> int:
        """`input_size` of a layer that is built."""
        assert self.input_size is not None
        return self.input_size

    def _run_forward(self, steps: Steps, training: bool, seed: int | None):
        layout = layout_of(steps.form)
        x = self.pack_input(steps, layout)
        if not self.built:
            self.build(steps.width())
        run = self.take_pass(training)
        out_layout, y = run.prepare(layout, x, draw_seed(seed) if training else None)
        run.forward()
        return run, layout, out_layout, y

    def pack_input(self, steps: Steps, layout: Layout) -> np.ndarray:
        """The matrix of inputs in packed order, checked."""
        return pack_steps(steps, layout, "x")

    def take_pass(self, training: bool) -> Pass:
        """A pass that nobody uses, with the buffers of an earlier call where there is one."""
        latest, self._latest = self._latest, None  # whatever comes now is the latest forward
        if latest:
            self._spare[True].append(latest[0])
        try:
            return self._spare[training].pop()
        except IndexError:
            return self.pass_class(self, training)

    def _keep(self, run: Pass, form: Form, layout: Layout, out_form: Form, out_layout: Layout) -> None:
        if run.training:
            self._latest = (run, form, layout, out_form, out_layout)
        elif not self._spare[False] and run.buffers.nbytes <= LARGEST_SPARE_BYTES:
            self._spare[False].append(run)

    def latest_pass(self) -> tuple[Pass, Form, Layout, Form, Layout]:
        if self._latest is None:
            raise RuntimeError("backward needs a forward(training=True) before it")
        return self._latest


def _float_dtype_of(x: Any) -> str:
    """float64 for float64 input, else float32."""
    first = x[0] if isinstance(x, (list, tuple)) and len(x) else x
    return "float64" if getattr(first, "dtype", None) == np.float64 else "float32"


def draw_seed(seed: int | None) -> int:
    """A seed for dropout: the given one, or one drawn anew."""
    if seed is None:
        return int.from_bytes(os.urandom(8), "little")
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)):
        raise TypeError(f"seed must be an integer or None, not {type(seed).__name__}")
    if seed < 0:
        raise ValueError(f"seed must not be negative; it is {seed}")
    return int(seed)


def check_size(value: Any, name: str) -> int:
    """`value` as a positive int, or an error that names it."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} must be an integer, not {type(value).__name__}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, not {value}")
    return int(value)


def check_flag(value: Any, name: str) -> bool:
    """`value` as a bool, or an error that names it."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False, not {value!r}")
    return bool(value)


def check_rate(value: Any, name: str) -> float:
    """`value` as a probability below 1, or an error that names it."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.floating, np.integer)):
        raise TypeError(f"{name} must be a number, not {type(value).__name__}")
    if not 0.0 <= value < 1.0:
        raise ValueError(f"{name} must lie in [0, 1), not {value}")
    return float(value)


def check_choice(value: Any, choices: Any, name: str) -> str:
    """`value` if it is one of the choices, or an error that lists them."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, not {value!r}")
    return value
