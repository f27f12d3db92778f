"""One provider while it is configured: its connections, its breaker, and its key, read from the operator's file at use.

The key is in memory for the request that it is for. It is in no message, log, report or configuration.
"""

import asyncio
import re
from pathlib import Path

from reconciler.core.provider_url import parse_provider_url
from reconciler.egress.config import Limits, ProviderEntry, RefusedError
from reconciler.egress.problem import Deny
from reconciler.egress.upstream import Upstream
from reconciler.policy.opa_answer import Breaker
from reconciler.router.answer import Header

_MAX_KEY_BYTES = 8192
_KEY = re.compile(rb"[!-~]{1,4096}")


class Provider:
    """`fault` says why it counts as away, or what it holds against us; empty while all is well."""

    def __init__(self, name: str, entry: ProviderEntry, limits: Limits) -> None:
        """Raises RefusedError."""
        self.name = name
        self.entry = entry
        self.limits = limits
        try:
            self.upstream = Upstream(parse_provider_url(entry.url), limits.connect_s)
        except ValueError as error:
            raise RefusedError(f"providers: {name}: url {error}") from error
        self.breaker = Breaker(limits.failures, limits.half_open_after_s)
        self.fault = ""

    def is_same(self, entry: ProviderEntry, limits: Limits) -> bool:
        """Whether it can go on with that configuration."""
        return self.entry == entry and self.limits == limits

    def check(self) -> Deny | None:
        """None where it may be asked now. While the breaker is open, one request at a time tries."""
        if self.breaker.permits(asyncio.get_running_loop().time()):
            return None
        reason = f"{self.name} is away: {self.fault}"
        return Deny(status=503, code="provider_away", reason=reason, retry_after_s=self._retry_after_s)

    @property
    def _retry_after_s(self) -> int:
        return max(1, round(self.limits.half_open_after_s))

    def succeed(self) -> None:
        """It answered."""
        self.breaker.succeed()
        self.fault = ""

    def fail(self, reason: str) -> None:
        """It did not, or said that it cannot."""
        self.fault = reason
        self.breaker.fail(asyncio.get_running_loop().time())

    def read_key(self) -> Header | Deny | None:
        """The header that shows the key; None where the operator gave none."""
        if self.entry.key_file is None:
            return None
        path = Path(self.entry.key_file)
        try:
            with path.open("rb") as file:
                key = file.read(_MAX_KEY_BYTES).strip()
        except OSError as error:
            return self._no_key(f"its file cannot be read ({error.strerror})")
        if not _KEY.fullmatch(key):
            return self._no_key("its file does not hold one key on one line")
        return (b"x-api-key", key) if self.entry.type == "anthropic" else (b"authorization", b"Bearer " + key)

    def _no_key(self, why: str) -> Deny:
        self.fault = f"the operator's key cannot be used: {why}"
        return Deny(status=503, code="no_key", reason=f"{self.name} cannot be asked: {self.fault}")
