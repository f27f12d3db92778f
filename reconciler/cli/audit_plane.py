"""What auditors read of a running hub over its operator plane: the same as the commands of `audit` give."""

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from reconciler.api.access import RefusedRequest
from reconciler.audit.account import as_json, give_account
from reconciler.audit.export import as_dict, show_csv, show_jsonl
from reconciler.audit.page import show_page
from reconciler.audit.period import Period, parse_span
from reconciler.cli.audit_books import Books, Elsewhere, open_books
from reconciler.errors import UsageError
from reconciler.store.audit import Choice, choose, tail

NEWEST = 30


@dataclass(slots=True, kw_only=True)
class FleetAuditReader:
    """`AuditReader` of the fleet that the hub was started for. What takes long is done one at a time."""

    source: str
    data: str | None
    operator: str | None
    _one: threading.Lock = field(default_factory=threading.Lock)

    def show(self, what: str) -> Mapping[str, Any]:
        """As `audit show`; the newest rows where nothing is asked for."""
        with self._books() as books:
            if not what:
                return {"rows": [as_dict(row) for row in tail(books.store, NEWEST)]}
            account = as_json(give_account(books.archive, what, datetime.now(UTC)))
        found: Mapping[str, Any] = json.loads(json.dumps(account, default=str))
        return found

    def export(self, form: str, since: str, until: str) -> Iterator[str]:
        """As `audit export`, line by line while it is read."""
        first, last = _period(since, until).texts
        show = show_jsonl if form == "jsonl" else show_csv

        def lines() -> Iterator[str]:
            with self._books() as books:
                yield from show(choose(books.store, Choice(since=first, until=last)))

        return lines()

    def verify(self) -> Mapping[str, Any]:
        """As `audit verify`."""
        with self._alone(), self._books() as books:
            verdict = books.verify(Elsewhere(), with_containers=True)
        return {**asdict(verdict), "anchored": verdict.anchored}

    def report(self, since: str, until: str) -> str:
        """As `audit report`: one HTML page."""
        period = _period(since, until)
        with self._alone(), self._books() as books:
            return show_page(books.report(period, None))

    @contextmanager
    def _books(self) -> Iterator[Books]:
        try:
            with open_books(self.source, self.data, self.operator) as books:
                yield books
        except UsageError as exc:
            raise RefusedRequest(str(exc), status=400) from exc

    @contextmanager
    def _alone(self) -> Iterator[None]:
        if not self._one.acquire(blocking=False):
            raise RefusedRequest("the log is being read for somebody else; try again", 503, {"retry-after": "5"})
        try:
            yield
        finally:
            self._one.release()


def _period(since: str, until: str) -> Period:
    period = parse_span(since, until, datetime.now(UTC))
    if period is None or (period.since and period.until and period.since >= period.until):
        raise RefusedRequest("from and to take 2026-11-21, 2026-11-21T08:00 (UTC) or 24h, the first one earlier", 400)
    return period
