"""Fixtures of the command line."""

from tests.fakes.fixtures import fleet

__all__ = ["fleet"]
