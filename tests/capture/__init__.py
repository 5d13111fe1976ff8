"""Tests of what commits become, through the public interface alone."""
