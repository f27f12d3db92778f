"""What OPA may say to a question for policies r1, and what must come of it: for both engines, fake and real server."""

from dataclasses import dataclass
from typing import Any

import pytest

from reconciler.core.decision import Decision
from tests.policy.opa_servers import FakeOpa, RealOpa, Said, answering, is_question

R1 = "r1"
QUESTION: dict[str, Any] = {"message": {"type": "x", "when": "soon"}}
_ERROR = {"code": "internal_error", "message": "error(s) occurred while evaluating query"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A real OPA with `rego` at `revision` (None: nothing is loaded) says `status` and `body`, as the fake does.

    `reason` is the beginning of the only reason of a denial, or of the fault where `allow` is None.
    """

    name: str
    rego: str
    revision: str | None = R1
    status: int = 200
    body: Any = None
    allow: bool | None
    reason: str = ""

    def play(self, server: FakeOpa | RealOpa) -> None:
        """Make the server say it."""
        if isinstance(server, RealOpa):
            server.restart()
            if self.revision is not None:
                server.put(self.revision, self.rego)
            return
        revision = answering(None, self.revision)
        said = Said(status=self.status, body=self.body)
        server.react = lambda path, body: said if is_question(path) else revision(path, body)


def _result(decision: object = None, revision: str = R1) -> dict[str, Any]:
    given = {} if decision is None else {"decision": decision}
    return {"result": {"revision": revision, **given}}


CASES = [
    Case(
        name="allow",
        rego='decision := {"allow": input.message.type == "x", "reasons": []}',
        body=_result({"allow": True, "reasons": []}),
        allow=True,
    ),
    Case(
        name="deny",
        rego='decision := {"allow": false, "reasons": {"no"}}',
        body=_result({"allow": False, "reasons": ["no"]}),
        allow=False,
        reason="no",
    ),
    Case(
        name="undefined",
        rego='decision := {"allow": true} if input.message.type == "y"',
        body=_result(),
        allow=False,
        reason="data.hub.message.decision is undefined for this question",
    ),
    Case(
        name="no boolean",
        rego='decision := {"allow": "yes"}',
        body=_result({"allow": "yes"}),
        allow=False,
        reason="data.hub.message.decision has no boolean 'allow'",
    ),
    Case(
        name="conflict",
        rego="""
decision := {"allow": true} if input.message.type
decision := {"allow": false} if input.message.when
""",
        status=500,
        body={
            **_ERROR,
            "errors": [
                {"code": "eval_conflict_error", "message": "rule data.hub.message.decision produced\n  conflicting"},
            ],
        },
        allow=False,
        reason="data.hub.message.decision failed: rule data.hub.message.decision produced conflicting",
    ),
    Case(
        name="built-in error",
        rego="""
decision := {"allow": false, "reasons": []} if is_late
decision := {"allow": true, "reasons": []} if not is_late
is_late if time.parse_ns("2006-01-02T15:04:05Z", input.message.when) > 0
""",
        status=500,
        body={
            **_ERROR,
            "errors": [{"code": "eval_builtin_error", "message": 'time.parse_ns: parsing time "soon" as'}],
        },
        allow=False,
        reason="data.hub.message.decision failed: time.parse_ns: parsing time",
    ),
    Case(
        name="old revision",
        rego='decision := {"allow": true}',
        revision="r0",
        body=_result({"allow": True}, "r0"),
        allow=None,
        reason="it has policies r0, not r1",
    ),
    Case(
        name="conflict at an old revision",
        rego='decision := {"allow": true}\ndecision := {"allow": false} if input.message',
        revision="r0",
        status=500,
        body={**_ERROR, "errors": [{"code": "eval_conflict_error", "message": "no"}]},
        allow=None,
        reason="it has policies r0, not r1",
    ),
    Case(name="nothing loaded", rego="", revision=None, body={}, allow=None, reason="it has no policies, not r1"),
]

each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def expect(case: Case, found: Decision | str) -> None:
    """`found` is what the engine decided, or what it said when it could not."""
    if case.allow is None:
        assert found == case.reason
        return
    assert isinstance(found, Decision), found
    assert (found.allow, found.engine, found.revision) == (case.allow, "opa", R1)
    assert len(found.reasons) == (1 if case.reason else 0)
    assert all(reason.startswith(case.reason) for reason in found.reasons)
