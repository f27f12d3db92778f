"""Who gives a command that changes something by hand, and why: `--as` and `--reason`, and what stands in for them."""

import functools
import os
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import click

from reconciler.core.caller import Caller, caller_of_uid
from reconciler.errors import UsageError

if TYPE_CHECKING:
    from reconciler.settings import OperatorSpec

NAME_VARIABLE = "RECONCILER_OPERATOR"


def caller_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Gives a command that has `source` a `caller`. Options below it are the command's own."""

    @click.option("--as", "who", default="", metavar="NAME", help="Who you are, for the audit log.  [default: git's]")
    @click.option("--reason", default="", metavar="TEXT", help="Why, for the audit log.")
    @functools.wraps(command)
    def call(*args: Any, who: str, reason: str, source: str, **options: Any) -> Any:
        return command(*args, caller=find_caller(source, who, reason), source=source, **options)

    return call


def find_caller(source: str, name: str = "", reason: str = "") -> Caller:
    """By the name given, else RECONCILER_OPERATOR, else git's for the repository, else the login. Raises UsageError."""
    given = name or os.environ.get(NAME_VARIABLE, "")
    try:
        caller = caller_of_uid(os.getuid(), given, reason)
    except ValueError as exc:
        raise UsageError(f"{exc}; see --as, {NAME_VARIABLE} and --reason") from exc
    return caller if caller.name else _named(caller, source)


def check_reason(caller: Caller, operator: "OperatorSpec") -> None:
    """For what is done without a hub that would refuse it. Raises UsageError."""
    if operator.audit.reason_required and not caller.reason:
        raise UsageError("operator.yaml wants a reason for this (audit.reasonRequired); say why with --reason TEXT")


def with_caller(target: str, caller: Caller) -> str:
    """A call on the operator plane that says who makes it, and why."""
    said = {"as": caller.name, "reason": caller.reason}
    query = urlencode({key: value for key, value in said.items() if value})
    return f"{target}{'&' if '?' in target else '?'}{query}" if query else target


def note_by_hand(state: Path, fleet: str, action: str, caller: Caller, reason: str) -> None:
    """A row about the fleet in a log that no hub has open. Brings an older state.db forward. Raises StoreError."""
    from reconciler.clock import SystemClock
    from reconciler.store.audit import AuditEntry, append
    from reconciler.store.store import FILE_NAME, Store

    clock = SystemClock()
    with closing(Store(state / FILE_NAME)) as store:
        entry = AuditEntry(
            time=clock.now().isoformat(),
            boottime=clock.boottime(),
            fleet=fleet,
            actor=str(caller),
            cause="operator",
            kind="fleet",
            name=fleet,
            action=action,
            outcome="applied",
            reason=reason,
        )
        append(store, [entry])


def _named(caller: Caller, source: str) -> Caller:
    from reconciler.api.login import login_name
    from reconciler.source.identity import read_identity

    for name in (read_identity(source if Path(source).is_dir() else "."), login_name(os.getuid())):
        try:
            named = caller_of_uid(os.getuid(), name.replace("(", "").replace(")", ""), caller.reason)
        except ValueError:
            continue
        if named.name:
            return named
    return caller
