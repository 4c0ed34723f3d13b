"""Fork and join inside compiled code: parts of a kernel in parallel on threads that wait in compiled code.

A kernel calls ``fork(team, parts, body, *arguments)``. It publishes a job, `body` and its arguments, on the
team's board; the caller and every worker of the team that is awake take parts until none is left. No
thread holds the interpreter's lock, so that a fork costs about a microsecond, and a worker that is late
(asleep, or without a core) costs nothing: the others do its parts. What a part computes must not depend on
who runs it.

The board is an int64 array. Its first word holds the number of the job and the parts not yet taken, so that
one compare-exchange both takes a part and makes sure that the job is still the same: as long as a taken part
is not done, the caller waits, and the job's arguments stay valid.

Every thread has a part of its own that it takes first, the same at every fork, for it has what that part
worked on in its cache. When threads took whichever part came next, and one fork in eight exchanged the
parts, the passes of a small layer took 1.3 to 1.5 times as long.

In place of a team a kernel may get a *record* (see ``program.py``): then it runs nothing, and records
what it would have run.
"""

import hashlib

import numpy as np
from llvmlite import ir
from numba.core import cgutils, config, types
from numba.core.imputils import lower_builtin
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic

from numbarnn.engine.barrier import READS_BEFORE_YIELD, wait_for, yield_processor
from numbarnn.engine.tile import SHARED
from numbarnn.jit.atomics import atomic_add, atomic_load, atomic_store, compare_exchange
from numbarnn.jit.compile_cache import inlined, kernel
from numbarnn.jit.ownership import without_owners

# Words of the board, each on a cache line of its own.
JOB, DONE = 0, 8
FUNCTION, ARGUMENTS, FIRST, PARTS, RUNNER, RUNNER_ARGUMENTS = range(16, 22)
OWNED = 24  # whether a caller has the team
BOARD_WORDS = 32
# Parts that are offered at a time: the first word has a bit for each that is not taken yet.
MOST_PARTS = 32
PARTS_MASK = (1 << MOST_PARTS) - 1

# A team of one: parts run one after the other.
ALONE = np.zeros(0, np.int64)

# Words of a record: the function of a part, how many parts, the address of the record itself, and the
# arguments. It is longer than a board, which tells the two apart.
RECORD_FUNCTION, RECORD_PARTS, RECORD_ADDRESS, RECORD_ARGUMENTS = 0, 1, 2, 3
RECORD_WORDS = 512
WORD_BYTES = 8


def fork(team, parts, body, *arguments):
    """Run ``body(part, *arguments)`` for every part, in parallel; return when all are done.

    Parameters
    ----------
    team : int64 array
        The board of a team of threads, or `ALONE`, or a record to fill.
    parts : int
        How many parts there are.
    body : function
        An `inlined` function that returns nothing.
    *arguments
        The same for all parts: arrays, numbers and tuples of them.
    """
    for part in range(parts):
        body(part, *arguments)


@infer_global(fork)
class _Fork(AbstractTemplate):
    """How a fork is typed. It is no overload: that would be a function around the body, and be compiled by
    itself before it is compiled as a part of the kernel."""

    key = fork

    def generic(self, args, kws):
        team, _, body, *arguments = args
        _call_of(self.context, body, arguments)
        return signature(types.none, team, types.intp, body, *arguments)


@lower_builtin(fork, types.VarArg(types.Any))
def _lower_fork(context, builder, sig, args):
    """Write the work down where the team is a record, else have it do the work."""
    team_type, _, body, *kinds = sig.args
    team, parts, _, *values = args
    arguments_type = types.Tuple(kinds)
    arguments = context.make_tuple(builder, arguments_type, values)
    function = _part_function(context, builder.module, body, arguments_type)
    word = parts.type
    words = context.make_array(team_type)(context, builder, team)
    is_record = builder.icmp_signed(">", words.nitems, ir.Constant(word, BOARD_WORDS))
    with builder.if_else(is_record) as (write_down, run):
        with write_down:
            size = context.get_abi_sizeof(context.get_value_type(arguments_type))
            if size > (RECORD_WORDS - RECORD_ARGUMENTS) * WORD_BYTES:
                raise ValueError(f"{body}: {size} bytes of arguments do not fit a record")
            place = builder.gep(words.data, [ir.Constant(word, RECORD_ARGUMENTS)])
            builder.store(arguments, builder.bitcast(place, arguments.type.as_pointer()), align=WORD_BYTES)
            said = {
                RECORD_FUNCTION: builder.ptrtoint(function, word),
                RECORD_ADDRESS: builder.ptrtoint(words.data, word),
                RECORD_PARTS: parts,
            }
            for number, value in said.items():
                builder.store(value, builder.gep(words.data, [ir.Constant(word, number)]))
        with run:
            memory = cgutils.alloca_once_value(builder, arguments)
            memory.align = WORD_BYTES
            addresses = [builder.ptrtoint(pointer, word) for pointer in (function, memory)]
            runner = context.typing_context.resolve_value_type(run_parts)
            call = runner.get_call_type(context.typing_context, (team_type, *[types.intp] * 3), {})
            context.get_function(runner, call)(builder, (team, parts, *addresses))
    return context.get_dummy_value()


def _call_of(typing_context, body, arguments):
    """The signature of a body's call."""
    return body.get_call_type(typing_context, (types.intp, *arguments), {})


@inlined
def run_parts(team, parts, function, captured):
    """Run a function of parts, given as addresses of itself and its arguments; return when all are done.

    One caller at a time has the team, and whoever finds it taken runs all parts itself: the result is the
    same.
    """
    if parts == 1 or team.size == 0 or not compare_exchange(team, OWNED, 0, 1):
        for part in range(parts):
            _call_part(function, captured, part)
    else:
        team[FUNCTION], team[ARGUMENTS], team[PARTS] = function, captured, parts
        # Compiled once, and called by its address: in every kernel it would be compiled anew, for 0.3 s.
        _call_part(team[RUNNER], team[RUNNER_ARGUMENTS], 0)


@inlined
def _run_on_team(part, team):
    parts = team[PARTS]
    for first in range(0, parts, MOST_PARTS):
        team[FIRST] = first
        _run_side_by_side(team, min(MOST_PARTS, parts - first))
    atomic_store(team, OWNED, 0)


@kernel
def _write_runner(record, team):
    fork(record, 1, _run_on_team, team)


def make_board():
    """The board of a new team, and the record of its runner, which must live as long."""
    board, runner = np.zeros(BOARD_WORDS, np.int64), np.zeros(RECORD_WORDS, np.int64)
    if not config.DISABLE_JIT:
        _write_runner(runner, board)
        board[RUNNER] = runner[RECORD_FUNCTION]
        board[RUNNER_ARGUMENTS] = runner[RECORD_ADDRESS] + RECORD_ARGUMENTS * WORD_BYTES
    return board, runner


@inlined
def _run_side_by_side(team, parts):
    atomic_store(team, DONE, 0)
    job = (atomic_load(team, JOB) >> MOST_PARTS) + 1
    atomic_store(team, JOB, (job << MOST_PARTS) + (1 << parts) - 1)
    take_parts(team, parts - 1)
    wait_for(team, DONE, parts)


@inlined
def take_parts(team, own):
    """Run parts of the present job until none is left, number `own` first; whether there was one."""
    took_one = False
    while True:
        word = atomic_load(team, JOB)
        left = word & PARTS_MASK
        if left == 0:
            return took_one
        part = own
        if own >= MOST_PARTS or (left >> own) & 1 == 0:
            part = 0
            while (left >> part) & 1 == 0:
                part += 1
        if compare_exchange(team, JOB, word, word - (1 << part)):
            _call_part(team[FUNCTION], team[ARGUMENTS], team[FIRST] + part)
            atomic_add(team, DONE, 1)
            took_one = True


@kernel
def serve(team, own, idle_reads):
    """A worker's life while it is awake: take parts, until `idle_reads` reads found none."""
    idle = 0
    while idle < idle_reads:
        idle = 0 if take_parts(team, own) else idle + 1
        if idle % READS_BEFORE_YIELD == READS_BEFORE_YIELD - 1:
            yield_processor()


def _part_function(context, module, body, arguments):
    """A function ``(part, address of arguments)`` in Numba's calling convention, around `body`; `arguments`
    is the type of the tuple at the address."""
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
    call = _call_of(context.typing_context, body, arguments)
    # The caller keeps them alive. Counters would be gone where they come from a record, and LLVM, which
    # sees that there are none, leaves the counting out.
    value = without_owners(context, builder, arguments, value)
    context.get_function(body, call)(builder, (part, *cgutils.unpack_tuple(builder, value)))
    context.call_conv.return_value(builder, context.get_dummy_value())
    return function


@intrinsic
def _call_part(typingctx, function, captured, part):
    """Call the function of a part, with the address of its arguments. Kernels raise nothing, so the status
    that comes back says nothing."""

    def codegen(context, builder, sig, args):
        kind = context.call_conv.get_function_type(types.none, (types.intp, types.intp))
        function = builder.inttoptr(args[0], kind.as_pointer())
        result = cgutils.alloca_once(builder, kind.args[0].pointee)
        error = cgutils.alloca_once(builder, kind.args[1].pointee)
        builder.call(function, [result, error, args[2], args[1]])
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, types.intp), codegen
