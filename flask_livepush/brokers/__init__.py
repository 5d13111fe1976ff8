"""Brokers: one contract in ``base``, an implementation a module."""
