"""Sequences as users pass them, and the one layout that kernels see."""
