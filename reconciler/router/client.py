"""`RouterControl` on the router's control socket and its process, for the hub's side. Usable from any thread."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from reconciler.core.reading import Absent, Ok, Reading, Unavailable
from reconciler.errors import RouterError
from reconciler.ports import InboxMessage, InstanceReport, RouterReport, Tally
from reconciler.router.channel import call, is_listening
from reconciler.router.inbox import read_inbox
from reconciler.router.supervise import start_router, stop_router
from reconciler.router.version import find_newer

_CONFIGURE_S = 60.0
_STOP_S = 10.0


class RouterLink:
    """The router of one fleet. All calls are acknowledged: they have taken effect when they return.

    Raises RouterError where the router does not answer, RefusedByRouterError with its reason where it says no.
    """

    def __init__(self, fleet: str, run: Path, data: Path) -> None:
        self._fleet = fleet
        self._run = run
        self._data = data

    def report(self) -> Reading[RouterReport]:
        """Absent when nobody listens; Unavailable when it cannot be told, or is another fleet's."""
        try:
            if not is_listening(self._run):
                return Absent()
            answer = call(self._run, "GET", "/report")
        except RouterError as error:
            return Unavailable(reason=str(error))
        if answer["fleet"] != self._fleet:
            return Unavailable(reason=f"the router in {self._run} is that of fleet {answer['fleet']}")
        try:
            return Ok(_read_report(answer))
        except KeyError as error:
            version = answer.get("code_version")
            return Unavailable(
                reason=f"the router in {self._run}: its report lacks {error}, its code is version {version}"
            )

    def configure(self, config: Mapping[str, Any]) -> None:
        call(self._run, "PUT", "/config", config, timeout_s=_CONFIGURE_S)

    def put_instance(self, name: str, entry: Mapping[str, Any]) -> None:
        call(self._run, "PUT", f"/instances/{quote(name)}", entry)

    def remove_instance(self, name: str) -> None:
        """A router that does not run lets nobody in; there is nothing to revoke then."""
        if not is_listening(self._run):
            return
        call(self._run, "DELETE", f"/instances/{quote(name)}")

    def send(self, message: Mapping[str, Any]) -> None:
        """`{instance, message: {id, type, pattern, payload, …}}`; on disk and in the mailbox when it returns."""
        call(self._run, "POST", "/messages", message)

    def send_all(self, messages: Sequence[Mapping[str, Any]]) -> Sequence[str]:
        """As `send`, but of what the router says no to the reasons, in order; empty where it is delivered."""
        answer = call(self._run, "POST", "/batches", messages)
        return [str(reason) for reason in answer["refused"]]

    def set_cancels(self, instance: str, cancels: Sequence[Mapping[str, Any]]) -> None:
        call(self._run, "PUT", "/cancels", {instance: list(cancels)})

    def set_inbox_cursor(self, seq: int) -> None:
        call(self._run, "PUT", "/inbox-cursor", {"seq": seq})

    def read_inbox(self, after_seq: int, limit: int) -> Sequence[InboxMessage]:
        return read_inbox(self._data / "traffic.db", after_seq, limit)

    def wait_hint(self, timeout_s: float) -> Sequence[str]:
        answer = call(self._run, "GET", f"/hints?wait={timeout_s:g}", timeout_s=timeout_s + 10.0)
        return [str(kind) for kind in answer["kinds"]]

    def start(self) -> None:
        """Raises also ForeignFleetError."""
        start_router(self._run, self._data, self._fleet)

    def stop(self) -> None:
        stop_router(self._run, timeout_s=_STOP_S)


def _read_report(answer: Mapping[str, Any]) -> RouterReport:
    return RouterReport(
        pid=answer["pid"],
        epoch=answer["epoch"],
        code_version=answer["code_version"],
        next_version=find_newer(answer["code_version"]),
        config_digest=answer["config_digest"],
        policy_revision=answer["policy_revision"],
        inbox_seq=answer["inbox_seq"],
        uptime_s=answer["uptime_s"],
        log_unavailable="log_unavailable" in answer["modes"],
        policy_engine=answer["policy"]["engine"],
        policy_fault=answer["policy"]["fault"],
        tallies={agent: Tally(**counts) for agent, counts in answer.get("tallies", {}).items()},
        instances={name: _read_instance(name, entry) for name, entry in answer["instances"].items()},
    )


def _read_instance(name: str, entry: Mapping[str, Any]) -> InstanceReport:
    return InstanceReport(
        instance=name,
        digest=entry["digest"],
        hello=entry["hello"],
        last_seen=entry["last_seen"],
        last_denial=entry.get("last_denial", ""),
        mailbox_messages=entry["mailbox_messages"],
    )
