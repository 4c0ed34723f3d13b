"""How a stack of recurrent layers runs: a plan, and the programs that were recorded with it.

`plan.py` says where everything is, `sharing.py` how threads share the work, and `forward_recorder.py` and
`backward_recorder.py` turn a plan into recorded calls.
"""

from typing import Any

from numba.core import config

from numbarnn.engine.guards import WRITE, Hold, use_guards
from numbarnn.engine.program import (
    BACKWARD,
    HELD,
    OUT_OF_DATE,
    PREDICT,
    READ_CHANGE,
    TRAIN,
    Program,
    record,
)
from numbarnn.engine.random import seed_of
from numbarnn.engine.states import clear
from numbarnn.engine.threads import get_num_threads
from numbarnn.layers.backward_recorder import BackwardRecorder
from numbarnn.layers.bands import NO_CAPACITY
from numbarnn.layers.forward_recorder import ForwardRecorder
from numbarnn.layers.parameters import hold_packed
from numbarnn.layers.passes import Pass
from numbarnn.layers.plan import Plan, buffer_key
from numbarnn.sequences.layout import find_cuts


class RecurrentPass(Pass):
    """One forward and backward through a stack of layers.

    Everything is recorded as a program. A batch that fits (no more rows and steps than the
    buffers have, matrices where they were) uses what was recorded: a pass is one call into compiled code.
    """

    def __init__(self, layer, training):
        super().__init__(layer, training)
        self.plan: Any = None
        self.forward_program: Any = None
        self.caller_program: Any = None
        # The form of the caller's batch that the plan was made for, if for one.
        self.planned_form: Any = None
        # Backward of the plan, and what it was recorded for: where dy is, and whether dx is wanted.
        self.planned_backward: Any = None
        self.dinputs: list[Any] = []
        self.backward_program: Any = None
        self.caller_backward_program: Any = None

    @property
    def needs_seed(self):
        return self.training and self.layer.num_layers > 1 and self.layer.dropout > 0.0

    # ---- forward -----------------------------------------------------------------------------------------

    def prepare(self, layout, x, seed):
        if self.plan is None or not self.plan.fits(layout, x):
            self._plan(layout, x, self.layer.return_sequences)
            self.forward_program = Program(self._forward_calls())
        elif layout is not self.layout:
            self._rebind(layout)
        if self.needs_seed:
            self.reseed(seed)
        self.store.refresh(self.training)
        plan = self.plan
        return (layout, plan.output[: layout.total]) if plan.sequence else (layout.last, plan.last)

    def _forward_calls(self):
        return ForwardRecorder(self.plan).calls()

    def _plan(self, layout, x, sequence):
        """Make a plan for a batch; `x` is as in `Plan`."""
        capacity = NO_CAPACITY
        if x is not None and self.plan is not None and self.plan.source is not None:
            capacity = self.plan.capacity_for(layout, sequence)
        self.plan = Plan(self.layer, self.store, self.training, self.buffers, layout, x, sequence, capacity)
        self.layout, self.threads, self.cuts = layout, self.plan.sharing.threads, self.plan.cuts
        self.planned_backward = self.planned_form = None

    def _rebind(self, layout):
        """Take a batch for which all that was recorded holds."""
        self.layout = layout
        self.plan.rebind(layout)
        self.planned_form = None

    def _run_guarded(self, program, access, given, wanted, states_out, states_in):
        """Run a program on the caller's arrays, with weights that nobody changes meanwhile."""
        store, bindings = self.store, self.plan.bindings
        # Without the compiler there is no call that an interrupt could not come into.
        if not (config.DISABLE_JIT or store.guards.are_mine()):
            fault = program.run_on(bindings, access, given, wanted, states_out, states_in)
            if fault != OUT_OF_DATE:
                return fault
        # The weights have to be packed, or the thread has the guard already. It keeps it until the end, lest
        # others change the parameters again.
        hold = Hold(store.guards)
        try:
            if access == BACKWARD:
                hold.take(WRITE)
                store.check_unchanged(bindings[READ_CHANGE])
            else:
                hold_packed(hold, [store], self.training)
                bindings[READ_CHANGE] = store.packed_change(self.training)
            return program.run_on(bindings, HELD, given, wanted, states_out, states_in)
        finally:
            use_guards(*hold.way_out)

    def reseed(self, seed):
        self.plan.seeds[:] = [seed_of(seed, level) for level in range(self.layer.num_layers)]

    def forward(self):
        self.forward_program.run()

    def record_forward(self):
        plan = self.plan
        calls = [record(find_cuts, self.layout.lengths, self.cuts)] if self.cuts.size > 2 else []
        calls += plan.bands.rebind_calls(self.layout)
        calls += [record(clear, states, plan.first_rows(k)) for k, states in enumerate(plan.states)]
        calls += self.store.packing_program(self.training, get_num_threads()).calls
        return calls + self.forward_program.calls

    def forward_on(self, form, seed, initial_state, flat_x, flat_y, states):
        """All of `prepare` and `forward`, from the caller's matrix of steps to another one and to the final
        states (S, L * D, B, H). `initial_state` is a pair of arrays (L * D, B, H), or of empty ones.

        Returns
        -------
        int
            The first row of `flat_x` that is not finite, or `FAULT_IN_STATE`; then nothing else was done.
        """
        if self.planned_form is not form or self.plan.num_threads != get_num_threads():
            self._plan(form.layout, None, sequence=True)
            self.caller_program = Program(ForwardRecorder(self.plan, form).caller_calls())
            self.planned_form = form
        if self.needs_seed:
            self.reseed(seed)
        access = TRAIN if self.training else PREDICT
        return self._run_guarded(self.caller_program, access, flat_x, flat_y, states, initial_state)

    # ---- backward ----------------------------------------------------------------------------------------

    def prepare_backward(self, dy, need_dx):
        wanted = buffer_key(dy), need_dx
        if self.planned_backward != wanted:
            recorder = BackwardRecorder(self.plan, dy, need_dx)
            self.dinputs = recorder.dinputs
            self.backward_program = Program(self._backward_calls(recorder))
            self.planned_backward = wanted
        return self.dinputs[0][: self.layout.total] if need_dx else None

    def _backward_calls(self, recorder):
        return recorder.calls()

    def backward(self):
        self.backward_program.run()

    def record_backward(self):
        return self.backward_program.calls

    def backward_on(self, form, dstate, flat_dy, flat_dx, dstates):
        """All of `prepare_backward` and `backward`, from the caller's gradient of the outputs to that of the
        inputs, unless it is None, and to those of the initial states (S, L * D, B, H); `dstate` and the
        result are as in `forward_on`."""
        need_dx = flat_dx is not None
        wanted = None, need_dx
        if self.planned_backward != wanted:
            recorder = BackwardRecorder(self.plan, None, need_dx, form)
            self.caller_backward_program = Program(recorder.caller_calls())
            self.planned_backward = wanted
        wanted = flat_dx if need_dx else dstates
        return self._run_guarded(self.caller_backward_program, BACKWARD, flat_dy, wanted, dstates, dstate)
