"""The memories that a kernel reads and writes, each with buffers between guards that nobody may touch."""

from typing import Any, NamedTuple

import numpy as np

from ptx_interpreter.errors import PTXError
from ptx_interpreter.races import Accesses
from ptx_interpreter.text import Variable

GLOBAL_BASE = 0x7F00_0000_0000  # the address of the first byte of global memory
GUARD = 256  # bytes between two buffers, and the largest alignment of one
WORD = 8  # bytes of the largest number: memories are a multiple of it
NOT_A_NUMBER = 0x7FA5  # as float16, and in pairs or fours as float32 or float64


def round_up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple


def bounds_of(array: np.ndarray) -> tuple[int, int]:
    """The addresses on the host of the first byte of an array and of the one after its last."""
    low = array.__array_interface__["data"][0]
    spans = [stride * (length - 1) for stride, length in zip(array.strides, array.shape, strict=True)]
    if min(spans, default=0) < 0:
        raise ValueError("arrays with negative strides are not supported")
    return low, low + sum(spans) + array.itemsize


class Merged(NamedTuple):
    """A part of the host's memory that arrays overlap in, and where it begins in global memory."""

    low: int
    high: int
    start: int


class GlobalMemory:
    """Copies of arrays of the host. Arrays that overlap share their bytes; of an array that is a view of
    another one only the bytes of its elements may be touched.

    Parameters
    ----------
    arrays : list of ndarray
    """

    def __init__(self, arrays: list[np.ndarray]) -> None:
        self.arrays = [array for array in arrays if array.size > 0]
        spans: list[list[int]] = []
        for low, high in sorted(map(bounds_of, self.arrays)):
            if spans and low < spans[-1][1]:
                spans[-1][1] = max(high, spans[-1][1])
            else:
                spans.append([low, high])
        self._parts, end = [], GUARD
        for low, high in spans:
            start = round_up(end, GUARD) + low % GUARD  # aligned as it is on the host
            self._parts.append(Merged(low, high, start))
            end = start + (high - low) + GUARD
        self.bytes = np.zeros(round_up(end + GUARD, WORD), np.uint8)
        self.allowed = np.zeros(self.bytes.size, bool)
        for array in self.arrays:
            self._view(array)[...] = array
            self._flags(array)[...] = True

    def address(self, array: np.ndarray) -> int:
        """The address of an array; one without elements begins in a guard."""
        return GLOBAL_BASE + (self._offset(array) if array.size > 0 else WORD)

    def copy_back(self) -> None:
        """Write the present contents into the arrays of the host."""
        for array in self.arrays:
            if array.flags.writeable:
                array[...] = self._view(array)

    def _offset(self, array: np.ndarray) -> int:
        pointer = array.__array_interface__["data"][0]
        return next(
            part.start + pointer - part.low for part in self._parts if part.low <= pointer < part.high
        )

    def _view(self, array: np.ndarray) -> np.ndarray:
        return np.ndarray(array.shape, array.dtype, self.bytes, self._offset(array), array.strides)

    def _flags(self, array: np.ndarray) -> np.ndarray:
        """Whether the bytes of the elements may be touched."""
        shape, strides = (*array.shape, array.itemsize), (*array.strides, 1)
        return np.ndarray(shape, bool, self.allowed, self._offset(array), strides)


class Layout:
    """Where the variables of a kernel lie in shared memory and in each thread's local memory.

    Without the guards they lie one behind the other, as the assembler has them; a guard is as long as the
    largest alignment, so that addresses are as aligned as they are there.

    Attributes
    ----------
    offsets : dict of str to int
        Of each variable in its memory.
    ranges : dict of str to list of (int, int)
        By memory, where its variables begin and end.
    static_bytes : int
        Shared memory of the variables that have a size.
    dynamic_start : int
        Where dynamic shared memory begins.
    local_bytes : int
        Local memory of a thread.
    """

    def __init__(self, variables: dict[str, Variable]) -> None:
        self.offsets: dict[str, int] = {}
        self.ranges: dict[str, list[tuple[int, int]]] = {"shared": [], "local": []}
        end, guards = {"shared": 0, "local": 0}, {"shared": GUARD, "local": GUARD}
        # Dynamic shared memory is behind all else.
        for name, (space, alignment, size) in sorted(
            variables.items(), key=lambda item: item[1].size is None
        ):
            begin = round_up(end[space], alignment)
            low = self.offsets[name] = begin + guards[space]
            if size is not None:
                self.ranges[space].append((low, low + size))
                end[space] = begin + size
                guards[space] += GUARD
        self.static_bytes = end["shared"]
        dynamic = [self.offsets[name] for name, variable in variables.items() if variable.size is None]
        self.dynamic_start = dynamic[0] if dynamic else round_up(end["shared"] + guards["shared"], GUARD)
        self.local_bytes = round_up(end["local"] + guards["local"], GUARD)


class BlockMemory:
    """The memories as the threads of one block see them, with the checks of each access.

    Parameters
    ----------
    layout : Layout
        The kernel's.
    threads, dynamic_bytes : int
        Of the launch.
    global_memory : GlobalMemory
    block : int
        The block's index, for messages.
    """

    def __init__(
        self, layout: Layout, threads: int, dynamic_bytes: int, global_memory: GlobalMemory, block: int
    ) -> None:
        self.block, self.local_bytes = block, layout.local_bytes
        dynamic = (layout.dynamic_start, layout.dynamic_start + dynamic_bytes)
        size = round_up(dynamic[1] + GUARD, WORD)
        shared, shared_allowed = np.zeros(size, np.uint8), np.zeros(size, bool)
        shared.view(np.uint16)[...] = NOT_A_NUMBER
        for low, high in (*layout.ranges["shared"], dynamic):
            shared_allowed[low:high] = True
        local = np.zeros(threads * self.local_bytes, np.uint8)
        local_allowed = np.zeros(local.size, bool)
        for low, high in layout.ranges["local"]:
            local_allowed.reshape(threads, -1)[:, low:high] = True
        # Of global memory the host may have written any byte.
        self._spaces: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray | None]] = {
            "global": (global_memory.bytes, global_memory.allowed, None),
            "shared": (shared, shared_allowed, np.zeros(shared.size, bool)),
            "local": (local, local_allowed, np.zeros(local.size, bool)),
        }
        self.accesses = {space: Accesses(space) for space in ("global", "shared")}

    def locate(
        self,
        instruction: Any,
        space: str,
        addresses: np.ndarray,
        size: int,
        active: np.ndarray,
        writes: bool,
        orders: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Check an access of the active threads and remember it.

        Parameters
        ----------
        instruction : Instruction
        space : str
            "global", "shared" or "local".
        addresses : array of uint64
            One for each active thread.
        size : int
            Bytes of the access.
        active : array of int
            Indices of the threads.
        writes : bool
        orders : array of int
            How many shuffles each of these threads' warps have run: see `Accesses`.

        Returns
        -------
        bytes, offsets : arrays
            The whole memory, and where each thread's number begins in it.
        """
        data, allowed, written = self._spaces[space]
        offsets = addresses.astype(np.int64) - (GLOBAL_BASE if space == "global" else 0)

        def refuse(wrong: np.ndarray, reason: str) -> None:
            if wrong.any():
                k = int(np.argmax(wrong))
                raise PTXError(
                    f"line {instruction.line}: thread {active[k]} of block {self.block}: address"
                    f" {int(addresses[k]):#x} {reason}: {instruction.text}"
                )

        refuse(addresses % np.uint64(size) != 0, "is misaligned")
        if space == "local":
            outside = (offsets < 0) | (offsets + size > self.local_bytes)
            offsets = offsets + active * self.local_bytes
        else:
            outside = (offsets < 0) | (offsets + size > data.size)
        inside = np.where(outside, 0, offsets)
        outside |= ~(allowed[inside] & allowed[inside + size - 1])
        refuse(outside, f"is outside every buffer of {space} memory")
        if written is not None:
            touched = offsets[:, None] + np.arange(size)
            if writes:
                written[touched] = True
            else:
                refuse(~written[touched].all(axis=1), f"of {space} memory is read, and nobody wrote there")
        if space in self.accesses:
            self.accesses[space].add(offsets, size, active, instruction.line, writes, orders)
        return data, offsets
