"""Fixtures: places for sockets, a stand-in of a provider, and an egress process that is configured for it."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.egress.places import Place, egress_process, provider
from tests.fakes.messages_api import MessagesApi

KEY = "sk-ant-operators-own-key-0123456789"


@pytest.fixture
def run_folder() -> Iterator[Path]:
    """Unix sockets allow 107 bytes for the path, which pytest's own directories may pass."""
    folder = Path(tempfile.mkdtemp(prefix="re", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def api() -> Iterator[MessagesApi]:
    with MessagesApi() as api:
        yield api


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    file = tmp_path / "operator" / "anthropic.key"
    file.parent.mkdir()
    file.write_text(f"{KEY}\n")
    return file


@pytest.fixture(scope="session")
def shared_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    run = Path(tempfile.mkdtemp(prefix="re", dir="/tmp"))
    with egress_process(run, tmp_path_factory.mktemp("egress")) as shared:
        yield shared
    shutil.rmtree(run, ignore_errors=True)


@pytest.fixture
def place(shared_process: Place, api: MessagesApi, key_file: Path) -> Iterator[Place]:
    """In the shared process: one provider, `anthropic`, which is the stand-in; no instances, no rows yet."""
    place = Place(run=shared_process.run, data=shared_process.data, link=shared_process.link)
    place.configure(providers={"anthropic": provider(api.url, key_file=str(key_file))})
    place.since = len(place.written())
    yield place
    for name in place.state()["instances"]:
        place.link.remove_instance(name)


@pytest.fixture
def own_place(run_folder: Path, tmp_path: Path, api: MessagesApi, key_file: Path) -> Iterator[Place]:
    """The same in a process of the test's own, which may end."""
    with egress_process(run_folder, tmp_path / "data") as place:
        place.configure(providers={"anthropic": provider(api.url, key_file=str(key_file))})
        yield place
