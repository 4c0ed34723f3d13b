"""The uses of ``odd_sizes.py`` with every access to an array checked, those to a kernel's own arrays too.

    NUMBA_DISABLE_JIT=1 python tests/checked_accesses.py
    NUMBA_BOUNDSCHECK=1 NUMBA_FULL_TRACEBACKS=1 NUMBARNN_CACHE_DIR=... python tests/checked_accesses.py

Without the compiler a vector is checked where it is read or written, and a number by NumPy. With the compiler
Numba checks the numbers, and compiles every kernel anew for it, hence a folder of its own for the cache;
kernels raise nothing, so that what it finds is printed only. Both take minutes. ``--every 9`` takes every
ninth use, ``--sharing rows`` or ``units`` has three threads share the work so.
"""

import argparse
import sys

import odd_sizes
from numba.core import config

import numbarnn
from numbarnn.jit import vector_memory
from numbarnn.jit.cpu import lanes


def checked(access, has_count):
    """A function of ``vector_memory.py`` that raises an IndexError instead of going past an array's ends."""

    def check(array, index, *rest):
        count = rest[-1] if has_count else lanes(array.dtype)
        if count > 0 and not 0 <= index <= array.size - count:
            raise IndexError(f"{access.__name__}: {count} numbers from {index} on, of {array.size}")
        return access(array, index, *rest)

    return check


def check_vectors():
    """Have the library, which must not be compiled, check each vector; the others are made of these four."""
    four = ("load", "store", "load_part", "store_part")
    checks = {getattr(vector_memory, name): name.endswith("part") for name in four}
    checks = {access: checked(access, has_count) for access, has_count in checks.items()}
    for module in [module for name, module in sys.modules.items() if name.startswith("numbarnn")]:
        for name, value in list(vars(module).items()):
            if callable(value) and value.__hash__ is not None and value in checks:
                setattr(module, name, checks[value])


def main(arguments):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--sharing", choices=odd_sizes.SHARING, default="none")
    options = parser.parse_args(arguments)
    if config.DISABLE_JIT:
        check_vectors()
    elif not config.BOUNDSCHECK:
        parser.error("NUMBA_DISABLE_JIT=1 or NUMBA_BOUNDSCHECK=1 must be set")
    for module, name, value in odd_sizes.SHARING[options.sharing]:
        setattr(module, name, value)
    numbarnn.set_num_threads(1 if options.sharing == "none" else 3)
    count = 0
    for use in list(odd_sizes.uses(other_cells=True))[:: options.every]:
        try:
            use.run()
        except Exception as error:
            raise RuntimeError(use.name) from error
        count += 1
    print(f"{count} uses, all accesses within their arrays")


if __name__ == "__main__":
    main(sys.argv[1:])
