"""From files in memory to a desired state or its problems, the way a commit goes."""

from collections.abc import Mapping, Sequence

from reconciler.kinds import KINDS
from reconciler.kinds.kind import Desired
from reconciler.kinds.manifest import Manifest
from reconciler.kinds.task.spec import TaskSpec, parse_task
from reconciler.kinds.tree import ParseCache
from reconciler.loop.desired import Candidate, load_desired
from reconciler.ports import Revision, SetAside
from reconciler.settings import OperatorSpec
from tests.fakes.policy import FakePolicy
from tests.fakes.source import FakeSnapshot, Odd
from tests.fakes.texts import hub_text

Files = Mapping[str, bytes | str | Odd]


def load(
    files: Files,
    *,
    operator: OperatorSpec | None = None,
    revision: str = "r1",
    aside: Sequence[SetAside] = (),
    policy: FakePolicy | None = None,
) -> Candidate:
    """Exactly these files, without a `hub.yaml` unless it is among them."""
    snapshot = FakeSnapshot(files, Revision(id=revision, author="Ada <ada@example.org>"), aside)
    return load_desired(snapshot, KINDS, operator or OperatorSpec(), ParseCache(), lambda: policy or FakePolicy())


def problems_of(files: Files, *, operator: OperatorSpec | None = None, aside: Sequence[SetAside] = ()) -> list[str]:
    """Every problem as a committer reads it; `hub.yaml` is there unless it is among the files."""
    found = load({"hub.yaml": hub_text(), **files}, operator=operator, aside=aside)
    assert (found.desired is None) == bool(found.problems)
    return [str(p) for p in found.problems]


def desired_of(files: Files, *, revision: str = "r1", operator: OperatorSpec | None = None) -> Desired:
    """The desired state of files that have no problems."""
    found = load({"hub.yaml": hub_text(), **files}, operator=operator, revision=revision)
    assert found.desired is not None, found.problems
    return found.desired


def task_manifest(text: str) -> Manifest[TaskSpec]:
    """One task."""
    parsed = parse_task("tasks.d/t.yaml", text.encode())
    assert not parsed.problems, parsed.problems
    return parsed.manifests[0]
