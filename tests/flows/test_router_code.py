"""A hub of other code on a running fleet: the router is restarted, and nothing that was on its way is lost."""

import json
import os
import shutil
import signal
from pathlib import Path

from reconciler import __version__
from reconciler.core.reading import Ok
from reconciler.ports import RouterReport
from reconciler.router.client import RouterLink
from tests.flows.fleet import HUB, Fleet, agent_text, eventually, task_text
from tests.flows.forks import ROOT
from tests.flows.test_hub import audit, containers, running, settled

WAITS = '[python3, "-c", "import time, pathlib\\nwhile not pathlib.Path(\'{gate}\').exists(): time.sleep(0.05)"]'


def make_old_release(folder: Path) -> str:
    """This code under another number; returns what PYTHONPATH must be for it."""
    package = folder / "old" / "reconciler"
    shutil.copytree(ROOT / "reconciler", package, ignore=shutil.ignore_patterns("__pycache__"))
    init = package / "__init__.py"
    init.write_text(init.read_text().replace(f'"{__version__}"', '"0.0.9"'))
    return str(package.parent)


def router_of(fleet: Fleet) -> RouterReport:
    """What the router says, as soon as it does."""
    link, found = RouterLink(fleet.id, fleet.run, fleet.data), list[RouterReport]()

    def has_answered() -> bool:
        report = link.report()
        found.extend([report.value] if isinstance(report, Ok) else ())
        return bool(found)

    eventually(has_answered)
    return found[0]


def daemon_of(fleet: Fleet, instance: str) -> int:
    """The pid of its agentd."""
    shim = int((fleet.run / "process" / instance / "shim.pid").read_text().split()[0])
    (child,) = Path(f"/proc/{shim}/task/{shim}/children").read_text().split()
    return int(child)


def states(fleet: Fleet) -> dict[str, str]:
    return {task["name"]: task["state"] for task in fleet.state()["tasks"]}


def test_another_release_takes_over_while_tasks_are_on_their_way(processes: Fleet) -> None:
    fleet = processes
    gate = fleet.folder / "gate"
    patient = agent_text("b").replace("heartbeat: 500ms", "heartbeat: 500ms, missed: 1000")
    files = {
        "hub.yaml": HUB.replace("lease: 15s", "lease: 5m"),
        "agents.d/a.yaml": agent_text("a", argv=WAITS.replace("{gate}", str(gate))),
        "agents.d/b.yaml": patient,
        "tasks.d/begun.yaml": task_text("begun", "a"),
    }
    fleet.commit(files)
    with running(fleet, PYTHONPATH=make_old_release(fleet.folder)):
        eventually(lambda: settled(fleet) and states(fleet) == {"begun": "running"})
        daemon = daemon_of(fleet, "b-0")
        os.kill(daemon, signal.SIGSTOP)
        fleet.commit({**files, "tasks.d/unstarted.yaml": task_text("unstarted", "b")})
        eventually(lambda: states(fleet).get("unstarted") == "assigned")
    before, instances = router_of(fleet), containers(fleet)
    assert before.code_version.startswith("0.0.9+")
    gate.touch()
    eventually(lambda: router_of(fleet).inbox_seq > before.inbox_seq)

    with running(fleet):
        eventually(lambda: _has_changed(fleet, before))
        os.kill(daemon, signal.SIGCONT)
        eventually(lambda: settled(fleet, tasks=2))
        after = router_of(fleet)
        restarted = [row for row in audit(fleet) if row["kind"] == "router" and row["action"] == "restart"]
    reason = f"its code is version {before.code_version}, this is {after.code_version}"
    assert [(row["outcome"], row["reason"]) for row in restarted] == [("intent", reason), ("applied", reason)]
    assert after.next_version == ""
    assert containers(fleet) == instances
    assert [(task["name"], task["attempts"]) for task in fleet.state()["tasks"]] == [("begun", 1), ("unstarted", 1)]
    started = fleet.call("message", "export", "--type", "task.started", *fleet.places).out.splitlines()
    assert sorted(json.loads(line)["instance"] for line in started) == ["a-0", "b-0"]

    with running(fleet):
        eventually(lambda: settled(fleet, tasks=2))
    assert (router_of(fleet).pid, router_of(fleet).epoch) == (after.pid, after.epoch)


def _has_changed(fleet: Fleet, before: RouterReport) -> bool:
    """Whether another router answers, to which the instances have been made known."""
    report = RouterLink(fleet.id, fleet.run, fleet.data).report()
    return isinstance(report, Ok) and report.value.pid != before.pid and len(report.value.instances) == 2
