"""Classes whose place in pickles names a digest of the kernels' sources.

A user's own ``@njit(cache=True)`` function that calls a step function contains its machine code, and Numba
asks only whether the user's file has changed. The types of the arguments are part of the key of such an
entry, with the class of the weights among them. So that a changed library is compiled anew, that class is
pickled under a name that holds a digest of all sources that can be in a kernel: the class of another version
is another class.
"""

import functools
import hashlib
from typing import Any

from numbarnn.jit.compile_cache import PACKAGE, shared_digest

DIGITS = 16  # of the digest, in a name
# Inlined into users' functions, and in no kernel of the library.
SOURCES_OF_USERS = ("kernels.py",)

_classes: dict[str, type] = {}


@functools.cache
def digest_of_steps() -> str:
    """The digest of every source whose code may be inlined into a user's function."""
    digest = hashlib.sha256(shared_digest().encode())
    for name in SOURCES_OF_USERS:
        path = PACKAGE / name
        digest.update(path.read_bytes() if path.exists() else b"")
    return digest.hexdigest()[:DIGITS]


def stamped(weights_class: type) -> Any:
    """The NamedTuple class itself, to be found here under its name with the digest behind it."""
    _classes[weights_class.__name__] = weights_class
    weights_class.__module__ = __name__
    weights_class.__qualname__ = f"{weights_class.__name__}_{digest_of_steps()}"
    return weights_class


@functools.cache
def _of_another_version(name: str, weights_class: type) -> type:
    """What stands for the class of another version: Numba finds that no argument is of it."""

    def make(_: type, *values: Any) -> Any:
        return weights_class(*values)  # weights that were pickled are weights still

    return type(name, (weights_class,), {"__new__": make, "__module__": __name__})


def __getattr__(name: str) -> type:
    base, _, digest = name.rpartition("_")
    if base not in _classes:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    known = _classes[base]
    return known if digest == digest_of_steps() else _of_another_version(name, known)
