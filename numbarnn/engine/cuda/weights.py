"""Recurrent weights that stay on the GPU's chip while a scan runs, and the product with them.

`lanes` threads that stand side by side share a hidden unit: each multiplies its part of a vector (h, or the
gradients of the sums) by its part of the unit's weights, for all gates. Numbers come in runs, as many as one
load of 16 bytes brings: run ``i`` of a lane begins at number ``(i * lanes + lane) * run``. The weights of a
run and a gate are a *piece*. The first pieces of a thread are in its registers, the others in the block's
shared memory, where those of all threads stand side by side.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from numbarnn.cells.contract import Cell
from numbarnn.engine.cuda.device import MOST_THREADS, SIMULATED, WARP, device, registers_of
from numbarnn.engine.cuda.memory import load, load_numbers, run_of
from numbarnn.jit import vectors as simd

REGISTER_BYTES = 4
CHAINS = 4  # sums that a thread adds to in turns, so that an addition need not wait for the one before
STATIC_SHARED_BYTES = 16 * 1024  # at most, for h or the gradients of the sums
NUMBER_TYPES = {"float16": types.float16, "float32": types.float32, "float64": types.float64}


class Plan(NamedTuple):
    """How a layer's recurrent weights lie on the chip."""

    lanes: int  # threads that share a hidden unit
    threads: int  # of a block
    run: int  # numbers that one load brings
    runs: int  # of a thread, for each gate
    near_pieces: int  # runs of weights in a thread's registers
    shared_bytes: int  # shared memory for all other weights, in the dtype that weights are kept in

    @property
    def padded(self) -> int:
        """Numbers of the vector that all lanes of a unit read, zeros behind the last hidden unit included."""
        return self.lanes * self.runs * self.run

    def fits(self, shared_memory: int) -> bool:
        """Whether a block can have so many threads, and its weights so much shared memory."""
        return self.threads <= MOST_THREADS and self.shared_bytes + STATIC_SHARED_BYTES <= shared_memory


def number_type(dtype):
    """A dtype as the compiler knows it."""
    return NUMBER_TYPES[str(np.dtype(dtype))]


def plan_with_lanes(
    cell: Cell,
    hidden: int,
    dtype: str,
    weight_dtype: str | None,
    lanes: int,
    others: int,
    units: int | None = None,
) -> Plan:
    """The plan with this many threads a hidden unit, for a block that has so many `units`, by default all; a
    thread has `others` numbers in registers beside the weights."""
    size, run = np.dtype(dtype).itemsize, run_of(dtype)
    threads = -(-(units or hidden) * lanes // WARP) * WARP
    runs = -(-hidden // (lanes * run))
    pieces = runs * cell.product_width
    room = registers_of(threads) * REGISTER_BYTES // size - others
    near = min(pieces, max(0, room) // run)
    far = (pieces - near) * run * threads * np.dtype(weight_dtype or dtype).itemsize
    return Plan(lanes, threads, run, runs, near, far)


# Of a thread, beside the weights, by the bytes of a number. LSTM spills up to 20 numbers from H = 100 on, and
# is faster so than with fewer weights in registers (tests/test_cuda.py, MOST_SPILLED).
OTHER_NUMBERS = {4: 64, 8: 48}
# LSTM, H = 64, microseconds a step on an H100: 2 lanes 0.50 forward and 0.55 backward, 4 lanes 0.58 and 0.73.
LANES = (2, 4)


@functools.cache
def plan_for(cell: Cell, hidden: int, dtype: str, weight_dtype: str | None = None) -> Plan:
    """The plan of a cell of so many hidden units; weights are kept in `dtype`, or in one with fewer bits."""
    size = np.dtype(dtype).itemsize
    plans = [
        plan_with_lanes(cell, hidden, dtype, weight_dtype, lanes, OTHER_NUMBERS[size]) for lanes in LANES
    ]
    return min(plans, key=lambda plan: plan.shared_bytes)


class OnChip(NamedTuple):
    """What a kernel does with the weights that are on the chip.

    near : callable
        ``near(weight, unit, lane)``: the pieces of a thread that stay in its registers, a tuple.
    put_far : callable
        ``put_far(weight, unit, lane, thread, far)``: bring the others to shared memory.
    multiply : callable
        ``multiply(near, far, thread, vector, first)``: a lane's share of the products of each gate, a tuple;
        its first run of the vector begins at element `first`.
    """

    near: Any
    put_far: Any
    multiply: Any


def on_chip(cell: Cell, hidden: int, dtype: str, weight_dtype: str | None, plan: Plan, transposed: bool):
    """The functions of a kernel's weights.

    Parameters
    ----------
    transposed : bool
        False: unit j of a gate has row j of W_h, and all gates are multiplied by one vector, h. True: it has
        column j, and each gate a vector of its own, `plan.padded` numbers behind that of the gate before.
    """
    gates, square = cell.recurrent_gates, hidden * hidden
    unit_stride, k_stride = (1, hidden) if transposed else (hidden, 1)
    layout = _Layout(plan, cell.product_width, plan.padded if transposed else 0)
    number, rounded = np.dtype(dtype).type, np.dtype(weight_dtype or dtype).type
    zero = number(0.0)
    lanes, run, runs, threads, near_pieces = plan.lanes, plan.run, plan.runs, plan.threads, plan.near_pieces
    product_width, whole = cell.product_width, plan.padded == hidden
    first_of_gate = constant_of([gate * square for gate in gates])

    @device
    def weight_of(weight, unit, lane, i, g, j):
        k = (i * lanes + lane) * run + j
        place = first_of_gate(g) + unit * unit_stride + min(k, hidden - 1) * k_stride
        return rounded(load(weight, place) if whole or k < hidden else zero)

    @device
    def put_far(weight, unit, lane, thread, far):
        for piece in range(near_pieces, runs * product_width):
            for j in range(run):
                place = ((piece - near_pieces) * threads + thread) * run + j
                far[place] = weight_of(weight, unit, lane, piece // product_width, piece % product_width, j)

    if SIMULATED:

        def near(weight, unit, lane):
            return [
                number(weight_of(weight, unit, lane, piece // product_width, piece % product_width, j))
                for piece in range(near_pieces)
                for j in range(run)
            ]

        return OnChip(near, put_far, functools.partial(_multiply_simulated, layout))

    strides, kinds = (unit_stride, k_stride), (number_type(dtype), number_type(weight_dtype or dtype))
    return OnChip(_near(layout, gates, hidden, strides, *kinds), put_far, _multiply(layout))


def constant_of(values: Sequence[int]):
    """A device function that gives one of a few constants by its index, without an array in memory."""
    first, *others = values
    if not others:
        return device(lambda index: first)
    rest = constant_of(others)
    return device(lambda index: first if index == 0 else rest(index - 1))


class _Layout(NamedTuple):
    """The plan of a product; `gate_stride`: numbers from the vector of one gate to that of the next."""

    plan: Plan
    product_width: int
    gate_stride: int

    @property
    def chains(self) -> int:
        """Sums of each gate."""
        return max(1, min(self.plan.run, CHAINS // self.product_width))


def _near(layout: _Layout, gates, hidden: int, strides: tuple[int, int], number, rounded):
    """The function that brings the pieces of a thread that stay in its registers; no array in memory holds
    them on the way, however many there are."""
    plan = layout.plan
    unit_stride, k_stride = strides
    result = types.UniTuple(number, max(1, plan.near_pieces * plan.run))

    @intrinsic
    def near(typingctx, weight, unit, lane):
        def codegen(context, builder, signature, arguments):
            wide, count = ir.IntType(64), result.count
            llvm_number = context.get_value_type(number)
            array = arguments[0]
            unit_index, lane_index = (
                context.cast(builder, value, kind, types.int64)
                for value, kind in zip(arguments[1:], signature.args[1:], strict=True)
            )
            of_unit = builder.mul(unit_index, wide(unit_stride))
            of_lane = builder.mul(lane_index, wide(plan.run))
            values = [llvm_number(0.0)] * count
            for at in range(plan.near_pieces * plan.run):
                (i, g), j = divmod(at // plan.run, layout.product_width), at % plan.run
                k = builder.add(of_lane, wide(i * plan.lanes * plan.run + j))
                inside = builder.icmp_signed("<", k, wide(hidden))
                k = builder.select(inside, k, wide(hidden - 1))
                index = builder.add(builder.mul(k, wide(k_stride)), wide(gates[g] * hidden * hidden))
                index = builder.add(index, of_unit)
                (value,) = load_numbers(context, builder, weight, array, index, types.int64, 1)
                value = context.cast(builder, value, number, rounded)
                value = context.cast(builder, value, rounded, number)
                values[at] = builder.select(inside, value, llvm_number(0.0))
            return context.make_tuple(builder, result, values)

        return result(weight, unit, lane), codegen

    return near


def _multiply(layout: _Layout):
    """The function that multiplies a lane's runs of a vector by its weights, without a loop."""
    plan, product_width = layout.plan, layout.product_width

    @intrinsic
    def multiply(typingctx, near, far, thread, vector, first):
        number = vector.dtype
        result = types.UniTuple(number, product_width)

        def codegen(context, builder, signature, arguments):
            wide = ir.IntType(64)
            llvm_number = context.get_value_type(number)
            near_weights, far_weights, thread_index, source, first_index = (
                context.cast(builder, value, kind, types.int64) if isinstance(kind, types.Integer) else value
                for value, kind in zip(arguments, signature.args, strict=True)
            )
            of_thread = builder.mul(thread_index, wide(plan.run))
            sums = [[llvm_number(0.0)] * layout.chains for _ in range(product_width)]
            for piece in range(plan.runs * product_width):
                i, g = divmod(piece, product_width)
                if g == 0 or layout.gate_stride > 0:
                    index = wide(g * layout.gate_stride + i * plan.lanes * plan.run)
                    index = builder.add(first_index, index)
                    run = load_numbers(context, builder, vector, source, index, types.int64, plan.run)
                if piece < plan.near_pieces:
                    weights = [
                        builder.extract_value(near_weights, piece * plan.run + j) for j in range(plan.run)
                    ]
                else:
                    index = wide((piece - plan.near_pieces) * plan.threads * plan.run)
                    index = builder.add(of_thread, index)
                    weights = load_numbers(context, builder, far, far_weights, index, types.int64, plan.run)
                    weights = [context.cast(builder, weight, far.dtype, number) for weight in weights]
                for j, (weight, value) in enumerate(zip(weights, run, strict=True)):
                    chain = j % layout.chains
                    sums[g][chain] = _fused(builder, number, weight, value, sums[g][chain])
            while len(sums[0]) > 1:
                sums = [
                    [builder.fadd(a, b) for a, b in zip(chains[::2], chains[1::2], strict=True)]
                    for chains in sums
                ]
            return context.make_tuple(builder, result, [chains[0] for chains in sums])

        return result(near, far, thread, vector, first), codegen

    return multiply


def _fused(builder, number, a, b, c):
    return simd.call_llvm(builder, f"llvm.fma.f{number.bitwidth}", a.type, [a, b, c])


def _multiply_simulated(layout: _Layout, near, far, thread, vector, first):
    """`_multiply` in Python."""
    plan, product_width = layout.plan, layout.product_width
    sums = [[vector.dtype.type(0.0)] * layout.chains for _ in range(product_width)]
    for piece in range(plan.runs * product_width):
        i, g = divmod(piece, product_width)
        for j in range(plan.run):
            value = vector[first + g * layout.gate_stride + i * plan.lanes * plan.run + j]
            if piece < plan.near_pieces:
                weight = near[piece * plan.run + j]
            else:
                weight = far[((piece - plan.near_pieces) * plan.threads + thread) * plan.run + j]
            sums[g][j % layout.chains] += vector.dtype.type(weight) * value
    return tuple(sum(chains) for chains in sums)
