"""The cache of a kernel: Numba's, with a stamp of all sources that the kernel may contain.

The classes that it builds on are private to Numba. ``compile_cache.py`` imports this file only where they are
as they are known here.
"""

import hashlib
import sys
from pathlib import Path

from numba.core import caching, types
from numba.core.runtime import rtsys

from numbarnn.jit.compile_cache import (
    before_loading,
    cache_folder_of,
    compile_clock,
    load_quietly,
    save_quietly,
    shared_digest,
)

OURS = __name__.partition(".")[0]


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


def _is_of_others(sig):
    """Whether a kernel contains a cell that is not the library's: the stamp does not know its source, and a
    process that has not imported its class could read none of the kernel's entries."""
    return any(
        isinstance(kind, types.BaseNamedTuple) and kind.instance_class.__module__.partition(".")[0] != OURS
        for kind in sig
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
        found = None
        if not _is_of_others(sig):
            found = load_quietly(lambda: self._load_overload(sig, target_context))
        if found is None:
            compile_clock.start()
        return found

    def save_overload(self, sig, data):
        compile_clock.stop()
        if not _is_of_others(sig):
            save_quietly(self._cache_file, lambda: super(KernelCache, self).save_overload(sig, data))
