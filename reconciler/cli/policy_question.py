"""The questions of `policy eval`, made of one revision's manifests as the router and the control process make them."""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import click
import msgspec

from reconciler.core.decision import Decision
from reconciler.core.exposure import Sensitivity
from reconciler.core.routing import Route, choose
from reconciler.egress.body import Asked
from reconciler.egress.budget import Budgets
from reconciler.egress.config import Config as EgressConfig
from reconciler.egress.config import InstanceEntry as EgressEntry
from reconciler.egress.config import RouteEntry
from reconciler.egress.instance import Instance as EgressInstance
from reconciler.egress.problem import Api
from reconciler.egress.problem import Deny as Refusal
from reconciler.egress.question import write_question as write_model_question
from reconciler.egress.route import find_way
from reconciler.kinds.agent.state import AgentStates
from reconciler.kinds.agent.view import view
from reconciler.kinds.egress.spec import write_config
from reconciler.kinds.kind import Desired, Facts
from reconciler.kinds.task.question import write_question as write_task_question
from reconciler.policy.builtin import ENGINE as BUILTIN
from reconciler.policy.bundle import answered_kinds
from reconciler.ports import PolicyBundle, PolicyEngine
from reconciler.router.clock import Minutes
from reconciler.router.config import Config, InstanceEntry, read_json
from reconciler.router.engine import Engine, show_face
from reconciler.router.grants import GrantsEngine, find_grant
from reconciler.router.message import HUB, Deny, Message, parse_message
from reconciler.router.policy import Addressee, Judge, write_question
from reconciler.router.registry import Instance
from reconciler.router.rules import Rules
from reconciler.router.topics import TopicIndex
from reconciler.settings import OperatorSpec

_SAMPLE_TOKENS = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageAsked:
    """What the command line says of a message. `size` is in bytes, None for that of an empty payload."""

    sender: str
    instance: str | None
    recipient: str | None
    topic: str | None
    type: str
    pattern: str
    sensitivity: str
    size: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelAsked:
    """What the command line says of a request to the model of an agent."""

    agent: str
    instance: str | None
    sensitivity: Sensitivity


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """`grant` is the line of a manifest by which the built-in rules allowed it, where they did."""

    question: Mapping[str, Any]
    decision: Decision
    grant: str = ""


class _PolicyAsRouterEngine:
    """The control process's engines as one of the router's; keeps the last decision."""

    name = "embedded"
    reads = None
    is_ready = True
    fault = ""

    def __init__(self, policy: PolicyEngine) -> None:
        self.revision = policy.revision
        self.decision: Decision | None = None
        self._policy = policy

    async def decide(self, entry_point: str, question: dict[str, Any]) -> Decision:
        self.decision = self._policy.decide(entry_point, question)
        return self.decision

    async def close(self) -> None:
        """The policy's owner ends it."""


def ask_message(desired: Desired, policy: PolicyEngine, asked: MessageAsked, now: datetime) -> Answered:
    """What the router would answer; `policy` has the revision's bundle, if any. Raises click.ClickException."""
    message = _write_message(asked)
    config = read_json(json.dumps(desired.route).encode(), Config, "the router's configuration")
    if asked.sender not in config.agents:
        raise click.ClickException(
            f"there is no agent {asked.sender!r}; agents are: {', '.join(sorted(config.agents)) or 'none'}"
        )
    has_rego = "message" in answered_kinds(_modules(desired)) and desired.hub.policy.engines[0] != "builtin"
    engine: Engine = _PolicyAsRouterEngine(policy) if has_rego else GrantsEngine(policy.revision)
    rules = Rules(
        config=config,
        validators={},
        topics=TopicIndex(()),
        engines=(engine,),
        faces={name: show_face(agent) for name, agent in config.agents.items()},
    )
    sender = Instance(asked.instance or f"{asked.sender}-0", InstanceEntry(agent=asked.sender))
    addressee = _address(asked, config)
    answer = asyncio.run(Judge(lambda: None, now.timestamp).check(rules, sender, addressee, message))
    question = write_question(rules, sender, addressee, message, Minutes().show(now.timestamp()))
    of_policy = engine.decision if isinstance(engine, _PolicyAsRouterEngine) else None
    if of_policy is not None and of_policy.allow == isinstance(answer, Decision):
        return Answered(question=question, decision=of_policy)
    decision = answer if isinstance(answer, Decision) else _as_decision(answer)
    return Answered(question=question, decision=decision, grant=_describe_grant(desired, question, decision))


def ask_task(desired: Desired, policy: PolicyEngine, name: str, agent: str | None, now: datetime) -> Answered:
    """Whether the agent may be given the task of a manifest in git. Raises click.ClickException."""
    manifest = desired.of("task").get(name)
    if manifest is None:
        raise click.ClickException(
            f"there is no task {name!r}; tasks are: {', '.join(sorted(desired.of('task'))) or 'none'}"
        )
    fleet = view(desired, AgentStates(), Facts(now=now, boottime=0.0, boot_id=""))
    chosen = agent or manifest.spec.agent
    if chosen is None or chosen not in fleet:
        able = [name for name in fleet if fleet[name].has(manifest.spec.requires)]
        said = f"there is no agent {chosen!r}" if chosen else f"task {name!r} names no agent; say --agent"
        raise click.ClickException(f"{said}; able are: {', '.join(sorted(able)) or 'none'}")
    question = write_task_question(
        manifest.spec,
        fleet[chosen],
        name=name,
        labels=manifest.labels,
        source="git",
        uid=None,
        revision=desired.revision.id,
        now=now,
    )
    return Answered(question=question, decision=policy.decide("task", question))


def ask_model(
    desired: Desired, operator: OperatorSpec, policy: PolicyEngine, asked: ModelAsked, now: datetime
) -> Answered:
    """What the relay would answer, by manifest and providers, while nothing is used. Raises click.ClickException."""
    manifest = desired.of("agent").get(asked.agent)
    if manifest is None or manifest.spec.llm is None:
        users = sorted(name for name, m in desired.of("agent").items() if m.spec.llm is not None)
        said = "has no llm section in its manifest" if manifest is not None else "does not exist"
        raise click.ClickException(f"agent {asked.agent!r} {said}; agents with one are: {', '.join(users) or 'none'}")
    hub, spec = desired.hub, manifest.spec
    found = choose(spec.llm, hub.providers, hub.sensitivity.exposures, executor=spec.executor.type)
    route = RouteEntry(provider=found.provider, model=found.model) if isinstance(found, Route) else None
    entry = EgressEntry(agent=asked.agent, route=route, sensitivity=asked.sensitivity)
    instance = EgressInstance(asked.instance or f"{asked.agent}-0", entry)
    config = msgspec.convert(write_config(desired, operator.provider_keys), EgressConfig)
    api: Api = "openai" if route and config.providers[route.provider].type == "openai" else "anthropic"
    way = find_way(config, entry, api)
    if isinstance(way, Refusal):
        decision = Decision(allow=False, reasons=(way.reason,), engine=BUILTIN, revision=policy.revision)
        return Answered(question={}, decision=decision)
    sample = Asked(way.model, is_stream=True, tokens=_SAMPLE_TOKENS, content=b"")
    question = write_model_question(
        config,
        instance,
        way,
        sample,
        api=api,
        work=(None, None),
        budgets=Budgets(),
        minute=Minutes().show(now.timestamp()),
    )
    return Answered(question=question, decision=policy.decide("llm", question))


def bundle_of(desired: Desired) -> PolicyBundle | None:
    """The revision's policies, where it has any."""
    policies = desired.of("policy").get("policies")
    return policies.bundle if policies is not None else None


def _modules(desired: Desired) -> Mapping[str, str]:
    bundle = bundle_of(desired)
    return bundle.modules if bundle is not None else {}


def _write_message(asked: MessageAsked) -> Message:
    """Raises click.ClickException where no agent could send such a message."""
    envelope = {
        "id": "question",
        "type": asked.type,
        "pattern": asked.pattern,
        "sensitivity": asked.sensitivity,
        **({"topic": asked.topic} if asked.topic else {"to": asked.recipient}),
        **({"correlation_id": "request"} if asked.pattern == "reply" else {}),
    }
    parsed = parse_message(json.dumps(envelope).encode())
    if isinstance(parsed, Deny):
        raise click.ClickException(f"nobody can send such a message: {parsed.reason}")
    return Message(parsed.envelope, parsed.payload, parsed.size_bytes if asked.size is None else asked.size)


def _address(asked: MessageAsked, config: Config) -> Addressee:
    if asked.topic is not None:
        return Addressee(kind="topic", name=asked.topic)
    name = (asked.recipient or "").partition("/")[0]
    return Addressee(kind="hub" if name == HUB else "agent", name=name, is_known=name == HUB or name in config.agents)


def _as_decision(denied: Deny) -> Decision:
    reason = denied.private_reason or denied.reason
    return Decision(allow=False, reasons=(reason,), engine=denied.engine, revision=denied.policy_revision)


def _describe_grant(desired: Desired, question: Mapping[str, Any], decision: Decision) -> str:
    nth = find_grant(question)
    if not decision.allow or decision.engine != "builtin" or nth is None:
        return ""
    manifest = desired.of("agent")[question["sender"]["agent"]]
    return f"{manifest.file}:{manifest.line} messaging.sends[{nth}] of {manifest.name}"
