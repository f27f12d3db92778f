"""What every `EgressControl` keeps to: the link to a real process, and the fake that fast tests use."""

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from reconciler.core.reading import Absent, Ok
from reconciler.egress.client import EgressLink
from reconciler.errors import EgressError, EgressRefusedError
from reconciler.ports import EgressControl, EgressReport
from tests.egress.places import FLEET, entry_of
from tests.fakes.egress import FakeEgress

CONFIG: Mapping[str, Any] = {"digest": "c1", "providers": {}}


@pytest.fixture(params=["fake", "process"])
def egress(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[EgressControl]:
    if request.param == "fake":
        yield FakeEgress()
        return
    with tempfile.TemporaryDirectory(prefix="re", dir="/tmp") as run:
        link = EgressLink(FLEET, Path(run), tmp_path)
        yield link
        link.stop()


def report(egress: EgressControl) -> EgressReport:
    reading = egress.report()
    assert isinstance(reading, Ok), reading
    return reading.value


def test_one_that_was_not_started_is_absent_and_takes_no_calls(egress: EgressControl) -> None:
    assert egress.report() == Absent()
    with pytest.raises(EgressError):
        egress.configure(CONFIG)
    with pytest.raises(EgressError):
        egress.put_instance("writer-0", entry_of("writer-0"))
    egress.remove_instance("writer-0")


def test_starting_it_twice_is_one_life_of_it(egress: EgressControl) -> None:
    egress.start()
    epoch = report(egress).epoch
    egress.put_instance("writer-0", entry_of("writer-0"))
    egress.start()
    assert report(egress).epoch == epoch
    assert report(egress).instances == {"writer-0": "e1"}


def test_after_a_restart_it_knows_no_instance_and_no_configuration(egress: EgressControl) -> None:
    egress.start()
    egress.configure(CONFIG)
    egress.put_instance("writer-0", entry_of("writer-0"))
    before = report(egress)
    egress.stop()
    assert egress.report() == Absent()
    egress.start()
    after = report(egress)
    assert (before.config_digest, after.config_digest, after.instances) == ("c1", "", {})
    assert before.epoch != after.epoch


def test_what_is_wrong_is_refused_and_changes_nothing(egress: EgressControl) -> None:
    egress.start()
    egress.configure(CONFIG)
    with pytest.raises(EgressRefusedError):
        egress.configure({**CONFIG, "digest": 5})
    with pytest.raises(EgressRefusedError):
        egress.put_instance("writer-0", {"agent": "writer", "surprise": 1})
    assert (report(egress).config_digest, report(egress).instances) == ("c1", {})


def test_removing_and_stopping_twice_is_fine(egress: EgressControl) -> None:
    egress.start()
    egress.put_instance("writer-0", entry_of("writer-0"))
    for _ in range(2):
        egress.remove_instance("writer-0")
    assert report(egress).instances == {}
    for _ in range(2):
        egress.stop()
    assert egress.report() == Absent()
