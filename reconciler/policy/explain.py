"""What people want to know of a bundle: what its entry points read of a question, and which rules held for one.

Worker processes are started, and ended.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from reconciler.core.decision import Decision
from reconciler.errors import PolicyEngineError
from reconciler.policy.bundle import KINDS, without_tests
from reconciler.policy.link import WorkerLink
from reconciler.policy.marks import Definition, mark_modules
from reconciler.policy.module import read_module
from reconciler.policy.reads import Reads, reads_from_json
from reconciler.ports import PolicyBundle

LOAD_S = 10.0
ASK_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryPoint:
    """One kind of question. `reads` is None where the built-in rules answer it."""

    kind: str
    reads: Reads | None


def describe_entry_points(start: Callable[[], WorkerLink], bundle: PolicyBundle) -> tuple[EntryPoint, ...]:
    """All kinds, in their usual order. Raises PolicyEngineError."""
    link = start()
    try:
        found = _load(link, bundle.modules, bundle.data)["reads"]
    finally:
        link.close()
    return tuple(EntryPoint(kind=k, reads=reads_from_json(found[k]) if k in found else None) for k in KINDS)


def find_whole_inputs(bundle: PolicyBundle) -> tuple[str, ...]:
    """Where `input` stands alone, or before a key that is computed, as `file:line`."""
    modules = [read_module(path, text) for path, text in sorted(without_tests(bundle.modules).items())]
    return tuple(f"{m.file}:{r.line}" for m in modules for r in m.references if r.name == "input")


def find_held_rules(
    start: Callable[[], WorkerLink], bundle: PolicyBundle, kind: str, question: Mapping[str, Any], decision: Decision
) -> tuple[Definition, ...] | None:
    """The definitions whose body held while the policy came to `decision`, by file and line.

    None where that cannot be told: another decision came of it with marks, or they were too many. Raises
    PolicyEngineError.
    """
    marked = mark_modules(bundle.modules)
    link = start()
    try:
        _load(link, marked.modules, bundle.data)
        reply = link.ask("decide", ASK_S, kind=kind, question=question, marks=True)
    finally:
        link.close()
    if "error" in reply:
        raise PolicyEngineError(f"explaining a decision: {reply['error']}")
    if reply["marks"] is None or (reply["allow"], tuple(reply["reasons"])) != (decision.allow, decision.reasons):
        return None
    return tuple(marked.definitions[number] for number in reply["marks"])


def _load(link: WorkerLink, modules: Mapping[str, str], data: Mapping[str, Any]) -> Mapping[str, Any]:
    reply = link.ask("load", LOAD_S, modules=modules, data=data)
    if "error" in reply:
        raise PolicyEngineError(f"explaining policies: {reply['error']}")
    return reply
