"""The life of a fleet with drift, a removal and an operator's hand, proven and reported by the program itself."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.flows.fleet import Fleet, agent_text


@pytest.mark.slow
def test_an_auditor_proves_all_of_a_fleets_life_and_is_told_of_one_row_that_was_changed(
    fleet: Fleet, tmp_path: Path
) -> None:
    first = fleet.commit({"agents.d/a.yaml": agent_text("a"), "agents.d/b.yaml": agent_text("b")}, "First")
    assert fleet.apply().code == 0
    second = fleet.commit({"agents.d/a.yaml": agent_text("a", memory="256MiB")}, "Second\n\nReviewed-by: Eve <e@x>")
    assert fleet.apply().code == 0
    assert fleet.check() == []

    verified = fleet.call("audit", "verify", *fleet.places, "-o", "json")
    found = json.loads(verified.out)
    assert (verified.code, found["faults"], found["unchecked"]) == (0, [], [])
    assert found["by_note"] == found["by_checkpoint"] == found["last_seq"]
    assert fleet.git("log", f"--notes=reconciler/{fleet.id}", "--format=%N").count("Outcome: converged") == 2
    assert fleet.git("status", "--short") == ""

    shown = json.loads(fleet.call("audit", "show", second, *fleet.places, "-o", "json").out)
    assert shown["base"] == first
    assert shown["commit"]["approvals"] == ["Reviewed-by: Eve <e@x>"]
    assert "deleted file mode" in shown["diff"]
    assert ("b-0", "remove", "applied") in {(r["name"], r["action"], r["outcome"]) for r in shown["rows"]}

    page = tmp_path / "report.html"
    assert fleet.call("audit", "report", "-f", str(page), *fleet.places).code == 0
    containers = page.read_text().split("Every container that ran")[1].split("Exceptions")[0]
    was_replaced = any("the engine refused to change limits in place" in r["reason"] for r in shown["rows"])
    assert [containers.count(f"<td>{name}</td>") for name in ("a-0", "b-0")] == [1 + was_replaced, 1]
    assert "<td>runs</td>" in containers

    with closing(sqlite3.connect(fleet.data / "state.db")) as connection, connection:
        connection.execute("UPDATE audit SET actor = 'nobody' WHERE seq = 5")
    tampered = fleet.call("audit", "verify", *fleet.places)
    assert tampered.code == 1
    assert "row 5 was changed: its content does not give its hash" in tampered.err
