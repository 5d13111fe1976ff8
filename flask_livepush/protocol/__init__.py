"""The rules of the protocol, pure.

Nothing in this folder may do I/O, read a clock, take a lock, start a thread, log, or
import a library: every rule is a function of its arguments or an object driven by one
caller at a time. What the client must do alike has a vector in ``tests/vectors/``.
"""
