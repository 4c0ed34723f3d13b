"""Benchmarks: an airspeed-velocity suite, and `python -m benchmarks.compare` against other libraries."""
