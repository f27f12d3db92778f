"""SIGKILL at every crash point of the sources and at random moments, on both runtimes; outside checkers judge the rest.

A fleet goes through everything that can become of one, in steps. In each step the hub is started again and again, and
killed wherever it comes for the first time, until it ends by itself: then the fleet must be what git says.
"""

import json
import os
import random
import signal
import sqlite3
import time
from collections.abc import Callable, Mapping
from contextlib import closing, suppress

import pytest

from reconciler.policy.opa_process import find_program
from tests.flows.delegating import DELEGATING
from tests.flows.fleet import HUB, Answer, Fleet, agent_text, eventually, task_text
from tests.flows.lives import Lives
from tests.flows.points import find_points, planned_actions
from tests.flows.test_router_code import make_old_release
from tests.outside.checker import daemons, engine
from tests.router.fleet import free_port

RANDOM_KILLS = 20
SEED = 20
MOST_LIVES = 150
"""In one step. Each but the last few ends at a point that was never passed before."""

PLANNED = [f"{kind}.{action}" for kind, action in planned_actions()]
COMPUTED = {
    "f'{change.kind}.{change.action}.intent'": [f"{name}.intent" for name in PLANNED],
    "f'{change.kind}.{change.action}.outcome'": [f"{name}.outcome" for name in PLANNED],
    "f'inbox.{outcome}.before'": ["inbox.result.before", "inbox.error.before"],
    "f'inbox.{outcome}.after'": ["inbox.result.after", "inbox.error.after"],
}
"""What the points are called whose names the sources compute."""

NOWHERE = {
    "task.remove.": "no action of a task: it says what a cancellation leads to",
}
ONLY_PROCESSES = {
    "process.": "the process runtime's own",
    "agent.create.ca.": "containers have no network, so that none reaches the router by TLS",
}
NEEDS_OPA = ("opa.", "policy.restart.")

SLOW = json.dumps(["python3", "-c", "import time; print(1, flush=True); time.sleep(600)"])
ASKING = """
print("asking", flush=True)
asked = [ask(agent="limited")[0] for _ in range(3)] + [ask(agent="limited", task="another")[0]]
found = find(asked)
print(json.dumps([found[id_]["ok"] for id_ in asked]))
"""
MORE_HUB = """\
  providers: [{name: local, type: ollama, exposure: private, models: [{name: small}]}]
"""
OPA = "  policy: {engines: [opa, embedded, builtin], opa: {managed: true, timeout: 200ms}}\n"


def hub_text(*, full: bool) -> str:
    """One effect at a time, so that each step comes by the same points. With `full` it wants a way out, and an OPA of
    its own where the program is there."""
    loop = "loop: {concurrency: 1, resync: 2s, pruneBudget: {count: 100, percent: 100}}"
    text = HUB.replace("loop: {resync: 2s, concurrency: 4}", loop)
    text = text.replace("orchestrator: {", "orchestrator: {trustThreshold: 0, ")
    return text + (MORE_HUB + (OPA if find_program(None) else "") if full else "")


def agent(name: str, *, lives: str = "maxCrashes: 99, quarantineThreshold: 99", **more: str) -> dict[str, str]:
    return {f"agents.d/{name}.yaml": agent_text(name, **more).replace("grace: 2s", f"grace: 500ms, {lives}")}


def task(name: str, whom: str, **more: str) -> dict[str, str]:
    text = task_text(name, whom, more=more.get("more", "")).replace("timeout: 5m", "timeout: 15m")
    return {f"tasks.d/{name}.yaml": text}


def schema(number: int) -> dict[str, str]:
    text = json.dumps({"type": "object", "maxProperties": number})
    return {f"schemas/messages/turn.{name}.schema.json": text for name in ("made", "taken")}


def policy(number: int) -> dict[str, str]:
    reason = f'{{"allow": true, "reasons": ["turn {number}"]}}'
    return {"policies/task.rego": f"package hub.task\n\nimport rego.v1\n\ndecision := {reason}\n"}


class Story:
    """One fleet from its beginning to its end, and a hub that dies at every point once."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.killed_at = fleet.folder / "killed-at"
        self.killed_at.touch()
        self.lives = Lives(fleet, RECONCILER_CRASH_ONCE=str(self.killed_at))
        self.operator = fleet.folder / "operator.yaml"
        vault = fleet.folder / "vault"
        vault.mkdir(mode=0o700)
        (vault / "key").write_text("planted")
        plane = f'agentPlane: {{listen: "tcp://127.0.0.1:{free_port()}", agents: [far]}}'
        spec = f"secrets: {{provider: file, path: {vault}}}" + (f", {plane}" if self.has_far else "")
        self.operator.write_text(f"apiVersion: reconciler/v1\nkind: Operator\nspec: {{{spec}}}\n")

    @property
    def has_far(self) -> bool:
        return self.fleet.runtime == "process"

    @property
    def points(self) -> frozenset[str]:
        return frozenset(self.killed_at.read_text().split())

    def commit(self, *parts: Mapping[str, str], full: bool = True) -> None:
        files = {path: text for part in parts for path, text in part.items()}
        self.fleet.commit({**files, "hub.yaml": hub_text(full=full)}, "a step")

    def settle(
        self, *but: str, until: Callable[[], bool] = lambda: True, with_tasks: bool = True, code: int = 0
    ) -> None:
        """Life after life, until one ends by itself and `until` holds; then all but the instances `but` are as in git.

        `code` is its exit code: 2 where something is left on hold, which is not waited for long.
        """
        began, before = time.monotonic(), len(self.points)
        arguments = ["apply", *self.fleet.places, *self.fleet.permission, "--operator", str(self.operator)]
        arguments += ["--timeout", "5" if code else "180", *(["--tasks"] if with_tasks else [])]
        for number in range(1, MOST_LIVES + 1):  # noqa: B007 - it is told below
            answer = self.lives.live(*arguments)
            if answer.code == code and until():
                break
            assert answer.code in (code, -signal.SIGKILL), self.told(answer)
        else:
            pytest.fail(f"not settled after {number} lives: {self.told(answer)}")
        kills = len(self.points) - before
        print(f"{number} lives, {kills} new points, {time.monotonic() - began:.1f} s")
        faults = [fault for fault in self.fleet.check() if not fault.startswith(tuple(but))]
        assert (faults, attempts_at_once(self.fleet)) == ([], []), self.told(answer)

    def told(self, answer: Answer) -> str:
        return f"{answer}\n{self.fleet.evidence()}"

    def ask(self, query: str) -> list[tuple[object, ...]]:
        with closing(sqlite3.connect(f"file:{self.fleet.data}/state.db?mode=ro", uri=True)) as connection:
            return connection.execute(query).fetchall()

    def tamper(self, statement: str) -> None:
        """Somebody writes into the record by hand."""
        with closing(sqlite3.connect(self.fleet.data / "state.db")) as connection:
            connection.execute(statement)
            connection.commit()

    def states(self, name: str, generation: int = 0) -> set[object]:
        """States of all runs whose names begin so and that are of this generation or a later one, else `old`."""
        rows = self.ask(f"SELECT state, generation FROM task WHERE name LIKE '{name}%'")
        return {state if int(str(had)) >= generation else "old" for state, had in rows}

    def phases(self, name: str) -> set[object]:
        return {phase for (phase,) in self.ask(f"SELECT phase FROM instance WHERE agent = '{name}'")}


def attempts_at_once(fleet: Fleet) -> list[str]:
    """Runs of which two attempts were open at the same time, by the record."""
    with closing(sqlite3.connect(f"file:{fleet.data}/state.db?mode=ro", uri=True)) as connection:
        rows = connection.execute(
            "SELECT run, count(*) FROM attempt WHERE ended_at = '' GROUP BY run HAVING count(*) > 1"
        ).fetchall()
    return [f"run {run} has {count} open attempts" for run, count in rows]


def signal_server(fleet: Fleet, name: str, number: int) -> None:
    """A fault from outside: the router, or the way out, is ended or stopped."""
    with suppress(OSError, ValueError, IndexError):
        os.kill(int((fleet.run / f"{name}.pid").read_text().split()[0]), number)


def crash(fleet: Fleet, instance: str) -> None:
    """A fault from outside: what the instance runs is killed."""
    if fleet.runtime == "process":
        (pid,) = (pid for pid, name in daemons(fleet.run) if name == instance)
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: instance not in {name for _, name in daemons(fleet.run)})
        return
    with closing(sqlite3.connect(f"file:{fleet.data}/state.db?mode=ro", uri=True)) as connection:
        ((container,),) = connection.execute("SELECT container_id FROM instance WHERE name = ?", (instance,)).fetchall()
    engine("POST", f"/containers/{container}/kill")
    eventually(lambda: not engine("GET", f"/containers/{container}/json")["State"]["Running"])


@pytest.mark.slow
def test_a_kill_at_any_point_is_repaired_by_the_next_pass(fleet: Fleet) -> None:
    story = Story(fleet)
    base = {**agent("limited"), **(agent("far") if story.has_far else {})}
    try:
        begin(story, base)
        change(story, base)
        lay_hands_on(story, base)
        refuse_a_result(story, base)
        delegate(story, base)
        interrupt_tasks(story, base)
        rest_and_isolate(story, base)
        use_the_inbox(story, base)
        take_away(story, base)
    finally:
        story.lives.close()
    excused = {**NOWHERE, **(ONLY_PROCESSES if fleet.runtime == "docker" else {})}
    if find_program(None) is None:
        excused |= dict.fromkeys(NEEDS_OPA, "OPA is not installed")
    wanted = {p for p in find_points(COMPUTED) if not p.startswith(tuple(excused))}
    missed, unknown = wanted - story.points, story.points - wanted
    assert not missed and not unknown, f"missed: {sorted(missed)}; not in the sources: {sorted(unknown)}"
    prove_audit(fleet)


def begin(story: Story, base: Mapping[str, str]) -> None:
    """Everything is new, the servers too. Without policies, which take time in each life."""
    story.commit(base, talker("1"), agent("gone"), schema(1), task("work", "talker"))
    story.settle()


def talker(said: str) -> dict[str, str]:
    """An agent with a secret, a model and the repository; two, because the next pass ends the first one in another way."""
    more = (
        "  replicas: 2\n  secrets: [key]\n  llm: {provider: local, model: small}\n  workspace: {source: repository}\n"
    )
    return agent("talker", argv=f'[python3, "-c", "print({said})"]', more=more)


def change(story: Story, base: Mapping[str, str]) -> None:
    """One is replaced, one updated in place, one goes; schema and task are others; the router is an old one."""
    fleet = story.fleet
    signal_server(fleet, "router", signal.SIGKILL)
    old = fleet.apply("--operator", str(story.operator), env={"PYTHONPATH": make_old_release(fleet.folder)})
    assert old.code == 0, story.told(old)
    work = {"tasks.d/work.yaml": task_text("work", "talker", value=2)}
    limited = {path: text.replace("cpus: 0.5", "cpus: 0.6") for path, text in agent("limited").items()}
    story.commit(base, limited, talker("2"), schema(2), policy(1), work)
    story.settle()


def lay_hands_on(story: Story, base: Mapping[str, str]) -> None:
    """A row deleted, what OPA was started with changed; then the agent with a model goes."""
    fleet = story.fleet
    story.tamper("DELETE FROM instance WHERE name = 'limited-0'")
    opa = fleet.run / "opa" / "opa.pid"
    if opa.exists():
        pid, start, _ = opa.read_text().split()
        opa.write_text(f"{pid} {start} other\n")
    story.commit(base, talker("2"), policy(1))
    story.settle()
    story.commit(base, policy(2))
    story.settle()


def refuse_a_result(story: Story, base: Mapping[str, str]) -> None:
    """A task whose result is never accepted ends with a person, who is not needed any more. The way out hangs twice."""
    more = "  acceptance: [{regex: never}]\n  retries: {maxAttempts: 2, baseDelay: 50ms}\n  escalate: {to: operator}\n"
    for files in (task("judged", "limited", more=more), {}):
        signal_server(story.fleet, "egress", signal.SIGSTOP)
        story.commit(base, files)
        story.settle()
        assert story.states("judged", 2) == {"failed"}


def delegate(story: Story, base: Mapping[str, str]) -> None:
    """A task asks for what is refused at once, and for three tasks; it waits until it has heard of all."""
    argv = json.dumps(["python3", "-c", DELEGATING + ASKING])
    asker = agent("asker", argv=argv, more="  delegation: {to: [limited]}\n")
    story.commit(base, asker, task("ask", "asker"))
    story.settle()
    assert (story.states("ask"), story.states("delegation-")) == ({"succeeded"}, {"succeeded"})
    assert story.ask("SELECT count(*) FROM task WHERE purpose = 'delegation'") == [(3,)]
    story.commit(base)
    story.settle()


def interrupt_tasks(story: Story, base: Mapping[str, str]) -> None:
    """Long tasks are marked succeeded by hand, time out, lose their machine, and are cancelled; one per instance.

    There are several because each is through, one way or another, soon after it was touched.
    """

    def run(generation: int) -> Callable[[], bool]:
        return lambda: story.states("long", generation) == {"running"}

    files = {**base, **agent("slow", argv=SLOW, more="  replicas: 5\n")}
    again = "  retries: {maxAttempts: 9, baseDelay: 50ms}\n"
    story.commit(files, *(task(f"long{number}", "slow", more=again) for number in range(5)))
    story.settle(with_tasks=False, until=run(1))
    story.tamper("UPDATE task SET state = 'succeeded' WHERE name LIKE 'long%'")
    story.settle(with_tasks=False, until=run(1))
    story.tamper("UPDATE task SET assigned_boot = assigned_boot - 10000 WHERE name LIKE 'long%'")
    story.settle(with_tasks=False, until=run(2))
    story.tamper("UPDATE task SET boot_id = 'another' WHERE name LIKE 'long%'")
    story.settle(with_tasks=False, until=run(3))
    story.commit(files)
    story.settle()
    assert story.states("long", 3) == {"cancelled"}


def rest_and_isolate(story: Story, base: Mapping[str, str]) -> None:
    """Some have nothing to do and sleep, some crash and are isolated; all then go.

    There are several because the next pass sees to what is left of each in another way.
    """
    fleet, shaky, sleepy = story.fleet, 11, 7
    rests = f"  replicas: {sleepy}\n  idle: {{after: 300ms}}\n"
    story.commit({**base, **agent("shaky", more=f"  replicas: {shaky}\n"), **agent("sleepy", more=rests)})
    story.settle("sleepy-")
    story.tamper("UPDATE instance SET crashes = 99 WHERE agent = 'shaky'")
    for number in range(shaky):
        crash(fleet, f"shaky-{number}")
    story.settle(
        "sleepy-",
        "shaky-",
        code=2,
        until=lambda: (story.phases("sleepy"), story.phases("shaky")) == ({"registered"}, {"quarantined"}),
    )
    assert sum(fault.startswith(("sleepy-", "shaky-")) for fault in fleet.check()) >= shaky + sleepy, fleet.check()
    story.commit(base)
    story.settle()


def use_the_inbox(story: Story, base: Mapping[str, str]) -> None:
    """A task and something that is none are dropped; no step loses or doubles either."""
    fleet = story.fleet
    inbox = fleet.repository / "inbox"
    inbox.mkdir(exist_ok=True)
    for name, whom in (("good", "limited"), ("bad", "nobody")):
        (inbox / f".{name}").write_text(task_text(name, whom))
        (inbox / f".{name}").rename(inbox / f"{name}.yaml")
    verdicts = inbox / "accepted" / "good.result.json", inbox / "rejected" / "bad.error.txt"

    def is_done() -> bool:
        return all(v.exists() for v in verdicts) and "the hub serves until" in story.lives.said.read_text()

    for _ in range(MOST_LIVES):
        pid = story.lives.begin("run", *fleet.places, *fleet.permission, "--operator", str(story.operator))
        eventually(lambda: story.lives.has_ended() or is_done())
        if not story.lives.has_ended():
            os.kill(pid, signal.SIGINT)
        if (answer := story.lives.end()).code == 0:
            break
        assert answer.code == -signal.SIGKILL, story.told(answer)
    assert json.loads(verdicts[0].read_text())["state"] == "succeeded"
    assert sorted(str(p.relative_to(inbox)) for p in inbox.rglob("*.yaml")) == [
        "accepted/good.yaml",
        "rejected/bad.yaml",
    ]
    assert story.ask("SELECT state, source, attempts FROM task WHERE name IN ('good', 'bad')") == [
        ("succeeded", "inbox", 1)
    ]


def take_away(story: Story, base: Mapping[str, str]) -> None:
    """Policies come and go once more, then there are no models and no OPA."""
    story.commit(base, policy(3))
    story.settle()
    story.commit(base, full=False)
    story.settle()


@pytest.mark.slow
def test_random_kills_are_repaired(fleet: Fleet) -> None:
    chance = random.Random(SEED)
    lives = Lives(fleet)
    arguments = ["apply", "--tasks", *fleet.places, *fleet.permission, "--timeout", "180"]
    killed = turn = 0
    try:
        while killed < RANDOM_KILLS:
            turn += 1
            fleet.commit(differing(turn), f"turn {turn}")
            if chance.random() < 0.3:
                signal_server(fleet, "router", signal.SIGKILL)
            for _ in range(2):
                pid = lives.begin(*arguments)
                if not lives.has_ended(within_s=chance.uniform(0.05, 1.5)):
                    os.kill(pid, signal.SIGKILL)
                    killed += 1
                lives.end()
            answer = lives.live(*arguments)
            assert answer.code == 0, f"turn {turn}: {answer}\n{fleet.evidence()}"
            assert (fleet.check(), attempts_at_once(fleet)) == ([], [])
    finally:
        lives.close()
    prove_audit(fleet)


def differing(turn: int) -> dict[str, str]:
    """Two sides in turn, so that each turn creates, updates in place, replaces, removes and dispatches."""
    side = turn % 2
    return {
        "agents.d/replaced.yaml": agent_text("replaced", argv=f'[python3, "-c", "print({side})"]'),
        "agents.d/updated.yaml": agent_text("updated", memory="128MiB" if side else "160MiB"),
        f"agents.d/side{side}.yaml": agent_text(f"side{side}"),
        "tasks.d/turn.yaml": task_text("turn", "updated", value=turn),
        **schema(turn),
        **policy(turn),
    }


def prove_audit(fleet: Fleet) -> None:
    answer = fleet.call("audit", "verify", *fleet.places)
    assert answer.code == 0, answer
