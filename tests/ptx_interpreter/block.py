"""The threads of a block, each with a program counter of its own.

The threads at the lowest counter run until they come to the counter of others, to a branch, a shuffle or a
barrier; see ``control_flow.py`` for why that brings them together again.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ptx_interpreter.errors import PTXError
from ptx_interpreter.instructions import MAKERS
from ptx_interpreter.memory import BlockMemory, GlobalMemory
from ptx_interpreter.operands import Mask, Operands, Source
from ptx_interpreter.races import WARP, Touched
from ptx_interpreter.text import Instruction
from ptx_interpreter.transfers import Shuffle, load, store

MOST_INSTRUCTIONS = 30_000_000  # of a block; more are taken for an endless loop
RUNNING, AT_BARRIER, AT_SHUFFLE, ENDED = range(4)
PLAIN, BRANCH, EXIT, BARRIER, SHUFFLE = range(5)


class Prepared(NamedTuple):
    """An instruction, ready to run."""

    kind: int
    work: Any  # a function of a mask, the target of a branch, or a Shuffle
    guard: Source | None
    line: int


class Block:
    """A kernel, made ready for blocks of so many threads.

    Parameters
    ----------
    text : KernelText
        With its instructions in order.
    layout : Layout
        Of its variables.
    threads : int
    """

    def __init__(self, text: Any, layout: Any, threads: int) -> None:
        self.text, self.layout, self.threads = text, layout, threads
        self.operands = Operands(text.registers, layout.offsets, threads)
        self.program = [self._prepared_or_error(instruction) for instruction in text.instructions]

    def locate(
        self, instruction: Instruction, space: str, addresses: np.ndarray, size: int, active: np.ndarray,
        writes: bool,
    ) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
        """See `BlockMemory.locate`."""
        orders = self._shuffles[active // WARP]
        return self._memory.locate(instruction, space, addresses, size, active, writes, orders)

    def run(
        self,
        block: int,
        blocks: int,
        dynamic_bytes: int,
        parameters: dict[str, np.ndarray],
        memory: GlobalMemory,
    ) -> list[tuple[int, Touched]]:
        """Run a block to its end; what it touched of global memory is returned."""
        self.parameters = parameters
        self._memory = BlockMemory(self.layout, self.threads, dynamic_bytes, memory, block)
        self.operands.start(block, blocks, dynamic_bytes)
        self._counter = np.zeros(self.threads, np.int64)
        self._status = np.full(self.threads, RUNNING)
        self._shuffles = np.zeros(-(-self.threads // WARP), np.int64)  # that each warp has run
        self._touched: list[tuple[int, Touched]] = []
        count = 0
        while not (self._status == ENDED).all():
            running = self._status == RUNNING
            if running.any():
                count += self._advance(running)
            else:
                self._pass_barrier()
            if count > MOST_INSTRUCTIONS:
                raise PTXError(f"no end after {count} instructions")
        self._check_races()
        return self._touched

    def _prepared_or_error(self, instruction: Instruction) -> Prepared:
        try:
            return self._prepared(instruction)
        except (PTXError, KeyError, ValueError, AttributeError, IndexError) as error:
            text = f"line {instruction.line}: {instruction.text}"
            raise PTXError(f"{text}: {error if isinstance(error, PTXError) else repr(error)}") from error

    def _prepared(self, instruction: Instruction) -> Prepared:
        guard = self.operands.predicate(instruction.guard) if instruction.guard else None
        kind, work = self._work_of(instruction)
        return Prepared(kind, work, guard, instruction.line)

    def _work_of(self, instruction: Instruction) -> tuple[int, Any]:
        opcode = instruction.opcode
        if opcode == "bra":
            return BRANCH, self.text.labels[instruction.operands[0]]
        if opcode in ("ret", "exit"):
            return EXIT, None
        if opcode == "bar":
            if (instruction.modifiers, instruction.operands) != (("sync",), ("0",)):
                raise PTXError("only bar.sync 0 is supported")
            return BARRIER, None
        if opcode == "shfl":
            return SHUFFLE, Shuffle(self, instruction)
        if opcode in ("ld", "st"):
            return PLAIN, (load if opcode == "ld" else store)(self, instruction)
        if opcode not in MAKERS:
            raise PTXError("the opcode is not known")
        return PLAIN, MAKERS[opcode](self.operands, instruction)

    def _advance(self, running: np.ndarray) -> int:
        """Run the threads at the lowest counter; how many instructions they ran is returned."""
        begin = at = int(self._counter[running].min())
        group = running & (self._counter == at)
        others = running & ~group
        # Where others wait, they go on together.
        limit = int(self._counter[others].min()) if others.any() else len(self.program)
        mask = None if group.all() else group
        while at < limit and self.program[at].kind == PLAIN:
            _run_plain(self.program[at].work, self.program[at].guard, mask)
            at += 1
        self._counter[group] = at
        if at == len(self.program):
            raise PTXError("threads ran past the end of the kernel")
        if at < limit:
            self._run_control(self.program[at], at, group)
            at += 1
        return at - begin

    def _run_control(self, instruction: Prepared, at: int, group: np.ndarray) -> None:
        """A branch, the end, a barrier or a shuffle."""
        kind, work, guard, line = instruction
        chosen = group if guard is None else guard() & group
        if kind == BRANCH:
            self._counter[group] = at + 1
            self._counter[chosen] = work
        elif kind == EXIT:
            self._counter[group] = at + 1
            self._status[chosen] = ENDED
        elif not np.array_equal(chosen, group):
            raise PTXError(f"line {line}: some threads skip a barrier or a shuffle by its guard")
        elif kind == BARRIER:
            self._status[group] = AT_BARRIER
            self._refuse_parts_of_warps(group, line)
        else:
            self._status[group] = AT_SHUFFLE
            self._shuffle(work, at)

    def _refuse_parts_of_warps(self, group: np.ndarray, line: int) -> None:
        """The threads of a warp must come to bar.sync together."""
        for warp in np.unique(np.flatnonzero(group) // WARP):
            here = slice(warp * WARP, (warp + 1) * WARP)
            if not (group[here] | (self._status[here] == ENDED)).all():
                raise PTXError(f"line {line}: a part of a warp comes to this barrier alone")

    def _shuffle(self, shuffle: Shuffle, at: int) -> None:
        """Let the warps go on whose threads are all here; the others wait."""
        waiting = (self._status == AT_SHUFFLE) & (self._counter == at)
        ready = np.zeros(self.threads, bool)
        for warp in np.unique(np.flatnonzero(waiting) // WARP):
            here = [t for t in range(warp * WARP, min((warp + 1) * WARP, self.threads)) if waiting[t]]
            members = shuffle.members(here[0])
            if any(shuffle.members(thread) != members for thread in here):
                raise PTXError(f"line {shuffle.line}: threads of a warp give different masks to a shuffle")
            if members[-1] >= self.threads or (self._status[members] == ENDED).any():
                raise PTXError(f"line {shuffle.line}: the mask of a shuffle names a thread that is not there")
            if not set(here) <= set(members):
                raise PTXError(f"line {shuffle.line}: the mask of a shuffle leaves out a thread that runs it")
            if waiting[members].all():
                ready[here] = True
                self._shuffles[warp] += len(members) == WARP
        if ready.any():
            shuffle.run(None if ready.all() else ready)
            self._status[ready] = RUNNING
            self._counter[ready] = at + 1

    def _pass_barrier(self) -> None:
        """Nobody can go on: all threads must be at one barrier."""
        at_shuffle, at_barrier = self._status == AT_SHUFFLE, self._status == AT_BARRIER
        if at_shuffle.any():
            raise PTXError(f"shuffles in lines {self._lines(at_shuffle)} wait for threads that never come")
        if not at_barrier.all() or np.unique(self._counter).size != 1:
            ended = int((self._status == ENDED).sum())
            lines = self._lines(at_barrier)
            raise PTXError(f"not all threads reach the barrier in lines {lines}: {ended} have ended")
        self._check_races()
        self._status[...] = RUNNING
        self._counter += 1

    def _lines(self, threads: np.ndarray) -> list[int]:
        return sorted({self.program[at].line for at in self._counter[threads]})

    def _check_races(self) -> None:
        self._memory.accesses["shared"].check()
        self._touched += self._memory.accesses["global"].check()


def _run_plain(work: Callable[[Mask], None], guard: Source | None, mask: Mask) -> None:
    if guard is None:
        work(mask)
        return
    chosen = guard() if mask is None else guard() & mask
    if chosen.any():
        work(None if chosen.all() else chosen)
