"""What a running hub can be measured by, as text in the format of Prometheus 0.0.4. Pure."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from reconciler.core.condition import Condition, Mode
from reconciler.loop.inspections import Sample
from reconciler.ports import Tally
from reconciler.store.records import InstanceRecord

_OUTCOMES = ("accepted", "denied", "invalid", "limited", "forged")
_REFUSALS = ("missing", "unknown", "expired", "limited")
_Values = Iterable[tuple[Mapping[str, str], float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One look at a hub.

    `tasks` counts runs by state. `trust` is by agent, `tallies` too; `samples` are by instance. Ages are in
    seconds. `refused` counts callers without a valid token, by reason.
    """

    revision: str
    mode: Mode
    conditions: Sequence[Condition] = ()
    instances: Sequence[InstanceRecord] = ()
    tasks: Mapping[str, int] = field(default_factory=dict)
    tallies: Mapping[str, Tally] = field(default_factory=dict)
    trust: Mapping[str, float] = field(default_factory=dict)
    samples: Mapping[str, Sample] = field(default_factory=dict)
    source_age_s: float = 0.0
    pass_age_s: float = 0.0
    refused: Mapping[str, int] = field(default_factory=dict)


def render(measured: Measured) -> str:
    """All families, those without a value too: what is missing is not zero."""
    return "".join(_write(*family) for family in _families(measured))


def _families(m: Measured) -> Iterator[tuple[str, str, str, _Values]]:
    """Name, type, help, values."""
    agents = {i.name: i.agent for i in m.instances}
    used = [({"instance": n, "agent": agents[n]}, s) for n, s in sorted(m.samples.items()) if n in agents]
    phases = sorted(Counter((i.agent, i.phase) for i in m.instances).items())
    yield "revision_info", "gauge", "The revision in force.", [({"revision": m.revision}, 1)]
    yield "mode", "gauge", "Which mode the hub is in.", [({"mode": str(x)}, x == m.mode) for x in Mode]
    yield (
        "condition",
        "gauge",
        "Conditions that are true now.",
        [({"subject": c.subject, "type": c.type, "reason": c.reason}, 1) for c in m.conditions],
    )
    yield (
        "instances",
        "gauge",
        "Instances by agent and phase.",
        [({"agent": agent, "phase": phase}, n) for (agent, phase), n in phases],
    )
    yield "tasks", "gauge", "Runs on record by state.", [({"state": s}, n) for s, n in sorted(m.tasks.items())]
    yield (
        "messages_total",
        "counter",
        "Messages of agents since the router started, by what came of them.",
        [
            ({"agent": agent, "outcome": outcome}, getattr(tally, outcome))
            for agent, tally in sorted(m.tallies.items())
            for outcome in _OUTCOMES
        ],
    )
    yield (
        "floods_total",
        "counter",
        "Alarms about messages over the rate since the router started.",
        [({"agent": agent}, tally.floods) for agent, tally in sorted(m.tallies.items())],
    )
    trust = sorted(m.trust.items())
    yield "trust", "gauge", "How far each agent is trusted, from 0 to 1.", [({"agent": a}, t) for a, t in trust]
    yield (
        "cpu_seconds_total",
        "counter",
        "Processor time of each instance since its start.",
        [(labels, s.usage.cpu_s) for labels, s in used],
    )
    yield "memory_bytes", "gauge", "Memory of each instance.", [(labels, s.usage.memory_bytes) for labels, s in used]
    yield (
        "io_bytes_total",
        "counter",
        "Bytes that each instance read from and wrote to disks since its start.",
        [
            ({**labels, "direction": direction}, moved)
            for labels, s in used
            for direction, moved in (("read", s.usage.read_bytes), ("written", s.usage.written_bytes))
        ],
    )
    yield "source_age_seconds", "gauge", "Since when the source was read for the last time.", [({}, m.source_age_s)]
    yield (
        "api_refused_total",
        "counter",
        "Requests to the operator's port without a valid token, by reason.",
        [({"reason": reason}, m.refused.get(reason, 0)) for reason in _REFUSALS],
    )
    yield "pass_age_seconds", "gauge", "Since when the last pass ended.", [({}, m.pass_age_s)]


def _write(name: str, type_: str, help_: str, values: _Values) -> str:
    lines = [f"# HELP reconciler_{name} {help_}", f"# TYPE reconciler_{name} {type_}"]
    for labels, value in values:
        shown = ",".join(f'{label}="{_escape(text)}"' for label, text in labels.items())
        lines.append(f"reconciler_{name}{f'{{{shown}}}' if shown else ''} {float(value):.15g}")
    return "\n".join(lines) + "\n"


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
