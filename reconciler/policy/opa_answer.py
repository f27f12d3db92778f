"""What an answer of OPA's means, and when not to ask it: shared by the engine of the hub and that of the router. Pure.

A question is `POST /v1/data/hub/answer/<kind>?strict-builtin-errors=true` with `{"input": …}`. The answer carries the
revision that it was made at beside the decision (`bundle.answer_module`), and is worth something for that one only.

    200, right revision                     the decision; a denial where it is undefined or no decision
    200, another revision or none           a fault: the next engine is asked
    5xx without a body, a redirect          a fault
    anything else with a body               OPA could not evaluate it: a denial, if a second question (`REVISION_PATH`)
                                            shows that it has the right revision, else a fault
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from reconciler.core.decision import Decision
from reconciler.policy.decision import read_decision, shorten

ENGINE = "opa"
QUERY = {"strict-builtin-errors": "true"}
ANSWER_PATH = "hub/answer"
REVISION_PATH = "hub/revision"

MAX_ANSWER_BYTES = 256 * 1024
_SHOWN_CHARACTERS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """OPA gave no answer. An outage counts for the breaker, of which a time-out is one; another revision is none."""

    reason: str
    is_outage: bool = True
    is_timeout: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Unevaluated:
    """OPA says that it could not evaluate the question, without saying at which revision."""

    reason: str


Answer: TypeAlias = Decision | Fault | Unevaluated


def read_answer(kind: str, status: int, value: object, revision: str) -> Answer:
    """What an answer to a question means to whoever wants it at `revision`.

    `value` is the body's JSON value, None where there is no body, and text where it is not JSON.
    """
    if status == 200:
        return _read_result(kind, value, revision)
    if 300 <= status < 400:
        return Fault(reason=f"it answers with a redirect ({status}), which is not followed")
    if value is None or value == "":
        return Fault(reason=f"it answers with status {status} and nothing else")
    return Unevaluated(reason=f"data.hub.{kind}.decision failed: {_read_error(status, value)}")


def read_revision(status: int, value: object) -> str | Fault:
    """What the answer to `REVISION_PATH` says: the revision that OPA has; empty for none."""
    if status != 200 or not isinstance(value, Mapping):
        return Fault(reason=f"asked for its revision, it answers with status {status}")
    found = value.get("result", "")
    return found if isinstance(found, str) else Fault(reason="its data.hub.revision is no text", is_outage=False)


def settle_unevaluated(failed: Unevaluated, found: str | Fault, revision: str) -> Decision | Fault:
    """A denial where OPA has the right revision: nobody may choose another judge by a question that breaks this one."""
    if isinstance(found, Fault):
        return found
    return _deny(failed.reason, revision) if found == revision else other_revision(found, revision)


def no_answer_within(timeout_s: float) -> Fault:
    return Fault(reason=f"no answer within {timeout_s * 1000:g} ms", is_timeout=True)


def other_revision(found: str, wanted: str) -> Fault:
    return Fault(reason=f"it has {f'policies {found}' if found else 'no policies'}, not {wanted}", is_outage=False)


def cannot_be_put(revision: str) -> Decision:
    """The denial of a question that is not JSON."""
    return _deny("the question cannot be put to the policy: it is not JSON", revision)


class Breaker:
    """Counts outages in a row. Once there are `failures`, it is open, and one probe is due per `half_open_after_s`.

    Times are of one clock that never goes back. Not thread-safe.
    """

    def __init__(self, failures: int, half_open_after_s: float) -> None:
        self._most, self._half_open_after_s = failures, half_open_after_s
        self._count = 0
        self._probe_at = 0.0

    @property
    def is_open(self) -> bool:
        return self._count >= self._most

    def permits(self, now_s: float) -> bool:
        """Whether to ask. While open, True makes the question the probe: the next one is due after another pause."""
        if not self.is_open:
            return True
        if now_s < self._probe_at:
            return False
        self._probe_at = now_s + self._half_open_after_s
        return True

    def succeed(self) -> None:
        """It answered: closed."""
        self._count = 0

    def half_open(self) -> None:
        """Closed until the next outage."""
        self._count = self._most - 1

    def fail(self, now_s: float) -> None:
        """An outage. The one that opens it, or a probe's, starts the pause."""
        self._count = min(self._count + 1, self._most)
        if self.is_open:
            self._probe_at = now_s + self._half_open_after_s


def _read_result(kind: str, value: object, revision: str) -> Decision | Fault:
    if not isinstance(value, dict):
        return Fault(reason="its answer is not JSON of the data API")
    result = value.get("result")
    if not isinstance(result, dict):
        return other_revision("", revision)
    found = result.get("revision")
    if not isinstance(found, str):
        return other_revision("", revision)
    if found != revision:
        return other_revision(found, revision)
    if "decision" not in result:
        return _deny(f"data.hub.{kind}.decision is undefined for this question", revision)
    allow, reasons = read_decision(kind, result["decision"])
    return Decision(allow=allow, reasons=reasons, engine=ENGINE, revision=revision)


def _deny(reason: str, revision: str) -> Decision:
    return Decision(allow=False, reasons=(shorten(reason),), engine=ENGINE, revision=revision)


def _read_error(status: int, value: object) -> str:
    """OPA's `{code, message, errors: [{code, message}]}`, or what else it said, on one line."""
    match value:
        case {"errors": [{"code": str(code), "message": str(message)}, *_]}:
            return f"{' '.join(message.split())} ({code})"
        case {"code": str(code), "message": str(message)}:
            return f"{' '.join(message.split())} ({code})"
    return f"status {status}: {shorten(str(value), _SHOWN_CHARACTERS)}"
