"""PyTorch's side of the comparison on a GPU: cuDNN in float32 with TF32 off and on, and in float16."""

import time

import numpy as np
import torch

from benchmarks.comparison.work import Work
from benchmarks.cuda_trainer import STEPS_A_CALL
from benchmarks.peers.torch_peer import Trainer, make_module
from benchmarks.problems import inputs, parse_shape

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"  # the latter only to try the script out
GIGA = 1e9
COPIED_BYTES = 2 << 30
PRODUCT_SIZE = 8192
REPEATS = 10


def use_threads(count: int) -> None:
    torch.set_num_threads(count)


def wait() -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def layer(cell: str, shape_text: str) -> Work:
    shape = parse_shape(shape_text)
    x, dy = (torch.from_numpy(array).transpose(0, 1).contiguous().to(DEVICE) for array in inputs(shape))
    calls = {}
    trainers = {}
    for name, dtype in (("", torch.float32), (" tf32", torch.float32), (" fp16", torch.float16)):
        module = make_module(cell, shape.I, shape.H).to(DEVICE, dtype)
        mine, gradient = x.to(dtype), dy.to(dtype)
        trainers[name] = Trainer(module, lambda module=module, mine=mine: module(mine)[0], gradient)
        calls[f"forward{name}"] = repeated(trainers[name].forward, tf32=name == " tf32")
        calls[f"train{name}"] = repeated(trainers[name].step, tf32=name == " tf32")

    def results() -> dict[str, np.ndarray]:
        use_tf32(False)
        trainer = trainers[""]
        y = trainer.forward().cpu().numpy()
        trainer.backward()
        named = trainer.module.named_parameters()
        return {"y": y, **{name: parameter.grad.cpu().numpy() for name, parameter in named}}

    return Work(calls, results)


def use_tf32(wanted: bool) -> None:
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = wanted


def repeated(step, tf32: bool):
    def run() -> None:
        use_tf32(tf32)
        for _ in range(STEPS_A_CALL):
            step()
        wait()

    return run


def machine() -> Work:
    """What the GPU can do: bytes a second that a copy reads and writes, operations a second of a product."""

    def results() -> dict[str, np.ndarray]:
        use_tf32(False)
        small = DEVICE == "cpu"
        count, size = (1 << 20, 64) if small else (COPIED_BYTES // 4, PRODUCT_SIZE)
        source = torch.rand(count, device=DEVICE)
        target = torch.empty_like(source)
        a = torch.rand(size, size, device=DEVICE)
        moved = 2 * 4 * count / seconds(lambda: target.copy_(source))
        computed = 2 * size**3 / seconds(lambda: a @ a)
        return {"bytes": np.array(moved), "operations": np.array(computed)}

    return Work({}, results)


def seconds(call) -> float:
    """Of one call, by the GPU's own clock where there is one."""
    for _ in range(3):
        call()
    wait()
    began = time.perf_counter()
    for _ in range(REPEATS):
        call()
    wait()
    return (time.perf_counter() - began) / REPEATS
