"""Calls on the running hub of a fleet, which commands name by their options."""

from typing import Any


def ask_hub(source: str, data: str | None, method: str, target: str, body: bytes = b"") -> Any:
    """The JSON answer. Raises UsageError where there is no fleet, or with the hub's reason; HubAwayError."""
    from reconciler.api.client import call
    from reconciler.errors import UsageError
    from reconciler.home import data_folder, open_home

    folder = data_folder(source, data)
    home = open_home(folder, create=False)
    if home is None:
        raise UsageError(f"there is no fleet in {folder}; start one with `reconciler run`")
    return call(home.run / "api.sock", method, target, body)
