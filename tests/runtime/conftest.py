"""What the tests of the runtimes share: a stub of an engine, and the real one."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.runtimes import RuntimeUnderTest, busybox_id, engine, make_docker_runtime
from tests.runtime.stub_engine import StubEngine, stub_engine

__all__ = ["busybox_id", "engine"]


@pytest.fixture
def stub(tmp_path: Path) -> Iterator[StubEngine]:
    with stub_engine(tmp_path) as made:
        yield made


@pytest.fixture
def under(tmp_path: Path) -> Iterator[RuntimeUnderTest]:
    """The Docker runtime on the real engine."""
    made = make_docker_runtime(tmp_path)
    yield made
    made.close()
