"""A shorter pipeline of Numba's compiler, for functions that are only inlined into others.

Numba optimises every function that it compiles and makes machine code of it, and a wrapper for C. Of ours
that kernels inline, five of six, nothing of that is ever used: their code is linked into each kernel and
optimised with it. Left out, the kernels of a first fit compile in four fifths of the time.
"""

import copy

from numba import _dynfunc
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_machinery import register_pass
from numba.core.typed_passes import NativeLowering


class LinkedLibrary(JITCodeLibrary):
    """The code of a function for others to link in: as it was written, without machine code."""

    def _optimize_final_module(self):
        """The kernel is optimised as a whole."""

    def _finalize_final_module(self):
        self._finalize_dynamic_globals()
        self._finalized = True


def _never_called(library, description, environment):
    """In place of a function's address: the object by which Numba knows it."""
    name = description.qualname.split(".")[-1]
    module = description.lookup_module()
    return _dynfunc.make_function(module, name, "linked into kernels", 0, environment, (library,))


@register_pass(mutates_CFG=True, analysis_only=False)
class LinkedLowering(NativeLowering):
    """`NativeLowering` into a `LinkedLibrary`."""

    _name = "numbarnn_linked_lowering"

    def run_pass(self, state):
        context = state.targetctx
        state.library = LinkedLibrary(context.codegen(), state.func_id.func_qualname)
        state.targetctx = copy.copy(context)
        state.targetctx.get_executable = _never_called
        try:
            return super().run_pass(state)
        finally:
            state.targetctx = context


class LinkedCompiler(CompilerBase):
    """Numba's compiler with `LinkedLowering`."""

    def define_pipelines(self):
        manager = DefaultPassBuilder.define_nopython_pipeline(self.state)
        manager.passes = [
            (LinkedLowering, "into a kernel") if made is NativeLowering else (made, said)
            for made, said in manager.passes
        ]
        manager.finalize()
        return [manager]


# For an overload's `jit_options`.
LINKED_OPTIONS = {"pipeline_class": LinkedCompiler, "no_cfunc_wrapper": True}
