"""What the driver asks of a launch."""

MOST_THREADS, MOST_BLOCKS = 1024, (1 << 31) - 1
REGISTERS = 65_536  # of a multiprocessor
PARTS = 4  # of a multiprocessor: each has a quarter of the registers, and the same number of warps
WARP = 32  # threads
SHARED_MEMORY = 48 * 1024  # of a block, static and dynamic, where no more was asked for
# Shared memory that a block can have where it was asked for, by compute capability.
MOST_SHARED_MEMORY = {
    (7, 5): 65_536, (8, 0): 166_912, (9, 0): 232_448, (10, 0): 232_448, (12, 0): 101_376,
}  # fmt: skip


class LaunchError(Exception):
    """The driver would refuse this launch."""


def check_launch(
    capability: tuple[int, int],
    blocks: int,
    threads: int,
    registers: int,
    static_bytes: int,
    dynamic_bytes: int,
    allowed_bytes: int | None,
) -> None:
    """Raise a LaunchError where the driver would refuse.

    Parameters
    ----------
    capability : tuple of int
        Compute capability of the GPU.
    blocks, threads : int
        Of the launch.
    registers : int
        The most that the compiler may give a thread.
    static_bytes, dynamic_bytes : int
        Shared memory of the kernel's own arrays, and what the launch asks for beside it.
    allowed_bytes : int or None
        CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES of the kernel, where it was set.
    """
    allowed = SHARED_MEMORY - static_bytes if allowed_bytes is None else allowed_bytes
    shared = f"{dynamic_bytes} bytes of shared memory beside {static_bytes} static ones"
    if not (1 <= threads <= MOST_THREADS and 1 <= blocks <= MOST_BLOCKS):
        raise LaunchError(f"{blocks} blocks of {threads} threads")
    warps = -(-threads // (WARP * PARTS)) * PARTS
    if registers * warps * WARP > REGISTERS:
        raise LaunchError(f"{threads} threads of {registers} registers")
    if static_bytes > SHARED_MEMORY or static_bytes + allowed > MOST_SHARED_MEMORY[capability]:
        raise LaunchError(f"{shared}: more than this GPU has")
    if dynamic_bytes > allowed:
        raise LaunchError(f"{shared}: {allowed} are allowed")
