"""Fixtures of the kinds."""

from tests.fakes.fixtures import fleet

__all__ = ["fleet"]
