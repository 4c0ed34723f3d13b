"""PyTorch's side of the comparison on a GPU: cuDNN in float32, without TF32."""

import numpy as np
import torch
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from benchmarks.comparison.work import Work
from benchmarks.cuda.beside_cudnn import steps_a_call
from benchmarks.peers.torch_peer import Trainer, make_module
from benchmarks.problems import inputs, parse_shape, spread_lengths

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"  # the latter only to try the script out


def use_threads(count: int) -> None:
    torch.set_num_threads(count)
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False


def wait() -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def layer(cell: str, shape_text: str, kind: str) -> Work:
    shape = parse_shape(shape_text)
    x, dy = (torch.from_numpy(array).transpose(0, 1).contiguous().to(DEVICE) for array in inputs(shape))
    module = make_module(cell, shape.I, shape.H).to(DEVICE)
    if kind == "ragged":
        lengths = torch.from_numpy(spread_lengths(shape))
        # Packed once: what a batch costs beside the layer is not timed, here as there.
        x, dy = (pack_padded_sequence(each, lengths, enforce_sorted=False) for each in (x, dy))
        trainer = Trainer(module, lambda: module(x)[0].data, dy.data)
    else:
        trainer = Trainer(module, lambda: module(x)[0], dy)
    count = steps_a_call(shape)

    def results() -> dict[str, np.ndarray]:
        y = trainer.forward()
        if kind == "ragged":
            y = pad_packed_sequence(PackedSequence(y, *x[1:]), total_length=shape.T)[0]
        trainer.backward()
        named = trainer.module.named_parameters()
        return {"y": y.cpu().numpy(), **{name: parameter.grad.cpu().numpy() for name, parameter in named}}

    return Work(
        {"forward": repeated(trainer.forward, count), "train": repeated(trainer.step, count)}, results
    )


def repeated(step, count: int):
    def run() -> None:
        for _ in range(count):
            step()
        wait()

    return run
