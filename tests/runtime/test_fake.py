import threading
import time
from dataclasses import replace

import pytest

from reconciler.core.reading import Absent, Ok, Unavailable
from reconciler.errors import RuntimeRefusedError, RuntimeUnavailableError
from reconciler.ports import ContainerSpec, ContainerState, Limits, Runtime, RuntimeEvent
from reconciler.runtime.fake import REMEMBERED_EVENTS, FakeRuntime
from reconciler.runtime.fake_container import Program

SPEC = ContainerSpec(
    name="writer-0",
    image="agents/base:1",
    image_id="sha256:1",
    argv=("sleep", "600"),
    env={},
    labels={},
    limits=Limits(cpus=1.0, memory_bytes=2**26, pids=50),
    mounts=(),
    disk_bytes=2**20,
    grace_s=1.0,
)


@pytest.fixture
def fake() -> FakeRuntime:
    made = FakeRuntime("0badcafe")
    made.add_image("agents/base:1", "sha256:1")
    return made


def state_of(fake: FakeRuntime, name: str = "writer-0") -> ContainerState:
    reading = fake.inspect(name)
    assert isinstance(reading, Ok)
    return reading.value


def run(fake: FakeRuntime, spec: ContainerSpec = SPEC) -> str:
    container_id = fake.create(spec)
    fake.start(container_id)
    return container_id


def test_it_is_a_runtime(fake: FakeRuntime) -> None:
    runtime: Runtime = fake
    assert runtime.name == "fake"


def test_the_same_calls_give_the_same_ids_and_times() -> None:
    def play() -> tuple[str, list[RuntimeEvent]]:
        fake = FakeRuntime("0badcafe", now_ns=lambda: 1000)
        fake.add_image("agents/base:1", "sha256:1")
        container_id = run(fake)
        fake.remove(container_id)
        fake.close()
        return container_id, fake._events

    assert play() == play()


def test_when_down_nothing_answers_and_containers_go_on(fake: FakeRuntime) -> None:
    container_id = run(fake)
    fake.go_down("gone fishing")
    readings = fake.facts(), fake.list(), fake.inspect("writer-0"), fake.resolve_image("x")
    assert all(isinstance(reading, Unavailable) and "gone fishing" in reading.reason for reading in readings)
    for call in (fake.start, fake.remove):
        with pytest.raises(RuntimeUnavailableError, match="gone fishing"):
            call(container_id)
    fake.come_back()
    assert state_of(fake).state == "running"


def test_going_down_and_losing_events_break_open_streams(fake: FakeRuntime) -> None:
    run(fake)
    for fault in (fake.go_down, fake.lose_events):
        stream = fake.events(0)
        assert next(stream).action == "create"
        fault()
        with pytest.raises(RuntimeUnavailableError):
            list(stream)
        fake.come_back()


def test_the_next_call_can_be_refused_or_fail_without_effect(fake: FakeRuntime) -> None:
    fake.refuse_next("create", "quota used up")
    fake.fail_next("create", times=2)
    with pytest.raises(RuntimeRefusedError, match="quota used up"):
        fake.create(SPEC)
    for _ in range(2):
        with pytest.raises(RuntimeUnavailableError):
            fake.create(SPEC)
    assert fake.list() == Ok([])
    fake.create(SPEC)


def test_an_answer_can_be_lost_after_the_effect(fake: FakeRuntime) -> None:
    fake.lose_answer_of_next("create")
    with pytest.raises(RuntimeUnavailableError):
        fake.create(SPEC)
    assert state_of(fake).state == "created"


def test_one_list_can_fail(fake: FakeRuntime) -> None:
    fake.fail_next("list")
    assert isinstance(fake.list(), Unavailable)
    assert fake.list() == Ok([])


def test_containers_crash_pause_and_vanish_when_told(fake: FakeRuntime) -> None:
    run(fake)
    fake.crash("writer-0", 9, oom_killed=True)
    assert (state_of(fake).state, state_of(fake).exit_code, state_of(fake).oom_killed) == ("exited", 9, True)
    fake.start(state_of(fake).id)
    assert state_of(fake).oom_killed is False
    fake.pause("writer-0")
    assert state_of(fake).state == "paused"
    fake.remove_by_hand("writer-0")
    assert fake.inspect("writer-0") == Absent()
    actions = ["create", "start", "oom", "die", "start", "pause", "die", "destroy"]
    stream = fake.events(0)
    assert [next(stream).action for _ in actions] == actions


def test_a_field_changed_by_hand_shows_and_others_do_not_change(fake: FakeRuntime) -> None:
    run(fake)
    before = state_of(fake)
    fake.change_field("writer-0", "limits.pids", 51)
    fake.change_field("writer-0", "networks", ["bridge", "none"])
    wanted = {**before.fields, "limits": {**before.fields["limits"], "pids": 51}, "networks": ["bridge", "none"]}
    assert state_of(fake).fields == wanted
    assert before.fields == fake.normalise(SPEC)


def test_limits_below_the_memory_in_use_are_refused(fake: FakeRuntime) -> None:
    container_id = run(fake)
    fake.use_memory("writer-0", 2**25)
    with pytest.raises(RuntimeRefusedError):
        fake.update(container_id, replace(SPEC.limits, memory_bytes=2**24))
    assert state_of(fake).fields == fake.normalise(SPEC)
    fake.update(container_id, replace(SPEC.limits, memory_bytes=2**25))


def test_updates_can_be_refused_altogether(fake: FakeRuntime) -> None:
    container_id = run(fake)
    fake.refuse_updates()
    with pytest.raises(RuntimeRefusedError):
        fake.update(container_id, SPEC.limits)


def test_programs_decide_how_containers_end(fake: FakeRuntime) -> None:
    fake.add_program(("slow",), Program(shutdown_s=5))
    container_id = run(fake, replace(SPEC, argv=("slow",)))
    fake.stop(container_id, 4)
    assert state_of(fake).exit_code == 137
    fake.start(container_id)
    fake.stop(container_id, 5)
    assert state_of(fake).exit_code == 143


def test_a_tag_can_move_and_go(fake: FakeRuntime) -> None:
    fake.add_image("agents/base:1", "sha256:2")
    assert fake.resolve_image("agents/base:1") == Ok("sha256:2")
    fake.forget_image("agents/base:1")
    assert fake.resolve_image("agents/base:1") == Absent()


def test_calls_are_recorded_and_limitations_told(fake: FakeRuntime) -> None:
    container_id = run(fake)
    fake.print_line("writer-0", "hello")
    fake.set_limitations("The engine cannot limit swap.")
    facts = fake.facts()
    assert isinstance(facts, Ok)
    assert facts.value.limitations == ("The engine cannot limit swap.",)
    assert fake.logs(container_id, 1) == "hello\n"
    assert fake.calls == [("create", "writer-0"), ("start", "writer-0"), ("facts", ""), ("logs", "writer-0")]


def test_old_events_are_forgotten_as_an_engine_does(fake: FakeRuntime) -> None:
    for number in range(REMEMBERED_EVENTS):
        fake.remove(fake.create(replace(SPEC, name=f"a-{number}")))
    stream = fake.events(0)
    assert next(stream).name == f"a-{REMEMBERED_EVENTS // 2}"


def test_a_thousand_containers_are_quick(fake: FakeRuntime) -> None:
    began = time.monotonic()
    for number in range(1000):
        run(fake, replace(SPEC, name=f"a-{number}"))
    for _ in range(10):
        assert isinstance(fake.list(), Ok)
    assert state_of(fake, "a-999").state == "running"
    assert time.monotonic() - began < 60


def test_an_event_wakes_a_waiting_reader(fake: FakeRuntime) -> None:
    seen: list[str] = []
    reader = threading.Thread(target=lambda: seen.append(next(fake.events(0)).action))
    reader.start()
    fake.create(SPEC)
    reader.join(60)
    assert seen == ["create"]
