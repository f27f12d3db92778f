"""The log's proof and account over the operator plane. What reads them comes in as `AuditReader`."""

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse

from reconciler.api.access import RefusedRequest

MEDIA_TYPES = {"jsonl": "application/jsonl", "csv": "text/csv; charset=utf-8"}


class AuditReader(Protocol):
    """What auditors ask for. Spans of time are written as on the command line. Methods may raise RefusedRequest."""

    def show(self, what: str) -> Mapping[str, Any]: ...

    def export(self, form: str, since: str, until: str) -> Iterator[str]: ...

    def verify(self) -> Mapping[str, Any]: ...

    def report(self, since: str, until: str) -> str: ...


class AuditCalls:
    """The endpoints."""

    def __init__(self, reader: AuditReader) -> None:
        self._reader = reader

    async def show(self, request: Request) -> Response:
        return JSONResponse(await run_in_threadpool(self._reader.show, request.query_params.get("what", "")))

    async def export(self, request: Request) -> Response:
        asked = request.query_params.get("format", "jsonl")
        if asked not in MEDIA_TYPES:
            raise RefusedRequest(f"format is jsonl or csv, not {asked!r}", status=400)
        lines = await run_in_threadpool(self._reader.export, asked, *_span(request))
        return StreamingResponse(lines, media_type=MEDIA_TYPES[asked])

    async def verify(self, _request: Request) -> Response:
        return JSONResponse(await run_in_threadpool(self._reader.verify))

    async def report(self, request: Request) -> Response:
        return HTMLResponse(await run_in_threadpool(self._reader.report, *_span(request)))


def _span(request: Request) -> tuple[str, str]:
    return request.query_params.get("from", ""), request.query_params.get("to", "")
