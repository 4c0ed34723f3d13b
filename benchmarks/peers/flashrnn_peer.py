"""flashrnn's side of the comparison on a GPU: a layer is one head, in float32 (as TF32) and in float16.

The package brings the recurrence, which is fused but for GRU; inputs are multiplied here. It compiles kernels
for each number of units and rows, which takes minutes, and has none for some of them.
"""

import functools

import numpy as np
import torch
from flashrnn import flashrnn

from benchmarks.comparison.work import Work
from benchmarks.peers.torch_cuda import DEVICE, repeated, use_tf32, use_threads
from benchmarks.peers.torch_peer import Trainer
from benchmarks.problems import inputs, parameters, parse_shape

__all__ = ["layer", "refusals", "use_threads"]

FUNCTIONS = {"lstm": "lstm", "gru": "gru", "rnn": "elman"}
VARIANTS = {" tf32": "float32", " fp16": "float16"}
BACKEND = "cuda_fused" if DEVICE == "cuda" else "vanilla"  # the latter only to try the script out
REFUSALS = (ValueError, RuntimeError, AssertionError, OSError)  # no kernel fits, or none could be compiled
REASON_CHARACTERS = 80


class Layer(torch.nn.Module):
    """A layer with PyTorch's weights in flashrnn's order of gates.

    For LSTM that is PyTorch's, with one bias for each gate. GRU's n comes apart: r, z, n of the input; n, r,
    z of the recurrent weights; and the biases of the recurrent n, of r, of z, and of the input's n.
    """

    def __init__(self, cell: str, input_size: int, hidden_size: int, dtype: str) -> None:
        super().__init__()
        self.function, self.dtype = FUNCTIONS[cell], dtype
        weights = {
            name: torch.from_numpy(array) for name, array in parameters(cell, input_size, hidden_size).items()
        }
        recurrent = weights["weight_hh_l0"].reshape(-1, 1, hidden_size, hidden_size)
        of_input, of_state = (weights[f"bias_{side}_l0"].reshape(-1, 1, hidden_size) for side in ("ih", "hh"))
        bias = of_input + of_state
        if cell == "gru":
            recurrent = recurrent.roll(1, dims=0)
            bias = torch.cat([of_state[2:], bias[:2], of_input[2:]])
        self.weight_ih, self.recurrent, self.bias = (
            torch.nn.Parameter(values.to(DEVICE, getattr(torch, dtype)).contiguous())
            for values in (weights["weight_ih_l0"], recurrent, bias)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, T, I) to (B, T, H)."""
        products = torch.nn.functional.linear(x, self.weight_ih)
        products = products.unflatten(2, (-1, 1, self.recurrent.shape[3]))  # (B, T, gates, heads, H)
        states, _ = flashrnn(
            products, self.recurrent, self.bias, function=self.function, backend=BACKEND, dtype=self.dtype
        )
        return states[0, :, :, 0]


@functools.cache
def trainers(cell: str, shape_text: str) -> tuple[dict[str, Trainer], dict[str, str]]:
    """Those that work, and why the others do not."""
    shape = parse_shape(shape_text)
    working, refused = {}, {}
    for name, dtype in VARIANTS.items():
        module = Layer(cell, shape.I, shape.H, dtype)
        x, dy = (torch.from_numpy(array).to(DEVICE, getattr(torch, dtype)) for array in inputs(shape))
        trainer = Trainer(module, functools.partial(module, x), dy)
        try:
            trainer.forward()
            trainer.backward()
        except REFUSALS as error:
            refused[name] = f"{type(error).__name__}: {error}".splitlines()[0][:REASON_CHARACTERS]
        else:
            working[name] = trainer
    return working, refused


def refusals(cell: str, shape_text: str) -> Work:
    """Why variants do not work."""
    _, refused = trainers(cell, shape_text)
    return Work({}, lambda: {name: np.array(reason) for name, reason in refused.items()})


def layer(cell: str, shape_text: str) -> Work:
    working, _ = trainers(cell, shape_text)
    calls = {}
    for name, trainer in working.items():
        calls[f"forward{name}"] = repeated(trainer.forward, tf32=name == " tf32")
        calls[f"train{name}"] = repeated(trainer.step, tf32=name == " tf32")

    def results() -> dict[str, np.ndarray]:
        """Of the most precise variant."""
        use_tf32(True)
        trainer = next(iter(working.values()))
        y = trainer.forward().transpose(0, 1).float().cpu().numpy()
        trainer.backward()
        return {"y": y, "weight_ih_l0": trainer.module.weight_ih.grad.float().cpu().numpy()}

    return Work(calls, results)
