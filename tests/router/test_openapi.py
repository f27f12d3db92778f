"""The published document of the agent plane: what it says is what the router does, for input that fits it or not."""

import io
import threading
from typing import Any

import msgspec
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from reconciler.agentd.dial import UnixDial
from reconciler.agentd.forward import Forwarder
from reconciler.agentd.log import Log
from reconciler.router.asgi import AgentPlane
from reconciler.router.message import STATUS_BY_CODE, Delivered, Envelope
from tests.router.fleet import Fleet
from tests.router.test_peers import configure

DOCUMENT = "docs/openapi.yaml"
SCHEMA = schemathesis.openapi.from_path(DOCUMENT)
OPERATIONS = [(path, method) for path in SCHEMA for method in SCHEMA[path]]
CHECKS = [
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
LONGEST_WAIT_S = 0.05

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def forwarders() -> dict[str, str]:
    """URLs by socket, each piped to it as agentd does."""
    return {}


@pytest.fixture
def url(fleet: Fleet, forwarders: dict[str, str]) -> str:
    """An agent, which may write to a peer and to a topic, at its HUB_URL."""
    configure(fleet)
    fleet.configure(limits={"request_timeout_s": LONGEST_WAIT_S})
    writer = fleet.register("writer-0")
    fleet.register("reviewer-0")
    if str(writer.socket_path) not in forwarders:
        forwarder = Forwarder(UnixDial(str(writer.socket_path)), 0, Log(instance="writer-0", stream=io.StringIO()))
        threading.Thread(target=forwarder.run, daemon=True).start()
        forwarders[str(writer.socket_path)] = forwarder.url
    return forwarders[str(writer.socket_path)]


def call(case: schemathesis.Case, fleet: Fleet, url: str, *more: Any) -> None:
    """One request, and its answer held against the document, and against `more`."""
    if (wait := _as_number(case.query.get("wait"))) is not None and wait > LONGEST_WAIT_S:
        case.query["wait"] = LONGEST_WAIT_S
    token = {"Authorization": f"Bearer {fleet.agents['writer-0'].token}"}
    response = case.call(base_url=url, headers=token, timeout=120)
    assert response.status_code != 500, response.text
    case.validate_response(response, checks=[*CHECKS, *more])


def _as_number(value: object) -> float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


bounded = settings(max_examples=60, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))


@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_the_router_answers_as_the_document_says(fleet: Fleet, url: str, path: str, method: str) -> None:
    @bounded
    @given(case=SCHEMA[path][method].as_strategy())
    def run(case: schemathesis.Case) -> None:
        call(case, fleet, url)

    run()


@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_also_where_a_request_does_not_fit(fleet: Fleet, url: str, path: str, method: str) -> None:
    @bounded
    @given(case=SCHEMA[path][method].as_strategy(GenerationMode.NEGATIVE))
    def run(case: schemathesis.Case) -> None:
        call(case, fleet, url)

    run()


@pytest.mark.parametrize(("path", "method"), [(p, m) for p, m in OPERATIONS if SCHEMA[p][m].body])
def test_a_body_that_does_not_fit_is_refused(fleet: Fleet, url: str, path: str, method: str) -> None:
    @bounded
    @given(case=SCHEMA[path][method].as_strategy(GenerationMode.NEGATIVE, query={}))
    def run(case: schemathesis.Case) -> None:
        call(case, fleet, url, negative_data_rejection)

    run()


def test_every_call_of_the_agent_plane_is_in_it() -> None:
    plane = AgentPlane(None, "")  # type: ignore[arg-type]
    assert {(path, method.lower()) for method, path in plane._endpoints} == {(p, m.lower()) for p, m in OPERATIONS}


def test_codes_and_members_are_those_of_the_code() -> None:
    schemas: dict[str, Any] = SCHEMA.raw_schema["components"]["schemas"]
    assert schemas["Problem"]["properties"]["code"]["enum"] == [
        *STATUS_BY_CODE,
        "not_found",
        "method_not_allowed",
    ]
    statuses = {int(status) for status in SCHEMA.raw_schema["paths"]["/api/hub/messages"]["post"]["responses"]}
    assert set(STATUS_BY_CODE.values()) - statuses == set()
    for name, shape in (("Message", Envelope), ("Delivered", Delivered)):
        fields = msgspec.structs.fields(shape)
        assert schemas[name]["properties"].keys() == {field.encode_name for field in fields}, name
        assert set(schemas[name]["required"]) == {field.encode_name for field in fields if field.required}, name
