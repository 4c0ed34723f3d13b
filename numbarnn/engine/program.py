"""Programs: kernels recorded once with their arguments, and run any number of times by a single call.

A call of a kernel from Python costs microseconds, most of them for unpacking its arrays: more than the
kernel itself where a model is small. ``record(kernel, *arguments)`` has the kernel record what it would
run (see ``fork.py``), and ``Program([...]).run()`` runs the records, one after the other, in one call into
compiled code.

What differs from run to run goes through the *bindings*: a small int64 array whose words are the addresses of
the arrays that the user has just passed. Kernels read them with `array_at`.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numba.core import config

from numbarnn.engine.fork import (
    ALONE,
    RECORD_ADDRESS,
    RECORD_ARGUMENTS,
    RECORD_FUNCTION,
    RECORD_PARTS,
    RECORD_WORDS,
    WORD_BYTES,
    fork,
    run_parts,
)
from numbarnn.engine.guards import (
    CHANGES,
    GUARD_WORDS,
    PACKED,
    PACKED_TRANSPOSED,
    begin_reading,
    begin_writing,
    end_reading,
    end_writing,
)
from numbarnn.engine.threads import run, team_of
from numbarnn.jit.addresses import address_of, array_at
from numbarnn.jit.compile_cache import inlined, kernel

# Words of the bindings. A kernel that finds a fault in what it reads writes where into FAULT; the program
# stops.
# The change of the parameters that forward has read, READ_CHANGE, is the one that backward wants.
FAULT, INPUT, OUTPUT, STATES_OUT, GUARD, READ_CHANGE, FIRST_STATE_IN = range(7)
# What a program does with the parameters of a layer, for which it takes the GUARD at an address; or nothing
# to guard against, where the thread has the guard already.
PREDICT, TRAIN, BACKWARD, HELD = range(4)
STATES_IN = (
    2  # words for the states of most cells, from FIRST_STATE_IN on; an address of 0 stands for no array
)
NO_FAULT = -1
FAULT_IN_STATE = -2  # in the first state; in the next one -3
OUT_OF_DATE = np.iinfo(np.int64).min  # the packed weights are not those of the parameters


def make_bindings(states: int = STATES_IN, guard: int = 0) -> np.ndarray:
    """Bindings of no arrays yet, for this many states and the guard at this address."""
    bindings = np.zeros(FIRST_STATE_IN + max(STATES_IN, states), np.int64)
    bindings[FAULT], bindings[GUARD] = NO_FAULT, guard
    return bindings


_NO_BINDINGS = make_bindings()


class Call(NamedTuple):
    """A recorded kernel and its arguments. The arguments are kept: the record has their addresses."""

    record: np.ndarray
    kernel: Callable
    arguments: tuple
    inner: Sequence["Call"] = ()  # what the call consists of, if of other calls

    def run_plainly(self) -> None:
        """Without compiled code."""
        if self.inner:
            for call in self.inner:
                call.run_plainly()
        else:
            self.kernel(ALONE, *self.arguments)


class Work(NamedTuple):
    """A kernel that does nothing but fork, with its arguments: to be run now, or to be recorded."""

    kernel: Callable
    parts: int
    arguments: tuple

    def run(self) -> None:
        """Run it on as many threads as it has parts."""
        run(self.kernel, self.parts, *self.arguments)

    def record(self) -> Call:
        """Record it, for a program."""
        return record(self.kernel, *self.arguments)


def by_cuts(kernel: Callable, cuts: np.ndarray, *arguments: Any) -> Work:
    """The work of ``kernel(team, cuts, *arguments)``: one part from each cut to the next."""
    return Work(kernel, cuts.size - 1, (cuts, *arguments))


def record(kernel: Callable, *arguments: Any) -> Call:
    """Record ``kernel(team, *arguments)``, a kernel that does nothing but fork."""
    words = np.zeros(RECORD_WORDS, np.int64)
    if not config.DISABLE_JIT:
        kernel(words, *arguments)
    return Call(words, kernel, arguments)


@inlined
def _execute_call(team, address):
    words = array_at(address, 1, RECORD_ARGUMENTS, team)
    captured = address + RECORD_ARGUMENTS * WORD_BYTES
    run_parts(team, words[0, RECORD_PARTS], words[0, RECORD_FUNCTION], captured)


@inlined
def _execute_chain(part, calls, cuts):
    for i in range(cuts[part], cuts[part + 1]):
        _execute_call(calls[:0], calls[i])  # without a team: as ALONE


@kernel
def _execute_side_by_side(team, calls, cuts):
    fork(team, cuts.size - 1, _execute_chain, calls, cuts)


def record_together(chains: Sequence[Sequence[Call]]) -> Call:
    """Chains of calls as one call, whose parts they are: in parallel, each chain on one thread."""
    calls = [call for chain in chains for call in chain]
    addresses = np.array([call.record[RECORD_ADDRESS] for call in calls], np.int64)
    cuts = np.cumsum([0, *map(len, chains)])
    together = record(_execute_side_by_side, addresses, cuts)
    return together._replace(inner=tuple(calls))


@inlined
def _execute_all(team, calls, bindings):
    for i in range(calls.size):
        if bindings[FAULT] != NO_FAULT:
            return
        _execute_call(team, calls[i])


@inlined
def _connect(bindings, given, wanted, states_out, states_in):
    bindings[FAULT] = NO_FAULT
    bindings[INPUT], bindings[OUTPUT] = address_of(given), address_of(wanted)
    bindings[STATES_OUT] = address_of(states_out)
    for s in range(len(states_in)):
        bindings[FIRST_STATE_IN + s] = address_of(states_in[s]) if states_in[s].size > 0 else 0


@kernel
def _execute(team, calls, bindings):
    """Run the records at these addresses, one after the other."""
    _execute_all(team, calls, bindings)


@kernel
def _execute_on(team, calls, bindings, access, given, wanted, states_out, states_in):
    """`_execute` with arrays bound, and with packed weights that nobody changes meanwhile; the fault."""
    _connect(bindings, given, wanted, states_out, states_in)
    if access == HELD:
        _execute_all(team, calls, bindings)
        return bindings[FAULT]
    guard = array_at(bindings[GUARD], 1, GUARD_WORDS, bindings)[0]
    if access == BACKWARD:
        begin_writing(guard)  # of gradients
    else:
        begin_reading(guard)
        bindings[READ_CHANGE] = guard[CHANGES]
    packed = guard[PACKED] if access == PREDICT else guard[PACKED_TRANSPOSED]
    if packed == bindings[READ_CHANGE]:
        _execute_all(team, calls, bindings)
    else:
        bindings[FAULT] = OUT_OF_DATE
    if access == BACKWARD:
        end_writing(guard)
    else:
        end_reading(guard)
    return bindings[FAULT]


class Program:
    """Recorded calls, to be run one after the other.

    Parameters
    ----------
    calls : sequence of Call
        From `record`.
    """

    def __init__(self, calls: Sequence[Call]) -> None:
        self.calls = list(calls)
        self._addresses = np.array([call.record[RECORD_ADDRESS] for call in self.calls], np.int64)
        self._parts = max((int(call.record[RECORD_PARTS]) for call in self.calls), default=1)

    def run(self, bindings: np.ndarray = _NO_BINDINGS) -> None:
        """Run all calls, or those up to the first that writes a fault into the bindings."""
        if config.DISABLE_JIT:
            self._run_plainly(bindings)
        else:
            run(_execute, self._parts, self._addresses, bindings)

    def run_on(
        self,
        bindings: np.ndarray,
        access: int,
        given: np.ndarray,
        wanted: np.ndarray,
        states_out: np.ndarray,
        states_in: tuple[np.ndarray, ...],
    ) -> int:
        """Run all calls with these contiguous arrays bound, for `access` to the parameters; of `states_in`
        there is one for each state, but at least two, so that most cells share what is compiled, and empty
        ones for none.

        Returns
        -------
        int
            `NO_FAULT`, or what a kernel wrote into the bindings before the program stopped.
        """
        if config.DISABLE_JIT:
            _connect(bindings, given, wanted, states_out, states_in)
            self._run_plainly(bindings)
            return int(bindings[FAULT])
        team = ALONE if self._parts == 1 else team_of(self._parts)
        fault: int = _execute_on(
            team, self._addresses, bindings, access, given, wanted, states_out, states_in
        )
        return fault

    def _run_plainly(self, bindings: np.ndarray) -> None:
        for call in self.calls:
            if bindings[FAULT] == NO_FAULT:
                call.run_plainly()
