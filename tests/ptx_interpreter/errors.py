"""The error that all parts of the interpreter raise."""


class PTXError(Exception):
    """What the PTX does here is undefined, or the interpreter does not know it."""
