"""Fixtures of the operator plane."""

from tests.fakes.fixtures import fleet

__all__ = ["fleet"]
