"""Random malformed calls over the whole public face: each is refused in one line that names the argument.

    python tests/malformed_calls.py                  # 5,000 of them, in a few minutes
    python tests/malformed_calls.py --calls 1 --seed 4711    # one again

A call is drawn from `CALLS`: something to call, with arguments that are right but for one, which is replaced
by what that kind of argument can never be. It must raise one of `ERRORS` with a short text that names the
argument and holds none of Numba's, write nothing to the terminal, and leave every parameter, and every bit
of what the object predicts, as it was. Each call has its own seed, so that a failure can be run again.
"""

import argparse
import contextlib
import faulthandler
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from malformed_values import HUGE, LABELS, ROWS, STATE, TABLE, TOKENS, Wrong, X, not_none

import numbarnn
from numbarnn import GRU, LSTM, RNN, Dense, Dropout, Embedding, MaxOverTime, MeanOverTime, Sequential, kernels
from numbarnn.models.graph_model import GraphModel, Input, concatenate, connect

ERRORS = (ValueError, TypeError, RuntimeError, MemoryError)
SHARE_OF_NEW, SHARE_OF_FITTED = 0.2, 0.8  # of the models
SHARE_OF_TWO = 0.15  # calls with two malformed arguments
LONGEST_ERROR = 700  # characters
WORDS_OF_NUMBA = ("nopython", "Numba", "LLVM", "typing error", "Traceback", "lowering")


class Call(NamedTuple):
    """Something to call; `wrong` gives a malformed value for each of the arguments that may be malformed."""

    name: str
    function: Callable[..., Any]
    right: dict[str, Any]
    wrong: dict[str, Callable[[Wrong], Any]]
    says: Mapping[str, tuple[str, ...]] = MappingProxyType(
        {}
    )  # what an error may say in place of the argument's name
    watched: Any = None


def predicted(thing: Any) -> list[bytes]:
    """All that a refused call must leave alone: parameters, and results by them."""
    layers = getattr(thing, "layers", [thing])
    values = [values.tobytes() for layer in layers for values in layer.parameters.values()]
    if not getattr(thing, "built", False):
        return values
    first = layers[0]
    x = TOKENS if first.takes_tokens else TABLE if isinstance(first, Dense) else X
    given = (X, X) if isinstance(thing, GraphModel) and len(thing.inputs) == 2 else x
    result = thing.forward(given)
    arrays = [result] if isinstance(result, np.ndarray) else [result[0], *np.atleast_1d(result[1])]
    return values + [np.ascontiguousarray(array).tobytes() for array in arrays]


SIZES = {"input_size": Wrong.count, "seed": Wrong.seed}
RECURRENT = {
    "hidden_size": Wrong.count,
    "num_layers": Wrong.count,
    "bidirectional": Wrong.flag,
    "bias": Wrong.flag,
    "dropout": lambda wrong: wrong.number(1.0, 1.5),
    "return_sequences": Wrong.flag,
    "dtype": lambda wrong: wrong.one(wrong.name(), "float16", int, np.int64, np.float16, "f2"),
    "device": lambda wrong: wrong.one(wrong.name(), "gpu", "cuda:0"),
    "precision": Wrong.name,
    "weight_initializer": Wrong.name,
    "recurrent_initializer": Wrong.name,
}
DATA_OF_FIT = {
    "loss": Wrong.choice,
    "optimizer": Wrong.choice,
    "epochs": Wrong.count,
    "batch_size": Wrong.count,
    "validation_data": Wrong.pair,
    "clip_norm": lambda wrong: not_none(wrong.number(0), 0),
    "clip_value": lambda wrong: not_none(wrong.number(0), 0),
    "sample_weight": Wrong.weight,
    "class_weight": Wrong.class_weight,
    "shuffle": Wrong.flag,
    "seed": Wrong.seed,
    "callbacks": Wrong.callbacks,
    "verbose": lambda wrong: wrong.one(None, 3, -1, "yes", 1.5, [0], {}),
}
SAYS = {
    "class_weight": ("class_weight", "label"),
    "callbacks": ("callbacks", "monitor"),
    "parameters": ("parameters", "weight", "bias", "names"),
    "build": ("memory", "bytes"),
}


def makers() -> Iterator[Call]:
    """Calls that make things."""
    for layer_class in (LSTM, GRU, RNN):
        more = {"activation": Wrong.name} if layer_class is RNN else {}
        yield Call(layer_class.__name__, layer_class, {"hidden_size": 3}, {**RECURRENT, **more})
    own = {"dtype": RECURRENT["dtype"], "device": RECURRENT["device"]}
    dense = {"units": Wrong.count, "activation": lambda wrong: not_none(wrong.name(), 1), **own}
    yield Call("Dense", Dense, {"units": 3}, dense)
    sizes = {"num_embeddings": 5, "embedding_dim": 2}
    yield Call("Embedding", Embedding, sizes, {**dict.fromkeys(sizes, Wrong.count), **own})
    yield Call("Dropout", Dropout, {"rate": 0.5}, {"rate": lambda wrong: wrong.number(1.0)})
    rate = {"learning_rate": lambda wrong: wrong.one(wrong.number(), numbarnn.StepDecay, "cosine")}
    part = {name: lambda wrong: wrong.number(1.0, 2) for name in ("momentum", "alpha")}
    for optimizer, names in (
        ("SGD", ["momentum"]),
        ("RMSprop", ["alpha", "momentum", "eps"]),
        ("Adam", ["eps"]),
    ):
        own = {name: part.get(name, lambda wrong: wrong.number()) for name in [*names, "weight_decay"]}
        yield Call(optimizer, getattr(numbarnn, optimizer), {}, {**rate, **own})
    betas = {
        "betas": lambda wrong: wrong.one(
            0.9, (0.9,), (0.9, 1.0), (None, 0.9), "ab", (0.9, 0.9, 0.9), (np.nan, 0.9)
        )
    }
    yield Call("AdamW", numbarnn.AdamW, {}, betas)
    yield Call("SGD.nesterov", numbarnn.SGD, {"momentum": 0.9}, {"nesterov": Wrong.flag})
    yield Call("Huber", numbarnn.Huber, {}, {"delta": lambda wrong: wrong.number(0)})
    for name, numbers in (("StepDecay", ("initial", "factor")), ("CosineDecay", ("initial", "final"))):
        yield Call(name, getattr(numbarnn, name), {"initial": 0.1}, dict.fromkeys(numbers, Wrong.number))
    yield Call(
        "StepDecay.every", numbarnn.StepDecay, {"initial": 0.1}, {"every": lambda wrong: wrong.number(0)}
    )
    stopping = {
        "patience": Wrong.count,
        "restore_best": Wrong.flag,
        "mode": Wrong.name,
        "min_delta": Wrong.number,
    }
    stopping["monitor"] = lambda wrong: wrong.one(None, 3, ["loss"], b"loss", len)
    yield Call("EarlyStopping", numbarnn.EarlyStopping, {}, stopping)
    yield Call("set_num_threads", numbarnn.set_num_threads, {"n": 1}, {"n": Wrong.count})
    cells = {
        "cells": lambda wrong: wrong.one(3, None, "nothing", [], [3], ["lstm", "nothing"], len, {"a": 1})
    }
    yield Call(
        "warmup", numbarnn.warmup, {}, {**cells, "dtype": RECURRENT["dtype"], "background": Wrong.flag}
    )
    layer = {"layer": lambda wrong: wrong.one(wrong.thing(), LSTM, [Dense(2)])}
    yield Call("Sequential", lambda layer: Sequential(LSTM(3), layer), {}, layer)
    yield Call(
        "Sequential.device",
        lambda device: Sequential(LSTM(3), device=device),
        {},
        {"device": lambda wrong: wrong.name()},
    )
    symbols = {
        "layer": layer["layer"],
        "x": Wrong.thing,
        "initial_state": lambda wrong: wrong.one(3, "hc", (None,), [Input()]),
    }
    yield Call("connect", connect, {"layer": LSTM(3), "x": Input()}, symbols)
    yield Call("concatenate", lambda symbol: concatenate(Input(), symbol), {}, {"symbol": Wrong.thing})
    given = Input()
    output = connect(Dense(2), given)
    graph = {
        "inputs": lambda wrong: wrong.one(wrong.thing(), [], (), [given, given], [3], [output], given),
        "output": lambda wrong: wrong.one(wrong.thing(), given, Input(), connect(Dense(2), Input())),
    }
    yield Call(
        "GraphModel",
        GraphModel,
        {"inputs": (given,), "output": output},
        graph,
        {"output": ("output", "inputs"), "inputs": ("inputs", "output")},
    )
    yield Call("Input", Input, {}, {"sequence": Wrong.flag})


def users(rng: np.random.Generator) -> Iterator[Call]:
    """Calls of things that are there: new ones, built or not."""
    for made in (LSTM(3), GRU(3), RNN(3), GRU(3, num_layers=1, dropout=0.1)):
        made.build(2, seed=0)
        name, pair = type(made).__name__, isinstance(made, LSTM)
        state = (lambda wrong: (STATE, wrong.state())) if pair else Wrong.state
        forward = {"x": Wrong.x, "initial_state": state, "lengths": Wrong.lengths, "training": Wrong.flag}
        yield Call(f"{name}.forward", made.forward, {"x": X}, {**forward, "seed": Wrong.seed}, watched=made)
        yield Call(f"{name}.build", made.build, {"input_size": 2}, SIZES, watched=made)
        yield Call(
            f"{name}.step", made.step, {"x_t": TABLE}, {"x_t": Wrong.vectors, "state": state}, watched=made
        )
        set_all = {"parameters": lambda wrong, made=made: wrong.parameters(made.parameters)}
        yield Call(f"{name}.set_parameters", made.set_parameters, {}, set_all, SAYS, made)
        gradients = {
            "dy": lambda wrong: wrong.gradient((4, 3, 3)),
            "input_gradient": Wrong.flag,
            "dstate": state,
        }
        yield Call(
            f"{name}.backward", backward_of(made, X), {"dy": np.ones((4, 3, 3))}, gradients, watched=made
        )
        new = type(made)(3)
        bad = lambda each: each.one(each.thing(), each.array_of((4, 3, 2)), each.not_finite(X), X[0], [])  # noqa: E731
        yield Call(f"new {name}.forward", new.forward, {}, {"x": bad}, watched=new)
        early = {"set_parameters": ({},), "kernel_weights": (), "backward": (X,)}
        method = ("set_parameters", "kernel_weights", "backward")[rng.integers(3)]
        call = lambda new=new, method=method, given=early[method], **_: getattr(new, method)(*given)  # noqa: E731
        yield Call(
            f"new {name}.{method}", call, {}, {"build": Wrong.thing}, {"build": ("build", "forward")}, new
        )
    for layer, x, wrong in (
        (Dense(3), TABLE, Wrong.vectors),
        (Dense(3), X, Wrong.x),
        (Embedding(5, 2), TOKENS, Wrong.tokens),
        (MeanOverTime(dtype="float32"), X, Wrong.x),
        (MaxOverTime(dtype="float32"), ROWS, Wrong.x),
        (Dropout(0.5, dtype="float32"), X, Wrong.x),
    ):
        if not isinstance(layer, (Dense, Embedding)):
            # Any width is right for a layer without parameters.
            wrong = Wrong.x_of_any_width
        else:
            layer.build(2, seed=0)
        name = type(layer).__name__
        more = {} if x is TABLE or x is ROWS else {"lengths": Wrong.lengths}
        yield Call(
            f"{name}.forward",
            layer.forward,
            {"x": x},
            {"x": wrong, "training": Wrong.flag, **more},
            watched=layer,
        )
        y = layer.forward(x, training=True)
        if isinstance(y, np.ndarray) and not isinstance(layer, Embedding):
            gradients = {"dy": lambda wrong, shape=y.shape: wrong.gradient(shape)}
            yield Call(f"{name}.backward", backward_of(layer, x), {}, gradients, watched=layer)
    yield from models(rng)
    yield from losses_and_optimizers()
    yield from steps()


def models(rng: np.random.Generator) -> Iterator[Call]:
    first, second = Input(), Input()
    _, state = connect(GRU(3), first)
    z, _ = connect(GRU(3), second, state)
    kinds = (
        (Sequential(LSTM(3), Dense(2)), X, LABELS, Wrong.x, Wrong.labels),
        (Sequential(GRU(3, return_sequences=True), Dense(2)), X, TOKENS % 2, Wrong.x, Wrong.tags),
        (Sequential(Embedding(5, 2), MeanOverTime(), Dense(2)), TOKENS, LABELS, Wrong.tokens, Wrong.labels),
        (Sequential(Dense(3), Dense(2)), TABLE, LABELS, Wrong.vectors, Wrong.labels),
        (
            GraphModel((first, second), connect(Dense(2), z)),
            (X, X),
            LABELS,
            lambda w: (X, w.x()),
            Wrong.labels,
        ),
    )
    for model, x, labels, wrong_x, wrong_y in kinds:
        name = f"{type(model).__name__} {len(model.layers)}"
        features = (2, 2) if isinstance(model, GraphModel) else 2
        if rng.random() < SHARE_OF_NEW:
            yield from too_early(model, name, x, labels)
            continue
        model.build(features, seed=0)
        fitted = rng.random() < SHARE_OF_FITTED
        if fitted:
            model.fit(x, labels, epochs=1, verbose=False)
        fit = {"x": wrong_x, "y": wrong_y, **DATA_OF_FIT}
        fit["validation_data"] = lambda wrong, x=x, y=labels, wx=wrong_x, wy=wrong_y: wrong.one(
            (wx(wrong), y), (x, wy(wrong)), 3, (x,)
        )
        right = {"x": x, "y": labels, "verbose": False, "epochs": 1}
        yield Call(f"{name}.fit", model.fit, right, fit, SAYS, model)
        yield Call(
            f"{name}.forward",
            model.forward,
            {"x": x},
            {"x": wrong_x, "training": Wrong.flag, "seed": Wrong.seed},
            watched=model,
        )
        yield Call(
            f"{name}.predict",
            model.predict,
            {"x": x},
            {"x": wrong_x, "batch_size": Wrong.count},
            watched=model,
        )
        if fitted:
            yield Call(f"{name}.predict_proba", model.predict_proba, {"x": x}, {"x": wrong_x}, watched=model)
        rows = {"x": wrong_x, "y": wrong_y, "loss": lambda wrong: not_none(wrong.choice(), 3)}
        right = {"x": x, "y": labels, "loss": "cross_entropy"}
        yield Call(f"{name}.evaluate", model.evaluate, right, rows, watched=model)
        set_all = {"parameters": lambda wrong, model=model: wrong.parameters(model.parameters)}
        yield Call(f"{name}.set_parameters", model.set_parameters, {}, set_all, SAYS, model)
        restore = {
            "snapshot": lambda wrong: wrong.one(
                wrong.thing(), [], [np.ones(1)], [np.ones(9)] * 9, [None] * 2, 3
            )
        }
        yield Call(f"{name}.restore", model.restore, {}, restore, watched=model)
        size = model.forward(x, training=True).shape
        yield Call(
            f"{name}.backward",
            backward_of(model, x),
            {},
            {"dy": lambda wrong, size=size: wrong.gradient(size)},
            watched=model,
        )
        yield Call(
            f"{name}.to",
            model.to,
            {},
            {"device": lambda wrong: wrong.one(wrong.name(), 3, None)},
            watched=model,
        )
        edit = {"layers": lambda wrong: wrong.one(None, 3, "ab", object(), {})}
        yield Call(
            f"{name}.layers",
            lambda layers, model=model, x=x: edited(model, layers, x),
            {},
            edit,
            watched=model,
        )


def too_early(model: Any, name: str, x: Any, labels: Any) -> Iterator[Call]:
    """What a new model cannot do; what may be said is the name of the method."""
    given = {
        "predict": (x,), "evaluate": (x, labels), "predict_proba": (x,), "summary": (),
        "count_parameters": (),
        "set_parameters": ({},), "backward": (X,),
    }  # fmt: skip
    for method, arguments in given.items():

        def call(method: str = method, arguments: tuple[Any, ...] = arguments, **_: Any) -> Any:
            return getattr(model, method)(*arguments)

        yield Call(f"new {name}.{method}", call, {}, {method: Wrong.thing}, watched=model)


def backward_of(thing: Any, x: Any) -> Callable[..., Any]:
    """`backward` behind a forward that it belongs to."""

    def call(**given: Any) -> Any:
        thing.forward(x, training=True)
        return thing.backward(**given)

    return call


def edited(model: Any, layers: Any, x: Any) -> None:
    """Predict with another list of layers; the old one comes back."""
    kept, model.layers = model.layers, layers
    try:
        model.predict(x)
    finally:
        model.layers = kept


def losses_and_optimizers() -> Iterator[Call]:
    for loss in (
        numbarnn.CrossEntropy(),
        numbarnn.MeanSquaredError(),
        numbarnn.Huber(),
        numbarnn.BinaryCrossEntropy(),
    ):
        right = {"size": 2, "dtype": "float32", "y": np.zeros((4, 2))}
        # A loss does not know how many rows there are.
        y = Wrong.targets_of_any_number
        yield Call(f"{loss.name}.check_targets", loss.check_targets, right, {"y": y})
        outputs = np.zeros((4, 16), np.float32)
        arrays = {
            "outputs": outputs,
            "size": 2,
            "targets": loss.check_targets(np.tile([0.0, 1.0], (4, 1)), 2, "float32"),
            "weights": np.ones(4),
            "scale": 1.0,
            "losses": np.zeros(4),
            "scores": np.zeros(4),
            "doutputs": np.zeros_like(outputs),
            "active": np.array([4]),
            "offset": np.array([0, 4]),
            "row_start": 0,
            "row_stop": 4,
        }
        spoiled = {
            name: lambda each, array=array: each.one(
                each.thing(),
                array[:0],
                array[None],
                array.astype("f2"),
                array.astype("i4"),
                array[1:],
                array.astype(array.dtype.newbyteorder()),
                array.tolist(),
                each.array_of(array.shape),
            )
            for name, array in arrays.items()
            if isinstance(array, np.ndarray)
        }
        spoiled["size"] = lambda each: each.one(0, -1, 17, 10**30)
        spoiled["row_stop"] = lambda each: each.one(-1, 5, 10**30)
        says = {
            "offset": ("offset", "active", "outputs"),
            "active": ("active", "row"),
            "row_stop": ("row_stop",),
            "size": ("size", "columns"),
        }
        yield Call(f"{loss.name}.rows", loss.rows, arrays, spoiled, says)
    for name in ("SGD", "RMSprop", "Adam", "AdamW"):
        optimizer, value = getattr(numbarnn, name)(), np.ones(5)
        right = {
            "state": optimizer.start([value]),
            "values": [value],
            "gradients": [np.ones(5)],
            "learning_rate": 0.1,
        }
        flat = Wrong.flat_arrays
        step = {
            "state": Wrong.thing,
            "values": flat,
            "gradients": flat,
            "learning_rate": lambda each: each.number(),
        }
        yield Call(f"{name}.update", optimizer.update, right, step)
        yield Call(
            f"{name}.start",
            optimizer.start,
            {},
            {"arrays": lambda each: each.one([None], [np.ones((2, 2))], [[1.0]], 3, [np.ones(3, int)])},
        )
        model = Sequential(Dense(2))
        model.build(2, seed=0)
        yield Call(
            f"{name}.step",
            optimizer.step,
            {"model": model},
            {"learning_rate": lambda each: not_none(each.number(), "x")},
            watched=model,
        )
        yield Call(
            f"{name}.step of", optimizer.step, {}, {"model": lambda each: each.thing()}, {"model": ("model",)}
        )


def steps() -> Iterator[Call]:
    """One step at a time, from Python."""
    for layer, step, states in (
        (LSTM(3), kernels.lstm_step, 2),
        (GRU(3), kernels.gru_step, 1),
        (RNN(3), kernels.rnn_step, 1),
    ):
        layer.build(2, seed=0)
        names = ["h", "c"][:states]
        right = {"weights": layer.kernel_weights(), "x": np.ones(2, np.float32)}
        right |= {name: np.zeros(3, np.float32) for name in names}
        wrong = {
            name: lambda each, array=right[name]: each.one(
                each.thing(),
                array[:1],
                np.ones(9, np.float32),
                array[None],
                array.astype("f8"),
                array.tolist(),
                np.ones(20, "f4")[::7][:3],
            )
            for name in ["x", *names]
        }
        wrong["weights"] = lambda each: each.one(each.thing(), (1, 2, 3), Dense(2), TABLE[0])
        yield Call(step.__name__, step, right, wrong, watched=layer)
        deep = GRU(3, num_layers=2)
        deep.build(2, seed=0)
        yield Call(
            "kernel_weights",
            lambda made, deep=deep: deep.kernel_weights(),
            {},
            {"made": Wrong.thing},
            {"made": ("layer",)},
            deep,
        )


def huge(wrong: Wrong) -> Call:
    """A layer of a size that no machine has."""
    size = wrong.one(*HUGE)
    make, name = wrong.one(
        (lambda size: LSTM(size).build(2), "hidden_size"),
        (lambda size: LSTM(3, num_layers=size).build(2), "num_layers"),
        (lambda size: GRU(3).build(size), "input_size"),
        (lambda size: Dense(size).build(2), "units"),
        (lambda size: Embedding(size, 3).build(2), "num_embeddings"),
        (lambda size: Embedding(3, size).build(2), "embedding_dim"),
        (lambda size: Dense(3).build(size), "input_size"),
        (lambda size: RNN(size).forward(X), "hidden_size"),
        (lambda size: Sequential(GRU(size), Dense(2)).fit(X, LABELS, verbose=False), "hidden_size"),
    )
    return Call(f"huge {name}", lambda **given: make(given[name]), {}, {name: lambda _: size})


def trial(seed: int) -> str | None:
    """One malformed call; what is wrong with how it was refused, or None."""
    rng = np.random.default_rng(seed)
    wrong = Wrong(rng)
    kind = rng.random()
    if kind < 0.03:
        call = huge(wrong)
    else:
        calls = list(makers() if kind < 0.35 else users(rng))
        call = calls[rng.integers(len(calls))]
    spoiled = list(rng.permutation(list(call.wrong)))[: 1 + (rng.random() < SHARE_OF_TWO)]
    values = {name: call.wrong[name](wrong) for name in spoiled}
    before = predicted(call.watched) if call.watched is not None else None
    shown = ", ".join(f"{name}={repr(value)[:120]}" for name, value in values.items())
    place = f"seed {seed}: {call.name}({shown})"
    unnamed = None
    try:
        call.function(**{**call.right, **values})
        return f"{place}: is taken"
    except ERRORS as error:
        said = str(error)
        names = [name for argument in spoiled for name in call.says.get(argument, (argument,))]
        if not any(name in said for name in names):
            unnamed = f"{place}: {type(error).__name__} does not name it: {said[:300]}"
        elif len(said) > LONGEST_ERROR or any(word in said for word in WORDS_OF_NUMBA):
            unnamed = f"{place}: {type(error).__name__} of {len(said)} characters: {said[:300]}"
    except Exception as error:
        unnamed = f"{place}: {type(error).__name__}: {str(error)[:300]}"
    if unnamed is None and before is not None and predicted(call.watched) != before:
        return f"{place}: changes something"
    return unnamed


@contextlib.contextmanager
def terminal_watched(printed: list[str]) -> Iterator[None]:
    """Collect what is written to the terminal, by compiled code as well."""
    with tempfile.TemporaryFile() as file:
        kept = [os.dup(stream) for stream in (1, 2)]
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for stream, copy in zip((1, 2), kept, strict=True):
                os.dup2(copy, stream)
                os.close(copy)
            file.seek(0)
            printed.append(file.read().decode(errors="replace"))


def main() -> int:
    """Run the calls; the number of those that were not refused as they should be."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0, help="of the first call")
    parser.add_argument("--slow", action="store_true", help="say each seed before its call, to find a crash")
    options = parser.parse_args()
    faulthandler.enable()
    failures, printed = [], []
    for seed in range(options.seed, options.seed + options.calls):
        if options.slow:
            print(seed, flush=True)
        with terminal_watched(printed):
            failure = trial(seed)
        if failure is None and printed[-1]:
            failure = f"seed {seed}: prints {printed[-1][:300]!r}"
        if failure is not None:
            print(failure, flush=True)
            failures.append(failure)
    print(f"{options.calls} malformed calls, {len(failures)} not refused as they should be")
    return min(len(failures), 100)


if __name__ == "__main__":
    sys.exit(main())
