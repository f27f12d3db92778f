"""`EgressControl` on the egress process and its control socket, for the hub's side. Usable from any thread."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from reconciler.core.reading import Absent, Ok, Reading, Unavailable
from reconciler.errors import EgressError, EgressRefusedError
from reconciler.ports import EgressReport, UsageReport
from reconciler.router.version import find_newer
from reconciler.runtime.server import Server

_REPORT_S = 2.0
"""It answers at once; a pass must not wait long for one that stands still."""
_STOP_S = 4.0


class EgressLink:
    """The egress process of one fleet. All calls are acknowledged: they have taken effect when they return.

    Raises EgressError where it does not answer, EgressRefusedError with its reason where it says no.
    """

    def __init__(self, fleet: str, run: Path, data: Path) -> None:
        self._fleet = fleet
        self._server = Server(
            name="egress",
            module="reconciler.egress",
            run=run,
            data=data,
            fleet=fleet,
            error=EgressError,
            refusal=EgressRefusedError,
        )

    def report(self) -> Reading[EgressReport]:
        """Absent when nobody listens; Unavailable when it cannot be told, or is another fleet's."""
        try:
            if not self._server.is_listening():
                return Absent()
            answer = self.state()
        except EgressError as error:
            return Unavailable(reason=str(error))
        if answer["fleet"] != self._fleet:
            return Unavailable(reason=f"the egress process is that of fleet {answer['fleet']}")
        return Ok(_read_report(answer))

    def state(self) -> Mapping[str, Any]:
        """All that it says of itself, as JSON."""
        return self._server.call("GET", "/report", timeout_s=_REPORT_S)

    def configure(self, config: Mapping[str, Any]) -> None:
        self._server.call("PUT", "/config", config)

    def put_instance(self, name: str, entry: Mapping[str, Any]) -> None:
        self._server.call("PUT", f"/instances/{quote(name)}", entry)

    def remove_instance(self, name: str) -> None:
        """A process that does not run lets nobody out; there is nothing to revoke then."""
        if self._server.is_listening():
            self._server.call("DELETE", f"/instances/{quote(name)}")

    def start(self) -> None:
        """Raises also ForeignFleetError."""
        self._server.start()

    def stop(self) -> None:
        self._server.stop(timeout_s=_STOP_S)


def _read_report(answer: Mapping[str, Any]) -> EgressReport:
    faults = {name: entry["fault"] for name, entry in answer["providers"].items() if entry["fault"]}
    if answer["ledger_fault"]:
        faults["ledger"] = answer["ledger_fault"]
    return EgressReport(
        pid=answer["pid"],
        epoch=answer["epoch"],
        code_version=answer["code_version"],
        next_version=find_newer(answer["code_version"]),
        config_digest=answer["config_digest"],
        uptime_s=answer["uptime_s"],
        instances={name: entry["digest"] for name, entry in answer["instances"].items()},
        faults=faults,
        policy_fault=answer.get("policy", {}).get("fault", ""),
        usage={agent: UsageReport(**spent) for agent, spent in answer["usage"].items()},
        runs={run: UsageReport(**spent) for run, spent in answer["runs"].items()},
    )
