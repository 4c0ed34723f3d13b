"""GraphModel: a model whose layers are connected in any way.

`Input` stands for an input, `connect` for what a layer makes of something, `concatenate` for features side
by side. None of them computes anything: they are symbols, and `GraphModel` reads from them which layer takes
what.
An encoder that gives its final states to a decoder:

    source, target = Input(), Input()
    _, state = connect(LSTM(8), source)
    y, _ = connect(LSTM(8, return_sequences=True), target, state)
    model = GraphModel((source, target), connect(Dense(2), y))
    model.fit((x_source, x_target), labels_of_the_steps_of_x_target)

Rows of several inputs belong together by their number, whatever their lengths.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from numbarnn import arguments
from numbarnn.engine.random import seed_of
from numbarnn.layers.base import Layer
from numbarnn.layers.graph import Graph
from numbarnn.layers.graph_nodes import Node
from numbarnn.layers.recurrent import Recurrent
from numbarnn.models.base import Model
from numbarnn.sequences.reading import FlatBatch
from numbarnn.training.data import LabelledSamples, Samples
from numbarnn.training.joint_samples import JointLabelledSamples, JointSamples
from numbarnn.training.losses import Loss


class Symbol:
    """Something that a model will compute: a sequence, or one vector a row.

    Attributes
    ----------
    use : Use or None
        What computes it; None of an input.
    sequence : bool
        Whether it has one vector a step.
    leading : Input
        The input whose rows it has, and where it is a sequence, whose steps.
    """

    def __init__(self, use: "Use | None", sequence: bool, leading: "Input | None") -> None:
        self.use, self.sequence = use, sequence
        self.leading: Any = leading


class Input(Symbol):
    """An input of a model.

    Parameters
    ----------
    sequence : bool
        False: one vector a row, an array (B, I).
    """

    def __init__(self, sequence: bool = True) -> None:
        super().__init__(None, arguments.flag("sequence", sequence), None)
        self.leading = self


class Use:
    """One use of a layer, or of `concatenate` where that is None."""

    def __init__(
        self, layer: Layer | None, x: Symbol, others: Sequence[Symbol | None], count: int, sequence: bool
    ) -> None:
        self.layer, self.x, self.inputs = layer, x, (x, *others)
        # y, and behind it the final states.
        self.outputs = [Symbol(self, sequence and i == 0, x.leading) for i in range(count)]


def connect(layer: Layer, x: Symbol, initial_state: Sequence[Symbol | None] | None = None) -> Any:
    """What a layer makes of `x`. A layer may be used several times: it has one set of parameters.

    Parameters
    ----------
    layer : Layer
        Any layer.
    x : Symbol
        Its input.
    initial_state : sequence of Symbol or None, optional
        For a recurrent layer: its initial states, one symbol for each state of the cell (h, of an LSTM h and
        c), with L * D * H features: the states of all layers and directions side by side. None for zeros.

    Returns
    -------
    y : Symbol
        The output, as the next layer of a `Sequential` gets it.
    state : tuple of Symbol
        For a recurrent layer, the final states, each as an initial one.

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit.
    """
    if not isinstance(layer, Layer):
        raise TypeError(f"layer must be a layer, not {type(layer).__name__}")
    _check_symbol(x, "x")
    if layer.takes_tokens and x.use is not None:
        raise ValueError(f"x of {layer!r} must be an Input: the layer takes tokens")
    if not layer.takes_vectors and not x.sequence:
        raise ValueError(f"x of {layer!r} must be a sequence, and it is one vector a row")
    sequence = layer.gives_sequence(x.sequence)
    if not isinstance(layer, Recurrent):
        if initial_state is not None:
            raise ValueError(f"initial_state is for recurrent layers, not for {layer!r}")
        return Use(layer, x, (), 1, sequence).outputs[0]
    names = layer.cell.states
    states: Sequence[Symbol | None] = (None,) * len(names) if initial_state is None else initial_state
    if not isinstance(states, (tuple, list)) or len(states) != len(names):
        raise ValueError(f"initial_state of {layer!r} must be a tuple ({', '.join(names)}) of symbols")
    for name, state in zip(names, states, strict=True):
        if state is not None:
            _check_symbol(state, f"initial_state ({name})")
            if state.sequence:
                raise ValueError(f"initial_state ({name}) must be one vector a row, and it is a sequence")
    y, *final = Use(layer, x, states, 1 + len(names), sequence).outputs
    return y, tuple(final)


def concatenate(*symbols: Symbol) -> Symbol:
    """Features side by side: of vectors row by row, of sequences (of equal lengths) step by step.

    Raises
    ------
    TypeError, ValueError
        If an argument is no symbol, or some are sequences and some are not.
    """
    if not symbols:
        raise ValueError("concatenate needs at least one symbol")
    for i, symbol in enumerate(symbols):
        _check_symbol(symbol, f"symbol {i}")
    if len({symbol.sequence for symbol in symbols}) > 1:
        raise ValueError("concatenate takes sequences, or one vector a row, not some of both")
    return Use(None, symbols[0], symbols[1:], 1, symbols[0].sequence).outputs[0]


def _check_symbol(given: Any, name: str) -> None:
    if not isinstance(given, Symbol):
        raise TypeError(f"{name} must be a symbol, from Input or connect, not {type(given).__name__}")


def _uses_of(output: Symbol) -> list[Use]:
    """All uses that a symbol needs, in an order of computation."""
    found: list[Use] = []
    waiting: list[tuple[Use | None, bool]] = [(output.use, False)]
    done: set[int] = set()
    while waiting:
        use, inputs_are_done = waiting.pop()
        if use is None or id(use) in done:
            continue
        if inputs_are_done:
            done.add(id(use))
            found.append(use)
        else:
            waiting.append((use, True))
            waiting += [(symbol.use, False) for symbol in reversed(use.inputs) if symbol is not None]
    return found


class GraphModel(Model):
    """A model whose layers are connected in any way.

    Parameters
    ----------
    inputs : sequence of Input
        In the order in which `fit` and `predict` take them: x is then a tuple, or with a single input that
        itself.
    output : Symbol
        The output.
    device : {"cpu", "cuda"}, optional
        Where all layers work from now on. By default where they do.

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit, or an input is missing or not needed.
    """

    def __init__(self, inputs: Sequence[Input], output: Symbol, device: str | None = None) -> None:
        if not isinstance(inputs, (list, tuple)):
            raise TypeError(f"inputs must be a list of Input, not {type(inputs).__name__}")
        inputs = list(inputs)
        for i, symbol in enumerate(inputs):
            if not isinstance(symbol, Input):
                raise TypeError(f"inputs[{i}] must be an Input, not {type(symbol).__name__}")
        _check_symbol(output, "output")
        self._uses = _uses_of(output)
        layers = [use.layer for use in self._uses if use.layer is not None]
        if not layers:
            raise ValueError("output must come from a layer")
        self.inputs, self._output = inputs, output
        self._connect_inputs()
        self._number_wires()
        super().__init__(list(dict.fromkeys(layers)), device)

    def _check_layers(self, layers: Sequence[Layer]) -> None:
        raise ValueError(
            "layers of a GraphModel cannot be changed: connect other layers and make a model of those"
        )

    def _connect_inputs(self) -> None:
        """Which layers take tokens from each input, and which inputs must have steps in common."""
        numbers: dict[Symbol, int] = {symbol: i for i, symbol in enumerate(self.inputs)}
        if len(numbers) < len(self.inputs):
            raise ValueError("inputs must differ from one another")
        readers: list[list[Use]] = [[] for _ in self.inputs]
        self._equal_lengths: set[tuple[int, int]] = set()
        for use in self._uses:
            given = [symbol for symbol in use.inputs if symbol is not None]
            for symbol in given:
                if symbol.leading not in numbers:
                    raise ValueError("inputs must name every Input that the output needs")
                if symbol.use is None:
                    readers[numbers[symbol]].append(use)
            if use.layer is None and given[0].sequence:
                first, *others = (numbers[symbol.leading] for symbol in given)
                self._equal_lengths |= {(first, other) for other in others if other != first}
        self._readers = [[use.layer for use in uses if use.layer is not None] for uses in readers]
        self._takes_tokens: list[bool] = []
        for i, uses in enumerate(readers):
            takes_tokens = {use.layer is not None and use.layer.takes_tokens for use in uses}
            if len(takes_tokens) != 1:
                said = "holds tokens for some layers and numbers for others" if uses else "is not needed"
                raise ValueError(f"inputs[{i}] {said}")
            self._takes_tokens += takes_tokens
        self._leading_number = numbers[self._output.leading]

    def _number_wires(self) -> None:
        symbols = [*self.inputs, *(symbol for use in self._uses for symbol in use.outputs)]
        self._wires = {symbol: i for i, symbol in enumerate(symbols)}
        self._read_wires = {symbol for use in self._uses for symbol in use.inputs if symbol is not None}
        self._read_wires.add(self._output)

    def _wire(self, symbol: Symbol | None) -> int | None:
        return None if symbol is None else self._wires[symbol]

    def _sizes(self, features: Any) -> list[int]:
        """Features of each wire for inputs of these features; a ValueError where layers do not fit."""
        features = features if isinstance(features, (tuple, list)) else (features,)
        if len(features) != len(self.inputs):
            raise ValueError(f"input_size must have {len(self.inputs)} numbers, one for each input")
        sizes = [arguments.count("input_size", size) for size in features]
        built: dict[Layer, int] = {}  # what the layers are built for, or will be
        for use in self._uses:
            given = [0 if symbol is None else sizes[self._wires[symbol]] for symbol in use.inputs]
            if use.layer is None:
                sizes.append(sum(given))
                continue
            layer = use.layer
            known = layer.known_input_size if layer.fixes_width else given[0]
            wanted = built.setdefault(layer, known)
            if not layer.takes_tokens and given[0] != wanted:
                raise ValueError(f"{layer!r} was built for {wanted} features, not {given[0]}")
            sizes.append(layer.output_size(given[0]))
            if isinstance(layer, Recurrent):
                state_size = layer.num_layers * layer.directions * layer.hidden_size
                for symbol, size in zip(use.inputs[1:], given[1:], strict=True):
                    if symbol is not None and size != state_size:
                        raise ValueError(
                            f"an initial state of {layer!r} must have {state_size} features, not {size}"
                        )
                sizes += [state_size] * (len(use.outputs) - 1)
        self._latest_sizes = sizes
        return sizes

    def build(self, input_size: Any, seed: int | None = None) -> None:
        """Build all layers that are not built.

        Parameters
        ----------
        input_size : int or tuple of int
            Features of each input; for tokens they are not used.
        seed : int, optional
            Fixes the first values of the parameters.
        """
        sizes = self._sizes(input_size)
        seed = arguments.seed("seed", seed)
        self._settle()
        numbers = {layer: i for i, layer in enumerate(self.layers)}
        for use in self._uses:
            if use.layer is not None:
                size = sizes[self._wires[use.x]]
                use.layer.build_once(size, seed=int(seed_of(seed, 0, numbers[use.layer])))
                use.layer.store_for(size, self.dtype)  # one without parameters takes any width

    def __repr__(self) -> str:
        return f"GraphModel({len(self.inputs)} inputs, {', '.join(map(repr, self.layers))})"

    # ---- what a model says of itself ---------------------------------------------------------------------

    def new_graph(self, training: bool) -> Graph:
        """The passes of all layers."""
        nodes = []
        for use in self._uses:
            inputs = tuple(map(self._wire, use.inputs))
            outputs = tuple(
                self._wire(symbol) if symbol in self._read_wires else None for symbol in use.outputs
            )
            sizes: tuple[int, ...] = ()
            if use.layer is None:
                sizes = tuple(self._latest_sizes[self._wires[symbol]] for symbol in use.inputs if symbol)
            nodes.append(Node(use.layer, inputs, outputs, sizes))
        return Graph(nodes, len(self.inputs), self._wires[self._output], training)

    def _read(self, x: Any, name: str, features: Any = None) -> tuple[FlatBatch, ...]:
        count = len(self.inputs)
        given, names = (x,), [name]
        if count > 1:
            if not isinstance(x, tuple) or len(x) != count:
                raise ValueError(f"{name} must be a tuple of {count} inputs")
            given, names = x, [f"{name}[{i}]" for i in range(count)]
        batch = tuple(
            self._read_input(
                given[i], names[i], symbol.sequence, self._readers[i],
                self._known_features(i) if features is None else features[i],
            )
            for i, symbol in enumerate(self.inputs)
        )  # fmt: skip
        for label, symbol, steps in zip(names, self.inputs, batch, strict=True):
            if steps.form.has_time != symbol.sequence:
                raise ValueError(f"{label} must be an array (B, I), one vector a row")
            if steps.rows != batch[0].rows:
                raise ValueError(f"{label} must have {batch[0].rows} rows as {names[0]}, not {steps.rows}")
        for first, other in self._equal_lengths:
            if (batch[first].lengths != batch[other].lengths).any():
                raise ValueError(f"the rows of {names[other]} must be as long as those of {names[first]}")
        return batch

    def _known_features(self, i: int) -> int | None:
        """Features of an input, if a layer that reads it is built."""
        return next((layer.input_size for layer in self._readers[i] if layer.fixes_width), None)

    def _features(self, steps: tuple[FlatBatch, ...]) -> tuple[int, ...]:
        return tuple(each.width() for each in steps)

    def _size_of_output(self, features: Any) -> int:
        return self._sizes(features)[self._wires[self._output]]

    def _leading(self, steps: tuple[FlatBatch, ...]) -> FlatBatch:
        return steps[self._leading_number]

    def _gives_sequence(self, steps: tuple[FlatBatch, ...]) -> bool:
        return self._output.sequence

    def _describe_layers(self) -> Iterator[tuple[Layer, bool, int]]:
        for layer in self.layers:
            use = next(use for use in self._uses if use.layer is layer)
            yield layer, use.outputs[0].sequence, layer.output_size(layer.known_input_size)

    def _parts(self, steps: tuple[FlatBatch, ...]) -> list[Samples]:
        return [Samples(*pair) for pair in zip(steps, self._takes_tokens, strict=True)]

    def _samples(self, steps: tuple[FlatBatch, ...]) -> Samples:
        return JointSamples(self._parts(steps), self._leading_number)

    def _label(
        self,
        steps: tuple[FlatBatch, ...],
        y: Any,
        loss: Loss,
        size: int,
        sample_weight: Any = None,
        class_weight: Any = None,
    ) -> LabelledSamples:
        for i, (each, tokens) in enumerate(zip(steps, self._takes_tokens, strict=True)):
            self._check_on_gpu(each, tokens, f"x[{i}]")
        y, sample_weight = self._on_host(y, "y"), self._on_host(sample_weight, "sample_weight")
        return JointLabelledSamples(
            self._parts(steps), self._leading_number, y, self._output.sequence, loss, size, self.dtype,
            sample_weight, class_weight,
        )  # fmt: skip
