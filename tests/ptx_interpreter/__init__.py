"""An interpreter of PTX, the GPU's assembly language, in NumPy: kernels run without a GPU.

    kernel = Kernel(text)
    memory = GlobalMemory([array])
    kernel.run(blocks, threads, dynamic_shared_bytes, [memory.address(array)], memory)
    memory.copy_back()

All threads of a block run at once, as elements of arrays, and each has a program counter of its own. What
hardware leaves undefined is a `PTXError` that names the lines: an address that is misaligned or outside every
buffer, shared or local memory that is read before it was written, a shuffle or a barrier that some of its
threads never reach, and two accesses to one address, one of them a write, with no barrier in between. An
instruction that no kernel of this library has is an error too.

It does not show times, what the assembler makes of the PTX, or the order in which blocks see each other's
writes. Fast approximations (``ex2.approx``, ``rcp.approx``) are computed exactly.

text : parses a kernel.
control_flow : brings its instructions into an order in which threads meet again where branches join.
memory, races : the memories of a block, and their checks.
operands, instructions, transfers : a function of NumPy arrays for each instruction.
block : runs the threads of a block.
"""

from ptx_interpreter.errors import PTXError
from ptx_interpreter.kernel import Kernel
from ptx_interpreter.memory import GlobalMemory

__all__ = ["GlobalMemory", "Kernel", "PTXError"]
