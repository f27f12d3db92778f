"""What every runtime does, whichever it is."""

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reconciler.core.reading import Absent, Ok
from reconciler.errors import NameTakenError, RuntimeRefusedError
from reconciler.ports import ContainerState, ContainerSummary, Limits, Mount, RuntimeEvent, Usage
from reconciler.runtime.fake import FakeRuntime
from tests.contract.runtimes import (
    FACTORIES,
    HELLO,
    STUBBORN,
    RuntimeUnderTest,
    eventually,
    make_spec,
    random_fleet,
)

PARAMS = [pytest.param(name, marks=[pytest.mark.engine] if name == "docker" else []) for name in FACTORIES]


@pytest.fixture(params=PARAMS)
def under(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RuntimeUnderTest]:
    made = FACTORIES[request.param](tmp_path)
    yield made
    made.close()


def state_of(under: RuntimeUnderTest, name: str = "writer-0") -> ContainerState:
    reading = under.runtime.inspect(name)
    assert isinstance(reading, Ok)
    return reading.value


def listed(under: RuntimeUnderTest) -> list[ContainerSummary]:
    reading = under.runtime.list()
    assert isinstance(reading, Ok)
    return list(reading.value)


def await_end(under: RuntimeUnderTest, name: str = "writer-0") -> ContainerState:
    eventually(lambda: state_of(under, name).state == "exited")
    return state_of(under, name)


def run(under: RuntimeUnderTest, **changes: Any) -> str:
    container_id = under.runtime.create(make_spec(under, **changes))
    under.runtime.start(container_id)
    return container_id


# --- use --------------------------------------------------------------------------------------------


def test_a_running_container_uses_memory_and_one_that_is_not_running_or_not_there_is_absent(
    under: RuntimeUnderTest,
) -> None:
    assert under.runtime.usage("writer-0") == Absent()
    container_id = under.runtime.create(make_spec(under, argv=STUBBORN))
    assert under.runtime.usage("writer-0") == Absent()
    under.runtime.start(container_id)
    if isinstance(under.runtime, FakeRuntime):
        under.runtime.use_memory("writer-0", 2**20)
        under.runtime.use_cpu("writer-0", 0.5)
    eventually(lambda: usage_of(under).memory_bytes >= 2**19)
    eventually(lambda: usage_of(under).cpu_s > 0)
    under.runtime.stop(container_id, 0)
    assert under.runtime.usage("writer-0") == Absent()


def usage_of(under: RuntimeUnderTest) -> Usage:
    reading = under.runtime.usage("writer-0")
    return reading.value if isinstance(reading, Ok) else Usage()


# --- reading --------------------------------------------------------------------------------------


def test_says_what_it_is(under: RuntimeUnderTest) -> None:
    facts = under.runtime.facts()
    assert isinstance(facts, Ok)
    assert facts.value.name == under.runtime.name
    assert facts.value.version
    assert all(sentence.endswith(".") for sentence in facts.value.limitations)


def test_an_image_that_is_there_has_an_id_and_one_that_is_not_is_absent(
    under: RuntimeUnderTest,
) -> None:
    assert under.runtime.resolve_image(under.image) == Ok(under.image_id)
    if under.has_images:
        assert under.runtime.resolve_image("agents/never-built:1") == Absent()


def test_nothing_is_listed_at_first_and_an_unknown_name_is_absent(under: RuntimeUnderTest) -> None:
    assert under.runtime.list() == Ok([])
    assert under.runtime.inspect("writer-0") == Absent()


def test_a_created_container_is_listed_but_does_not_run(under: RuntimeUnderTest) -> None:
    spec = make_spec(under)
    container_id = under.runtime.create(spec)
    [summary] = listed(under)
    assert (summary.id, summary.name, summary.state) == (container_id, "writer-0", "created")
    assert summary.image_id == under.image_id
    assert spec.labels.items() <= summary.labels.items()
    state = state_of(under)
    assert (state.id, state.name, state.state) == (container_id, "writer-0", "created")
    assert spec.labels.items() <= state.labels.items()
    assert (state.exit_code, state.oom_killed, state.started_at, state.pid) == (None, False, "", 0)


def test_containers_can_be_listed_by_any_label_and_value(under: RuntimeUnderTest) -> None:
    home = random_fleet()
    labels = {"io.reconciler.home": home}
    container_id = under.runtime.create(make_spec(under, labels=labels))
    under.runtime.create(make_spec(under, name="reader-0", labels={"io.reconciler.home": "elsewhere"}))
    found = under.runtime.list_labelled("io.reconciler.home", home)
    assert isinstance(found, Ok)
    assert [(one.id, one.name) for one in found.value] == [(container_id, "writer-0")]
    assert under.runtime.list_labelled("io.reconciler.home", home + "0") == Ok([])


def test_a_user_is_known_before_its_container_and_stays(under: RuntimeUnderTest) -> None:
    uid = under.runtime.uid_for("writer-0")
    under.runtime.create(make_spec(under, uid=uid))
    assert under.runtime.uid_for("writer-0") == uid


# --- compared fields ------------------------------------------------------------------------------


def test_what_was_made_has_the_wanted_fields_all_its_life(under: RuntimeUnderTest, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    mounts = (Mount(source=str(shared), target="/run/hub"),)
    spec = make_spec(under, mounts=mounts)
    wanted = under.runtime.normalise(spec)
    container_id = under.runtime.create(spec)
    assert state_of(under).fields == wanted
    under.runtime.start(container_id)
    assert state_of(under).fields == wanted
    under.runtime.stop(container_id, 0)
    assert state_of(under).fields == wanted


def test_fields_are_plain_json(under: RuntimeUnderTest) -> None:
    spec = make_spec(under, mounts=(Mount(source="/srv", target="/run/hub"),))
    wanted = under.runtime.normalise(spec)
    assert json.loads(json.dumps(wanted)) == wanted


def test_the_order_of_variables_labels_and_mounts_is_no_difference(
    under: RuntimeUnderTest,
) -> None:
    one, two = Mount(source="/srv", target="/a"), Mount(source="/srv", target="/b")
    spec = make_spec(under, env={"A": "1", "B": "2"}, labels={"a": "1", "b": "2"})
    other = make_spec(under, env={"B": "2", "A": "1"}, labels={"b": "2", "a": "1"})
    assert under.runtime.normalise(replace(spec, mounts=(one, two))) == under.runtime.normalise(
        replace(other, mounts=(two, one))
    )


@pytest.mark.parametrize(
    "change",
    [
        {"argv": ("/bin/sleep", "601")},
        {"env": {"LOG_LEVEL": "debug", "EMPTY": ""}},
        {"env": {"LOG_LEVEL": "info"}},
        {"labels": {"io.reconciler.agent": "reviewer"}},
        {"mounts": (Mount(source="/srv", target="/run/hub"),)},
        {"disk_bytes": 32 * 2**20},
        {"uid": 1001},
        {"working_dir": "/"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_each_part_of_a_spec_makes_a_difference_and_not_in_the_limits(
    under: RuntimeUnderTest, change: dict[str, Any]
) -> None:
    before = under.runtime.normalise(make_spec(under))
    after = under.runtime.normalise(make_spec(under, **change))
    assert before != after
    assert before["limits"] == after["limits"]


@pytest.mark.parametrize(
    "limits",
    [
        Limits(cpus=0.25, memory_bytes=64 * 2**20, pids=50),
        Limits(cpus=0.5, memory_bytes=96 * 2**20, pids=50),
        Limits(cpus=0.5, memory_bytes=64 * 2**20, pids=60),
    ],
)
def test_other_limits_differ_below_limits_and_nowhere_else(under: RuntimeUnderTest, limits: Limits) -> None:
    before = under.runtime.normalise(make_spec(under))
    after = under.runtime.normalise(make_spec(under, limits=limits))
    assert {key for key in before if before[key] != after[key]} == {"limits"}


# --- changing -------------------------------------------------------------------------------------


def test_a_name_can_be_taken_once(under: RuntimeUnderTest) -> None:
    first = under.runtime.create(make_spec(under))
    with pytest.raises(NameTakenError, match="writer-0"):
        under.runtime.create(make_spec(under))
    assert [summary.id for summary in listed(under)] == [first]


def test_an_unknown_image_is_refused(under: RuntimeUnderTest) -> None:
    with pytest.raises(RuntimeRefusedError):
        under.runtime.create(make_spec(under, image="gone:1", image_id="sha256:" + "e" * 64))
    assert listed(under) == []


def test_starting_twice_is_starting_once(under: RuntimeUnderTest) -> None:
    container_id = run(under)
    first = state_of(under)
    under.runtime.start(container_id)
    assert state_of(under) == first
    assert first.state == "running"
    assert first.pid > 0
    assert first.started_at
    assert first.exit_code is None


def test_starting_what_is_gone_is_refused(under: RuntimeUnderTest) -> None:
    container_id = under.runtime.create(make_spec(under))
    under.runtime.remove(container_id)
    with pytest.raises(RuntimeRefusedError):
        under.runtime.start(container_id)


def test_a_stopped_container_is_dead_and_can_be_started_again(under: RuntimeUnderTest) -> None:
    container_id = run(under)
    under.runtime.stop(container_id, 60)
    assert (state_of(under).state, state_of(under).pid) == ("exited", 0)
    assert state_of(under).exit_code == 143
    under.runtime.stop(container_id, 60)
    under.runtime.start(container_id)
    assert state_of(under).state == "running"
    assert state_of(under).exit_code is None


def test_a_program_that_ignores_the_signal_is_killed_after_the_grace(
    under: RuntimeUnderTest,
) -> None:
    container_id = run(under, argv=STUBBORN)
    eventually(lambda: "ready" in under.runtime.logs(container_id, 10))
    began = time.monotonic()
    under.runtime.stop(container_id, 1)
    assert time.monotonic() - began < 120
    assert (state_of(under).state, state_of(under).exit_code) == ("exited", 137)


def test_a_program_that_ends_leaves_its_exit_code_and_output(under: RuntimeUnderTest) -> None:
    container_id = run(under, argv=HELLO)
    state = await_end(under)
    assert (state.exit_code, state.pid, state.oom_killed) == (3, 0, False)
    eventually(lambda: "three" in under.runtime.logs(container_id, 10))
    assert under.runtime.logs(container_id, 10) == "one\ntwo\nthree\n"
    assert under.runtime.logs(container_id, 2) == "two\nthree\n"
    assert under.runtime.logs(container_id, 0) == ""


def test_a_container_that_never_ran_can_be_stopped_and_has_no_output(
    under: RuntimeUnderTest,
) -> None:
    container_id = under.runtime.create(make_spec(under))
    under.runtime.stop(container_id, 0)
    assert state_of(under).state == "created"
    assert under.runtime.logs(container_id, 10) == ""


def test_removing_kills_and_the_name_is_free_again(under: RuntimeUnderTest) -> None:
    container_id = run(under)
    under.runtime.remove(container_id)
    assert listed(under) == []
    assert under.runtime.inspect("writer-0") == Absent()
    assert under.runtime.create(make_spec(under)) != container_id


def test_stopping_and_removing_what_is_gone_is_fine(under: RuntimeUnderTest) -> None:
    container_id = under.runtime.create(make_spec(under))
    under.runtime.remove(container_id)
    under.runtime.remove(container_id)
    under.runtime.stop(container_id, 1)


def test_limits_are_changed_in_place_or_refused_without_effect(under: RuntimeUnderTest) -> None:
    spec = make_spec(under)
    more = replace(spec, limits=Limits(cpus=0.75, memory_bytes=128 * 2**20, pids=80))
    container_id = run(under)
    before = state_of(under)
    try:
        under.runtime.update(container_id, more.limits)
    except RuntimeRefusedError:
        assert state_of(under) == before
        return
    assert state_of(under).fields == under.runtime.normalise(more)
    assert state_of(under).pid == before.pid
    under.runtime.update(container_id, spec.limits)
    assert state_of(under).fields == under.runtime.normalise(spec)


def test_fleets_on_one_engine_do_not_see_each_other(under: RuntimeUnderTest) -> None:
    ours = under.runtime.create(make_spec(under))
    assert under.other.list() == Ok([])
    assert under.other.inspect("writer-0") == Absent()
    theirs = under.other.create(make_spec(under))
    assert [summary.id for summary in listed(under)] == [ours] != [theirs]


def test_many_threads_can_work_at_once(under: RuntimeUnderTest) -> None:
    def live(number: int) -> str:
        name = f"writer-{number}"
        container_id = run(under, name=name)
        assert state_of(under, name).state == "running"
        under.runtime.stop(container_id, 0)
        under.runtime.remove(container_id)
        return container_id

    with ThreadPoolExecutor(8) as pool:
        ids = set(pool.map(live, range(16)))
    assert len(ids) == 16
    assert listed(under) == []


# --- events ---------------------------------------------------------------------------------------


class Follower:
    """A thread that follows the events of a runtime until they end."""

    def __init__(self, under: RuntimeUnderTest, since_ns: int) -> None:
        self.events: list[RuntimeEvent] = []
        self._stream = under.runtime.events(since_ns)
        self.thread = threading.Thread(target=self._follow)
        self.thread.start()

    def _follow(self) -> None:
        for event in self._stream:
            self.events.append(event)

    def actions(self, name: str) -> list[str]:
        """In order, without those that only some runtimes have."""
        known = ("create", "start", "die", "destroy")
        return [e.action for e in self.events if e.name == name and e.action in known]


def test_events_tell_the_life_of_a_container_until_closed(under: RuntimeUnderTest) -> None:
    follower = Follower(under, time.time_ns())
    container_id = run(under)
    eventually(lambda: follower.actions("writer-0") == ["create", "start"])
    under.runtime.stop(container_id, 0)
    under.runtime.remove(container_id)
    life = ["create", "start", "die", "destroy"]
    eventually(lambda: follower.actions("writer-0") == life)
    times = [event.time_ns for event in follower.events]
    assert times == sorted(times)
    under.runtime.close()
    follower.thread.join(60)
    assert not follower.thread.is_alive()


def test_events_of_the_past_are_told_from_the_given_time_on(under: RuntimeUnderTest) -> None:
    before_ns = time.time_ns()
    container_id = under.runtime.create(make_spec(under))
    between_ns = time.time_ns()
    under.runtime.remove(container_id)
    all_of_it, the_rest = Follower(under, before_ns), Follower(under, between_ns)
    eventually(lambda: all_of_it.actions("writer-0") == ["create", "destroy"])
    eventually(lambda: the_rest.actions("writer-0") == ["destroy"])
    under.runtime.close()
    for follower in (all_of_it, the_rest):
        follower.thread.join(60)
        assert not follower.thread.is_alive()


def test_events_of_other_fleets_are_not_told(under: RuntimeUnderTest) -> None:
    follower = Follower(under, time.time_ns())
    under.other.create(make_spec(under, name="theirs-0"))
    under.runtime.create(make_spec(under, name="ours-0"))
    eventually(lambda: follower.actions("ours-0") == ["create"])
    assert {event.name for event in follower.events} == {"ours-0"}
    under.runtime.close()
    follower.thread.join(60)
