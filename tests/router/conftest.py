"""Fixtures: a run directory with a short path, and a router process in it."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.router.client import RouterLink
from tests.router.fleet import FLEET, Fleet, basic_config


@pytest.fixture
def run_folder() -> Iterator[Path]:
    """Unix sockets allow 107 bytes for the path, which pytest's own directories may pass."""
    folder = Path(tempfile.mkdtemp(prefix="rr", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def fleet(run_folder: Path, tmp_path: Path) -> Iterator[Fleet]:
    link = RouterLink(FLEET, run_folder, tmp_path)
    link.start()
    try:
        made = Fleet(run=run_folder, data=tmp_path, link=link, config=basic_config())
        made.configure()
        yield made
    finally:
        link.stop()
