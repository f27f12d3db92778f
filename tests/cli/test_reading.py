"""What the reading commands know of a fleet: of many runs the newest, and any by its name."""

from contextlib import closing
from pathlib import Path

import pytest

from reconciler.cli.reading import FleetView, read_fleet
from reconciler.home import open_home
from reconciler.store import records
from reconciler.store.records import TaskRecord
from reconciler.store.store import FILE_NAME, Store


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A record with five runs."""
    folder = tmp_path / "data"
    open_home(folder, create=True)
    with closing(Store(folder / FILE_NAME)) as store:
        records.put_tasks(store, [run(number) for number in range(5)])
    return folder


def run(number: int) -> TaskRecord:
    written = '{"labels": {}, "spec": {}}'
    at = f"2026-01-01T00:00:0{number}+00:00"
    run, name = f"r{number}", f"t{number}"
    return TaskRecord(
        run=run, name=name, spec_digest="1:x", manifest=written, source="api", state="pending", created_at=at
    )


def read(data: Path, most: int) -> FleetView:
    fleet = read_fleet(str(data.parent), str(data), most)
    fleet.store.close()
    return fleet


def test_of_many_runs_the_newest_are_read_and_the_others_counted(data: Path) -> None:
    fleet = read(data, 2)
    assert ([t.name for t in fleet.tasks], fleet.older) == (["t3", "t4"], 3)


def test_all_are_read_when_that_is_asked_for(data: Path) -> None:
    fleet = read(data, 0)
    assert ([t.name for t in fleet.tasks], fleet.older) == (["t0", "t1", "t2", "t3", "t4"], 0)


def test_an_older_one_is_found_by_its_name(data: Path) -> None:
    fleet = read_fleet(str(data.parent), str(data), 1)
    with closing(fleet.store):
        found = [fleet.task("t1"), fleet.task("r2"), fleet.task("nothing")]
    assert [t.name if t else None for t in found] == ["t1", "t2", None]
