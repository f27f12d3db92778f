"""Who may ask for what on the operator plane, and how it answers those who may not."""

import asyncio
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Route

from reconciler.api.access import RIGHTS, Access, RefusedRequest, Right, Role
from reconciler.api.app import AGENT_VERBS, AUDIT_CALLS, build_app
from reconciler.api.operations import HubOperations
from reconciler.errors import StoreError
from reconciler.kinds import KINDS
from reconciler.loop.serve import Hub
from reconciler.store import audit
from tests.api.test_tasks import request
from tests.fakes.fleet import FakeFleet
from tests.fakes.texts import agent_text, task_text

OPEN = ("/healthz", "/readyz")


class FakeReader:
    """Answers that are easily known."""

    def show(self, what: str) -> Mapping[str, Any]:
        return {"title": what}

    def export(self, form: str, since: str, until: str) -> Iterator[str]:
        yield f'"{form} {since} {until}"'

    def verify(self) -> Mapping[str, Any]:
        raise StoreError("reading failed")

    def report(self, since: str, until: str) -> str:
        return '"page"'


@pytest.fixture
def operations(fleet: FakeFleet) -> HubOperations:
    fleet.commit({"agents.d/a.yaml": agent_text()})
    fleet.settle()
    return HubOperations(Hub(fleet.loop, fleet.world, KINDS, fleet.inspections), fleet.loop, fleet.world, print)


def app_for(operations: HubOperations, role: Role | None) -> Starlette:
    def authenticate(_request: Request) -> Access:
        if role is None:
            raise RefusedRequest("who are you?", 401, {"www-authenticate": "Bearer"})
        return Access("token:ada", role)

    return build_app(operations, authenticate, FakeReader())


def ask(app: Starlette, method: str, path: str, body: bytes = b"") -> tuple[int, Any]:
    return asyncio.run(request(app, method, path, body, {}))


def calls(app: Starlette) -> list[tuple[str, str]]:
    """Method and path of every call, with names filled in."""
    routes = [r for r in app.routes if isinstance(r, Route)]
    paths = [(method, r.path) for r in routes for method in sorted((r.methods or set()) - {"HEAD"})]
    return [(m, p.replace("{name}", "x").replace("{file:path}", "f").replace("{subject:path}", "s")) for m, p in paths]


def right_of(method: str, path: str) -> Right:
    if "/audit/" in path:
        return Right.AUDIT
    return Right.READ if method == "GET" else Right.ACT


@pytest.mark.parametrize("role", [Role.VIEWER, Role.OPERATOR, Role.AUDITOR, Role.OWNER])
def test_each_call_is_for_those_whose_role_has_the_right(operations: HubOperations, role: Role) -> None:
    app = app_for(operations, role)
    asked = [c for c in calls(app) if c[1] not in (*OPEN, "/events")]
    assert len(asked) >= 20 + len(AGENT_VERBS) + len(AUDIT_CALLS)
    for method, path in asked:
        status, _ = ask(app, method, path)
        assert (status == 403) == (right_of(method, path) not in RIGHTS[role]), (method, path, status)
        assert status not in (401, 500)


def test_without_a_proof_everything_but_health_is_refused(operations: HubOperations, fleet: FakeFleet) -> None:
    app = app_for(operations, None)
    before = audit.newest(fleet.store)
    for method, path in calls(app):
        status, answer = ask(app, method, path)
        if path in OPEN:
            assert status in (200, 503)
            assert set(answer) <= {"status", "ready"}
        else:
            assert (status, answer["detail"]) == (401, "who are you?"), path
    assert audit.newest(fleet.store) == before


def test_the_token_s_name_is_the_actor_of_what_it_asked_for(operations: HubOperations, fleet: FakeFleet) -> None:
    app = app_for(operations, Role.OPERATOR)
    assert ask(app, "POST", "/api/v1/tasks", task_text("job").encode())[0] == 202
    assert ask(app, "POST", "/api/v1/suspensions", b'{"subject": "fleet"}')[0] == 201
    assert ask(app, "POST", "/api/v1/agents/writer/restart?as=Ada&reason=a+look")[0] == 202
    rows = [r.entry for r in audit.tail(fleet.store, 3)]
    assert [(e.actor, e.action) for e in rows] == [
        ("token:ada", "create"),
        ("token:ada", "suspend"),
        ("token:ada (Ada)", "restart"),
    ]
    assert fleet.task("job").uid < 0, "a token is no user of this host"


def test_refusals_of_all_sorts_are_problems(operations: HubOperations) -> None:
    app = app_for(operations, Role.OWNER)
    for method, path, status in (
        ("GET", "/nothing", 404),
        ("GET", "/status/", 404),
        ("DELETE", "/status", 405),
        ("GET", "/api/v1/audit/verify", 503),
        ("GET", "/api/v1/audit/export?format=xml", 400),
        ("GET", "/api/v1/tasks/nothing", 404),
    ):
        found, problem = ask(app, method, path)
        assert (found, problem["status"]) == (status, status)
        assert set(problem) == {"type", "title", "status", "detail"}


def test_an_export_is_of_the_form_and_the_time_that_was_asked_for(operations: HubOperations) -> None:
    app = app_for(operations, Role.AUDITOR)
    assert ask(app, "GET", "/api/v1/audit/export?format=csv&from=24h&to=1h") == (200, '"csv 24h 1h"')
    assert ask(app, "GET", "/api/v1/audit/show?what=24h") == (200, {"title": "24h"})
