"""The policies of a revision: all Rego of the folder and its data, as one resource. Pure, but for `verify`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reconciler.core.problem import Problem, sort_problems
from reconciler.core.yaml import load_documents, locate
from reconciler.kinds.kind import Desired
from reconciler.kinds.manifest import Loaded
from reconciler.kinds.tree import Tree
from reconciler.kinds.verdicts import Verdicts
from reconciler.policy.bundle import build_bundle, is_test
from reconciler.ports import PolicyBundle, PolicyEngine
from reconciler.settings import HubSpec

NAME = "policies"
OPA = "opa"
DATA_FILE = "data.yaml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Policies:
    """All policies of one revision, and the kinds of question that they answer."""

    bundle: PolicyBundle
    summary: str
    kinds: frozenset[str] = frozenset()

    @property
    def digest(self) -> str:
        return self.bundle.digest


def load(tree: Tree, hub: HubSpec) -> Loaded[Any]:
    """The bundle of a snapshot; nothing where there is no Rego. Raises SourceError."""
    folder = hub.paths.policies
    files, problems = tree.parse(folder, ".rego", "rego", lambda _file, content: content)
    data_file = f"{folder}/{DATA_FILE}"
    content = tree.file(data_file)
    if not files:
        return Loaded(by_name={}, problems=sort_problems(problems))
    data, faults = _parse_data(data_file, content)
    problems.extend(faults)
    built = build_bundle(
        files,
        data,
        data_file=data_file,
        locate=lambda path: locate(content, 0, path) if isinstance(content, bytes) else (0, 0),
    )
    problems.extend((*built.problems, *built.unasked))
    if built.bundle is None or problems:
        return Loaded(by_name={}, problems=sort_problems(problems))
    tests = sum(is_test(path) for path in files)
    summary = f"{len(files) - tests} modules, {tests} test files"
    return Loaded(by_name={NAME: Policies(bundle=built.bundle, summary=summary, kinds=built.kinds)}, problems=())


def _parse_data(file: str, content: bytes | Problem | None) -> tuple[object, Sequence[Problem]]:
    """The value of the data file, None where there is none."""
    if content is None or isinstance(content, Problem):
        return None, [content] if content else []
    documents = load_documents(content, file)
    if len(documents.values) > 1:
        message = f"holds {len(documents.values)} documents; it may hold one"
        return None, [Problem(file=file, message=message)]
    return documents.values[0] if documents.values else None, documents.problems


def verify(desired: Desired, engine: Callable[[], PolicyEngine], verdicts: Verdicts) -> Sequence[Problem]:
    """What the engine finds: syntax, and tests that fail. The same policies are looked at once."""
    policies = desired.of("policy").get(NAME)
    if policies is None:
        return ()
    digest: str = policies.bundle.digest
    found = verdicts.get(digest)
    if found is None:
        found = engine().check(policies.bundle)
        verdicts.put(digest, found)
    return found


def is_opa_managed(hub: HubSpec) -> bool:
    """Whether the hub is to run OPA itself."""
    opa = hub.policy.opa
    return opa is not None and opa.managed and OPA in hub.policy.engines


def contribute(desired: Desired) -> Mapping[str, Any]:
    """The section `policy` of the router's configuration."""
    policies = desired.of("policy").get(NAME)
    if policies is None:
        return {"policy": None}
    bundle = policies.bundle
    return {"policy": {"digest": bundle.digest, "modules": dict(bundle.modules), "data": dict(bundle.data)}}
