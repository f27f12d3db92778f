"""The task manifest: what git, the inbox or the API asks for. Pure: bytes come in, manifests and problems go out."""

from collections.abc import Sequence
from typing import Literal

from pydantic import Field, StrictInt, model_validator

from reconciler.core.model import JsonValue, Line, Model, Text
from reconciler.core.names import DottedName, Name
from reconciler.core.quantity import Duration, Size
from reconciler.kinds.manifest import Loaded, Manifest, Parsed, merge_by_name, parse_manifests
from reconciler.kinds.tree import Tree
from reconciler.settings import HubSpec, Retry

Sensitivity = Literal["public", "internal", "confidential", "restricted"]


class Select(Model):
    """Which agents a task routed by capability may go to."""

    labels: dict[Text, Text] = Field(default_factory=dict)
    role: Name | None = None


class Output(Model):
    """`artefacts` are file names or patterns in the output folder; `maxSize` bounds result and artefacts together."""

    max_size: Size = Field(default=2**20, ge=1, le=2**20)
    artefacts: tuple[Line, ...] = ()


class TaskSpec(Model):
    """`spec` of a task manifest (contracts, §3), as far as this release carries it out."""

    agent: Name | None = None
    requires: tuple[DottedName, ...] = ()
    select: Select | None = None
    sensitivity: Sensitivity = "internal"
    priority: StrictInt = Field(default=0, ge=-100, le=100)
    prompt: Text = ""
    input: dict[str, JsonValue] = Field(default_factory=dict)
    output: Output = Output()
    timeout: Duration = Field(default=600.0, gt=0)
    retries: Retry | None = None
    depends_on: tuple[Name, ...] = ()

    @model_validator(mode="after")
    def _route(self) -> "TaskSpec":
        if (self.agent is None) == (not self.requires):
            raise ValueError("a task names either 'agent' or 'requires' (capabilities), not both and not neither")
        if self.select is not None and self.agent is not None:
            raise ValueError("'select' goes with 'requires'; a task that names its agent has nothing to select")
        return self


def parse_task(file: str, content: bytes) -> Parsed[TaskSpec]:
    """One file of tasks."""
    return parse_manifests(file, content, kind="Task", model=TaskSpec, check=_check)


def load(tree: Tree, hub: HubSpec) -> Loaded[Manifest[TaskSpec]]:
    """All tasks of a snapshot. Raises SourceError."""
    parsed, problems = tree.parse(hub.paths.tasks, ".yaml", "task", parse_task)
    return merge_by_name(parsed, problems)


def _check(spec: TaskSpec) -> Sequence[tuple[Sequence[str | int], str]]:
    out: list[tuple[Sequence[str | int], str]] = []
    for index, name in enumerate(spec.output.artefacts):
        if name.startswith("/") or ".." in name.split("/"):
            out.append((("output", "artefacts", index), f"{name!r} leaves the output folder; use a relative name"))
    return out
