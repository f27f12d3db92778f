"""Calls on the running hub of a fleet, which commands name by their options."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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

    folder = data_folder(source, data)
    home = open_home(folder, create=False)
    if home is None:
        raise UsageError(f"there is no fleet in {folder}; start one with `reconciler run`")
    return call(home.run / "api.sock", method, with_caller(target, caller) if caller is not None else target, body)
