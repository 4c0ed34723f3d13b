"""The operands of instructions: registers, special registers, constants, addresses of variables.

`Operands.source` and `Operands.target` make a function once, when an instruction is prepared; it is called
whenever the instruction runs. All of a register's numbers, one a thread, are an array. A mask, an array of
bool, says which threads take part; it is None where all do.
"""

import re
import struct
from collections.abc import Callable

import numpy as np

from ptx_interpreter.errors import PTXError
from ptx_interpreter.races import WARP
from ptx_interpreter.text import DTYPES

Mask = np.ndarray | None
Source = Callable[[], np.ndarray]
Target = Callable[[np.ndarray, Mask], None]

WIDTH_64 = (1 << 64) - 1
POISON = 0xB5  # each byte of an integer register that nothing was written to


def unsigned(size: int) -> np.dtype:
    return np.dtype(f"u{size}")


class Operands:
    """The registers of a block's threads, and what else an operand can mean.

    Parameters
    ----------
    registers : dict of str to dtype
        The kernel's.
    offsets : dict of str to int
        Of its variables.
    threads : int
        Of the block.
    """

    def __init__(self, registers: dict[str, np.dtype], offsets: dict[str, int], threads: int) -> None:
        self.threads = threads
        self.registers = {name: np.zeros(threads, dtype) for name, dtype in registers.items()}
        self.offsets = offsets
        thread = np.arange(threads, dtype=np.uint32)
        self.special = {
            "%tid.x": thread, "%ntid.x": np.uint32(threads), "%laneid": thread % np.uint32(WARP),
            "%ctaid.x": np.zeros(1, np.uint32), "%nctaid.x": np.zeros(1, np.uint32),
            "%dynamic_smem_size": np.zeros(1, np.uint32),
        }  # fmt: skip
        for axis in ("y", "z"):
            self.special |= {f"%tid.{axis}": np.uint32(0), f"%ntid.{axis}": np.uint32(1)}
            self.special |= {f"%ctaid.{axis}": np.uint32(0), f"%nctaid.{axis}": np.uint32(1)}

    def start(self, block: int, blocks: int, dynamic_bytes: int) -> None:
        """Begin a block: no register has a number that anybody may count on."""
        self.special["%ctaid.x"][...] = block
        self.special["%nctaid.x"][...] = blocks
        self.special["%dynamic_smem_size"][...] = dynamic_bytes
        for register in self.registers.values():
            if register.dtype.kind == "f":
                register[...] = np.nan
            elif register.dtype != np.bool_:
                register.view(np.uint8)[...] = POISON

    def spread(self, values: np.ndarray) -> np.ndarray:
        """A number for each thread."""
        return np.broadcast_to(values, (self.threads,))

    def active(self, mask: Mask) -> np.ndarray:
        """The indices of the threads that take part."""
        return np.arange(self.threads) if mask is None else np.flatnonzero(mask)

    def source(self, text: str, dtype: np.dtype) -> Source:
        """A function that gives the operand's numbers."""
        if text in self.special:
            special = self.special[text]
            return lambda: special.astype(dtype)
        if text.startswith("%"):
            return self._register(text, dtype)
        value = np.frombuffer(self._constant(text, dtype.itemsize), dtype)[0]
        return lambda: value

    def predicate(self, text: str) -> Source:
        """The same of ``%p1`` or ``!%p1``."""
        predicate = self.source(text.lstrip("!"), DTYPES["pred"])
        return (lambda: ~predicate()) if text.startswith("!") else predicate

    def _register(self, name: str, dtype: np.dtype) -> Source:
        register = self.registers[name]
        if (register.dtype == np.bool_) != (dtype == np.bool_) or register.itemsize < dtype.itemsize:
            raise PTXError(f"register {name} cannot be read as {dtype}")
        if register.itemsize == dtype.itemsize:
            view = register.view(dtype)
            return lambda: view
        whole, narrow = register.view(unsigned(register.itemsize)), unsigned(dtype.itemsize)
        return lambda: whole.astype(narrow).view(dtype)

    def _constant(self, text: str, size: int) -> bytes:
        """The bytes of a number that is written out, or of a variable's address."""
        if text in self.offsets:
            return self.offsets[text].to_bytes(size, "little")
        if found := re.fullmatch(r"0[fF]([0-9a-fA-F]{8})", text):
            packed = struct.pack("<I", int(found[1], 16))
        elif found := re.fullmatch(r"0[dD]([0-9a-fA-F]{16})", text):
            packed = struct.pack("<Q", int(found[1], 16))
        elif re.fullmatch(r"-?(0[xX][0-9a-fA-F]+|\d+)", text):
            return (int(text, 0) & ((1 << 8 * size) - 1)).to_bytes(size, "little")
        else:
            raise PTXError(f"operand {text}")
        if len(packed) != size:
            raise PTXError(f"operand {text} for a number of {size} bytes")
        return packed

    def target(self, name: str, dtype: np.dtype) -> Target:
        """A function of numbers and a mask that writes a register; a wider one is filled up."""
        if name == "_":
            return lambda values, mask: None
        register = self.registers[name]
        if (register.dtype == np.bool_) != (dtype == np.bool_) or register.itemsize < dtype.itemsize:
            raise PTXError(f"register {name} cannot take {dtype}")
        same_size = register.itemsize == dtype.itemsize
        bits = dtype if dtype.kind in "iu" else unsigned(dtype.itemsize)
        wide = np.dtype(f"{bits.kind}{register.itemsize}")
        view = register.view(dtype) if same_size else register.view(wide)

        def write(values: np.ndarray, mask: Mask) -> None:
            if not same_size:
                values = np.asarray(values, dtype).view(bits).astype(wide)
            np.copyto(view, values, where=True if mask is None else mask)

        return write

    def address(self, text: str) -> Source:
        """The addresses that an operand such as ``[%rd1+4]`` means."""
        name, sign, number = re.fullmatch(r"\[([%\w$.@]+)(?:([+-]{1,2})(\w+))?\]", text).groups()
        distance = int(number or "0", 0) * (-1 if "-" in (sign or "") else 1)
        offset = np.uint64(distance & WIDTH_64)
        if name.startswith("%"):
            base = self.source(name, unsigned(self.registers[name].itemsize))
            return lambda: base().astype(np.uint64) + offset
        fixed = np.full(self.threads, np.uint64(self.offsets[name]) + offset)
        return lambda: fixed
