"""PyTorch's side of the comparison. Inputs are (T, B, I); ragged ones are padded beforehand."""

import math

import numpy as np
import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence, pad_sequence

from benchmarks import vowels
from benchmarks.comparison.work import Work
from benchmarks.problems import (
    RAGGED_OPTIONS,
    Alternation,
    RaggedShape,
    inputs,
    parameters,
    parse_shape,
    ragged_inputs,
)

MODULES = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU, "rnn": torch.nn.RNN}


def use_threads(count: int) -> None:
    torch.set_num_threads(count)


def make_module(cell: str, input_size: int, hidden_size: int, **options) -> torch.nn.Module:
    module = MODULES[cell](input_size, hidden_size, **options)
    weights = parameters(cell, input_size, hidden_size, **options)
    module.load_state_dict({name: torch.from_numpy(values) for name, values in weights.items()})
    return module


class Trainer:
    """Training steps of a module whose outputs `run` computes."""

    def __init__(self, module: torch.nn.Module, run, dy: torch.Tensor) -> None:
        self.module, self.run, self.dy = module, run, dy
        self.parameters = list(module.parameters())
        self.alternation = Alternation()

    def forward(self) -> torch.Tensor:
        with torch.inference_mode():
            return self.run()

    def backward(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None
        self.run().backward(self.dy)

    def step(self) -> None:
        self.backward()
        factor = float(self.alternation.next())
        with torch.no_grad():
            for parameter in self.parameters:
                parameter.mul_(factor)

    def gradients(self) -> dict[str, np.ndarray]:
        self.backward()
        return {name: parameter.grad.numpy() for name, parameter in self.module.named_parameters()}


def layer(cell: str, shape_text: str) -> Work:
    shape = parse_shape(shape_text)
    x, dy = (torch.from_numpy(array).transpose(0, 1).contiguous() for array in inputs(shape))
    module = make_module(cell, shape.I, shape.H)
    trainer = Trainer(module, lambda: module(x)[0], dy)
    return Work(
        {"forward": trainer.forward, "train": trainer.step},
        lambda: {"y": trainer.forward().numpy(), **trainer.gradients()},
    )


def ragged(cell: str, sizes: list[int]) -> Work:
    shape = RaggedShape(*sizes)
    lengths = torch.from_numpy(shape.lengths())
    x, dy = (pad_sequence([torch.from_numpy(row) for row in rows]) for rows in ragged_inputs(shape))
    module = make_module(cell, shape.I, shape.H, **RAGGED_OPTIONS)

    def run() -> torch.Tensor:
        packed = pack_padded_sequence(x, lengths, enforce_sorted=False)
        return pad_packed_sequence(module(packed)[0])[0]

    trainer = Trainer(module, run, dy)

    def results() -> dict[str, np.ndarray]:
        y = trainer.forward().transpose(0, 1)
        rows = [row[:length] for row, length in zip(y, lengths, strict=True)]
        return {"y": torch.cat(rows).numpy(), **trainer.gradients()}

    return Work({"train": trainer.step}, results)


class Classifier(torch.nn.Module):
    """The model of ``examples/quickstart.py``."""

    def __init__(self, input_size: int) -> None:
        super().__init__()
        self.input_dropout = torch.nn.Dropout(vowels.INPUT_DROPOUT)
        self.recurrent = torch.nn.GRU(input_size, vowels.HIDDEN_SIZE, bidirectional=True)
        self.output_dropout = torch.nn.Dropout(vowels.OUTPUT_DROPOUT)
        self.dense = torch.nn.Linear(2 * vowels.HIDDEN_SIZE, vowels.CLASSES)

    def forward(self, x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        packed = pack_padded_sequence(self.input_dropout(x), lengths, enforce_sorted=False)
        y, _ = pad_packed_sequence(self.recurrent(packed)[0], padding_value=-math.inf)
        return self.dense(self.output_dropout(y.max(dim=0).values))


def fit(epochs: int) -> Work:
    train, test = vowels.load()
    (x_train, lengths_train, y_train), (x_test, lengths_test, y_test) = map(as_tensors, (train, test))
    models = []

    def run() -> None:
        torch.manual_seed(0)
        model = Classifier(x_train.shape[2])
        optimizer = torch.optim.AdamW(model.parameters(), fused=True)
        for epoch in range(epochs):
            pieces = torch.randperm(len(y_train)).split(vowels.BATCH_SIZE)
            for i, rows in enumerate(pieces):
                done = (epoch + i / len(pieces)) / epochs
                optimizer.param_groups[0]["lr"] = (
                    vowels.LEARNING_RATE * (1.0 + math.cos(math.pi * done)) / 2.0
                )
                optimizer.zero_grad()
                lengths = lengths_train[rows]
                outputs = model(x_train[: int(lengths.max()), rows], lengths)
                torch.nn.functional.cross_entropy(outputs, y_train[rows]).backward()
                optimizer.step()
        models[:] = [model.eval()]

    def results() -> dict[str, np.ndarray]:
        with torch.inference_mode():
            predicted = models[0](x_test, lengths_test).argmax(dim=1)
        return {"accuracy": np.array((predicted == y_test).double().mean())}

    return Work({"fit": run}, results)


def as_tensors(part) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Padded rows (T, B, I), their lengths and their labels."""
    x, y = part
    rows = [torch.from_numpy(row) for row in x]
    return pad_sequence(rows), torch.tensor([len(row) for row in rows]), torch.from_numpy(y)
