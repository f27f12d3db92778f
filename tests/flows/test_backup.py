"""A backup of a running hub, a disaster, a restore: what the backup knows is adopted, and no task runs again."""

import json
import stat

from tests.flows.fleet import Fleet, agent_text, eventually, task_text
from tests.flows.test_hub import audit, containers, running, settled


def test_a_lost_data_directory_is_restored_and_the_running_fleet_adopted(fleet: Fleet) -> None:
    fleet.commit({"agents.d/a.yaml": agent_text("a"), "tasks.d/t.yaml": task_text("t", "a")})
    file = fleet.folder / "backup"
    with running(fleet):
        eventually(lambda: settled(fleet, tasks=1))
        before = containers(fleet)
        made = fleet.call("backup", str(file), *fleet.places, "-o", "json")
        assert made.code == 0, made
        refused = fleet.call("restore", str(file), *fleet.places, "--replace")
        assert refused.code == 1
        assert "another hub" in refused.err
    assert json.loads(made.out)["fleet"] == fleet.id
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    runs = [t["run"] for t in fleet.state()["tasks"]]
    fleet.lose_data()
    restored = fleet.call("restore", str(file), *fleet.places)
    assert restored.code == 0, restored
    with running(fleet):
        fleet.commit({"agents.d/a.yaml": agent_text("a"), "tasks.d/u.yaml": task_text("u", "a")})
        eventually(lambda: settled(fleet) and sum(t["state"] == "succeeded" for t in fleet.state()["tasks"]) == 2)
    assert containers(fleet) == before
    assert runs[0] in [t["run"] for t in fleet.state()["tasks"]]
    assert [row["action"] for row in audit(fleet) if row["kind"] == "fleet"] == ["restore"]
    assert fleet.call("audit", "verify", *fleet.places).code == 0


def test_a_backup_taken_earlier_is_put_back_under_a_stopped_hub(processes: Fleet) -> None:
    processes.commit({"agents.d/a.yaml": agent_text("a")})
    file = processes.folder / "backup"
    with running(processes):
        eventually(lambda: settled(processes))
        before = containers(processes)
        assert processes.call("backup", str(file), *processes.places).code == 0
        processes.commit({"agents.d/a.yaml": agent_text("a"), "tasks.d/t.yaml": task_text("t", "a")})
        eventually(lambda: settled(processes, tasks=1))
    refused = processes.call("restore", str(file), *processes.places)
    assert refused.code == 64
    assert "say --replace" in refused.err
    restored = processes.call("restore", str(file), *processes.places, "--replace")
    assert restored.code == 0, restored
    assert processes.state()["tasks"] == []
    with running(processes):
        eventually(lambda: settled(processes, tasks=1))
    assert containers(processes) == before


def test_bad_places_are_refused_with_what_to_do(processes: Fleet) -> None:
    nothing = processes.call("backup", str(processes.folder / "b"), *processes.places)
    assert nothing.code == 64
    assert "there is no fleet in" in nothing.err
    processes.commit({})
    assert processes.apply().code in (0, 2)
    inside = processes.call("backup", str(processes.data / "b"), *processes.places)
    assert inside.code == 64
    assert "inside of the data directory" in inside.err
    nowhere = processes.call("backup", str(processes.folder / "missing" / "b"), *processes.places)
    assert nowhere.code == 1
    assert "No such file or directory" in nowhere.err
    (processes.folder / "odd").write_bytes(b"odd")
    odd = processes.call("restore", str(processes.folder / "odd"), *processes.places, "--replace")
    assert odd.code == 1
    assert "nothing was changed" in odd.err
