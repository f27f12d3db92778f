"""The outside checker of what is recorded: does the hub's record tell what happened? Nothing of the reconciler.

It reads `state.db` and `traffic.db`, what the tasks themselves wrote while they ran, and what the engine said of
containers. Any difference is a sentence in the list that a check returns.
"""

import hashlib
import json
import sqlite3
import struct
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FINAL = frozenset({"succeeded", "failed", "timed_out", "cancelled", "rejected"})
CHAINED = [
    "time",
    "boottime",
    "fleet",
    "revision",
    "actor",
    "cause",
    "kind",
    "name",
    "action",
    "before",
    "after",
    "outcome",
    "reason",
    "plan_digest",
    "policy_revision",
]
MAKES = ("create", "replace", "restart", "update")


@dataclass(frozen=True)
class Made:
    """A container or an agent's process came to be; `at` is CLOCK_BOOTTIME."""

    instance: str
    id: str
    at: float


def check_tasks(data: Path, journal: Sequence[Mapping[str, Any]], wanted: Mapping[str, str]) -> list[str]:
    """Each task that was promised, by name and the state in which it must be, is there once, and was executed so."""
    runs, attempts, results = (_rows(data / "state.db", f"SELECT * FROM {t}") for t in ("task", "attempt", "result"))
    by_name: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for run in runs:
        by_name[run["name"]].append(run)
    result_of = {r["run"]: json.loads(r["result"]) for r in results}
    attempts_of: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for attempt in attempts:
        attempts_of[attempt["run"]].append(attempt)
    out = [f"task {name} is recorded, and nobody asked for it" for name in by_name.keys() - wanted.keys()]
    out += [f"task {line['task']} was executed twice at once" for line in journal if line["event"] == "taken"]
    for name, state in sorted(wanted.items()):
        lines = [line for line in journal if line["task"] == name]
        out += _check_task(name, state, by_name[name], attempts_of, result_of, lines)
    return out


def _check_task(
    name: str,
    state: str,
    runs: Sequence[Mapping[str, Any]],
    attempts_of: Mapping[str, Sequence[Mapping[str, Any]]],
    result_of: Mapping[str, Any],
    lines: Sequence[Mapping[str, Any]],
) -> Iterator[str]:
    if len(runs) != 1:
        yield f"task {name} was promised once and is recorded {len(runs)} times"
        return
    run = runs[0]
    attempts = attempts_of[run["run"]]
    begun = Counter(line["event"] for line in lines)["start"]
    if run["state"] != state:
        yield f"task {name} should be {state} and is {run['state']}: {run['reason']}"
    if sorted(a["generation"] for a in attempts) != list(range(1, run["generation"] + 1)):
        yield f"task {name} is in generation {run['generation']}, and has attempts {[a['generation'] for a in attempts]}"
    if any(not a["ended_at"] for a in attempts):
        yield f"task {name} is {run['state']}, and has an open attempt"
    if begun > len(attempts):
        yield f"task {name} was begun {begun} times in {len(attempts)} attempts"
    succeeded = [a for a in attempts if a["outcome"] == "succeeded"]
    if len(succeeded) != (run["state"] == "succeeded"):
        yield f"task {name} is {run['state']}, and {len(succeeded)} of its attempts succeeded"
    if run["state"] == "succeeded":
        said = result_of.get(run["run"])
        nonces = [line["nonce"] for line in lines if line["event"] == "stop"]
        if not isinstance(said, dict) or said.get("nonce") not in nonces:
            yield f"task {name} has the result {said!r}, which no execution of it gave"


def check_reports(data: Path) -> list[str]:
    """No result that the router accepted is lost: each is in the audit log once, and the last one is the result."""
    accepted: dict[str, dict[str, Mapping[str, Any]]] = defaultdict(dict)
    for row in _rows(
        data / "traffic.db",
        "SELECT msg_id, payload FROM message_log WHERE type = 'task.completed' AND verdict = 'allow'",
    ):
        payload = json.loads(row["payload"])
        accepted[payload["run"]][row["msg_id"]] = payload
    rows = _rows(
        data / "state.db", "SELECT after, count(*) n FROM audit WHERE action = 'task.completed' GROUP BY after"
    )
    noted = {row["after"]: row["n"] for row in rows}
    runs = {r["run"]: r for r in _rows(data / "state.db", "SELECT run, name, state, generation FROM task")}
    results = {r["run"]: json.loads(r["result"]) for r in _rows(data / "state.db", "SELECT run, result FROM result")}
    out: list[str] = []
    for run, payloads in accepted.items():
        if noted.get(run, 0) != len(payloads):
            out.append(f"of run {run}, {len(payloads)} results were accepted and {noted.get(run, 0)} taken in")
        record = runs.get(run)
        last = [p["result"] for p in payloads.values() if record and p["generation"] == record["generation"]]
        if record is not None and last and record["state"] == "succeeded" and results.get(run) not in last:
            out.append(f"task {record['name']} reported {last}, and {results.get(run)!r} is recorded")
    return out


def check_chain(data: Path) -> list[str]:
    """Each audit row follows from the one before: SHA-256 over the length-prefixed columns, computed here."""
    before, number = "0" * 64, 0
    for row in _rows(data / "state.db", "SELECT * FROM audit ORDER BY seq"):
        number += 1
        texts = [before, str(row["seq"]), *(repr(v) if isinstance(v := row[c], float) else str(v) for c in CHAINED)]
        hasher = hashlib.sha256()
        for content in (text.encode("utf-8", "surrogatepass") for text in texts):
            hasher.update(struct.pack(">Q", len(content)) + content)
        if row["seq"] != number or row["prev"] != before or row["hash"] != hasher.hexdigest():
            return [f"audit row {row['seq']}, the {number}th, does not follow from the one before"]
        before = row["hash"]
    return [] if number else ["there is no audit row"]


def check_intents(data: Path, made: Sequence[Made]) -> list[str]:
    """Before each container came to be, an intent of its own was recorded."""
    intents: dict[str, list[float]] = defaultdict(list)
    for row in _rows(
        data / "state.db",
        "SELECT name, action, boottime FROM audit WHERE kind = 'agent' AND outcome = 'intent' ORDER BY seq",
    ):
        if row["action"] in MAKES:
            intents[row["name"]].append(row["boottime"])
    out: list[str] = []
    count: Counter[str] = Counter()
    for one in sorted(made, key=lambda m: m.at):
        count[one.instance] += 1
        before = sum(at <= one.at for at in intents[one.instance])
        if before < count[one.instance]:
            out.append(f"{one.instance} was made {count[one.instance]} times ({one.id}), after {before} intents")
    return out


def _rows(path: Path, question: str) -> list[dict[str, Any]]:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5)) as connection:
        connection.row_factory = sqlite3.Row
        return [dict(row) for row in connection.execute(question)]
