"""What a seed means: the fleet, its tasks, and which faults come in which order. Pure: the same seed, the same scenario.

When a fault comes is not in it, because that depends on how fast the machine recovers from those before.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

IMAGE = "agents/base:1"
SAID = "chat.said"
MAX_TASKS = 5000
SECONDS = (0.05, 0.2, 0.5, 1.0, 3.0)

HUB = """\
apiVersion: reconciler/v1
kind: Hub
metadata: {name: chaos}
spec:
  loop: {resync: RESYNC, concurrency: 4}
  router: {lease: 1s, ttl: 20s, rate: {messages: 60000/min, bytes: 600MiB/min}}
  orchestrator:
    maxParallelTasks: 8
    trustThreshold: 0.0
    retry: {maxAttempts: 100, strategy: fixed, baseDelay: 50ms, jitter: false}
"""
OPA_TIMEOUT_S = 0.1
OPA = """\
  policy:
    engines: [opa, embedded, builtin]
    opa: {managed: true, timeout: 100ms, breaker: {failures: 3, halfOpenAfter: 4s}}
    cache: {entries: 0}
"""
PROVIDERS = """\
  providers: [{name: local, type: ollama, exposure: private, models: [{name: small}]}]
"""
POLICIES = {
    "policies/task.rego": """\
package hub.task

import rego.v1

decision := {"allow": true, "reasons": ["anybody may work"]}
""",
    "policies/message.rego": """\
package hub.message

import rego.v1

decision := {"allow": input.message.type != "chat.forbidden", "reasons": ["one may talk"]}
""",
}

Way = Literal["git", "inbox", "api"]


@dataclass(frozen=True)
class Agent:
    """One agent. `serial` makes a manifest that differs from the one before; `is_restarted` is whether it is started
    anew when it does not call.
    """

    name: str
    replicas: int
    memory_mib: int = 128
    serial: int = 0
    talks_to: tuple[str, ...] = ()
    is_restarted: bool = True

    def text(self, ground: str) -> str:
        sends = ", ".join(f"{{to: {name}, types: [{SAID}]}}" for name in self.talks_to)
        return f"""\
apiVersion: reconciler/v1
kind: Agent
metadata: {{name: {self.name}}}
spec:
  role: worker
  image: {IMAGE}
  replicas: {self.replicas}
  capabilities: [work.do]
  executor: {{type: command, argv: [python3, /workspace/bin/work.py], env: {{CHAOS_GROUND: "{ground}", SERIAL: "{self.serial}"}}}}
  workspace: {{source: repository, history: false}}
  resources: {{cpus: 0.5, memory: {self.memory_mib}MiB, pids: 50}}
  lifecycle: {{grace: 1s, maxCrashes: 1000, quarantineThreshold: 1000, drainDeadline: 5s, autoRestart: {str(self.is_restarted).lower()}}}
  health: {{heartbeat: 100ms, missed: 5, handshake: 20s}}
  messaging: {{sends: [{sends}]}}
"""


@dataclass(frozen=True)
class Task:
    """One task, and how it comes to the hub. It ends well where `code` is 0, else badly, whatever happens."""

    name: str
    way: Way
    agent: str
    seconds: float
    code: int

    @property
    def wanted(self) -> str:
        return "failed" if self.code else "succeeded"

    def text(self) -> str:
        whom = f"agent: {self.agent}" if self.agent else "requires: [work.do]"
        retries = "" if not self.code else "\n  retries: {maxAttempts: 2, strategy: fixed, baseDelay: 50ms}"
        return f"""\
apiVersion: reconciler/v1
kind: Task
metadata: {{name: {self.name}}}
spec:
  {whom}
  input: {{seconds: {self.seconds}, code: {self.code}}}
  timeout: 20s{retries}
"""


@dataclass
class Scenario:
    """Everything that follows from a seed. `faults` is the order of kinds; `chance` makes all other choices."""

    seed: int
    faults: list[str]
    agents: dict[str, Agent]
    chance: random.Random
    tasks: Iterator[Task]
    at_once: int


def make_scenario(
    seed: int,
    counts: Mapping[str, int],
    *,
    seconds: Sequence[float] = SECONDS,
    at_once: int = 12,
    is_restarted: bool = True,
) -> Scenario:
    """Agents that all talk to the first one, which has two instances; each kind of fault as often as `counts` says.

    `seconds` are how long tasks take, give or take a half; `at_once` of them are under way at any time.
    `is_restarted` is that of all agents.
    """
    order = random.Random(f"faults {seed}")
    faults = [kind for kind, count in sorted(counts.items()) for _ in range(count)]
    order.shuffle(faults)
    first, *others = (f"w{n}" for n in range(4))
    agents = {first: Agent(first, 2, is_restarted=is_restarted)}
    agents |= {name: Agent(name, 1, talks_to=(first,), is_restarted=is_restarted) for name in others}
    tasks = _tasks(random.Random(f"tasks {seed}"), sorted(agents), seconds)
    return Scenario(
        seed=seed, faults=faults, agents=agents, chance=random.Random(f"choices {seed}"), tasks=tasks, at_once=at_once
    )


def _tasks(chance: random.Random, agents: Sequence[str], seconds: Sequence[float]) -> Iterator[Task]:
    for number in range(MAX_TASKS):
        yield Task(
            name=f"t{number:04}",
            way=chance.choice(("inbox", "api")),
            agent=chance.choice(agents) if chance.random() < 0.3 else "",
            seconds=round(chance.choice(seconds) * chance.uniform(0.5, 1.5), 3),
            code=3 if chance.random() < 0.08 else 0,
        )
