"""Teams: blocks of threads that share out the hidden units of a layer too large for one multiprocessor.

A block keeps the recurrent weights of its units on the chip, and the blocks of a team meet once a time step.
A team goes through some rows of the batch: those at the places ``team``, ``team + teams`` and so on. As rows
are sorted by falling length, those that still run are the first ones of a team.
"""

import functools
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from numbarnn.cells.contract import Cell
from numbarnn.engine.cuda.device import SHARED_MEMORY, cuda, device
from numbarnn.engine.cuda.memory import _pointer, load, store
from numbarnn.engine.cuda.weights import OTHER_NUMBERS, Plan, plan_with_lanes

# On an H100 LSTM and GRU with H = 192 agreed with the CPU (B = 1, T = 4, two blocks a team). Larger teams,
# graphs of their launches and times have not been seen on a card, so layers go step by step until they have:
# `python -m benchmarks.cuda --only agreement` switches teams on for its cases.
IN_USE = False
MOST_ROWS = 32  # of a team
STEPS_KNOWN = 4  # of which a kernel knows where they stand: the one before, the present one, and two ahead
TABLE_BYTES = (STEPS_KNOWN + 1) * MOST_ROWS * 4
LANES = (2, 4, 8, 16, 32)
MOST_THREADS = 512  # more have too few registers each
COUNTER_STRIDE = 16  # counters of two teams are not in one line of the cache


class Team(NamedTuple):
    """How a layer is shared out."""

    blocks: int
    units: int  # hidden units of a block; the last one may have fewer
    plan: Plan  # of a block

    def fits(self, cell: Cell, dtype: str, shared_memory: int) -> bool:
        """Whether a block can have so many threads and so much shared memory."""
        vectors = 2 * cell.product_width * self.plan.padded * np.dtype(dtype).itemsize
        static = vectors + TABLE_BYTES
        return (
            self.plan.threads <= MOST_THREADS
            and static <= SHARED_MEMORY
            and static + self.plan.shared_bytes <= shared_memory
        )

    def teams(self, rows: int, most_blocks: int) -> int:
        """How many teams a batch of so many rows has."""
        return min(rows, most_blocks // self.blocks)

    def takes(self, rows: int, most_blocks: int) -> bool:
        """Whether no team has too many of these rows."""
        return -(-rows // self.teams(rows, most_blocks)) <= min(MOST_ROWS, self.plan.threads)


def team_of(cell: Cell, hidden: int, dtype: str, weight_dtype: str | None, blocks: int, lanes: int) -> Team:
    """The team of so many blocks, with this many threads a hidden unit."""
    units = -(-hidden // blocks)
    others = OTHER_NUMBERS[np.dtype(dtype).itemsize]
    return Team(blocks, units, plan_with_lanes(cell, hidden, dtype, weight_dtype, lanes, others, units))


@functools.cache
def team_for(
    cell: Cell, hidden: int, dtype: str, weight_dtype: str | None, shared_memory: int, most_blocks: int
) -> Team | None:
    """The smallest team with at least half of the weights in registers, or else the smallest one; None where
    the blocks that can run at the same time are too few."""
    smallest = None
    for blocks in range(2, min(hidden, most_blocks) + 1):
        teams = [team_of(cell, hidden, dtype, weight_dtype, blocks, lanes) for lanes in LANES]
        teams = [team for team in teams if team.fits(cell, dtype, shared_memory)]
        if not teams:
            continue
        best = max(teams, key=lambda team: team.plan.near_pieces / team.plan.runs)
        if 2 * best.plan.near_pieces >= best.plan.runs * cell.product_width:
            return best
        smallest = smallest or best
    return smallest


@intrinsic
def _arrive(typingctx, counters, index):
    """Count this block in, behind all that its threads wrote before their latest barrier."""

    def codegen(context, builder, signature, arguments):
        pointer = _pointer(context, builder, counters, arguments[0], arguments[1], index)
        wide = ir.IntType(64)
        kind = ir.FunctionType(ir.VoidType(), [wide])
        text = "red.release.gpu.add.u64 [$0], 1;"
        builder.asm(kind, text, "l,~{memory}", [builder.ptrtoint(pointer, wide)], side_effect=True)
        return context.get_dummy_value()

    return types.void(counters, index), codegen


@intrinsic
def _arrived(typingctx, counters, index):
    """How many blocks have arrived; what they wrote before can be read behind this."""

    def codegen(context, builder, signature, arguments):
        pointer = _pointer(context, builder, counters, arguments[0], arguments[1], index)
        wide = ir.IntType(64)
        kind = ir.FunctionType(wide, [wide])
        text = "ld.acquire.gpu.u64 $0, [$1];"
        return builder.asm(kind, text, "=l,l,~{memory}", [builder.ptrtoint(pointer, wide)], side_effect=True)

    return types.int64(counters, index), codegen


class Meeting(NamedTuple):
    """What the blocks of a team do between two steps.

    arrive : callable
        ``arrive(counters, team)``: this block is done with a step.
    wait : callable
        ``wait(counters, team, n)``: no thread goes on before all blocks have arrived for the n-th time, n
        from 1 on; then each can read what all of them wrote.
    """

    arrive: Any
    wait: Any


def meeting_of(blocks: int) -> Meeting:
    """The functions for teams of so many blocks."""
    if blocks == 1:
        return Meeting(
            device(lambda counters, team: cuda.syncthreads()), device(lambda counters, team, n: None)
        )

    @device
    def arrive(counters, team):
        cuda.syncthreads()
        if cuda.threadIdx.x == 0:
            _arrive(counters, team * COUNTER_STRIDE)

    @device
    def wait(counters, team, n):
        if cuda.threadIdx.x == 0:
            while _arrived(counters, team * COUNTER_STRIDE) < n * blocks:
                pass
        cuda.syncthreads()

    return Meeting(arrive, wait)


class Exchange(NamedTuple):
    """What the threads of a block do to bring a row's vectors from global to shared memory.

    size : int
        Numbers that a thread holds on the way.
    fetch : callable
        ``fetch(source, first, thread, held)``: read vectors of H numbers that follow one another.
    put : callable
        ``put(held, thread, target, begin)``: write them, `plan.padded` numbers apart, with zeros between.
    """

    size: int
    fetch: Any
    put: Any


def exchange_of(plan: Plan, hidden: int, dtype: str, vectors: int) -> Exchange:
    """The functions of a kernel that exchanges so many vectors of a row."""
    threads, padded, zero = plan.threads, plan.padded, np.dtype(dtype).type(0.0)
    of_vector = -(-padded // threads)

    @device
    def fetch(source, first, thread, held):
        for vector in range(vectors):
            for i in range(of_vector):
                k = thread + i * threads
                at = vector * of_vector + i
                held[at] = zero
                if k < hidden:
                    held[at] = load(source, first + vector * hidden + k)

    @device
    def put(held, thread, target, begin):
        for vector in range(vectors):
            for i in range(of_vector):
                k = thread + i * threads
                if k < padded:
                    store(target, begin + vector * padded + k, held[vector * of_vector + i])

    return Exchange(vectors * of_vector, fetch, put)
