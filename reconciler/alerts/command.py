"""The sink `command`: a program of the operator's gets the notice as its input; status 0 means that it arrived."""

from reconciler.alerts.program import run_program
from reconciler.alerts.sink import Sent
from reconciler.settings import SinkCommand


class CommandSink:
    """Starts one program for each notice."""

    def __init__(self, command: SinkCommand, timeout_s: float) -> None:
        self._argv, self._timeout_s = command.argv, timeout_s

    def send(self, document: bytes) -> Sent:
        ended = run_program(self._argv, document, self._timeout_s)
        if ended.fault:
            return Sent(fault=ended.fault)
        if ended.status:
            return Sent(fault=f"{self._argv[0]} ended with status {ended.status}")
        return Sent()
