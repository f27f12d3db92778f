import json
import threading
from collections.abc import Iterator

import pytest

from reconciler.errors import RuntimeRefusedError, RuntimeUnavailableError
from reconciler.ports import RuntimeEvent
from reconciler.runtime.docker import DockerRuntime
from tests.contract.runtimes import eventually
from tests.runtime.stub_engine import Answer, StubEngine

QUIET_S = 0.2


@pytest.fixture
def runtime(stub: StubEngine) -> Iterator[DockerRuntime]:
    made = DockerRuntime("0badcafe", stub.url, timeout_s=QUIET_S)
    yield made
    made.close()


def line(name: str, action: str, time_ns: int) -> bytes:
    attributes = {"name": f"reconciler-0badcafe-{name}"}
    body = {"Action": action, "Actor": {"Attributes": attributes}, "timeNano": time_ns}
    return json.dumps(body).encode() + b"\n"


def event(name: str, action: str, time_ns: int) -> RuntimeEvent:
    return RuntimeEvent(name=name, action=action, time_ns=time_ns)


def test_only_what_changes_containers_of_the_fleet_is_asked_for(stub: StubEngine, runtime: DockerRuntime) -> None:
    stub.on("GET", "/events", Answer(chunks=[line("writer-0", "die", 7)], stall=True))
    assert next(runtime.events(1_700_000_000_123_456_789)) == event("writer-0", "die", 7)
    query = stub.asked[-1].query
    assert query["since"] == "1700000000.123456789"
    filters = json.loads(query["filters"])
    assert filters["type"] == ["container"]
    assert filters["label"] == ["io.reconciler.fleet=0badcafe"]
    assert {"create", "start", "die", "oom", "destroy"} <= set(filters["event"])
    assert not any(action.startswith("exec") for action in filters["event"])


def test_events_are_found_wherever_the_pieces_are_cut(stub: StubEngine, runtime: DockerRuntime) -> None:
    text = line("a-0", "start", 1) + line("b-0", "start", 2) + line("c-0", "start", 3)
    pieces = [text[:5], text[5:130], text[130:-1], text[-1:]]
    stub.on("GET", "/events", Answer(chunks=pieces, stall=True))
    stream = runtime.events(0)
    assert [next(stream).name for _ in range(3)] == ["a-0", "b-0", "c-0"]


def test_a_quiet_stream_is_opened_again_after_the_last_event(stub: StubEngine, runtime: DockerRuntime) -> None:
    first = Answer(chunks=[line("a-0", "start", 5_000_000_007)], stall=True)
    nothing = Answer(chunks=[], stall=True)
    last = Answer(chunks=[line("a-0", "die", 9_000_000_000)], stall=True)
    stub.on("GET", "/events", first, nothing, last)
    stream = runtime.events(1)
    assert next(stream) == event("a-0", "start", 5_000_000_007)
    assert next(stream) == event("a-0", "die", 9_000_000_000)
    asked = [asked.query["since"] for asked in stub.asked if asked.path.endswith("/events")]
    assert asked == ["0.000000001", "5.000000008", "5.000000008"]


@pytest.mark.parametrize(
    "after",
    [Answer(chunks=[line("a-0", "start", 5)]), Answer(chunks=[b'{"no": "end"'], hang_up=True)],
    ids=["ended", "cut"],
)
def test_a_lost_link_raises(stub: StubEngine, runtime: DockerRuntime, after: Answer) -> None:
    stub.on("GET", "/events", after)
    with pytest.raises(RuntimeUnavailableError, match="follow events"):
        list(runtime.events(0))


def test_an_engine_that_falls_silent_for_good_is_noticed_when_the_stream_is_opened_again(
    stub: StubEngine, runtime: DockerRuntime
) -> None:
    stub.on("GET", "/events", Answer(chunks=[], stall=True), Answer(stall=True))
    with pytest.raises(RuntimeUnavailableError, match="timed out"):
        list(runtime.events(0))


@pytest.mark.parametrize("text", [b"not json\n", b'{"Action": "start"}\n'])
def test_what_is_no_event_is_no_engine(stub: StubEngine, runtime: DockerRuntime, text: bytes) -> None:
    stub.on("GET", "/events", Answer(chunks=[text], stall=True))
    with pytest.raises(RuntimeUnavailableError):
        list(runtime.events(0))


def test_a_refusal_says_so(stub: StubEngine, runtime: DockerRuntime) -> None:
    stub.on("GET", "/events", Answer(status=403, body={"message": "not for you"}))
    with pytest.raises(RuntimeRefusedError, match="not for you"):
        list(runtime.events(0))


def test_closing_wakes_a_reader_at_once(stub: StubEngine) -> None:
    runtime = DockerRuntime("0badcafe", stub.url, timeout_s=600)
    stub.on("GET", "/events", Answer(chunks=[line("a-0", "start", 5)], stall=True))
    seen: list[RuntimeEvent] = []
    reader = threading.Thread(target=lambda: seen.extend(runtime.events(0)))
    reader.start()
    eventually(lambda: bool(stub.paths("/events")))
    runtime.close()
    reader.join(60)
    assert not reader.is_alive()
    assert list(runtime.events(0)) == []


def test_a_reader_that_stops_early_leaves_nothing_open(stub: StubEngine, runtime: DockerRuntime) -> None:
    stub.on("GET", "/events", Answer(chunks=[line("a-0", "start", 5)], stall=True))
    stream = runtime.events(0)
    next(stream)
    assert len(runtime._events._streams) == 1
    stream.close()  # type: ignore[attr-defined]  # a generator
    assert not runtime._events._streams
