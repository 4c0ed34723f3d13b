"""How kernels are compiled, and the disk cache: the second start of a program compiles nothing.

Three decorators make every compiled function of the package:

- ``@kernel``: called from Python; lazily compiled, releases the GIL, cached on disk.
- ``@inlined``: called from kernels only; a plain Python function that the compiler inlines.
- ``@noinline``: the same for long functions, which stay functions of their own.

Numba's own cache keys a function by its own source file, so an edit of a cell would leave a stale time
loop behind. Here every entry is stamped with a digest of all sources that can be inlined into a kernel.
The cache (``kernel_cache.py``) is built on private classes of Numba. Where a Numba has other ones, there is
no cache, and a warning says so; ``tests/test_compile_cache.py`` tells which parts are used.
"""

import contextlib
import functools
import hashlib
import inspect
import logging
import os
import pickle
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numba.core import caching
from numba.core.compiler_lock import global_compiler_lock
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
    for candidate in _candidates():
        if _is_writable_and_ours(candidate):
            return Path(candidate)
    return None


def _candidates() -> Iterator[str]:
    named = os.environ.get("NUMBARNN_CACHE_DIR") or os.environ.get("NUMBA_CACHE_DIR")
    folder = os.path.expanduser(named) if named else _user_cache_folder()
    # An unknown home stays as "~", and a setting may be empty: neither is to mean the working folder.
    if not folder.startswith("~"):
        yield os.path.abspath(folder)
    user = f"numbarnn-{os.getuid()}" if hasattr(os, "getuid") else "numbarnn"
    with contextlib.suppress(FileNotFoundError):  # there is no folder that can be written
        yield os.path.join(tempfile.gettempdir(), user)


def _user_cache_folder() -> str:
    """The user's folder for caches. An empty or relative setting of it counts as none, as its rule has it."""
    wrong = "XDG_CACHE_HOME" in os.environ and not os.path.isabs(os.environ["XDG_CACHE_HOME"])
    if sys.platform.startswith("linux") and wrong:
        return os.path.join(os.path.expanduser("~"), ".cache", "numbarnn")
    return str(AppDirs("numbarnn", appauthor=False).user_cache_dir)


QUIET_LEVEL = logging.INFO  # of Numba while it compiles

# What the cache uses of ``numba.core.caching``: classes, methods and the names of their parameters.
CACHE_PARTS = {
    "_CacheLocator.get_suitable_cache_subpath": ("py_file",),
    "CompileResultCacheImpl.get_filename_base": ("self", "fullname", "abiflags"),
    "FunctionCache.load_overload": ("self", "sig", "target_context"),
    "FunctionCache._load_overload": ("self", "sig", "target_context"),
    "FunctionCache.save_overload": ("self", "sig", "data"),
    "FunctionCache.disable": ("self",),
    "IndexDataCacheFile": ("cache_path", "filename_base", "source_stamp"),
    "IndexDataCacheFile.load": ("self", "key"),
    "IndexDataCacheFile.save": ("self", "key", "data"),
    "IndexDataCacheFile.flush": ("self",),
}
LOCATOR_METHODS = {"get_cache_path", "get_source_stamp", "get_disambiguator"}


def unknown_cache_parts() -> list[str]:
    """What this Numba lacks of `CACHE_PARTS`, or has in another form."""
    unknown = []
    for name, parameters in CACHE_PARTS.items():
        part: Any = caching
        for each in name.split("."):
            part = getattr(part, each, None)
        if part is None or tuple(inspect.signature(part).parameters) != parameters:
            unknown.append(name)
    locator, cache = getattr(caching, "_CacheLocator", None), getattr(caching, "FunctionCache", None)
    if (
        not LOCATOR_METHODS
        <= getattr(locator, "__abstractmethods__", set())
        <= {*LOCATOR_METHODS, "from_function"}
    ):
        unknown.append("_CacheLocator")
    if getattr(cache, "_impl_class", None) is not getattr(caching, "CompileResultCacheImpl", object):
        unknown.append("FunctionCache._impl_class")
    return unknown


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


@functools.cache
def _cache_directory() -> Path | None:
    """`cache_directory`, or None with a warning where Numba's cache is not as it is known here.

    Numba's own cache does not take its place: it would not see changes of the files that a kernel inlines.
    """
    unknown = unknown_cache_parts()
    if unknown:
        warnings.warn(
            f"numbarnn does not know the compile cache of numba {numba.__version__} (it differs in"
            f" {', '.join(unknown)}): kernels are compiled again in every process",
            RuntimeWarning,
            stacklevel=2,
        )
        return None
    folder = cache_directory()
    if folder is None:
        warnings.warn(
            "numbarnn found no folder that it can write to: kernels are compiled again in every process. Name"
            " one in NUMBARNN_CACHE_DIR",
            RuntimeWarning,
            stacklevel=2,
        )
    return folder


def quietly(compile_one: Callable) -> Callable:
    """A dispatcher's method `compile`, without the compiler's notes in a program that logs at DEBUG, which
    are thousands of lines a kernel. Where the user has set a level for the logger "numba", that stands."""
    logger = logging.getLogger("numba")

    @functools.wraps(compile_one)
    def compile_quietly(*arguments: Any) -> Any:
        with global_compiler_lock:
            is_ours = logger.level == logging.NOTSET
            try:
                if is_ours:
                    logger.setLevel(QUIET_LEVEL)
                return compile_one(*arguments)
            finally:
                if is_ours:
                    logger.setLevel(logging.NOTSET)

    return compile_quietly


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


def save_quietly(file: Any, save: Callable[[], None]) -> None:
    """Save an entry, over a damaged index if need be; a cache that cannot be written only costs time."""
    try:
        os.makedirs(file._cache_path, exist_ok=True)
        save()
    except DAMAGE:
        with contextlib.suppress(OSError):
            file.flush()
            save()


def kernel(function: Callable) -> Callable:
    """Compile `function` on first use, without the GIL, and keep the machine code on disk."""
    compiled = numba.njit(**KERNEL_OPTIONS)(function)
    if compiled is function:  # the JIT is off
        # Compiled code wraps whole numbers round, and goes on with NaN, without a word: so does this.
        return np.errstate(all="ignore")(function)
    compiled.compile = quietly(compiled.compile)
    has_file = os.path.exists(function.__code__.co_filename)  # not so in a notebook
    if has_file and _cache_directory() is not None:
        from numbarnn.jit.kernel_cache import KernelCache  # only where Numba's classes are as it knows them

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
