"""Fixtures of the flows: a fleet on each runtime, and one of processes."""

from collections.abc import Iterator

import pytest

from tests.flows.fleet import Fleet, make_fleet, need_engine, runtimes


@pytest.fixture(params=runtimes())
def fleet(request: pytest.FixtureRequest) -> Iterator[Fleet]:
    need_engine(request.param)
    made = make_fleet(request.param)
    yield made
    made.destroy()


@pytest.fixture
def processes() -> Iterator[Fleet]:
    made = make_fleet("process")
    yield made
    made.destroy()
