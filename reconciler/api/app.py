"""The operator plane's routes. A running hub comes in as `Operations`; problems go out as RFC 9457 documents."""

from collections.abc import Mapping
from typing import Any, Protocol

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

MAX_BODY = 2 * 2**20


class RefusedRequest(Exception):  # noqa: N818 - an answer to the caller, not an error of ours
    """The request cannot be carried out; the message says why and what to do."""

    def __init__(self, message: str, status: int = 409) -> None:
        super().__init__(message)
        self.status = status


class Operations(Protocol):
    """What the operator plane asks of a running hub. Methods may raise RefusedRequest."""

    def status(self) -> Mapping[str, Any]: ...

    def plan(self, *, everything: bool) -> Mapping[str, Any]: ...

    def submit(self, content: bytes, actor: str) -> Mapping[str, Any]: ...

    def cancel(self, name: str, actor: str) -> Mapping[str, Any]: ...

    def retry(self, name: str, actor: str) -> Mapping[str, Any]: ...

    def send(self, content: bytes, actor: str) -> Mapping[str, Any]: ...

    def confirm(self, digest: str, actor: str) -> Mapping[str, Any]: ...

    def take_down(self, *, drain: bool, actor: str) -> Mapping[str, Any]: ...

    def wake(self) -> None: ...

    def is_ready(self) -> bool: ...


def build_app(hub: Operations) -> Starlette:
    """The ASGI application."""

    async def healthz(_request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def readyz(_request: Request) -> Response:
        ready = hub.is_ready()
        return JSONResponse({"ready": ready}, status_code=200 if ready else 503)

    async def status(_request: Request) -> Response:
        return JSONResponse(await run_in_threadpool(hub.status))

    async def plan(request: Request) -> Response:
        everything = request.query_params.get("all") == "1"
        return JSONResponse(await run_in_threadpool(lambda: hub.plan(everything=everything)))

    async def submit(request: Request) -> Response:
        content = await _body(request)
        return JSONResponse(await run_in_threadpool(hub.submit, content, _actor(request)), status_code=202)

    async def send(request: Request) -> Response:
        content = await _body(request)
        return JSONResponse(await run_in_threadpool(hub.send, content, _actor(request)), status_code=202)

    async def cancel(request: Request) -> Response:
        return JSONResponse(await run_in_threadpool(hub.cancel, request.path_params["name"], _actor(request)))

    async def retry(request: Request) -> Response:
        return JSONResponse(await run_in_threadpool(hub.retry, request.path_params["name"], _actor(request)))

    async def confirm(request: Request) -> Response:
        return JSONResponse(await run_in_threadpool(hub.confirm, request.path_params["digest"], _actor(request)))

    async def down(request: Request) -> Response:
        drain = request.query_params.get("now") != "1"
        actor = _actor(request)
        return JSONResponse(await run_in_threadpool(lambda: hub.take_down(drain=drain, actor=actor)), status_code=202)

    async def wake(_request: Request) -> Response:
        hub.wake()
        return Response(status_code=204)

    return Starlette(
        routes=[
            Route("/healthz", healthz),
            Route("/readyz", readyz),
            Route("/status", status),
            Route("/api/v1/plan", plan),
            Route("/api/v1/tasks", submit, methods=["POST"]),
            Route("/api/v1/tasks/{name}/cancel", cancel, methods=["POST"]),
            Route("/api/v1/tasks/{name}/retry", retry, methods=["POST"]),
            Route("/api/v1/messages", send, methods=["POST"]),
            Route("/api/v1/plans/{digest}/confirm", confirm, methods=["POST"]),
            Route("/api/v1/down", down, methods=["POST"]),
            Route("/api/v1/wake", wake, methods=["POST"]),
        ],
        exception_handlers={RefusedRequest: _refused},
    )


async def _body(request: Request) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > MAX_BODY:
            raise RefusedRequest(f"the body has more than {MAX_BODY} bytes", status=413)
        parts.append(part)
    return b"".join(parts)


def _actor(request: Request) -> str:
    return request.client.host if request.client else "unknown"


async def _refused(_request: Request, exc: Exception) -> Response:
    status = exc.status if isinstance(exc, RefusedRequest) else 500
    problem = {"type": "about:blank", "title": "refused", "status": status, "detail": str(exc)}
    return JSONResponse(problem, status_code=status, media_type="application/problem+json")
