"""Random fleets: agents with replicas, limits and commands, and tasks that depend on each other."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from reconciler.kinds.kind import Desired
from tests.fakes.desired import desired_of
from tests.fakes.texts import agent_text, hub_text, task_text

FEW = settings(
    max_examples=int(os.environ.get("RECONCILER_LAW_EXAMPLES", "10")),
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
"""A look at each law in each run; many more where somebody asks for it by the environment."""

NAMES = ("alpha", "beta", "gamma", "delta")
TASKS = ("one", "two", "three", "four")


@dataclass(frozen=True, slots=True)
class RandomFleet:
    """Files of one revision, without `hub.yaml`."""

    files: Mapping[str, str]

    def desired(self, revision: str = "r1") -> Desired:
        return desired_of({"hub.yaml": HUB, **self.files}, revision=revision)


HUB = hub_text(
    loop={
        "concurrency": 1,
        "prune": {"agents": "on", "policies": "on", "tasks": "on"},
    },
    providers=[
        {"name": "gpu", "type": "ollama", "exposure": "private", "models": [{"name": "qwen3"}, {"name": "phi"}]}
    ],
    orchestrator={"maxParallelTasks": 3, "retry": {"maxAttempts": 2, "baseDelay": "100ms"}},
)


def specs() -> st.SearchStrategy[dict[str, Any]]:
    """The spec of an agent, but for what it must have."""
    return st.fixed_dictionaries(
        {},
        optional={
            "replicas": st.integers(0, 3),
            "resources": st.fixed_dictionaries(
                {}, optional={"cpus": st.sampled_from([0.5, 1, 2]), "pids": st.sampled_from([50, 60])}
            ),
            "executor": st.sampled_from([{"type": "command", "argv": [w]} for w in ("true", "false")]),
            "description": st.sampled_from(["", "writes", "reads"]),
            "version": st.sampled_from(["1", "2"]),
            "tasks": st.sampled_from([{"maxParallel": 1}, {"maxParallel": 2}]),
            "llm": st.sampled_from([{"provider": "gpu", "model": "phi"}, {"require": {}}]),
            "workspace": st.sampled_from(
                [{"source": "none"}, {"source": "repository"}, {"source": "volume", "writable": True}]
            ),
        },
    )


@st.composite
def fleets(draw: st.DrawFn, *, with_tasks: bool = True) -> RandomFleet:
    """A valid revision. Tasks only name agents and tasks that are there, and go in no circle."""
    files: dict[str, str] = {}
    agents = draw(st.dictionaries(st.sampled_from(NAMES), specs(), max_size=3))
    for name, spec in agents.items():
        files[f"agents.d/{name}.yaml"] = agent_text(name, **spec)
    for name in draw(st.sets(st.sampled_from(["a.b", "c.d"]))):
        files[f"schemas/messages/{name}.schema.json"] = draw(st.sampled_from(['{"type": "object"}', "{}"]))
    if draw(st.booleans()):
        reason = draw(st.sampled_from(["x", "y"]))
        rule = f'decision := {{"allow": true, "reasons": ["{reason}"]}}'
        files["policies/task.rego"] = f"package hub.task\n\nimport rego.v1\n\n{rule}\n"
    able = sorted(n for n, s in agents.items() if s.get("replicas", 1))
    before: list[str] = []
    for name in draw(st.lists(st.sampled_from(TASKS), unique=True, max_size=3)) if with_tasks and able else []:
        task: dict[str, Any] = {"priority": draw(st.integers(-1, 1)), "prompt": draw(st.sampled_from(["", "do"]))}
        if draw(st.booleans()):
            task["agent"] = draw(st.sampled_from(able))
        else:
            task |= {"agent": None, "requires": ["docs.write"]}
        if before:
            task["dependsOn"] = sorted(draw(st.sets(st.sampled_from(before), max_size=2)))
        files[f"tasks.d/{name}.yaml"] = task_text(name, **task)
        before.append(name)
    return RandomFleet(files)
