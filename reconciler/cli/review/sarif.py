"""A review as SARIF 2.1.0, for code scanning: problems and refusals are errors, changes are notes at their manifests.

The format: https://docs.oasis-open.org/sarif/sarif/v2.1.0/sarif-v2.1.0.html
"""

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from reconciler import __version__
from reconciler.cli.review.words import REMOVED, headline
from reconciler.loop.desired import HUB_FILE
from reconciler.loop.review import Review

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
RULES = {
    "problem": ("error", "A revision with a problem is not taken: the last good one stays in force."),
    "refused": ("error", "A guard refuses the plan as a whole until a person confirms it."),
    "removal": ("warning", "Something that is there now goes."),
    "change": ("note", "What a hub does once the revision is its newest."),
}


def write_sarif(review: Review) -> str:
    """One log with one run."""
    rules = [
        {"id": name, "shortDescription": {"text": text}, "defaultConfiguration": {"level": level}}
        for name, (level, text) in RULES.items()
    ]
    run = {
        "tool": {"driver": {"name": "reconciler", "semanticVersion": __version__, "rules": rules}},
        "columnKind": "unicodeCodePoints",
        "originalUriBaseIds": {"SRCROOT": {"description": {"text": "The top of the repository."}}},
        "properties": {"revision": review.plan.revision, "headline": headline(review)},
        "results": list(_results(review)),
    }
    return json.dumps({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2, ensure_ascii=False) + "\n"


def _results(review: Review) -> Iterator[dict[str, Any]]:
    for problem in review.plan.problems:
        yield _result("problem", problem.message, problem.file, problem.line, problem.column)
    for refusal in review.plan.refused:
        yield _result("refused", f"{refusal.guard}: {refusal.reason}", HUB_FILE, 1)
    for move in review.moves:
        text = f"{move.kind}/{move.before} becomes {move.kind}/{move.after}: {move.reason}"
        yield _result("change", text, *review.place(move.kind, move.after))
    for line in review.lines:
        rule = "removal" if str(line.action) in REMOVED else "change"
        yield _result(rule, f"{line.action} {line.subject}: {line.reason}", *review.place(line.kind, line.name))


def _result(rule: str, text: str, file: str, line: int, column: int = 0) -> dict[str, Any]:
    region = {"startLine": max(1, line), **({"startColumn": column} if column else {})}
    is_inside = not file.startswith(("/", "http:", "https:")) and ".." not in file.split("/")
    place = (
        {"uri": quote(file), "uriBaseId": "SRCROOT"} if is_inside else {"uri": quote(HUB_FILE), "uriBaseId": "SRCROOT"}
    )
    shown = text if is_inside else f"{file}: {text}"
    return {
        "ruleId": rule,
        "ruleIndex": list(RULES).index(rule),
        "level": RULES[rule][0],
        "message": {"text": shown},
        "locations": [{"physicalLocation": {"artifactLocation": place, "region": region}}],
    }
