"""Fork and join inside compiled code: parts of a kernel side by side on threads that wait in compiled code.

A kernel calls ``fork(team, parts, body, arguments)``. It publishes a job, `body` and its arguments, on the
team's board; the caller and every worker of the team that is awake take parts until none is left. Nobody
holds the interpreter's lock, so that a fork costs about a microsecond, and a worker that is late (asleep, or
without a core) costs nothing: the others do its parts. What a part computes must not depend on who runs it.

The board is an int64 array. Its first word holds the number of the job and of the parts not yet taken, so
that one compare-exchange both takes a part and makes sure that the job is still the same: as long as a taken
part is not done, the caller waits, and the job's arguments live.

In place of a team a kernel may get a *record* (see ``program.py``): then it runs nothing, and writes down
what it would have run.
"""

import hashlib
import sys

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic, overload

from numbarnn.engine.atomics import atomic_add, atomic_load, atomic_store, compare_exchange
from numbarnn.engine.compile_cache import STEP_OPTIONS, inlined, kernel
from numbarnn.engine.simd import element_pointer
from numbarnn.engine.tile import SHARED

# Words of the board, each on a cache line of its own.
JOB, DONE, FUNCTION, ARGUMENTS = 0, 8, 16, 24
BOARD_WORDS = 32
PART_BITS = 32
PART_MASK = (1 << PART_BITS) - 1

# Looks at the board before the processor is offered to another thread: the system may have put the very
# thread that we wait for on our own core.
LOOKS_BEFORE_YIELD = 1000

# A team of one: parts run one after the other.
ALONE = np.zeros(0, np.int64)

# Words of a record: the function of a part, how many parts, where the record itself lies, and from the fourth
# on the arguments. It is longer than a board, which tells the two apart.
RECORD_FUNCTION, RECORD_PARTS, RECORD_ADDRESS, RECORD_ARGUMENTS = 0, 1, 2, 4
RECORD_WORDS = 512
WORD_BYTES = 8


_yield_processor = types.ExternalFunction(
    "SwitchToThread" if sys.platform == "win32" else "sched_yield", types.int32()
)


def fork(team, parts, body, arguments):
    """Run ``body(part, arguments)`` for every part, side by side; return when all are done.

    Parameters
    ----------
    team : int64 array
        The board of a team of threads, or `ALONE`, or a record to write down.
    parts : int
        How many parts there are.
    body : function
        An `inlined` function that returns nothing.
    arguments : tuple
        What all parts get.
    """
    for part in range(parts):
        body(part, arguments)


@overload(fork, jit_options=STEP_OPTIONS)
def _overload_fork(team, parts, body, arguments):
    def fork_and_join(team, parts, body, arguments):
        if team.size > BOARD_WORDS:
            team[RECORD_FUNCTION], team[RECORD_ADDRESS] = _write_down(body, arguments, team)
            team[RECORD_PARTS] = parts
        else:
            function, captured = _capture(body, arguments)
            run_parts(team, parts, function, captured)

    return fork_and_join


@inlined
def run_parts(team, parts, function, captured):
    """Run a function of parts, given as addresses of itself and its arguments; return when all are done."""
    if parts == 1 or team.size == 0:
        for part in range(parts):
            _call_part(function, captured, part)
        return
    team[FUNCTION] = function
    team[ARGUMENTS] = captured
    atomic_store(team, DONE, 0)
    job = (atomic_load(team, JOB) >> PART_BITS) + 1
    atomic_store(team, JOB, (job << PART_BITS) + parts)
    take_parts(team)
    looks = 0
    while atomic_load(team, DONE) < parts:
        looks += 1
        if looks == LOOKS_BEFORE_YIELD:
            looks = 0
            _yield_processor()


@inlined
def take_parts(team):
    """Run parts of the present job until none is left; whether there was one."""
    took_one = False
    while True:
        word = atomic_load(team, JOB)
        left = word & PART_MASK
        if left == 0:
            return took_one
        if compare_exchange(team, JOB, word, word - 1):
            _call_part(team[FUNCTION], team[ARGUMENTS], left - 1)
            atomic_add(team, DONE, 1)
            took_one = True


@kernel
def serve(team, idle_looks):
    """A worker's life while it is awake: take parts, until for so many looks there was none."""
    idle = 0
    while idle < idle_looks:
        idle = 0 if take_parts(team) else idle + 1


@intrinsic
def _capture(typingctx, body, arguments):
    """(address of a function of a part, address of its arguments), for `_call_part`.

    The arguments lie on the stack of the function that this stands in.
    """
    call = body.get_call_type(typingctx, (types.intp, arguments), {})
    pair = types.UniTuple(types.intp, 2)

    def codegen(context, builder, sig, args):
        function = _part_function(context, builder.module, body, call, arguments)
        memory = cgutils.alloca_once_value(builder, args[1])
        memory.align = WORD_BYTES
        word = context.get_value_type(types.intp)
        addresses = [builder.ptrtoint(pointer, word) for pointer in (function, memory)]
        return context.make_tuple(builder, pair, addresses)

    return pair(body, arguments), codegen


@intrinsic
def _write_down(typingctx, body, arguments, record):
    """As `_capture`, with the arguments copied into a record; (address of the function, of the record)."""
    call = body.get_call_type(typingctx, (types.intp, arguments), {})
    pair = types.UniTuple(types.intp, 2)

    def codegen(context, builder, sig, args):
        size = context.get_abi_sizeof(context.get_value_type(arguments))
        if size > (RECORD_WORDS - RECORD_ARGUMENTS) * WORD_BYTES:
            raise ValueError(f"{body}: {size} bytes of arguments do not fit a record")
        function = _part_function(context, builder.module, body, call, arguments)
        word = context.get_value_type(types.intp)
        first = element_pointer(context, builder, record, args[2], ir.Constant(word, 0))
        memory = element_pointer(context, builder, record, args[2], ir.Constant(word, RECORD_ARGUMENTS))
        lasting = _without_owners(context, builder, arguments, args[1])
        builder.store(lasting, builder.bitcast(memory, lasting.type.as_pointer()), align=WORD_BYTES)
        addresses = [builder.ptrtoint(pointer, word) for pointer in (function, first)]
        return context.make_tuple(builder, pair, addresses)

    return pair(body, arguments, record), codegen


def _without_owners(context, builder, value_type, value):
    """Arguments whose arrays own nothing: the owners that Numba made for this call are gone after it, and
    compiled code would count references in freed memory."""
    if isinstance(value_type, types.BaseTuple):
        values = zip(value_type, cgutils.unpack_tuple(builder, value), strict=True)
        return context.make_tuple(
            builder, value_type, [_without_owners(context, builder, kind, part) for kind, part in values]
        )
    if isinstance(value_type, types.Array):
        array = context.make_array(value_type)(context, builder, value)
        array.meminfo = ir.Constant(array.meminfo.type, None)
        array.parent = ir.Constant(array.parent.type, None)
        return array._getvalue()
    return value


def _part_function(context, module, body, call, arguments):
    """A function ``(part, address of arguments)`` in Numba's calling convention, around `body`."""
    kind = context.call_conv.get_function_type(types.none, (types.intp, types.intp))
    # One name, one function: see SHARED.
    python_function = body.typing_key
    said = f"{python_function.__module__}.{python_function.__qualname__}{arguments}"
    name = f"numbarnn_part_{hashlib.sha256(said.encode()).hexdigest()}"
    function = cgutils.get_or_insert_function(module, kind, name)
    if not function.is_declaration:
        return function
    function.linkage = SHARED
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    part, address = context.call_conv.get_arguments(function)
    value_type = context.get_value_type(arguments)
    value = builder.load(builder.inttoptr(address, value_type.as_pointer()), align=WORD_BYTES)
    context.get_function(body, call)(builder, (part, value))
    context.call_conv.return_value(builder, context.get_dummy_value())
    return function


@intrinsic
def _call_part(typingctx, function, captured, part):
    """Call what `_capture` gave. Kernels raise nothing, so the status that comes back says nothing."""

    def codegen(context, builder, sig, args):
        kind = context.call_conv.get_function_type(types.none, (types.intp, types.intp))
        function = builder.inttoptr(args[0], kind.as_pointer())
        result = cgutils.alloca_once(builder, kind.args[0].pointee)
        error = cgutils.alloca_once(builder, kind.args[1].pointee)
        builder.call(function, [result, error, args[2], args[1]])
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, types.intp), codegen
