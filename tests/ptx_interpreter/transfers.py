"""Loads, stores and shuffles: what brings numbers to a thread from memory or from another thread."""

from typing import Any

import numpy as np

from ptx_interpreter.errors import PTXError
from ptx_interpreter.instructions import Run, unsupported
from ptx_interpreter.operands import Mask, unsigned
from ptx_interpreter.races import WARP
from ptx_interpreter.text import DTYPES, Instruction, split_operands

SPACES = ("global", "shared", "local")
VECTORS = {"v2": 2, "v4": 4}
ALL_LANES = 0xFFFF_FFFF
LANE_BITS = WARP - 1


def numbers_of(instruction: Instruction, registers: str) -> tuple[str, np.dtype, list[str]]:
    """The memory's name, the dtype, and the register of each number that a load or store has."""
    space, *vector, kind = (each for each in instruction.modifiers if each != "volatile")
    names = split_operands(registers.strip("{}"))
    count = VECTORS.get(vector[0], 0) if vector else 1
    if len(vector) > 1 or len(names) != count:
        raise unsupported(instruction)
    return space, DTYPES[kind], names


def load(block: Any, instruction: Instruction) -> Run:
    registers, place = instruction.operands
    space, dtype, names = numbers_of(instruction, registers)
    writes = [block.operands.target(name, dtype) for name in names]
    if space == "param":
        parameter = place.strip("[]")
        if block.text.parameters[parameter].itemsize != dtype.itemsize or len(names) != 1:
            raise unsupported(instruction)
        return lambda mask: writes[0](block.parameters[parameter].view(dtype), mask)
    if space not in SPACES:
        raise unsupported(instruction)
    address, size = block.operands.address(place), dtype.itemsize * len(names)

    def run(mask: Mask) -> None:
        active = block.operands.active(mask)
        data, offsets = block.locate(instruction, space, address()[active], size, active, writes=False)
        for k, write in enumerate(writes):
            values = np.zeros(block.threads, dtype)
            values[active] = data.view(dtype)[offsets // dtype.itemsize + k]
            write(values, mask)

    return run


def store(block: Any, instruction: Instruction) -> Run:
    place, registers = instruction.operands
    space, dtype, names = numbers_of(instruction, registers)
    if space not in SPACES:
        raise unsupported(instruction)
    address, size = block.operands.address(place), dtype.itemsize * len(names)
    sources = [block.operands.source(name, dtype) for name in names]

    def run(mask: Mask) -> None:
        active = block.operands.active(mask)
        data, offsets = block.locate(instruction, space, address()[active], size, active, writes=True)
        for k, source in enumerate(sources):
            values = block.operands.spread(source())[active]
            data.view(dtype)[offsets // dtype.itemsize + k] = values

    return run


class Shuffle:
    """``shfl.sync.bfly.b32``: each thread gets the number of the lane whose index differs in some bits."""

    def __init__(self, block: Any, instruction: Instruction) -> None:
        if instruction.modifiers != ("sync", "bfly", "b32"):
            raise unsupported(instruction)
        to, number, distance, limit, members = instruction.operands
        first, _, second = to.partition("|")
        operands, word = block.operands, unsigned(4)
        self.threads, self.line = block.threads, instruction.line
        self._write = operands.target(first, word)
        self._write_valid = operands.target(second or "_", DTYPES["pred"])
        self._number, self._distance, self._limit, self._members = (
            operands.source(text, word) for text in (number, distance, limit, members)
        )

    def members(self, thread: int) -> list[int]:
        """The threads that this one says take part."""
        mask = int(np.broadcast_to(self._members(), (self.threads,))[thread])
        first = thread - thread % WARP
        return [first + lane for lane in range(WARP) if mask >> lane & 1]

    def run(self, mask: Mask) -> None:
        number, distance, limit = (
            np.broadcast_to(source(), (self.threads,)).astype(np.int64)
            for source in (self._number, self._distance, self._limit)
        )
        thread = np.arange(self.threads)
        lane = thread % WARP
        # The limit has the highest lane in its low bits, and above them which bits of a lane stay.
        segment, highest = limit >> 8 & LANE_BITS, limit & LANE_BITS
        source = lane ^ (distance & LANE_BITS)
        valid = source <= ((lane & segment) | (highest & ~segment))
        source = thread - lane + np.where(valid, source, lane)
        taking = np.ones(self.threads, bool) if mask is None else mask
        present = (source < self.threads) & taking[np.minimum(source, self.threads - 1)]
        if (taking & ~present).any():
            raise PTXError(f"line {self.line}: a shuffle reads from a thread that takes no part")
        self._write(number[source].astype(np.uint32), mask)
        self._write_valid(valid, mask)
