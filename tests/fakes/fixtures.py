"""Fixtures that several folders of tests share; a conftest.py takes what its folder needs."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.fleet import FakeFleet


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[FakeFleet]:
    """A hub over fakes, with nothing committed yet."""
    made = FakeFleet(tmp_path)
    yield made
    made.end_hub()
