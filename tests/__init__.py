"""The tests mirror the package: tests/<module>/ or tests/test_<module>.py."""
