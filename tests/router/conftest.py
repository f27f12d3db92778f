"""Fixtures: a router process that most tests share, each with a fleet of its own in it, and one for who ends it."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from reconciler.core.reading import Ok
from reconciler.router.client import RouterLink
from tests.router.fleet import FLEET, Fleet, basic_config, free_port, tls_entry


@pytest.fixture
def run_folder() -> Iterator[Path]:
    """Unix sockets allow 107 bytes for the path, which pytest's own directories may pass."""
    folder = Path(tempfile.mkdtemp(prefix="rr", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def shared_places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    run, data = Path(tempfile.mkdtemp(prefix="rr", dir="/tmp")), tmp_path_factory.mktemp("router")
    yield run, data
    RouterLink(FLEET, run, data).stop()
    shutil.rmtree(run, ignore_errors=True)


@pytest.fixture(scope="session")
def shared_tls_port() -> int:
    return free_port()


@pytest.fixture
def fleet(request: pytest.FixtureRequest, shared_places: tuple[Path, Path]) -> Iterator[Fleet]:
    """A fleet in the shared router: basic configuration, no instances, no rows yet.

    Its instances have sockets, or with the parameter `tls` come in by TLS.
    """
    run, data = shared_places
    link = RouterLink(FLEET, run, data)
    link.start()
    made = Fleet(run=run, data=data, link=link, config=basic_config())
    if getattr(request, "param", "unix") == "tls":
        made.tls_port = request.getfixturevalue("shared_tls_port")
        made.config["tls"] = tls_entry(made.tls_port)
    made.configure()
    made.since = max((row["seq"] for row in made.rows()), default=0)
    made.inbox_since = made.report().inbox_seq
    yield made
    report = link.report()
    for name in report.value.instances if isinstance(report, Ok) else ():
        link.remove_instance(name)


@pytest.fixture
def start_fleet(run_folder: Path, tmp_path: Path) -> Iterator[Callable[[], Fleet]]:
    """Starts a router of the test's own, again if it has ended; it is ended after the test."""
    link = RouterLink(FLEET, run_folder, tmp_path)

    def start() -> Fleet:
        link.start()
        made = Fleet(run=run_folder, data=tmp_path, link=link, config=basic_config())
        made.configure()
        return made

    yield start
    link.stop()
