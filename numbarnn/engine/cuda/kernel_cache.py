"""The disk cache of the GPU's kernels: machine code by what it was made of.

Numba caches no kernel that a function makes, and here each is made for a cell, a size and a dtype. So a
kernel is described by the function that it is, and by what stands in its closure: constants, device functions
and intrinsics with closures of their own. With the digest of the sources that kernels are made of, the types
of its arguments, the GPU and the versions of the compilers this names a file, which holds the machine code.
A kernel that has something else in its closure, as the cell of a user, is compiled in every process.
"""

import functools
import hashlib
import importlib.metadata
import inspect
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numba.core import types

from numbarnn.jit.compile_cache import PACKAGE, cache_directory, shared_digest

COMPILERS = ("numba", "numba-cuda", "llvmlite", "cuda-bindings", "cuda-core", "numpy")
PLAIN = (bool, int, float, str, bytes, type(None))


class MachineCode(NamedTuple):
    """A compiled kernel.

    Attributes
    ----------
    name : str
        Its name in the code.
    code : bytes
        For one kind of GPU.
    """

    name: str
    code: bytes


class Unknown(Exception):
    """Something in a closure of which it is not known whether it is the same in another process."""


def machine_code(
    kernel: Any, kinds: tuple[Any, ...], capability: tuple[int, int], compiled: Callable[[], MachineCode]
) -> MachineCode:
    """The code of a kernel for arguments of these types: from the cache, or from the compiler."""
    path = _path_of(kernel, kinds, capability)
    if path is None:
        return compiled()
    found = _load(path)
    if found is None:
        found = compiled()
        _save(path, found)
    return found


def description_of(value: Any) -> Any:
    """What a constant, function or tuple of such is, the same in every process.

    Raises
    ------
    Unknown
        If there is no telling.
    """
    if isinstance(value, PLAIN):
        return [type(value).__name__, repr(value)]
    if isinstance(value, (np.generic, np.dtype)):
        return [type(value).__name__, repr(value)]
    if isinstance(value, (tuple, list)):
        return [type(value).__name__, *map(description_of, value)]
    if isinstance(value, types.Type):
        return ["type", str(value)]
    if isinstance(value, type):
        return ["class", value.__module__, value.__qualname__]
    for inner in ("py_func", "_defn"):  # of a dispatcher, of an intrinsic
        if hasattr(value, inner):
            return [inner, description_of(getattr(value, inner))]
    if inspect.isfunction(value):
        return _function(value)
    raise Unknown(f"{value!r} in the closure of a kernel")


def _function(function: Any) -> list[Any]:
    if not function.__module__.startswith("numbarnn."):
        raise Unknown(f"{function.__qualname__} of {function.__module__}")
    code = function.__code__
    # Lambdas of a file share a name.
    place = [function.__module__, function.__qualname__, code.co_firstlineno, code.co_code.hex()]
    cells = [cell.cell_contents for cell in function.__closure__ or ()]
    return ["function", *place, *map(description_of, cells)]


@functools.cache
def _versions() -> list[str]:
    return [f"{name} {_version(name)}" for name in COMPILERS]


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "none"


@functools.cache
def _folder() -> Path | None:
    root = cache_directory()
    return None if root is None else root / "cuda"


def _path_of(kernel: Any, kinds: tuple[Any, ...], capability: tuple[int, int]) -> Path | None:
    folder = _folder()
    if folder is None:
        return None
    try:
        described = description_of(kernel)
    except Unknown:
        return None
    source = PACKAGE.parent.joinpath(*kernel.py_func.__module__.split(".")).with_suffix(".py")
    parts = [
        described, [str(kind) for kind in kinds], capability, kernel.targetoptions.get("max_registers"),
        shared_digest(), hashlib.sha256(source.read_bytes()).hexdigest(), _versions(),
    ]  # fmt: skip
    key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
    return folder / f"{kernel.py_func.__name__}-{key}"


def _load(path: Path) -> MachineCode | None:
    """What `_save` wrote; None where there is nothing, or nothing whole."""
    try:
        name, digest, code = path.read_bytes().split(b"\n", 2)
    except (OSError, ValueError):
        return None
    if hashlib.sha256(code).hexdigest().encode() != digest:
        return None
    return MachineCode(name.decode(), code)


def _save(path: Path, found: MachineCode) -> None:
    """Write a file that others see whole or not at all; where nothing can be written, do without."""
    digest = hashlib.sha256(found.code).hexdigest()
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            file.write(f"{found.name}\n{digest}\n".encode() + found.code)
        os.replace(file.name, path)
    except OSError:
        return
