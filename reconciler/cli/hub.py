"""Calls on the running hub of a fleet, which commands name by their options, or by the address of its port."""

from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from reconciler.api.client import Remote
    from reconciler.core.caller import Caller


def ask_hub(
    source: str, data: str | None, method: str, target: str, body: bytes = b"", caller: "Caller | None" = None
) -> Any:
    """The JSON answer; `caller` is for what is done by hand.

    Raises UsageError where there is no fleet, or with the hub's reason; HubAwayError.
    """
    from reconciler.api.client import call
    from reconciler.cli.caller import with_caller
    from reconciler.errors import UsageError
    from reconciler.home import data_folder, open_home

    target = with_caller(target, caller) if caller is not None else target
    if (remote := find_remote()) is not None:
        return call(remote, method, target, body)
    folder = data_folder(source, data)
    home = open_home(folder, create=False)
    if home is None:
        raise UsageError(f"there is no fleet in {folder}; start one with `reconciler run`")
    return call(home.run / "api.sock", method, target, body)


def find_remote() -> "Remote | None":
    """The hub that `reconciler --hub` names; None where it is one of this host's. Raises UsageError."""
    from reconciler.api.client import parse_remote

    context = click.get_current_context(silent=True)
    asked = context.find_root().params if context is not None else {}
    return parse_remote(asked["hub"], asked.get("token_file")) if asked.get("hub") else None
