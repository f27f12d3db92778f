"""The sink `apprise`: chat and a hundred other services, by a child process, so that the hub never imports Apprise.

The child reads the URLs from their file itself; none is on a command line, in an environment or in a fault.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path

from reconciler.alerts.chat_child import FAILED, NO_APPRISE, NO_FILE, NO_SERVICE
from reconciler.alerts.program import run_program
from reconciler.alerts.sink import Sent
from reconciler.alerts.text import compose
from reconciler.settings_notify import Apprise

_CHILD = Path(__file__).with_name("chat_child.py")
_FAULTS: Mapping[int, str] = {
    FAILED: "a service did not take it",
    NO_APPRISE: "the package apprise is not installed beside the hub; see docs/operating.md",
    NO_FILE: "its urlsFile cannot be read",
    NO_SERVICE: "its urlsFile has no URL, or one that Apprise does not know",
}


class ChatSink:
    """Starts one child for each notice. All services of the file must take it, or all get it again."""

    def __init__(self, settings: Apprise, timeout_s: float) -> None:
        self._settings, self._timeout_s = settings, timeout_s

    def send(self, document: bytes) -> Sent:
        letter = compose(document)
        said = {"title": letter.title, "body": letter.body, "kind": letter.kind, "urls": self._settings.urls_file}
        ended = run_program([sys.executable, "-P", str(_CHILD)], json.dumps(said).encode(), self._timeout_s)
        if ended.fault:
            return Sent(fault=f"no answer within {self._timeout_s:g}s")
        if ended.status:
            return Sent(fault=_FAULTS.get(ended.status, f"its child ended with status {ended.status}"))
        return Sent()
