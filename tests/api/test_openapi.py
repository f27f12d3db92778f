"""The published document of the operator plane: what it says is what a hub answers, for input that fits it or not."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from starlette.routing import Route

from reconciler.api.access import Access, Role
from reconciler.api.app import build_app
from reconciler.api.server import PortServer
from reconciler.audit.verify import Verdict
from reconciler.store import audit
from tests.api.test_app import FakeReader
from tests.api.test_server import operations, plane_settings
from tests.fakes.fleet import FakeFleet
from tests.fakes.texts import agent_text, task_text

DOCUMENT = "docs/openapi-operator.yaml"
SCHEMA = schemathesis.openapi.from_path(DOCUMENT)
OPERATIONS = [(path, method) for path in SCHEMA for method in SCHEMA[path]]
FUZZED = [(path, method) for path, method in OPERATIONS if path != "/events"]
CHECKS = [
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]

pytestmark = pytest.mark.slow

bounded = settings(max_examples=6, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))


class Reader(FakeReader):
    """With an answer to everything."""

    def verify(self) -> Mapping[str, Any]:
        verdict = Verdict(rows=1, last_seq=1, by_checkpoint=1, by_note=0, faults=(), proven=("all",), unchecked=())
        return {**dataclasses.asdict(verdict), "anchored": verdict.anchored}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A hub with an agent `writer` and a task `job`, whose caller may do everything."""
    folder = tmp_path_factory.mktemp("hub")
    fleet = FakeFleet(folder)
    fleet.commit({"agents.d/a.yaml": agent_text(), "tasks.d/t.yaml": task_text("job")})
    fleet.settle()
    chosen = plane_settings(folder)
    app = build_app(operations(fleet), lambda _request: Access("token:ada", Role.OWNER), Reader())
    server = PortServer(app, chosen)
    server.start()
    yield f"http://{chosen.listens_at}"
    server.stop()
    fleet.end_hub()


def fuzz(url: str, path: str, method: str, mode: GenerationMode) -> None:
    @bounded
    @given(case=SCHEMA[path][method].as_strategy(mode))
    def run(case: schemathesis.Case) -> None:
        response = case.call(base_url=url, timeout=20)
        assert response.status_code != 500, response.text
        case.validate_response(response, checks=CHECKS)

    run()


@pytest.mark.parametrize(("path", "method"), FUZZED)
def test_a_hub_answers_as_the_document_says(url: str, path: str, method: str) -> None:
    fuzz(url, path, method, GenerationMode.POSITIVE)


@pytest.mark.parametrize(("path", "method"), [(p, m) for p, m in FUZZED if SCHEMA[p][m].body or SCHEMA[p][m].query])
def test_also_where_a_request_does_not_fit(url: str, path: str, method: str) -> None:
    fuzz(url, path, method, GenerationMode.NEGATIVE)


@pytest.mark.parametrize(
    ("path", "method", "filled"),
    [
        ("/api/v1/tasks/{name}", "get", {"name": "job"}),
        ("/api/v1/tasks/{name}/explain", "get", {"name": "job"}),
        ("/api/v1/tasks/{name}/retry", "post", {"name": "job"}),
        ("/api/v1/agents/{name}/explain", "get", {"name": "writer"}),
        ("/api/v1/agents/{name}/restart", "post", {"name": "writer"}),
        ("/api/v1/suspensions", "post", {}),
    ],
)
def test_what_there_is_is_answered_as_the_document_says(
    url: str, path: str, method: str, filled: dict[str, str]
) -> None:
    body = {"subject": "fleet"} if path.endswith("suspensions") else None
    case = SCHEMA[path][method].Case(path_parameters=filled, **({"body": body} if body else {}))
    response = case.call(base_url=url, timeout=20)
    assert response.status_code < 300, response.text
    case.validate_response(response, checks=CHECKS)


def test_every_call_of_the_operator_plane_is_in_it(fleet: FakeFleet) -> None:
    app = build_app(operations(fleet), reader=Reader())
    routes = [r for r in app.routes if isinstance(r, Route)]
    found = {(r.path.replace(":path", ""), m.lower()) for r in routes for m in (r.methods or set()) - {"HEAD"}}
    assert found == {(path, method.lower()) for path, method in OPERATIONS}


def test_an_event_has_the_columns_of_a_row() -> None:
    event = SCHEMA.raw_schema["components"]["schemas"]["Event"]
    assert set(event["properties"]) == set(event["required"]) == {"seq", *audit.COLUMNS, "prev", "hash"}
