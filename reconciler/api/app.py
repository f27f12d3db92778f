"""The operator plane's routes. A running hub comes in as `Operations`; problems go out as RFC 9457 documents."""

import hashlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any, Protocol

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from reconciler.api.access import Access, Authenticate, RefusedRequest, Right, by_peer, require
from reconciler.api.auditing import AuditCalls, AuditReader
from reconciler.api.events import EventCalls, Pace, Page
from reconciler.api.login import login_name
from reconciler.core.caller import Caller, name_caller
from reconciler.errors import ReconcilerError
from reconciler.store.audit import Choice

MAX_BODY = 2 * 2**20
MOST_LISTED = 1000
PAGE = 200
"""So many runs are listed at once, unless another number is asked for."""
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""Of `/metrics`: text in the format of Prometheus."""
REASON_REQUIRED = (
    "the operator of this hub wants a reason for what is done by hand (audit.reasonRequired); say why with "
    "--reason TEXT, in the API with ?reason=TEXT"
)
AGENT_VERBS = ("restart", "drain", "quarantine", "release")
AUDIT_CALLS = ("show", "export", "verify", "report")

Endpoint = Callable[[Request], Awaitable[Response]]


class Operations(Protocol):
    """What the operator plane asks of a running hub. Methods may raise RefusedRequest."""

    @property
    def is_reason_required(self) -> bool: ...

    def status(self) -> Mapping[str, Any]: ...

    def metrics(self) -> str: ...

    def newest_event(self) -> int: ...

    def events(self, choice: Choice) -> Page: ...

    def plan(self, *, everything: bool) -> Mapping[str, Any]: ...

    def export(self) -> Mapping[str, Any]: ...

    def suspensions(self) -> Mapping[str, Any]: ...

    def suspend(self, content: bytes, caller: Caller) -> Mapping[str, Any]: ...

    def resume(self, subject: str, caller: Caller) -> Mapping[str, Any]: ...

    def rollbacks(self) -> Mapping[str, Any]: ...

    def roll_back(self, content: bytes, caller: Caller) -> Mapping[str, Any]: ...

    def clear_rollback(self, subject: str, caller: Caller) -> Mapping[str, Any]: ...

    def submit(self, content: bytes, caller: Caller, key: str = "") -> Mapping[str, Any]: ...

    def tasks(self, *, limit: int = PAGE, before: str = "") -> Mapping[str, Any]: ...

    def task(self, name: str) -> Mapping[str, Any]: ...

    def artefact(self, name: str, file: str) -> bytes: ...

    def explain(self, name: str) -> Mapping[str, Any]: ...

    def acknowledge(self, name: str, caller: Caller) -> Mapping[str, Any]: ...

    def cancel(self, name: str, caller: Caller) -> Mapping[str, Any]: ...

    def retry(self, name: str, caller: Caller) -> Mapping[str, Any]: ...

    def order(self, name: str, verb: str, caller: Caller) -> Mapping[str, Any]: ...

    def explain_agent(self, name: str) -> Mapping[str, Any]: ...

    def send(self, content: bytes, caller: Caller) -> Mapping[str, Any]: ...

    def confirm(self, digest: str, caller: Caller) -> Mapping[str, Any]: ...

    def take_down(self, *, drain: bool, caller: Caller) -> Mapping[str, Any]: ...

    def wake(self) -> None: ...

    def is_ready(self) -> bool: ...

    def is_alive(self) -> bool: ...


def build_app(
    hub: Operations, authenticate: Authenticate = by_peer, reader: AuditReader | None = None, pace: Pace | None = None
) -> Starlette:
    """The ASGI application. `/healthz` and `/readyz` say no more than yes or no, and ask nobody who they are."""
    calls = AuditCalls(reader) if reader is not None else None
    streams = EventCalls(hub.events, hub.newest_event, authenticate, pace or Pace())

    def route(path: str, endpoint: Endpoint, needs: Right = Right.READ, method: str = "GET") -> Route:
        async def checked(request: Request) -> Response:
            access = authenticate(request)
            require(access, needs)
            request.state.access = access
            return await endpoint(request)

        return Route(path, checked, methods=[method])

    def manual(request: Request) -> Caller:
        """Who asks for an operation by hand, which may take a reason."""
        caller = _caller(request)
        if hub.is_reason_required and not caller.reason:
            raise RefusedRequest(REASON_REQUIRED, status=400)
        return caller

    async def healthz(_request: Request) -> Response:
        if not hub.is_alive():
            return JSONResponse({"status": "no pass has ended for a long time"}, status_code=503)
        return JSONResponse({"status": "ok"})

    async def metrics(_request: Request) -> Response:
        return Response(await run_in_threadpool(hub.metrics), media_type=CONTENT_TYPE)

    async def readyz(_request: Request) -> Response:
        ready = hub.is_ready()
        return JSONResponse({"ready": ready}, status_code=200 if ready else 503)

    async def status(_request: Request) -> Response:
        return JSONResponse(await run_in_threadpool(hub.status))

    async def plan(request: Request) -> Response:
        everything = request.query_params.get("all") == "1"
        return JSONResponse(await run_in_threadpool(lambda: hub.plan(everything=everything)))

    async def export(_request: Request) -> Response:
        return JSONResponse(await run_in_threadpool(hub.export))

    async def submit(request: Request) -> Response:
        content = await _body(request)
        key = request.headers.get("idempotency-key") or request.query_params.get("key", "")
        return JSONResponse(await run_in_threadpool(hub.submit, content, _caller(request), key), status_code=202)

    async def tasks(request: Request) -> Response:
        asked = request.query_params.get("limit", str(PAGE))
        limit = int(asked) if asked.isdecimal() and len(asked) < 5 else 0
        if not 1 <= limit <= MOST_LISTED:
            raise RefusedRequest(f"limit is a number from 1 to {MOST_LISTED}, not {asked!r}", status=400)
        before = request.query_params.get("before", "")
        return JSONResponse(await run_in_threadpool(lambda: hub.tasks(limit=limit, before=before)))

    async def task(request: Request) -> Response:
        return JSONResponse(await run_in_threadpool(hub.task, request.path_params["name"]))

    async def artefact(request: Request) -> Response:
        path = request.path_params
        content = await run_in_threadpool(hub.artefact, path["name"], path["file"])
        headers = {"etag": f'"{hashlib.sha256(content).hexdigest()}"'}
        return Response(content, media_type="application/octet-stream", headers=headers)

    async def explain(request: Request) -> Response:
        return JSONResponse(await run_in_threadpool(hub.explain, request.path_params["name"]))

    async def acknowledge(request: Request) -> Response:
        return JSONResponse(await run_in_threadpool(hub.acknowledge, request.path_params["name"], manual(request)))

    async def send(request: Request) -> Response:
        content = await _body(request)
        return JSONResponse(await run_in_threadpool(hub.send, content, manual(request)), status_code=202)

    async def cancel(request: Request) -> Response:
        return JSONResponse(await run_in_threadpool(hub.cancel, request.path_params["name"], manual(request)))

    async def retry(request: Request) -> Response:
        return JSONResponse(await run_in_threadpool(hub.retry, request.path_params["name"], manual(request)))

    async def order(request: Request) -> Response:
        verb = request.url.path.rpartition("/")[2]
        answer = await run_in_threadpool(hub.order, request.path_params["name"], verb, manual(request))
        return JSONResponse(answer, status_code=202)

    async def suspensions(_request: Request) -> Response:
        return JSONResponse(await run_in_threadpool(hub.suspensions))

    async def suspend(request: Request) -> Response:
        content = await _body(request)
        return JSONResponse(await run_in_threadpool(hub.suspend, content, manual(request)), status_code=201)

    async def resume(request: Request) -> Response:
        subject = request.path_params["subject"]
        return JSONResponse(await run_in_threadpool(hub.resume, subject, manual(request)))

    async def rollbacks(_request: Request) -> Response:
        return JSONResponse(await run_in_threadpool(hub.rollbacks))

    async def roll_back(request: Request) -> Response:
        content = await _body(request)
        return JSONResponse(await run_in_threadpool(hub.roll_back, content, manual(request)), status_code=201)

    async def clear_rollback(request: Request) -> Response:
        subject = request.path_params["subject"]
        return JSONResponse(await run_in_threadpool(hub.clear_rollback, subject, manual(request)))

    async def explain_agent(request: Request) -> Response:
        return JSONResponse(await run_in_threadpool(hub.explain_agent, request.path_params["name"]))

    async def confirm(request: Request) -> Response:
        return JSONResponse(await run_in_threadpool(hub.confirm, request.path_params["digest"], manual(request)))

    async def down(request: Request) -> Response:
        drain = request.query_params.get("now") != "1"
        caller = manual(request)
        return JSONResponse(await run_in_threadpool(lambda: hub.take_down(drain=drain, caller=caller)), status_code=202)

    async def wake(_request: Request) -> Response:
        hub.wake()
        return Response(status_code=204)

    app = Starlette(
        routes=[
            Route("/healthz", healthz),
            Route("/readyz", readyz),
            route("/status", status),
            route("/metrics", metrics),
            route("/events", streams.events),
            route("/api/v1/plan", plan),
            route("/api/v1/export", export),
            route("/api/v1/tasks", submit, Right.ACT, "POST"),
            route("/api/v1/tasks", tasks),
            route("/api/v1/tasks/{name}", task),
            route("/api/v1/tasks/{name}/artefacts/{file:path}", artefact),
            route("/api/v1/tasks/{name}/explain", explain),
            route("/api/v1/tasks/{name}/acknowledge", acknowledge, Right.ACT, "POST"),
            route("/api/v1/tasks/{name}/cancel", cancel, Right.ACT, "POST"),
            route("/api/v1/tasks/{name}/retry", retry, Right.ACT, "POST"),
            route("/api/v1/agents/{name}/explain", explain_agent),
            *(route(f"/api/v1/agents/{{name}}/{verb}", order, Right.ACT, "POST") for verb in AGENT_VERBS),
            route("/api/v1/suspensions", suspend, Right.ACT, "POST"),
            route("/api/v1/suspensions", suspensions),
            route("/api/v1/suspensions/{subject:path}", resume, Right.ACT, "DELETE"),
            route("/api/v1/rollbacks", roll_back, Right.ACT, "POST"),
            route("/api/v1/rollbacks", rollbacks),
            route("/api/v1/rollbacks/{subject:path}", clear_rollback, Right.ACT, "DELETE"),
            route("/api/v1/messages", send, Right.ACT, "POST"),
            route("/api/v1/plans/{digest}/confirm", confirm, Right.ACT, "POST"),
            route("/api/v1/down", down, Right.ACT, "POST"),
            route("/api/v1/wake", wake, Right.ACT, "POST"),
            *(route(f"/api/v1/audit/{name}", getattr(calls, name), Right.AUDIT) for name in AUDIT_CALLS if calls),
        ],
        exception_handlers={RefusedRequest: _refused, HTTPException: _unmatched, ReconcilerError: _failed},
    )
    app.router.redirect_slashes = False
    return app


async def _body(request: Request) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > MAX_BODY:
            raise RefusedRequest(f"the body has more than {MAX_BODY} bytes", status=413)
        parts.append(part)
    return b"".join(parts)


def _caller(request: Request) -> Caller:
    """What the connection proves, and what is said in `?as=` and `?reason=`: a query can hold any script as it is."""
    access: Access = request.state.access
    said = request.query_params
    try:
        caller = name_caller(access.subject, said.get("as", ""), said.get("reason", ""))
    except ValueError as exc:
        raise RefusedRequest(str(exc), status=400) from exc
    return replace(caller, name=caller.name or (login_name(caller.uid) if caller.uid is not None else ""))


async def _refused(_request: Request, exc: Exception) -> Response:
    assert isinstance(exc, RefusedRequest)
    return refuse(exc.status, str(exc), exc.headers)


async def _failed(_request: Request, exc: Exception) -> Response:
    """What the hub needs for an answer does not answer itself."""
    return refuse(503, str(exc))


async def _unmatched(_request: Request, exc: Exception) -> Response:
    """A path or a method that there is not."""
    assert isinstance(exc, HTTPException)
    return refuse(exc.status_code, exc.detail, exc.headers)


def refuse(status: int, detail: str, headers: Mapping[str, str] | None = None) -> Response:
    """A problem of RFC 9457."""
    problem = {"type": "about:blank", "title": "refused", "status": status, "detail": detail}
    return JSONResponse(problem, status_code=status, headers=headers, media_type="application/problem+json")
