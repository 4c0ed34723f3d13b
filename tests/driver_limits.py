"""What the driver asks of a launch, and its error in the tests where one is beyond the limits."""

from typing import Any

MOST_THREADS, MOST_BLOCKS = 1024, (1 << 31) - 1
REGISTERS = 65_536  # of a multiprocessor
SHARED_MEMORY = 48 * 1024  # of a block, static and dynamic, where no more was asked for
# Shared memory that a block can have where it was asked for, by compute capability: 1 KiB of what the
# multiprocessor has is the system's.
MOST_SHARED_MEMORY = {
    (7, 5): 65_536, (8, 0): 166_912, (9, 0): 232_448, (10, 0): 232_448, (12, 0): 101_376,
}  # fmt: skip


class LaunchError(Exception):
    """The driver would refuse this launch."""


class DriverLimits:
    """The limits of a GPU, and what kernels were allowed.

    Parameters
    ----------
    capability : tuple of int
        Of the GPU.
    """

    def __init__(self, capability: tuple[int, int]) -> None:
        self.most_shared_memory = MOST_SHARED_MEMORY[capability]
        self._allowed: dict[Any, int] = {}

    def allow(self, kernel: Any, dynamic_bytes: int) -> None:
        """CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES of a kernel."""
        self._allowed[kernel] = dynamic_bytes

    def check(self, kernel: Any, blocks: int, threads: int, static_bytes: int, dynamic_bytes: int) -> None:
        """Raise a LaunchError where the driver would refuse.

        Parameters
        ----------
        kernel : object
            Its `targetoptions` may have `max_registers`, of a thread.
        blocks, threads : int
            Of the launch.
        static_bytes : int
            Shared memory of the kernel's own arrays.
        dynamic_bytes : int
            Shared memory that the launch asks for.
        """
        registers = kernel.targetoptions.get("max_registers") or 0
        allowed = self._allowed.get(kernel, SHARED_MEMORY - static_bytes)
        if not (1 <= threads <= MOST_THREADS and 1 <= blocks <= MOST_BLOCKS):
            raise LaunchError(f"{blocks} blocks of {threads} threads")
        if registers * threads > REGISTERS:
            raise LaunchError(f"{threads} threads of {registers} registers")
        if static_bytes > SHARED_MEMORY:
            raise LaunchError(f"{static_bytes} bytes of static shared memory")
        if static_bytes + self._allowed.get(kernel, 0) > self.most_shared_memory:
            raise LaunchError(
                f"{allowed} bytes of shared memory were allowed beside {static_bytes} static ones"
            )
        if dynamic_bytes > allowed:
            raise LaunchError(
                f"{dynamic_bytes} bytes of shared memory beside {static_bytes} static ones, where {allowed}"
                " are allowed"
            )
