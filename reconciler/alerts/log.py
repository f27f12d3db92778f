"""The sink `log`: a line in the log of the hub."""

import json
import logging

from reconciler.alerts.sink import Sent

_LOG = logging.getLogger("reconciler.alerts")


class LogSink:
    """A warning for each notice, an error where it begins with something bad."""

    def send(self, document: bytes) -> Sent:
        notice = json.loads(document)
        level = logging.ERROR if notice["status"] == "raised" else logging.WARNING
        _LOG.log(level, "%s %s of %s: %s", notice["status"], notice["type"], notice["subject"], notice["message"])
        return Sent()
