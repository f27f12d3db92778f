"""The same policies and questions for OPA, the embedded engine and the built-in rules.

OPA and the embedded engine must say the same, reasons included. The built-in rules know the manifests only, so that they
differ wherever an example policy is stricter; each such row says why. They never allow what a policy denies for want of
a grant, a capability or a sandbox.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from reconciler.core.decision import Decision
from reconciler.errors import PolicyEngineError
from reconciler.policy import builtin
from reconciler.policy.builtin import Facts
from reconciler.policy.embedded import EmbeddedEngine
from reconciler.policy.opa import OpaEngine, OpaSettings
from reconciler.policy.opa_bundle import build_archive
from tests.policy.example import example_bundle, message_question, task_question
from tests.policy.opa_servers import RealOpa, socket_folder
from tests.policy.test_opa_bundle import start_with

KEY = b"a key"
FACTS = Facts(images=(("agents/*",),))


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """`allow` is what OPA and the embedded engine say, and the built-in rules, too, unless `differs` says why not."""

    name: str
    kind: str
    question: dict[str, Any] = field(default_factory=dict)
    allow: bool
    differs: str = ""


def sent(**message: Any) -> dict[str, Any]:
    return message_question(message={**message_question()["message"], **message})


def admitted(**spec: Any) -> dict[str, Any]:
    whole = {"role": "analyst", "image": "agents/base:1", "capabilities": ["code.count"], **spec}
    return {"kind": "agent", "name": "counter", "labels": {}, "spec": whole, "before": None, "revision": "0123456789ab"}


def llm(**changes: Any) -> dict[str, Any]:
    return {
        "agent": {"name": "writer", "instance": "writer-0", "role": "reporter", "trust": 1.0},
        "provider": {"name": "cloud", "type": "anthropic", "exposure": "public"},
        "sensitivity": "internal",
        **changes,
    }


def delegated(**changes: Any) -> dict[str, Any]:
    return {
        "parent": {
            "name": "boss",
            "role": "librarian",
            "capabilities": ["code.count", "docs.write"],
            "delegation": {"to": ["counter"], "maxDepth": 2, "budget": {"tasks": 10}},
        },
        "child": {
            "name": "counter",
            "role": "analyst",
            "capabilities": ["code.count"],
            "exposure": "none",
            "sandboxed": True,
        },
        "task": {"sensitivity": "internal"},
        "capabilities": ["code.count"],
        "depth": 1,
        "budget_left": {"tasks": 3},
        **changes,
    }


ROLES = "roles are a matter of the example policy"
HOURS = "business hours are a matter of the example policy"

TABLE = [
    Row(name="a granted message", kind="message", question=message_question(), allow=True),
    Row(name="a message without a grant", kind="message", question=message_question(grants={"sends": []}), allow=False),
    Row(name="a message of another type", kind="message", question=sent(type="finding.closed"), allow=False),
    Row(name="text that engines escape", kind="message", question=sent(type='a"b\n\\ü😀\u2028'), allow=False),
    Row(name="nothing at all", kind="message", allow=False),
    Row(
        name="parts of the wrong kind",
        kind="message",
        question={"sender": 7, "message": [], "grants": None},
        allow=False,
    ),
    Row(
        name="to the hub",
        kind="message",
        question={
            **sent(type="task.progress", pattern="event"),
            "recipient": {"kind": "hub", "name": "hub", "role": "", "labels": {}, "capabilities": []},
        },
        allow=True,
    ),
    Row(name="a task that fits", kind="task", question=task_question(), allow=True),
    Row(name="a capability that lacks", kind="task", question=task_question(task={"requires": ["x"]}), allow=False),
    Row(
        name="secret work without a sandbox",
        kind="task",
        question=task_question(task={"sensitivity": "restricted"}, agent={"sandboxed": False}),
        allow=False,
    ),
    Row(
        name="secret work for a public model",
        kind="task",
        question=task_question(task={"sensitivity": "confidential"}, agent={"exposure": "public"}),
        allow=False,
    ),
    Row(
        name="business hours at night",
        kind="task",
        question={**task_question(task={"labels": {"hours": "business"}}), "time": "2026-11-20T03:00:00Z"},
        allow=False,
        differs=HOURS,
    ),
    Row(
        name="business hours at noon",
        kind="task",
        question={**task_question(task={"labels": {"hours": "business"}}), "time": "2026-11-20T12:00:00Z"},
        allow=True,
    ),
    Row(name="no question about a task", kind="task", allow=False),
    Row(name="an agent of ours", kind="admission", question=admitted(), allow=True),
    Row(name="a foreign image", kind="admission", question=admitted(image="evil/base:1"), allow=False),
    Row(
        name="an image without a version",
        kind="admission",
        question=admitted(image="agents/base"),
        allow=False,
        differs="versions of images are a matter of the example policy",
    ),
    Row(
        name="secrets for a role that needs none",
        kind="admission",
        question=admitted(secrets=["key"]),
        allow=False,
        differs=ROLES,
    ),
    Row(name="a resource of no known kind", kind="admission", question={"kind": "x", "name": "y"}, allow=False),
    Row(name="work for a child that may have it", kind="delegation", question=delegated(), allow=True),
    Row(name="work too deep down", kind="delegation", question=delegated(depth=3), allow=False),
    Row(name="work without a budget", kind="delegation", question=delegated(budget_left={"tasks": 0}), allow=False),
    Row(
        name="more than the parent can",
        kind="delegation",
        question=delegated(capabilities=["code.count", "network"]),
        allow=False,
    ),
    Row(name="a question to a model elsewhere", kind="llm", question=llm(), allow=True),
    Row(name="confidential work for it", kind="llm", question=llm(sensitivity="confidential"), allow=False),
    Row(
        name="a performer's question to it",
        kind="llm",
        question=llm(agent={**llm()["agent"], "role": "performer"}),
        allow=False,
        differs=ROLES,
    ),
    Row(
        name="a question of who is not trusted",
        kind="llm",
        question=llm(agent={**llm()["agent"], "trust": 0.7}),
        allow=False,
        differs="how much trust a public model needs is a matter of the example policy",
    ),
    Row(name="no question about a model", kind="llm", allow=False),
]


@pytest.fixture(scope="module")
def engines() -> Iterator[tuple[OpaEngine, EmbeddedEngine]]:
    bundle = example_bundle()
    with socket_folder() as folder:
        server, said = start_with(build_archive(bundle.modules, bundle.data, bundle.digest, KEY), folder, KEY.decode())
        assert server is not None, said
        opa = OpaEngine(OpaSettings(address=RealOpa.address_in(folder), timeout_s=5.0))
        embedded = EmbeddedEngine()
        opa.activate(bundle)
        embedded.activate(bundle)
        yield opa, embedded
        opa.close()
        embedded.close()
        server.kill()


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
def test_opa_and_the_embedded_engine_say_the_same(engines: tuple[OpaEngine, EmbeddedEngine], row: Row) -> None:
    opa, embedded = (engine.decide(row.kind, row.question) for engine in engines)
    assert (opa.allow, sorted(opa.reasons), opa.revision) == (
        embedded.allow,
        sorted(embedded.reasons),
        embedded.revision,
    )
    assert opa.allow is row.allow


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
def test_the_built_in_rules_agree_or_the_row_says_why_not(row: Row) -> None:
    said = builtin.decide(row.kind, row.question, FACTS, "r")
    assert (said.allow is row.allow) is not bool(row.differs)
    if row.differs:
        assert said.allow, "the rules are looser, never stricter"


def test_a_question_that_no_policy_answers_is_denied_by_both(engines: tuple[OpaEngine, EmbeddedEngine]) -> None:
    def ask(engine: OpaEngine | EmbeddedEngine) -> Decision | str:
        try:
            return engine.decide("nothing", {})
        except PolicyEngineError as exc:
            return str(exc)

    opa, embedded = (ask(engine) for engine in engines)
    assert isinstance(embedded, Decision)
    assert not embedded.allow
    assert isinstance(opa, str), "OPA has no revision to say for it; the chain never asks such a question"
