"""Fixtures of the loop."""

from tests.fakes.fixtures import fleet

__all__ = ["fleet"]
