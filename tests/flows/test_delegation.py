"""Delegation on real runtimes: a tree of depth two over a killed hub, and what becomes of it when who asked is gone."""

import json
import signal
import subprocess
from collections.abc import Mapping
from typing import Any

from tests.flows.delegating import DELEGATING
from tests.flows.fleet import Fleet, agent_text, eventually, task_text
from tests.flows.test_crash import crash

ME = (
    DELEGATING
    + """
import hashlib, resource, subprocess, sys, time

def await_gate():
    while not os.path.exists(os.path.join(os.path.dirname(os.environ["HUB_TOKEN_FILE"]), ".gate")):
        time.sleep(0.05)

def me():
    _, shown = call("/api/hub/self")
    token = open(os.environ["HUB_TOKEN_FILE"]).read()
    return {
        "instance": shown["instance"],
        "capabilities": shown["capabilities"],
        "token": hashlib.sha256(token.encode()).hexdigest(),
        "secrets": sorted(n for n in os.listdir(os.path.dirname(os.environ["HUB_TOKEN_FILE"])) if not n.startswith(".")),
        "cgroup": open("/proc/self/cgroup").read(),
        "limits": [resource.getrlimit(n) for n in (resource.RLIMIT_NOFILE, resource.RLIMIT_CORE, resource.RLIMIT_NPROC)],
        "uid": os.getuid(),
    }
"""
)
LEAF = ME + 'print(json.dumps({"me": me(), "given": json.load(sys.stdin)}))'
HELPER = ME + (
    'await_gate(); print(json.dumps({"me": me(), '
    '"below": delegate(agent="leaf", capabilities=["git.read"], input={"n": 2}), '
    '"too_much": delegate(agent="leaf", capabilities=["web.read"])}))'
)
LEAD = ME + (
    'print(json.dumps({"me": me(), '
    '"below": delegate(agent="helper", capabilities=["git.read", "docs.write"], prompt="Read."), '
    '"unknown": delegate(agent="nobody")}))'
)
FORKING = (
    ME
    + """
if len(sys.argv) > 1:
    print(json.dumps(me()))
else:
    child = subprocess.run([sys.executable, "-c", sys.orig_argv[2], "child"], stdout=subprocess.PIPE, check=True)
    print(json.dumps({"parent": me(), "child": json.loads(child.stdout)}))
"""
)
WAITING = ME + 'print(json.dumps(delegate(agent="helper")))'
SLOW = "import time; print(1, flush=True); time.sleep(600)"


def agent(name: str, program: str, *, to: str = "", capabilities: str = "git.read", more: str = "") -> dict[str, str]:
    text = agent_text(name, argv=json.dumps(["python3", "-c", program]), more=more)
    text = text.replace("capabilities: [work.do]", f"capabilities: [{capabilities}]")
    return {f"agents.d/{name}.yaml": text + (f"  delegation: {{to: [{to}], maxDepth: 2}}\n" if to else "")}


def task(name: str, whom: str, more: str = "") -> dict[str, str]:
    return {f"tasks.d/{name}.yaml": task_text(name, whom, more=more)}


def start(fleet: Fleet) -> "subprocess.Popen[str]":
    return fleet.start("run", *fleet.places, *fleet.permission)


def end(hub: "subprocess.Popen[str]", number: int = signal.SIGTERM) -> None:
    hub.send_signal(number)
    hub.communicate(timeout=180)


def tasks(fleet: Fleet) -> Mapping[str, Mapping[str, Any]]:
    """By name, and the delegated ones by the name of their agent."""
    answer = fleet.call("task", "list", *fleet.places, "-o", "json")
    listed = json.loads(answer.out) if answer.code == 0 else []
    return {t["agent"] if t["purpose"] == "delegation" else t["name"]: t for t in listed}


def await_all(fleet: Fleet, **states: str) -> None:
    """Until each of these tasks is in its state."""

    def are_there() -> bool:
        found = tasks(fleet)
        return all(found.get(name, {}).get("state") == state for name, state in states.items())

    eventually(are_there, within_s=300.0, step_s=0.5)


def shown(fleet: Fleet, name: str) -> Any:
    return json.loads(fleet.call("task", "show", name, *fleet.places, "-o", "json").out)


def test_a_tree_of_depth_two_completes_over_a_killed_hub_and_is_recycled(fleet: Fleet) -> None:
    fleet.commit(
        {
            **agent("lead", LEAD, to="helper", capabilities="git.read, docs.write, web.read"),
            **agent("helper", HELPER, to="leaf", capabilities="git.read, docs.write"),
            **agent("leaf", LEAF, capabilities="git.read, web.read"),
            **task("report", "lead"),
        }
    )
    hub = start(fleet)
    try:
        await_all(fleet, helper="running")
        end(hub, signal.SIGKILL)
        (fleet.run / "secrets" / "helper-1000" / ".gate").touch()
        hub = start(fleet)
        await_all(fleet, report="succeeded")
        eventually(lambda: fleet.check() == [], step_s=0.5)
        explained = fleet.call("explain", f"task/{tasks(fleet)['leaf']['name']}", *fleet.places).out
    finally:
        end(hub)
    assert "delegated by delegation-" in explained, explained
    given = shown(fleet, tasks(fleet)["leaf"]["name"])["delegation"]
    assert (given["depth"], given["capabilities"], given["instance"]) == (2, ["git.read"], "helper-1000")
    top = shown(fleet, "report")["result"]
    assert (top["unknown"]["ok"], top["unknown"]["reason"]) == (False, "agent nobody is not in the fleet")
    assert top["below"]["ok"], top
    middle = top["below"]["result"]
    leaf = middle["below"]["result"]
    assert leaf["given"] == {"n": 2}
    assert (middle["too_much"]["state"], "lacks web.read" in middle["too_much"]["reason"]) == ("rejected", True)
    assert [x["me"]["capabilities"] for x in (top, middle, leaf)] == [
        ["git.read", "docs.write", "web.read"],
        ["git.read", "docs.write"],
        ["git.read"],
    ]
    assert [x["me"]["instance"] for x in (top, middle, leaf)] == ["lead-0", "helper-1000", "leaf-1001"]
    assert len({x["me"]["token"] for x in (top, middle, leaf)}) == 3
    actions = [a["action"] for a in audit(fleet, "helper-1000")]
    assert (actions[0], "deactivate" in actions) == ("create", True), actions
    assert fleet.call("audit", "verify", *fleet.places).code == 0


def audit(fleet: Fleet, name: str) -> list[Mapping[str, Any]]:
    """Rows about it that say `delegation`."""
    out = fleet.call("audit", "export", *fleet.places).out
    rows = [json.loads(line) for line in out.splitlines()]
    return [r for r in rows if r["name"] == name and r["cause"] == "delegation"]


def test_when_who_asked_is_gone_what_it_asked_for_is_cancelled_and_recycled(fleet: Fleet) -> None:
    fleet.commit(
        {
            **agent("lead", WAITING, to="helper"),
            **agent("helper", SLOW),
            **task("report", "lead", "  retries: {maxAttempts: 1}\n"),
        }
    )
    hub = start(fleet)
    try:
        await_all(fleet, helper="running")
        crash(fleet, "lead-0")
        await_all(fleet, report="failed", helper="cancelled")
        eventually(lambda: fleet.check() == [], step_s=0.5)
    finally:
        end(hub)
    assert "does not run on lead-0 any more" in tasks(fleet)["helper"]["reason"]


def test_what_an_agent_forks_shares_its_token_its_secrets_and_its_limits(fleet: Fleet) -> None:
    fleet.commit({**agent("forker", FORKING), **task("fork", "forker")})
    assert fleet.apply("--tasks").code == 0
    result = shown(fleet, "fork")["result"]
    assert result["parent"] == result["child"]
    assert result["parent"]["instance"] == "forker-0"
    assert fleet.check() == []
