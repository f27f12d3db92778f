"""A new release on the data of the first one, while its fleet runs: adopted as it is, and nothing is lost."""

import os
import re
import sqlite3
from contextlib import closing
from pathlib import Path

from reconciler.store.migrations import FIRST_VERSION, SCHEMA_VERSION
from tests.flows.fleet import Fleet, agent_text, eventually, task_text
from tests.flows.test_hub import containers, running, settled

FIRST_RELEASE = Path(__file__).parents[1] / "store" / "dumps" / f"{FIRST_VERSION}.sql"
WAITS = '[python3, "-c", "import time, pathlib\\nwhile not pathlib.Path(\'{gate}\').exists(): time.sleep(0.05)"]'


def make_old(path: Path) -> None:
    """Put a state.db in place as the first release would have written it: its tables, today's rows."""
    tables = re.findall(r"^CREATE .*?;$", FIRST_RELEASE.read_text(), re.MULTILINE | re.DOTALL)
    old = path.with_name("old.db")
    with closing(sqlite3.connect(old)) as connection:
        connection.executescript("".join(tables))
        connection.execute("ATTACH ? AS live", (str(path),))
        for (table,) in connection.execute("SELECT name FROM main.sqlite_master WHERE type = 'table'").fetchall():
            names = ", ".join(
                f'"{row[1]}"' for row in connection.execute(f"PRAGMA main.table_info({table})").fetchall()
            )
            connection.execute(f"INSERT INTO main.{table} ({names}) SELECT {names} FROM live.{table}")
        connection.execute("UPDATE meta SET value = ? WHERE key = 'schema_version'", (FIRST_VERSION,))
        connection.commit()
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    os.replace(old, path)


def version(path: Path) -> int:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        return int(connection.execute("SELECT value FROM meta WHERE key = 'schema_version'").fetchone()[0])


def task_states(fleet: Fleet) -> dict[str, str]:
    return {t["name"]: t["state"] for t in fleet.state()["tasks"]}


def test_a_running_fleet_of_the_first_release_is_adopted_and_its_task_goes_on(processes: Fleet) -> None:
    gate = processes.folder / "gate"
    agents = {
        "agents.d/a.yaml": agent_text("a"),
        "agents.d/b.yaml": agent_text("b", argv=WAITS.replace("{gate}", str(gate))),
    }
    processes.commit({**agents, "tasks.d/t.yaml": task_text("t", "a"), "tasks.d/u.yaml": task_text("u", "b")})
    with running(processes):
        eventually(lambda: settled(processes, tasks=1) and task_states(processes).get("u") == "running")
        before = containers(processes)
    file = processes.data / "state.db"
    make_old(file)
    refused = processes.call("status", *processes.places)
    assert refused.code == 1
    assert "start the hub first with `reconciler run`" in refused.err
    with running(processes):
        eventually(lambda: version(file) == SCHEMA_VERSION)
        gate.touch()
        eventually(lambda: settled(processes, tasks=2))
    assert containers(processes) == before
    assert task_states(processes) == {"t": "succeeded", "u": "succeeded"}
    assert version(file.with_name(f"state.db.v{FIRST_VERSION}")) == FIRST_VERSION
    proof = processes.call("audit", "verify", *processes.places)
    assert proof.code == 0, proof
