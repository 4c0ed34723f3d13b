"""The arithmetic and the time loops: everything compiled that is not one cell's own mathematics."""
