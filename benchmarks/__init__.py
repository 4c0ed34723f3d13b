"""Benchmarks: an airspeed-velocity suite, and `python -m benchmarks.compare` against other libraries.

asv imports every module of this package, also where no other library is installed. It does not look into
folders without an ``__init__.py``, so `peers`, which import the other libraries, and `comparison` have none.
"""
