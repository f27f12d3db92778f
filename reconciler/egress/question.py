"""What a policy is asked about one request to a model. Pure."""

from typing import Any

from reconciler.egress.body import Asked
from reconciler.egress.budget import Budgets
from reconciler.egress.config import AgentEntry, Config
from reconciler.egress.instance import Instance
from reconciler.egress.problem import Api
from reconciler.egress.route import Way

KIND = "llm"
_UNKNOWN = AgentEntry()


def write_question(
    config: Config,
    instance: Instance,
    way: Way,
    asked: Asked,
    *,
    api: Api,
    work: tuple[str | None, str | None],
    budgets: Budgets,
    minute: str,
) -> dict[str, Any]:
    """`work` is run and task that the request is for; `minute` is the time."""
    entry, (run, task) = instance.entry, work
    known = config.agents.get(entry.agent, _UNKNOWN)
    costs = way.provider.models[way.model]
    today, of_run = budgets.show_used(entry.agent, run)
    return {
        "agent": {
            "name": entry.agent,
            "instance": instance.name,
            "role": known.role,
            "labels": known.labels,
            "capabilities": list(known.capabilities if entry.capabilities is None else entry.capabilities),
            "trust": known.trust,
        },
        "task": {"name": task, "run": run} if run is not None else None,
        "provider": {"name": way.name, "type": way.provider.type, "exposure": way.provider.exposure},
        "model": {"name": way.model, "cost": {"input": costs.input, "output": costs.output}},
        "request": {"api": api, "stream": asked.is_stream, "tokens": asked.tokens},
        "sensitivity": entry.sensitivity,
        "used": {"today": today, "task": of_run},
        "time": minute,
    }
