"""Step 2: from a snapshot to one valid desired state, or to every problem it has. All or nothing.

A snapshot, the operator's settings and the kinds come in. Rego is checked by the policy engine given; nothing else of
the world is touched.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from reconciler.core.problem import Problem, sort_problems
from reconciler.core.yaml import load_documents
from reconciler.kinds.agent.check import check_defaults
from reconciler.kinds.kind import Desired, Kind
from reconciler.kinds.manifest import Loaded, place_problems, problem_at, validation_problems
from reconciler.kinds.overlooked import find_overlooked
from reconciler.kinds.route_entry import config_digest
from reconciler.kinds.tree import ParseCache, Tree
from reconciler.kinds.verdicts import Verdicts
from reconciler.ports import PolicyEngine, Snapshot
from reconciler.settings import Hub, HubSpec, OperatorSpec, Paths, check_engines, check_narrowing, check_providers

HUB_FILE = "hub.yaml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """What a revision gives: `desired` only when there are no problems."""

    revision: str
    desired: Desired | None
    problems: tuple[Problem, ...] = ()


def load_desired(
    snapshot: Snapshot,
    kinds: Sequence[Kind],
    operator: OperatorSpec,
    cache: ParseCache,
    engine: Callable[[], PolicyEngine],
    verdicts: Verdicts | None = None,
) -> Candidate:
    """Load and check a whole revision. `engine` is called when there is Rego to be checked that `verdicts` lack.

    Raises SourceError when the snapshot cannot be read, PolicyEngineError when Rego cannot be judged.
    """
    verdicts = verdicts or Verdicts()
    revision = snapshot.revision.id
    tree = Tree(snapshot=snapshot, cache=cache)
    snapshot.prepare([HUB_FILE, *_places(Paths())])
    hub, problems = load_hub(tree, operator)
    if hub is None:
        return Candidate(revision=revision, desired=None, problems=problems)
    snapshot.prepare(_places(hub.paths))
    loaded: Mapping[str, Loaded[Any]] = {k.name: k.load(tree, hub) for k in kinds}
    overlooked = find_overlooked(tree, hub.paths)
    faults = [*problems, *overlooked, *(p for result in loaded.values() for p in result.problems)]
    desired = Desired(
        revision=snapshot.revision,
        hub=hub,
        loaded=loaded,
        broken=frozenset(name for name, result in loaded.items() if result.problems or overlooked),
        plane=operator.agent_plane,
    )
    faults.extend(check_whole(desired, kinds, operator))
    for kind in kinds:
        if kind.verify is not None:
            faults.extend(kind.verify(desired, engine, verdicts))
    cache.settle()
    if faults:
        return Candidate(revision=revision, desired=None, problems=sort_problems(place_problems(faults, tree.file)))
    return Candidate(revision=revision, desired=routed(desired, kinds))


def check_whole(desired: Desired, kinds: Sequence[Kind], operator: OperatorSpec) -> Sequence[Problem]:
    """Where the resources of a revision do not fit together. Pure."""
    return [problem for kind in kinds for problem in kind.check(desired, operator)]


def routed(desired: Desired, kinds: Sequence[Kind]) -> Desired:
    """With the router's configuration, which follows from all of it. Pure."""
    return replace(desired, route=_route(desired, kinds))


def _places(paths: Paths) -> Sequence[str]:
    return (paths.agents, f"{paths.schemas}/messages", paths.policies, f"{paths.policies}/data.yaml", paths.tasks)


def load_hub(tree: Tree, operator: OperatorSpec) -> tuple[HubSpec | None, tuple[Problem, ...]]:
    """`hub.yaml` of a snapshot, narrowed by the operator. Raises SourceError."""
    content = tree.file(HUB_FILE)
    if content is None:
        message = "is missing; a repository needs one (apiVersion: reconciler/v1, kind: Hub, metadata: {name: …})"
        return None, (Problem(file=HUB_FILE, message=message),)
    if isinstance(content, Problem):
        return None, (content,)
    documents = load_documents(content, HUB_FILE)
    if documents.problems:
        return None, documents.problems
    if len(documents.values) != 1:
        return None, (Problem(file=HUB_FILE, message=f"holds {len(documents.values)} documents; it must hold one"),)
    try:
        hub = Hub.model_validate(documents.values[0])
    except ValidationError as exc:
        return None, sort_problems(validation_problems(HUB_FILE, content, 0, exc, model=Hub))
    wrong = [*check_narrowing(hub.spec, operator, HUB_FILE), *check_engines(hub.spec.policy, HUB_FILE)]
    wrong += check_providers(hub.spec, operator, HUB_FILE)
    faults = [problem_at(HUB_FILE, content, 0, path, p.message) for path, p in wrong]
    faults.extend(check_defaults(HUB_FILE, content, hub.spec, operator))
    return (None, sort_problems(faults)) if faults else (hub.spec, ())


def _route(desired: Desired, kinds: Sequence[Kind]) -> Mapping[str, Any]:
    """The router's whole configuration: what each kind contributes, and a digest over it."""
    config: dict[str, Any] = {}
    for kind in kinds:
        config.update(kind.contribute(desired))
    return {**config, "revision": desired.revision.id, "digest": config_digest(config)}
