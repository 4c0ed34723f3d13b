"""What all layers share: parameters, reading input, and passes that are used again."""

import importlib
import inspect
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import DTypeLike

from numbarnn import arguments
from numbarnn.devices import check_device, cuda_available
from numbarnn.engine.guards import CHANGES, READ, WRITE, Hold, use_guards
from numbarnn.layers.latest import Latest
from numbarnn.layers.parameters import ParameterStore
from numbarnn.layers.passes import Pass
from numbarnn.sequences.layout import Layout
from numbarnn.sequences.reading import (
    BatchForm,
    FlatBatch,
    check_finite,
    float_dtype_of,
    pack_steps,
    read_steps,
)

if TYPE_CHECKING:
    from numbarnn.layers.cuda.parameters import CudaParameters

FLOAT_DTYPES = ("float32", "float64")
_KEPT = ("dtype", "follows_input_dtype", "follows_model_dtype")  # what a model may have changed


class Layer:
    """Base of all layers.

    Any number of threads may call `forward` while another one trains, builds or sets parameters: each result
    is of one consistent set of weights. Of threads that train one layer at the same time, `backward` of those
    is refused whose forward was not the latest.

    Parameters
    ----------
    dtype : {"float32", "float64"}
        What parameters and results are made of.
    device : {"cpu", "cuda"}
        Where the layer works; "cuda" is an NVIDIA GPU.

    Attributes
    ----------
    input_size : int or None
        Features of the input, once the layer is built.
    device : str
        Where the layer works; `to` changes it.
    """

    pass_class: type[Pass]
    store_class: type[ParameterStore] = ParameterStore
    cuda_pass: tuple[str, str]  # its counterpart on a GPU: the module, and the class in it
    takes_tokens = False
    takes_vectors = True  # (B, I) as well as sequences
    checks_while_reading = False  # the pass itself finds numbers that are not finite
    follows_input_dtype = False  # without parameters and a dtype of its own
    follows_model_dtype = False  # the same, and in a model, whose dtype it has
    _store: ParameterStore | None = None  # of the built layer

    def __init__(self, dtype: str, device: str = "cpu") -> None:
        if str(np.dtype(dtype) if isinstance(dtype, type) else dtype) not in FLOAT_DTYPES:
            raise ValueError(
                f"dtype must be one of {', '.join(map(repr, FLOAT_DTYPES))}, not {arguments.shown(dtype)}"
            )
        self.dtype = np.dtype(dtype)
        self.device = check_device(device)
        self._on_gpu: CudaParameters | None = None
        self._latest: Latest = Latest()

    # ---- properties of a layer ---------------------------------------------------------------------------

    def output_size(self, input_size: int) -> int:
        """Features of the output for this many features of the input."""
        return input_size

    def gives_sequence(self, takes_sequence: bool) -> bool:
        """Whether the output has one vector a step (and not one a row)."""
        return takes_sequence

    def parameter_shapes(self, input_size: int) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the parameters, in order."""
        return {}

    def initialize(
        self, name: str, shape: tuple[int, ...], input_size: int, rng: np.random.Generator
    ) -> np.ndarray:
        """First values of one parameter."""
        raise NotImplementedError

    @property
    def options(self) -> dict[str, Any]:
        """The arguments that make a layer like this one, of the library's class that it is or builds on."""
        parameters = inspect.signature(_library_class(type(self))).parameters
        options = {name: getattr(self, name) for name in parameters}
        follows = self.follows_input_dtype or self.follows_model_dtype
        options["dtype"] = None if follows and parameters["dtype"].default is None else self.dtype.name
        return options

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and pickles take the options, the parameters and what users set, and none of the buffers."""
        known = vars(_make(type(self), self.options)).keys() | {"_store"}
        state = {name: value for name, value in vars(self).items() if name not in known}
        state |= {name: getattr(self, name) for name in _KEPT}
        values = self.copy_values() if self.built else None
        return _rebuild, (type(self), self.options), (self.input_size, values, state)

    def __setstate__(self, state: tuple[int | None, np.ndarray | None, dict[str, Any]]) -> None:
        input_size, values, attributes = state
        vars(self).update(attributes)  # a subclass may need them to say what parameters it has
        if input_size is not None:
            self.build(input_size, seed=0)
            self.flat_values[...] = values
            vars(self).update(attributes)

    # ---- parameters --------------------------------------------------------------------------------------

    def use_dtype(self, dtype: DTypeLike) -> None:
        """Work in another dtype from now on; for layers without parameters."""
        self.dtype = np.dtype(dtype)

    def to(self, device: str) -> Any:
        """Work on another device from now on.

        Parameters
        ----------
        device : {"cpu", "cuda"}
            "cuda" is an NVIDIA GPU.

        Returns
        -------
        Layer
            The layer itself.

        Raises
        ------
        ValueError
            If there is no such device.
        RuntimeError
            If there is no GPU, or a fit trains the layer.
        """
        device = check_device(device)
        if device != self.device:
            if self._store is not None:
                self._store.check_free("to")
            self.device, self._on_gpu = device, None
            self.drop_passes()
        return self

    def drop_passes(self) -> None:
        """Passes of earlier calls know parameters or devices that are no longer right."""
        if self._store is not None:
            self._store.drop_passes()
        self._latest = Latest()

    def cuda_parameters(self) -> "CudaParameters":
        """The parameters on the GPU."""
        from numbarnn.layers.cuda.parameters import CudaParameters  # where a GPU is asked for, not before

        if self._on_gpu is None:
            self._on_gpu = CudaParameters(self)
        return self._on_gpu

    def new_pass(self, training: bool) -> Any:
        """A pass on the layer's device."""
        if self.device == "cpu":
            return self.pass_class(self, training)
        module, name = self.cuda_pass
        # Where a GPU is asked for, not before.
        return getattr(importlib.import_module(f"numbarnn.layers.cuda.{module}"), name)(self, training)

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
        MemoryError
            If the parameters would take more memory than there is.
        RuntimeError
            If a fit trains the layer.
        """
        store = self._make_store(input_size, seed, self.dtype)
        if self._store is not None:
            self._store.check_free("build")
        self._store, self._on_gpu, self._latest = store, None, Latest()

    def build_once(self, input_size: int, seed: int | None = None) -> ParameterStore:
        """Build the layer if it is not built; of several threads that do so, the first one does."""
        if self._store is None:
            vars(self).setdefault("_store", self._make_store(input_size, seed, self.dtype))
        return self.store

    def _make_store(self, input_size: int, seed: int | None, dtype: np.dtype) -> ParameterStore:
        input_size = arguments.count("input_size", input_size)
        rng = np.random.default_rng(arguments.seed("seed", seed))
        return self.store_class(self, input_size, rng, dtype)

    def store_for(self, width: int, dtype: np.dtype) -> ParameterStore:
        """The store for an input of this width. A layer without parameters, which may follow the dtype of its
        input, takes any width."""
        store = self.build_once(width)
        if not store.values and (store.input_size != width or store.dtype != dtype):
            store = self._store = self._make_store(width, 0, dtype)
        return store

    @property
    def built(self) -> bool:
        """Whether the parameters exist."""
        return self._store is not None

    @property
    def store(self) -> ParameterStore:
        """The parameters of a layer that is built, as they are used."""
        assert self._store is not None
        return self._store

    @property
    def input_size(self) -> int | None:
        return None if self._store is None else self._store.input_size

    @property
    def values(self) -> dict[str, np.ndarray]:
        """The parameters by name. Who writes to them calls `count_change` before."""
        return {} if self._store is None else self._store.values

    @property
    def flat_values(self) -> np.ndarray:
        """All parameters one after the other."""
        return np.zeros(0, self.dtype) if self._store is None else self._store.flat_values

    @property
    def flat_gradients(self) -> np.ndarray:
        """Their gradients."""
        return np.zeros(0, self.dtype) if self._store is None else self._store.flat_gradients

    @property
    def version(self) -> int:
        """Counts changes of the parameters."""
        return 0 if self._store is None else int(self._store.guard[CHANGES])

    def count_change(self) -> None:
        """Say that the parameters change, before they do."""
        self.store.count_change()

    @property
    def fixes_width(self) -> bool:
        """Whether the input must have `input_size` features: it need not where there are no parameters."""
        return self.built and len(self.values) > 0

    @property
    def parameters(self) -> dict[str, np.ndarray]:
        """Read-only views of the parameters by name."""
        views = {}
        for name, values in self.values.items():
            views[name] = values.view()
            views[name].flags.writeable = False
        return views

    @property
    def gradients(self) -> dict[str, np.ndarray]:
        """Gradients of the parameters by name, as the latest backward left them."""
        if self._on_gpu is not None:
            self._on_gpu.publish_gradients()
        return {} if self._store is None else self._store.gradients

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
        # A copy of all, for they may be views of these very parameters; written by one call, without a chance
        # for an interrupt.
        new = self.flatten(self.check_parameters(parameters))
        store = self.store
        hold = Hold(store.guards)
        try:
            hold.take(WRITE)
            store.count_change()
            store.flat_values[...] = new
        finally:
            use_guards(*hold.way_out)

    def flatten(self, parameters: Mapping[str, np.ndarray]) -> np.ndarray:
        """Parameters as `flat_values` holds them, in a copy."""
        return np.concatenate([np.zeros(0, self.dtype), *map(np.ravel, parameters.values())])

    def copy_values(self) -> np.ndarray:
        """A copy of `flat_values`, which nobody changes meanwhile."""
        hold = Hold(self.store.guards)
        try:
            hold.take(READ)
            return self.store.flat_values.copy()
        finally:
            use_guards(*hold.way_out)

    def check_parameters(self, parameters: Mapping[str, Any], owner: str = "") -> dict[str, np.ndarray]:
        """`parameters` as arrays that fit, or a ValueError that names the entry that does not."""
        if not isinstance(parameters, Mapping):
            raise TypeError(f"{owner}parameters must be a dict of arrays, not {type(parameters).__name__}")
        missing = [name for name in self.values if name not in parameters]
        unknown = [name for name in parameters if name not in self.values]
        if missing or unknown:
            said = [f"missing: {', '.join(map(repr, missing))}"] if missing else []
            said += [f"unknown: {', '.join(map(repr, unknown))}"] if unknown else []
            raise ValueError(f"{owner}parameters must be exactly {list(self.values)}; {'; '.join(said)}")
        new = {}
        for name, values in self.values.items():
            new[name] = arguments.finite_array(owner + name, parameters[name], values.shape, self.dtype)
        return new

    def count_parameters(self) -> int:
        """How many numbers the parameters hold."""
        return int(self.flat_values.size)

    def read_input(self, x: Any, lengths: Any, name: str = "x") -> FlatBatch:
        """Check the input; a layer without a dtype of its own takes the input's."""
        dtype = float_dtype_of(x, name) if self.follows_input_dtype else self.dtype
        vectors, tokens = self.takes_vectors, self.takes_tokens
        steps = read_steps(x, dtype, name, lengths=lengths, time=not vectors, tokens=tokens)
        if not self.takes_tokens:
            if self._store is not None:
                self.check_width(steps, self._store, name)
            if not self.checks_while_reading:
                check_finite(steps, name)
        if self.follows_input_dtype:
            self.use_dtype(dtype)  # what `dtype` says; a call goes by its own input
        return steps

    def check_width(self, steps: FlatBatch, store: ParameterStore, name: str = "x") -> None:
        """Raise a ValueError where an input has not the features that the layer has parameters for."""
        if store.values and not self.takes_tokens and steps.width() != store.input_size:
            raise ValueError(f"{name} must have {store.input_size} features, not {steps.width()}")

    @property
    def known_input_size(self) -> int:
        """`input_size` of a layer that is built."""
        return self.store.input_size

    def pack_input(self, steps: FlatBatch, layout: Layout) -> np.ndarray:
        """The matrix of inputs in packed order."""
        return pack_steps(steps, layout)

    def acquire_pass(self, training: bool, store: ParameterStore | None = None) -> Any:
        """A pass that is not in use, with the buffers of an earlier call where there is one."""
        run = (self.store if store is None else store).spare_pass(training)
        if run is None:
            run = self.new_pass(training)
            if store is not None:
                run.use_store(store)
        return run

    def remember_pass(
        self, run: Pass, form: BatchForm, layout: Layout, out_form: BatchForm, out_layout: Layout
    ) -> None:
        """A forward has succeeded: it is the latest one from now on."""
        if run.training:
            before = self._latest.remember((run, form, layout, out_form, out_layout))
        else:
            run.store.keep_pass(run)
            before = self._latest.forget()
        for earlier, *_ in before:
            earlier.store.keep_pass(earlier)

    def latest_pass(self) -> tuple[Any, BatchForm, Layout, BatchForm, Layout]:
        """What the latest forward left, for one backward, which overwrites the sums that it reads; then
        `release_pass`, or `return_pass` where it could not begin."""
        entry: tuple[Any, BatchForm, Layout, BatchForm, Layout] = self._latest.take()
        return entry

    def return_pass(self, entry: tuple[Any, BatchForm, Layout, BatchForm, Layout]) -> None:
        """Backward could not begin: the pass waits for the next one."""
        self._latest.put_back(entry)

    def release_pass(self, run: Pass) -> None:
        """Backward is done: the buffers wait for the next forward."""
        run.store.keep_pass(run)


def _library_class(layer_class: type[Layer]) -> type[Layer]:
    """The class of the library that a layer's class is, or that a class of a user builds on."""
    package = __name__.partition(".")[0]
    return next(each for each in layer_class.__mro__ if each.__module__.partition(".")[0] == package)


def _make(layer_class: type[Layer], options: dict[str, Any]) -> Layer:
    """A layer as the library's class makes it: nothing is known of the arguments that users' classes take."""
    layer = layer_class.__new__(layer_class)
    _library_class(layer_class).__init__(layer, **options)
    return layer


def _rebuild(layer_class: type[Layer], options: dict[str, Any]) -> Layer:
    if options["device"] == "cuda" and not cuda_available():
        warnings.warn(
            f"a {layer_class.__name__} that worked on a GPU was loaded where there is none: it works on the"
            " CPU",
            RuntimeWarning,
            stacklevel=2,
        )
        options = {**options, "device": "cpu"}
    return _make(layer_class, options)
