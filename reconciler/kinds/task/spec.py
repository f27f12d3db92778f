"""The task manifest: what git, the inbox or the API asks for. Pure: bytes come in, manifests and problems go out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, StrictInt, model_validator

from reconciler.core.exposure import Sensitivity
from reconciler.core.json_schema import check_pattern, parse_json_schema
from reconciler.core.model import JsonValue, Line, Model, Text
from reconciler.core.names import MAX_NAME, DottedName, Name
from reconciler.core.problem import Problem
from reconciler.core.quantity import Duration, Size
from reconciler.core.schedule import check_cron, check_zone
from reconciler.kinds.manifest import Loaded, Manifest, Parsed, merge_by_name, parse_manifests
from reconciler.kinds.tree import Tree
from reconciler.settings import HubSpec, Retry

REMEDIATION = "remediation"
"""The key of `input` under which a later attempt is told what was wrong with the one before."""

MAX_SCHEDULED_NAME = MAX_NAME - len("-20260101-0000")


def _checked(check: Any) -> AfterValidator:
    def validate(value: str) -> str:
        check(value)
        return value

    return AfterValidator(validate)


SchemaFile = Annotated[Line, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_./-]*\.json$")]


class Select(Model):
    """Which agents a task routed by capability may go to."""

    labels: dict[Text, Text] = Field(default_factory=dict)
    role: Name | None = None


class Output(Model):
    """`artefacts` are file names or patterns in the output folder; `maxSize` bounds result and artefacts together.

    `schema` is the file that the result must fit, before all else that is checked.
    """

    schema_: SchemaFile | None = Field(default=None, alias="schema")
    max_size: Size = Field(default=2**20, ge=1, le=2**20)
    artefacts: tuple[Line, ...] = ()


class Check(Model):
    """One check of a result: a schema's file, a pattern that it must contain, a command, or another agent's verdict."""

    schema_: SchemaFile | None = Field(default=None, alias="schema")
    regex: Annotated[Text, _checked(check_pattern), Field(max_length=2000)] | None = None
    command: tuple[Text, ...] | None = Field(default=None, min_length=1, max_length=100)
    agent: Name | None = None
    prompt: Text = ""

    @model_validator(mode="after")
    def _one_way(self) -> "Check":
        if sum(w is not None for w in (self.schema_, self.regex, self.command, self.agent)) != 1:
            raise ValueError("a check is one of 'schema', 'regex', 'command' and 'agent'")
        if self.prompt and self.agent is None:
            raise ValueError("'prompt' goes with 'agent', who is asked")
        return self

    @property
    def is_by_hub(self) -> bool:
        """Whether the hub makes it by itself; the others are runs of their own."""
        return self.schema_ is not None or self.regex is not None

    @property
    def shown(self) -> str:
        """What it is, in a few words."""
        if self.schema_ is not None:
            return f"schema {self.schema_}"
        if self.regex is not None:
            return f"regex {self.regex[:60]}"
        return f"verdict of {self.agent}" if self.agent else f"command {' '.join(self.command or ())[:60]}"


class Escalation(Model):
    """Who hears of a task that came to no good end."""

    to: Literal["operator"] | None = None
    agent: Name | None = None

    @model_validator(mode="after")
    def _one_way(self) -> "Escalation":
        if (self.to is None) == (self.agent is None):
            raise ValueError("escalate either 'to: operator' or to an 'agent', not both and not neither")
        return self


class Schedule(Model):
    """When a task is due; `missed` is what becomes of times at which no hub was there."""

    cron: Annotated[Line, _checked(check_cron)]
    zone: Annotated[Line, _checked(check_zone)] = "UTC"
    missed: Literal["once", "skip", "all"] = "once"


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
    acceptance: tuple[Check, ...] = Field(default=(), max_length=20)
    escalate: Escalation | None = None
    schedule: Schedule | None = None

    @property
    def checks(self) -> tuple[Check, ...]:
        """All checks of a result, in order."""
        first = (Check.model_validate({"schema": self.output.schema_}),) if self.output.schema_ else ()
        return (*first, *self.acceptance)

    @model_validator(mode="after")
    def _route(self) -> "TaskSpec":
        if (self.agent is None) == (not self.requires):
            raise ValueError("a task names either 'agent' or 'requires' (capabilities), not both and not neither")
        if self.select is not None and self.agent is not None:
            raise ValueError("'select' goes with 'requires'; a task that names its agent has nothing to select")
        if self.checks and REMEDIATION in self.input:
            raise ValueError(
                f"'input.{REMEDIATION}' is the hub's, which tells there what a check found; rename the key"
            )
        return self


def parse_task(file: str, content: bytes) -> Parsed[TaskSpec]:
    """One file of tasks."""
    return parse_manifests(file, content, kind="Task", model=TaskSpec, check=_check)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedTasks(Loaded[Manifest[TaskSpec]]):
    """`schemas` are the files directly in the folder of schemas: each a schema, or what is wrong with it."""

    schemas: Mapping[str, Mapping[str, Any] | Sequence[Problem]] = field(default_factory=dict)


def load(tree: Tree, hub: HubSpec) -> LoadedTasks:
    """All tasks of a snapshot, and the schemas that results may be checked by. Raises SourceError."""
    parsed, problems = tree.parse(hub.paths.tasks, ".yaml", "task", parse_task)
    merged = merge_by_name(parsed, problems)
    schemas, unreadable = tree.parse(hub.paths.schemas, ".json", "result-schema", _parse_schema)
    bad = {p.file: [p] for p in unreadable}
    return LoadedTasks(by_name=merged.by_name, problems=merged.problems, schemas={**schemas, **bad})


def _parse_schema(file: str, content: bytes) -> Mapping[str, Any] | Sequence[Problem]:
    return parse_json_schema(file, content, linear=True)


def _check(spec: TaskSpec) -> Sequence[tuple[Sequence[str | int], str]]:
    out: list[tuple[Sequence[str | int], str]] = []
    for index, name in enumerate(spec.output.artefacts):
        if name.startswith("/") or ".." in name.split("/"):
            out.append((("output", "artefacts", index), f"{name!r} leaves the output folder; use a relative name"))
    return out
