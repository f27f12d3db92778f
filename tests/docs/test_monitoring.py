"""What `docs/` says of metrics, and the files for Prometheus and Grafana, against what a hub exposes."""

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from reconciler.api.metrics import Measured, render
from reconciler.core.condition import Condition, Mode
from reconciler.core.yaml import load_documents
from reconciler.kinds.agent.state import Phase
from reconciler.kinds.task.state import TaskState
from reconciler.loop.inspections import Sample
from reconciler.ports import Tally, Usage
from tests.docs.promtool import promtool
from tests.store.test_records import INSTANCE

DOCS = Path(__file__).parents[2] / "docs"
FOLDER = DOCS / "monitoring"
FAMILY = re.compile(r"\breconciler_[a-z_]+\b")
ROW = re.compile(r"\| `(reconciler_[a-z_]+)` \| (gauge|counter) \| ([^|]*)\| .+ \|")
SELECTOR = re.compile(r"\b(reconciler_[a-z_]+)\{([^}]*)\}")
MATCHER = re.compile(r'([a-z_]+)\s*(=~|!~|!=|=)\s*"([^"]*)"')
OF_PROMETHEUS = {"job"}
VALUES = {
    "phase": set(Phase),
    "state": set(TaskState),
    "mode": set(Mode),
    "outcome": {"accepted", "denied", "invalid", "limited", "forged"},
    "reason": {"missing", "unknown", "expired", "limited"},
}


def exposition() -> str:
    """Of a hub that has something in every family."""
    now = datetime(2026, 1, 1, tzinfo=UTC)
    return render(
        Measured(
            revision="4f2a",
            mode=Mode.DEGRADED,
            conditions=[Condition(subject="hub", type="T", status=True, reason="R", message="m", since=now)],
            instances=[INSTANCE],
            tasks={"pending": 2},
            tallies={"writer": Tally(accepted=3)},
            trust={"writer": 0.9},
            samples={INSTANCE.name: Sample(usage=Usage(cpu_s=1.0), at_s=1.0)},
        )
    )


def exposed() -> dict[str, tuple[str, frozenset[str]]]:
    """Type and labels by family."""
    text = exposition()
    types = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))
    samples = re.findall(r"^(reconciler_[a-z_]+)(?:\{(.*)\})? \S+$", text, re.MULTILINE)
    labels = {name: frozenset(re.findall(r'(\w+)="', shown)) for name, shown in samples}
    return {name: (type_, labels[name]) for name, type_ in types.items()}


def test_the_list_in_the_documents_is_what_a_hub_exposes() -> None:
    listed = {
        name: (type_, frozenset(re.findall(r"`([a-z]+)`", labels)))
        for name, type_, labels in ROW.findall((DOCS / "operating.md").read_text())
    }
    assert listed == exposed()


def test_promtool_has_nothing_to_say_about_the_exposition() -> None:
    promtool("check", "metrics", text=exposition())


def test_promtool_takes_the_rules_and_their_tests_and_the_configuration() -> None:
    promtool("check", "rules", "alerts.yml", folder=FOLDER)
    promtool("test", "rules", "alerts.test.yml", folder=FOLDER)
    promtool("check", "config", "--syntax-only", "prometheus.yml", folder=FOLDER)


def rules() -> list[dict[str, Any]]:
    (value,) = load_documents((FOLDER / "alerts.yml").read_bytes(), "alerts.yml").values
    found: list[dict[str, Any]] = value["groups"][0]["rules"]
    return found


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / "dashboard.json").read_text())
    return found


def targets() -> Iterator[tuple[str, str]]:
    """Query and legend of every line of every panel."""
    for panel in dashboard()["panels"]:
        for target in panel["targets"]:
            yield target["expr"], target["legendFormat"]


def queries() -> Iterator[str]:
    yield from (expr for expr, _ in targets())
    yield from (rule["expr"] for rule in rules())
    yield from (v["query"] for v in dashboard()["templating"]["list"] if v["type"] == "query")


@pytest.mark.parametrize("query", list(queries()))
def test_each_query_asks_for_what_a_hub_exposes(query: str) -> None:
    known = exposed()
    names = set(FAMILY.findall(query))
    assert names or query.startswith("up{")
    assert names <= known.keys()
    for name, matchers in SELECTOR.findall(query):
        for label, _, value in MATCHER.findall(matchers):
            assert label in known[name][1] | OF_PROMETHEUS, f"{name} has no label {label}"
            if label in VALUES and label not in OF_PROMETHEUS:
                assert set(value.split("|")) <= VALUES[label], f"{label} is never {value}"
    for labels in re.findall(r"by \(([a-z, ]+)\)", query):
        assert set(labels.split(", ")) <= set().union(*(known[name][1] for name in names))


def test_each_legend_is_made_of_labels_that_there_are() -> None:
    known = exposed()
    for expr, legend in targets():
        labels = set().union(*(known[name][1] for name in FAMILY.findall(expr)))
        assert set(re.findall(r"\{\{(\w+)\}\}", legend)) <= labels, legend


def test_each_alert_is_tried_both_ways() -> None:
    (tests,) = load_documents((FOLDER / "alerts.test.yml").read_bytes(), "alerts.test.yml").values
    tried = [(t["alertname"], bool(t.get("exp_alerts"))) for group in tests["tests"] for t in group["alert_rule_test"]]
    assert {(rule["alert"], is_raised) for rule in rules() for is_raised in (True, False)} == set(tried)


def test_every_family_is_on_the_dashboard() -> None:
    assert {name for expr, _ in targets() for name in FAMILY.findall(expr)} == exposed().keys()


def test_panels_have_places_of_their_own() -> None:
    taken = set[tuple[int, int]]()
    for panel in dashboard()["panels"]:
        at = panel["gridPos"]
        places = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not places & taken, panel["title"]
        taken |= places
