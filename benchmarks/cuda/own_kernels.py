"""The scans by themselves, by the GPU's clock: microseconds a time step, beside what was predicted.

A block has one row. What a step of it takes was predicted by the longest of three: issuing its instructions
on four schedulers, reading weights from shared memory at 128 bytes a cycle, and the latency of the chain from
one h to the next. The floor is the time of the multiplications alone on all of the multiprocessor's units.
"""

from typing import NamedTuple

import numpy as np

from numbarnn.cells import CELLS

SCHEDULERS = 4
FUSED_A_CYCLE = 128  # of a multiprocessor
SHARED_BYTES_A_CYCLE = 128
WARP = 32
LATENCY = 500  # cycles of a step in which nothing overlaps: loads of h, chains of sums, the cell, a barrier
# Instructions of a warp and step beside the product, counted in the machine code for sm_90 at H = 64:
# forward and backward.
OTHER_INSTRUCTIONS = {"lstm": (201, 161), "gru": (172, 104), "rnn_tanh": (99, 67)}
REPEATS = 20
ROWS, STEPS = 64, 200


class Case(NamedTuple):
    cell: str
    hidden: int
    dtype: str
    weight_dtype: str | None
    lanes: int | None

    def __str__(self) -> str:
        lanes = f" {self.lanes} lanes" if self.lanes else ""
        return f"{self.cell} H={self.hidden} {self.weight_dtype or self.dtype}{lanes}"


def cases(part: str, quick: bool) -> list[Case]:
    if quick:
        return [Case("rnn_tanh", 16, "float32", None, None)]
    found = [
        Case(cell, hidden, "float32", None, None)
        for hidden in (64, 128)
        for cell in ("lstm", "gru", "rnn_tanh")
    ]
    found += [Case("lstm", hidden, "float32", None, lanes) for hidden in (16, 32, 64, 96) for lanes in (2, 4)]
    found += [Case("lstm", 128, "float32", "float16", None), Case("lstm", 64, "float64", None, None)]
    return [*found, Case("rnn_tanh", 256, "float32", None, None), Case("gru", 64, "float32", None, 2)]


def run(case: Case) -> dict:
    from numbarnn.engine.cuda import scan, weights
    from numbarnn.engine.cuda.arrays import arrays
    from numbarnn.engine.cuda.launch import launch

    cell, xp = CELLS[case.cell], arrays()
    plans = weights.LANES
    if case.lanes is not None:
        weights.LANES = (case.lanes,)
    for made in (weights.plan_for, scan.forward, scan.backward):
        made.cache_clear()
    kind = cell, case.hidden, case.dtype, case.weight_dtype
    plan = weights.plan_for(*kind)
    forward, backward = scan.forward(*kind), scan.backward(*kind)
    weights.LANES = plans
    rng = xp.random.default_rng(0)

    def some(*shape):
        return 0.1 * rng.standard_normal(shape, np.dtype(case.dtype).type)

    H, N, S = case.hidden, ROWS * STEPS, len(cell.states)
    offset = xp.arange(STEPS + 1) * ROWS
    lengths = xp.full(ROWS, STEPS)
    weight, bias = some(len(cell.gates) * H, H), some(len(cell.gates) * H)
    states, dstates, sums = some(2, S, ROWS, H), some(2, S, ROWS, H), some(N, cell.sum_count * H)
    outputs, doutputs, kept = some(N, H), some(N, H), some(N, S * H)
    shape = ROWS, plan.threads, plan.shared_bytes

    def run_forward(keep: bool) -> None:
        launch(
            forward, *shape, offset, lengths, 0, 0, H, keep, True, weight, bias, bias, states, sums, outputs,
            kept,
        )  # fmt: skip

    def run_backward() -> None:
        launch(
            backward, *shape, offset, lengths, 0, 0, H, weight, states, sums, doutputs, kept, outputs, dstates
        )

    clock = cycles_a_second(xp)
    found = {
        "lanes": plan.lanes, "threads": plan.threads, "near": plan.near_pieces,
        "pieces": plan.runs * cell.product_width, "shared_bytes": plan.shared_bytes,
        "floor_us": 1e6 * H * H * cell.product_width / FUSED_A_CYCLE / clock,
    }  # fmt: skip
    predicted = [1e6 * cycles / clock for cycles in predicted_cycles(case, plan, cell.product_width)]
    calls = {"forward": lambda: run_forward(False), "keeping": lambda: run_forward(True)}
    calls["backward"] = run_backward
    for (name, call), expected in zip(calls.items(), (predicted[0], predicted[0], predicted[1]), strict=True):
        found[f"{name}_us"] = microseconds(xp, call) / STEPS
        found[f"{name}_predicted_us"] = expected
    return found


def predicted_cycles(case: Case, plan, product_width: int) -> list[float]:
    pieces = plan.runs * product_width
    far = pieces - plan.near_pieces
    warps = plan.threads // WARP
    cycles = []
    for transposed, other in enumerate(OTHER_INSTRUCTIONS.get(case.cell, (0, 0))):
        loads = pieces if transposed else plan.runs
        instructions = pieces * plan.run + far + loads + other
        issue = instructions * warps / SCHEDULERS
        shared = (plan.shared_bytes + loads * warps * plan.lanes * 16) / SHARED_BYTES_A_CYCLE
        cycles.append(max(issue, shared, LATENCY))
    return cycles


def cycles_a_second(xp) -> float:
    return 1e3 * xp.cuda.Device().attributes["ClockRate"]


def microseconds(xp, call) -> float:
    """Of one call, the median of some, by events."""
    times = []
    for _ in range(3):
        call()
    for _ in range(REPEATS):
        begin, end = xp.cuda.Event(), xp.cuda.Event()
        begin.record()
        call()
        end.record()
        end.synchronize()
        times.append(1e3 * xp.cuda.get_elapsed_time(begin, end))
    return float(np.median(times))
