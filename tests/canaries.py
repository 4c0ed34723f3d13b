"""An allocator for NumPy that puts canaries around every array, and finds those that were written over.

NumPy takes the memory of all arrays from here while `canaries` lasts (its NEP 49): those that the library
makes, whatever function makes them, those that a test hands in, and those that come back. Around each array
stand `BORDER` bytes of a pattern, from the first byte on that is not the array's. The pattern is NaN in
either dtype, and so is what an array begins with that was not asked to be zeros: what reads it gives other
results. Memory that was given back is filled with the pattern too, and kept until the end, so that a write to
it is found.

What a kernel allocates for itself does not come from NumPy, nor does its stack: for these there are the
checked accesses of ``checked_accesses.py``.
"""

import contextlib
import ctypes
import functools
from typing import Any, NamedTuple

import numba
import numpy as np
from numba.core import types

from numbarnn.engine import packing
from numbarnn.jit.addresses import array_at
from numbarnn.jit.compile_cache import kernel

ALIGNMENT = 64  # of each array: more than the library asks for, so that it leaves no gaps of its own
HEADER = 64
BORDER = 1024
# A pattern is 4 bytes long, by the address. The upper two make it NaN; the lower two are the block's number,
# lest what was copied from canary to canary is not seen.
NAN = 0xFFFF0000

STATE_WORDS = 8
NEWEST, IS_ON, COUNT, DAMAGED, SIZE, OFFSET = range(6)  # of the state; the last three: the first damage
OLDER, NEWER, BYTES, RAW, NUMBER, IS_FREE = range(6)  # of a block's header

_take = types.ExternalFunction("malloc", types.intp(types.intp))
_give_back = types.ExternalFunction("free", types.void(types.intp))

_WORD, _BYTE = np.zeros(0, np.int64), np.zeros(0, np.uint8)


@kernel
def _words(address, count):
    return array_at(address, 1, count, _WORD)[0]


@kernel
def _fill(address, size, number):
    pattern, memory = NAN | (number & 0xFFFF), array_at(address, 1, size, _BYTE)[0]
    for i in range(size):
        memory[i] = (pattern >> (8 * ((address + i) & 3))) & 0xFF


@kernel
def _first_change(address, size, number):
    """The first byte that is not of the pattern, or -1."""
    pattern, memory = NAN | (number & 0xFFFF), array_at(address, 1, size, _BYTE)[0]
    for i in range(size):
        if memory[i] != (pattern >> (8 * ((address + i) & 3))) & 0xFF:
            return i
    return -1


@kernel
def _check(state, header):
    """Note the first damage to a block's borders, or to all of it where it was given back."""
    block = _words(header, HEADER // 8)
    data, size, number = header + HEADER + BORDER, block[BYTES], block[NUMBER]
    before = _first_change(data - BORDER, BORDER, number)
    behind = _first_change(data + size, BORDER, number)
    inside = _first_change(data, size, number) if block[IS_FREE] else -1
    if before >= 0 or behind >= 0 or inside >= 0:
        if state[DAMAGED] == 0:
            state[SIZE] = size
            state[OFFSET] = before - BORDER if before >= 0 else inside if inside >= 0 else size + behind
        state[DAMAGED] += 1
        _fill(data - BORDER, BORDER, number)
        _fill(data + size, BORDER, number)


@kernel
def _unlink(state, header):
    block = _words(header, HEADER // 8)
    if block[NEWER]:
        _words(block[NEWER], HEADER // 8)[OLDER] = block[OLDER]
    else:
        state[NEWEST] = block[OLDER]
    if block[OLDER]:
        _words(block[OLDER], HEADER // 8)[NEWER] = block[NEWER]
    _give_back(block[RAW])


@kernel
def _make(state, size):
    raw = _take(size + ALIGNMENT + HEADER + 2 * BORDER)
    header = (raw + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT
    block = _words(header, HEADER // 8)
    block[:] = 0
    block[OLDER], block[BYTES], block[RAW], block[NUMBER] = state[NEWEST], size, raw, state[COUNT]
    if state[NEWEST]:
        _words(state[NEWEST], HEADER // 8)[NEWER] = header
    state[NEWEST] = header
    state[COUNT] += 1
    _fill(header + HEADER, size + 2 * BORDER, block[NUMBER])
    return header + HEADER + BORDER


@kernel
def _free(state, data):
    header = data - BORDER - HEADER
    block = _words(header, HEADER // 8)
    _check(state, header)
    if state[IS_ON]:
        block[IS_FREE] = 1
        _fill(data, block[BYTES], block[NUMBER])
    else:
        _unlink(state, header)


@kernel
def _check_all(state, release):
    """Check all blocks; `release` those that were given back."""
    header = state[NEWEST]
    while header:
        block = _words(header, HEADER // 8)
        _check(state, header)
        here, header = header, block[OLDER]
        if release and block[IS_FREE]:
            _unlink(state, here)


def _functions():
    """The addresses of what NumPy calls. Each gets the address of the state; a pointer is a whole number."""

    @numba.cfunc("int64(int64, int64)")
    def allocate(state, size):
        return _make(_words(state, STATE_WORDS), size)

    @numba.cfunc("int64(int64, int64, int64)")
    def allocate_zeros(state, count, item):
        data = _make(_words(state, STATE_WORDS), count * item)
        array_at(data, 1, count * item, _BYTE)[0, :] = 0
        return data

    @numba.cfunc("int64(int64, int64, int64)")
    def reallocate(state, data, size):
        words = _words(state, STATE_WORDS)
        new = _make(words, size)
        if data:
            known = min(size, _words(data - BORDER - HEADER, HEADER // 8)[BYTES])
            array_at(new, 1, known, _BYTE)[0, :] = array_at(data, 1, known, _BYTE)[0]
            _free(words, data)
        return new

    @numba.cfunc("void(int64, int64, int64)")
    def free(state, data, size):
        if data:
            _free(_words(state, STATE_WORDS), data)

    return allocate, allocate_zeros, reallocate, free


class _Handler(ctypes.Structure):
    """NumPy's PyDataMem_Handler."""

    _fields_ = [
        ("name", ctypes.c_char * 127),
        ("version", ctypes.c_uint8),
        ("state", ctypes.c_void_p),
        *((name, ctypes.c_void_p) for name in ("malloc", "calloc", "realloc", "free")),
    ]


_STATE = np.zeros(STATE_WORDS, np.int64)
_SET_HANDLER = 304  # its place in NumPy's table of functions
_NAME = b"mem_handler"  # which NumPy looks for


class _Allocator(NamedTuple):
    """The handler for NumPy, and all that must live as long as an array that was made by it."""

    capsule: Any
    handler: _Handler
    functions: tuple


@functools.cache
def _allocator():
    """Compiled where it is used, not where this is imported."""
    functions = _functions()
    handler = _Handler(b"canaries", 1, _STATE.ctypes.data, *(function.address for function in functions))
    new = ctypes.pythonapi.PyCapsule_New
    new.restype, new.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
    return _Allocator(new(ctypes.addressof(handler), _NAME, None), handler, functions)


def _set_handler(capsule):
    """Have NumPy use a handler from now on; the one before."""
    get_pointer = ctypes.pythonapi.PyCapsule_GetPointer
    get_pointer.restype, get_pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    table = get_pointer(np._core.multiarray._ARRAY_API, None)
    address = ctypes.cast(table, ctypes.POINTER(ctypes.c_void_p))[_SET_HANDLER]
    return ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.py_object)(address)(capsule)


class Damage(AssertionError):
    """Something wrote to memory that was not an array's."""


class Canaries(NamedTuple):
    """What `canaries` gives."""

    first: int

    @property
    def arrays(self) -> int:
        """How many arrays have been made."""
        return int(_STATE[COUNT]) - self.first

    def check(self, release: bool = False) -> None:
        """Raise a `Damage` if any canary is not as it was."""
        _check_all(_STATE, release)
        damaged, size, offset = (int(_STATE[word]) for word in (DAMAGED, SIZE, OFFSET))
        _STATE[DAMAGED] = 0
        if damaged:
            raise Damage(
                f"{damaged} arrays have damaged borders, or were written to after their end of life; the"
                f" first of them has {size} bytes, and byte {offset} was written"
            )


@contextlib.contextmanager
def canaries():
    """Within, all arrays that this thread makes have canaries; at the end all are looked at."""
    before, alignment = _set_handler(_allocator().capsule), packing.ALIGNMENT
    # The library would look for an aligned place in a larger array: here all are aligned.
    packing.ALIGNMENT = 1
    _STATE[IS_ON] = 1
    watch = Canaries(int(_STATE[COUNT]))
    try:
        yield watch
    finally:
        packing.ALIGNMENT = alignment
        _STATE[IS_ON] = 0
        _set_handler(before)
        watch.check(release=True)
