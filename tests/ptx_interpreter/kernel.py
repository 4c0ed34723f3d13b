"""A kernel that can be run."""

from collections.abc import Sequence

import numpy as np

from ptx_interpreter.block import Block
from ptx_interpreter.control_flow import in_order
from ptx_interpreter.errors import PTXError
from ptx_interpreter.memory import GlobalMemory, Layout
from ptx_interpreter.races import check_blocks
from ptx_interpreter.text import KernelText


class Kernel:
    """A kernel to run, from its PTX.

    Attributes
    ----------
    static_shared_bytes : int
        Shared memory of the kernel's own arrays.
    """

    def __init__(self, text: str) -> None:
        self._text = KernelText(text)
        self._text.instructions, self._text.labels = in_order(self._text.instructions, self._text.labels)
        self._layout = Layout(self._text.variables)
        self.static_shared_bytes = self._layout.static_bytes
        self._blocks: dict[int, Block] = {}  # by the number of threads

    def run(
        self,
        blocks: int,
        threads: int,
        dynamic_shared_bytes: int,
        arguments: Sequence[np.generic],
        memory: GlobalMemory,
    ) -> None:
        """Run all blocks, one after the other.

        Parameters
        ----------
        blocks, threads : int
            Of the grid, and of each block.
        dynamic_shared_bytes : int
            Shared memory of a block beside that of the kernel's own arrays.
        arguments : sequence of NumPy scalars
            One for each parameter; pointers are addresses in `memory`.
        memory : GlobalMemory
            What the kernel reads and writes.

        Raises
        ------
        PTXError
            If what the kernel does is undefined, or the interpreter does not know it.
        """
        parameters = {}
        for (name, dtype), value in zip(self._text.parameters.items(), arguments, strict=True):
            if value.dtype.itemsize != dtype.itemsize:
                raise PTXError(f"parameter {name} is a {dtype}, the argument a {value.dtype}")
            parameters[name] = np.array(value).view(dtype)
        if threads not in self._blocks:
            self._blocks[threads] = Block(self._text, self._layout, threads)
        block = self._blocks[threads]
        with np.errstate(all="ignore"):
            touched = [
                block.run(index, blocks, dynamic_shared_bytes, parameters, memory) for index in range(blocks)
            ]
        check_blocks(touched)
