"""What has to happen so that the fleet is as git says. Pure: specs, states and time come in, changes go out.

What becomes of one instance is in `instance.py`; here is which instances there shall be, and what concerns the
instances of an agent together: work, roll-outs, how many may be away.
"""

from collections.abc import Sequence
from dataclasses import replace

from reconciler.core.change import Action, Cause, Change, FieldChange
from reconciler.core.fleet import Delegate
from reconciler.core.names import instance_name
from reconciler.core.reading import Ok
from reconciler.kinds.agent.delegate import is_delegate, narrow
from reconciler.kinds.agent.demand import is_used, needed
from reconciler.kinds.agent.handover import hand_over
from reconciler.kinds.agent.instance import Instance, kept
from reconciler.kinds.agent.rest import is_at_rest
from reconciler.kinds.agent.rollout import InForce, in_force, pace, take_back
from reconciler.kinds.agent.secrets import await_secrets
from reconciler.kinds.agent.spec import AgentSpec
from reconciler.kinds.agent.state import AgentStates, InstanceState
from reconciler.kinds.agent.step import end, recorded_spec
from reconciler.kinds.kind import Desired, Facts
from reconciler.kinds.manifest import Manifest


def plan(desired: Desired, observed: AgentStates, facts: Facts) -> Sequence[Change]:
    """One change per instance, KEEP and HOLD included; removals first, then by name."""
    agents: dict[str, _Agent] = {}
    wanted: set[str] = set()
    for name, manifest in sorted(desired.of("agent").items()):
        names = [instance_name(name, ordinal) for ordinal in range(manifest.spec.replicas)]
        wanted.update(names)
        states = [observed.instances.get(n) or InstanceState(name=n) for n in names]
        agents[name] = _Agent(desired, observed, facts, manifest, states)
    delegates = [(name, d) for name, d in sorted(facts.delegated.items()) if d.agent in agents]
    wanted.update(name for name, _ in delegates)
    out: list[Change] = []
    for name, state in sorted(observed.instances.items()):
        if name not in wanted:
            agent = state.record.agent if state.record else name.rpartition("-")[0]
            out.append(_leave(state, agent, desired.of("agent").get(agent), facts))
    for each in agents.values():
        out.extend(each.decide())
    out.extend(agents[delegate.agent].make_delegate(name, delegate) for name, delegate in delegates)
    return out if desired.hub.loop.prune.agents == "off" else hand_over(out, desired.of("agent"))


def _leave(state: InstanceState, agent: str, manifest: Manifest[AgentSpec] | None, facts: Facts) -> Change:
    """The instance is not wanted: drain and remove it; without a record it is an orphan.

    A `manifest` means that its agent stays, with fewer replicas; the change then says from how many to how many.
    """
    if is_delegate(state):
        return end(state, agent, Cause.DELEGATION, "its delegation is over", facts, action=Action.DEACTIVATE)
    if manifest is None or state.record is None:
        return end(state, agent, Cause.COMMIT, "no longer in git", facts, why="removed from git")
    before, after = recorded_spec(state.record.manifest).replicas, manifest.spec.replicas
    fields = (FieldChange(path="spec.replicas", before=before, after=after),)
    return end(state, agent, Cause.COMMIT, f"git wants {after} of {agent}", facts, fields=fields, is_scaling=True)


class _Agent:
    """The instances of one agent that git wants, together."""

    __slots__ = ("_desired", "_facts", "_manifest", "_observed", "_states")

    def __init__(
        self,
        desired: Desired,
        observed: AgentStates,
        facts: Facts,
        manifest: Manifest[AgentSpec],
        states: Sequence[InstanceState],
    ) -> None:
        self._desired, self._observed, self._facts = desired, observed, facts
        self._manifest, self._states = manifest, states

    def make_delegate(self, name: str, wanted: Delegate) -> Change:
        """The change of an instance for one delegated run; one that is not as it should be gives way to a new one."""
        state = self._observed.instances.get(name) or InstanceState(name=name)
        source = self._in_force()
        narrowed = replace(source, manifest=narrow(source.manifest, wanted), rejected="", why="")
        change = self._one(narrowed, wanted.ordinal, state)
        if change.action is Action.CREATE and state.record is None:
            return replace(change, cause=Cause.DELEGATION, reason=f"for {wanted.task}")
        if change.action is Action.REPLACE and state.record is not None:
            return self._over(state, change.reason, change.cause)
        return change

    def decide(self) -> Sequence[Change]:
        """One change for each that git wants."""
        manifest = self._manifest
        if is_at_rest(manifest, self._states, self._desired, self._facts):
            return [kept(manifest.name, state.name, manifest.digest) for state in self._states]
        source = self._in_force()
        changes = self._changes(source)
        failed = next((c for c in changes if c.spec is not None and c.spec.failed), None)
        if failed is not None:
            source = take_back(self._manifest, failed.spec.state.record, failed.spec.failed)
            changes = [_because(c, source) for c in self._changes(source)]
        if all(c.action is Action.KEEP for c in changes):
            return changes
        return pace(changes, self._states, self._manifest.spec.lifecycle.max_unavailable)

    def _in_force(self) -> InForce:
        if not any(s.record is not None and s.record.rejected for s in self._states):
            return InForce(manifest=self._manifest, revision=self._manifest.revision)
        image = self._desired.images.get(self._manifest.spec.image)
        return in_force(self._manifest, image.value if isinstance(image, Ok) else "", self._states)

    def _changes(self, source: InForce) -> list[Change]:
        if source.manifest.spec.mode == "per-task":
            return self._per_task(source)
        if source.manifest.spec.idle is None:
            return [self._one(source, ordinal, state) for ordinal, state in enumerate(self._states)]
        up = needed(source.manifest.spec, self._manifest.name, self._states, self._facts)
        return [
            self._one(source, ordinal, state, is_needed=state.name in up) for ordinal, state in enumerate(self._states)
        ]

    def _one(self, source: InForce, ordinal: int, state: InstanceState, *, is_needed: bool = True) -> Change:
        listening_s = self._observed.listening.seconds(state.name)
        instance = Instance(self._desired, self._facts, source, source.manifest, ordinal, state, listening_s, is_needed)
        return await_secrets(instance.decide(), source.manifest.spec.secrets, self._observed.lacking)

    def _per_task(self, source: InForce) -> list[Change]:
        """As many instances as tasks: one is made for each that waits, and ends with it."""
        facts, agent = self._facts, self._manifest.name
        waiting = facts.waiting.get(agent, 0)
        waiting -= sum(s.record is not None and not facts.busy.get(s.name) and not is_used(s) for s in self._states)
        out: list[Change] = []
        for ordinal, state in enumerate(self._states):
            if state.record is None and state.container is None:
                waiting -= 1
                change = self._one(source, ordinal, state)
                why = "a task waits for it" if waiting >= 0 else "one is made for each task"
                action = change.action if waiting >= 0 else Action.KEEP
                out.append(replace(change, action=action, cause=Cause.START, reason=why))
            elif state.record is None or facts.busy.get(state.name):
                change = self._one(source, ordinal, state)
                is_over = change.action is Action.REPLACE and state.record is not None
                out.append(self._over(state, change.reason, change.cause) if is_over else change)
            elif is_used(state):
                out.append(self._over(state, "its task is over"))
            elif not facts.waiting.get(agent, 0):
                out.append(self._over(state, "no task waits for it any more"))
            else:
                out.append(self._one(source, ordinal, state))
        return out

    def _over(self, state: InstanceState, reason: str, cause: Cause = Cause.TTL) -> Change:
        return end(state, self._manifest.name, cause, reason, self._facts, action=Action.DEACTIVATE)


def _because(change: Change, source: InForce) -> Change:
    """What a roll-out that failed brings about is no commit's doing."""
    if change.action not in (Action.REPLACE, Action.CREATE) and change.towards is not Action.REPLACE:
        return change
    return replace(change, cause=Cause.CRASH, reason=f"its roll-out is taken back ({source.why})")
