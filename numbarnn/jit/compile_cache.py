"""How kernels are compiled, and the disk cache that spares the second start of a program the wait.

Three decorators make every compiled function of the package:

- ``@kernel``: called from Python; lazily compiled, releases the GIL, cached on disk.
- ``@inlined``: called from kernels only; a plain Python function that the compiler inlines.
- ``@noinline``: the same for long functions, which stay functions of their own.

Numba's own cache keys a function by its own source file, so an edit of a cell would leave a stale time
loop behind. Here every entry is stamped with a digest of all sources that can be inlined into a kernel.
The cache is private API of Numba; ``tests/test_compile_cache.py`` pins what is used of it.
"""

import contextlib
import functools
import hashlib
import os
import pickle
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numba
from numba.core import caching
from numba.core.runtime import rtsys
from numba.extending import overload
from numba.misc.appdirs import AppDirs

from numbarnn.jit.linked_compiler import LINKED_OPTIONS

PACKAGE = Path(__file__).resolve().parent.parent
SHARED_SOURCES = (
    "jit",
    "engine",
    "cells",
)  # folders whose code is inlined into kernels anywhere in the package

# error_model: division must not raise, or loops with a division stay scalar. fastmath: none, so that
# every sum has one order and NaN stays NaN; products are contracted by explicit fma calls.
INLINED_OPTIONS: dict[str, Any] = {"error_model": "numpy", "forceinline": True, **LINKED_OPTIONS}
# A function of its own: it has scratch on its stack.
STEP_OPTIONS: dict[str, Any] = {"error_model": "numpy", "no_cfunc_wrapper": True}
KERNEL_OPTIONS: dict[str, Any] = {"error_model": "numpy", "nogil": True}


def cache_directory() -> Path | None:
    """The folder of the compile cache, or None where no folder is writable.

    ``NUMBARNN_CACHE_DIR`` comes first, then ``NUMBA_CACHE_DIR``, the user's cache folder and, for a
    home that cannot be written, the system's folder of temporary files.
    """
    named = os.environ.get("NUMBARNN_CACHE_DIR") or os.environ.get("NUMBA_CACHE_DIR")
    user = f"numbarnn-{os.getuid()}" if hasattr(os, "getuid") else "numbarnn"
    candidates = [named] if named else [AppDirs("numbarnn", appauthor=False).user_cache_dir]
    candidates.append(os.path.join(tempfile.gettempdir(), user))
    for candidate in candidates:
        if _is_writable_and_ours(candidate):
            return Path(candidate)
    return None


def _is_writable_and_ours(folder: str) -> bool:
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError:
        return False
    # Cached entries are unpickled: a folder that another user made is not to be trusted.
    return not hasattr(os, "getuid") or os.stat(folder).st_uid == os.getuid()


@functools.cache
def shared_digest() -> str:
    """The digest of every source file whose code may be inlined into a kernel."""
    digest = hashlib.sha256()
    for folder in SHARED_SOURCES:
        for path in sorted((PACKAGE / folder).rglob("*.py")):
            digest.update(path.relative_to(PACKAGE).as_posix().encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


_cache_directory = functools.cache(cache_directory)


class CompileClock:
    """Counts the kernels compiled in this process and the seconds that took; tells listeners.

    Attributes
    ----------
    seconds : float
        Time spent compiling so far.
    kernels : int
        Kernels compiled (not loaded from the cache) so far.
    on_start : list of callable
        Each is called, without arguments, when a kernel is about to be compiled.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self.kernels = 0
        self.on_start: list[Callable[[], None]] = []
        self._started = threading.local()

    def start(self) -> None:
        for listener in self.on_start:
            listener()
        if not hasattr(self._started, "at"):
            self._started.at = []
        self._started.at.append(time.perf_counter())

    def stop(self) -> None:
        began = self._started.at.pop()
        self.kernels += 1
        if not self._started.at:  # the product may be compiled in the midst of a kernel
            self.seconds += time.perf_counter() - began

    @contextlib.contextmanager
    def compiling(self) -> Iterator[None]:
        """A kernel is compiled in here that is kept nowhere; listeners, who promise that, are not told."""
        began = time.perf_counter()
        yield
        self.kernels += 1
        self.seconds += time.perf_counter() - began


compile_clock = CompileClock()


# Called with a kernel's signature before it is loaded from the cache.
before_loading: list[Callable[[Any], None]] = []


def cache_folder_of(source: str) -> str | None:
    """Where the entries of a source file lie; None where nothing can be kept."""
    root = _cache_directory()
    # Two installations must not overwrite each other's entries, hence the source folder's name.
    return None if root is None else str(root / caching._CacheLocator.get_suitable_cache_subpath(source))


# What reading a damaged entry can raise; pickle promises no shorter list.
DAMAGE = (OSError, pickle.UnpicklingError, EOFError, AttributeError, ImportError, IndexError, KeyError,
          TypeError, ValueError)  # fmt: skip


def load_quietly(load: Callable[[], Any]) -> Any:
    """What `load` returns, or None where the entry is damaged or cannot be read: it is compiled again."""
    try:
        return load()
    except DAMAGE:
        return None


def save_quietly(file: caching.IndexDataCacheFile, save: Callable[[], None]) -> None:
    """Save an entry, over a damaged index if need be; a cache that cannot be written only costs time."""
    try:
        os.makedirs(file._cache_path, exist_ok=True)
        save()
    except DAMAGE:
        with contextlib.suppress(OSError):
            file.flush()
            save()


class _Locator(caching._CacheLocator):
    """Places a kernel's entries in our own folder, stamped with all sources it may contain."""

    def __init__(self, py_func, py_file):
        self._py_file = py_file
        self._lineno = py_func.__code__.co_firstlineno

    def get_cache_path(self):
        return cache_folder_of(self._py_file)

    def get_source_stamp(self):
        return shared_digest() + hashlib.sha256(Path(self._py_file).read_bytes()).hexdigest()

    def get_disambiguator(self):
        return str(self._lineno)


class _CacheImpl(caching.CompileResultCacheImpl):
    """Numba's own, with our place and stamp whatever locators Numba is told to use."""

    def __init__(self, py_func):
        self._lineno = py_func.__code__.co_firstlineno
        self._locator = _Locator(py_func, py_func.__code__.co_filename)
        self._filename_base = self.get_filename_base(
            f"{py_func.__module__}.{py_func.__qualname__}", getattr(sys, "abiflags", "")
        )


class KernelCache(caching.FunctionCache):
    """Numba's function cache with our stamp; an unwritable or damaged cache only costs a compilation."""

    _impl_class = _CacheImpl

    def load_overload(self, sig, target_context):
        for prepare in before_loading:
            prepare(sig)
        # Numba would load all that it can compile here: a fifth of a second and 10 MB, for machine code that
        # needs no more than Numba's memory functions.
        rtsys.initialize(target_context)
        found = load_quietly(lambda: self._load_overload(sig, target_context))
        if found is None:
            compile_clock.start()
        return found

    def save_overload(self, sig, data):
        compile_clock.stop()
        save_quietly(self._cache_file, lambda: super(KernelCache, self).save_overload(sig, data))


def kernel(function: Callable) -> Callable:
    """Compile `function` on first use, without the GIL, and keep the machine code on disk."""
    compiled = numba.njit(**KERNEL_OPTIONS)(function)
    jit_is_off = compiled is function
    has_file = os.path.exists(function.__code__.co_filename)  # not so in a notebook
    if not jit_is_off and has_file and _cache_directory() is not None:
        compiled._cache = KernelCache(function)
    return compiled


def noinline(function: Callable) -> Callable:
    """Let kernels call `function`, which stays callable as plain Python: for what is long and called seldom.

    An `inlined` function is optimised again in every function around it, which takes time to compile.
    """

    @overload(function, jit_options=STEP_OPTIONS, strict=False)
    def for_the_compiler(*args, **kwargs):
        return function

    return function


def inlined(function: Callable) -> Callable:
    """Let kernels inline `function`, which stays callable as plain Python."""

    @overload(function, jit_options=INLINED_OPTIONS, strict=False, target="generic")
    def for_the_compiler(*args, **kwargs):
        return function

    return function
