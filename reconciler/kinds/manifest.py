"""Manifests: documents with apiVersion, kind, metadata and spec, from bytes to validated values or problems.

What is digested is what the author wrote (with the hub's defaults merged under it), normalised; see `core/digest.py`.
"""

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from reconciler.core.digest import digest
from reconciler.core.model import Model
from reconciler.core.problem import Problem, sort_problems
from reconciler.core.yaml import load_documents, locate
from reconciler.settings import Metadata

T = TypeVar("T")
SpecT = TypeVar("SpecT", bound=Model)
ResourceT = TypeVar("ResourceT", covariant=True)

API_VERSION = "reconciler/v1"
DOCUMENT_KINDS = ("Agent", "Task", "Hub", "Operator")


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest(Generic[SpecT]):
    """One resource as git (or the inbox) says it shall be; `revision` where that is not the one in force."""

    kind: str
    name: str
    labels: Mapping[str, str]
    spec: SpecT
    digest: str
    file: str
    line: int = 1
    document: int = 0
    revision: str = ""
    annotations: Mapping[str, str] = field(default_factory=dict, compare=False)
    _known: dict[Callable[..., Any], Any] = field(default_factory=dict, init=False, compare=False, repr=False)

    @property
    def written(self) -> Mapping[str, Any]:
        """What the author wrote, normalised; `digest` is of this. Made when asked for, because few ask."""
        return _written(self.labels, self.spec)

    def once(self, work: Callable[["Manifest[SpecT]"], T]) -> T:
        """`work(self)`, done once in the life of this value. `work` is a pure function of a module."""
        if work not in self._known:
            self._known[work] = work(self)
        known: T = self._known[work]
        return known

    def problem(self, message: str, *path: str | int) -> Problem:
        """A problem with what stands at `path` below `spec`, or with this resource as a whole.

        Its place is that of the resource until `place_problems` has looked for it.
        """
        at = (self.document, ("spec", *path)) if path else None
        return Problem(file=self.file, line=self.line, column=1, message=message, at=at)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parsed(Generic[SpecT]):
    """What one file holds."""

    manifests: tuple[Manifest[SpecT], ...] = ()
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded(Generic[ResourceT]):
    """What all files of one kind hold, by resource name; most kinds hold manifests."""

    by_name: Mapping[str, ResourceT]
    problems: tuple[Problem, ...] = ()


def parse_manifests(
    file: str,
    content: bytes,
    *,
    kind: str,
    model: type[SpecT],
    defaults: Mapping[str, Any] | None = None,
    check: Callable[[SpecT], Sequence[tuple[Sequence[str | int], str]]] = lambda _spec: (),
) -> Parsed[SpecT]:
    """Parse one file. `check` adds problems (path below `spec`, message) that a model cannot see."""
    documents = load_documents(content, file)
    if documents.problems:
        return Parsed(problems=documents.problems)
    if not any(d is not None for d in documents.values):
        return Parsed(problems=(Problem(file=file, message="is empty; remove it or write a manifest"),))
    manifests: list[Manifest[SpecT]] = []
    problems: list[Problem] = []
    for index, value in enumerate(documents.values):
        if value is None:
            continue
        parsed = _parse_one(file, content, index, value, kind=kind, model=model, defaults=defaults or {})
        if isinstance(parsed, Manifest):
            faults = check(parsed.spec)
            problems.extend(problem_at(file, content, index, ("spec", *p), m) for p, m in faults)
            manifests.append(parsed)
        else:
            problems.extend(parsed)
    return Parsed(manifests=tuple(manifests), problems=tuple(problems))


def merge_by_name(parsed: Mapping[str, Parsed[SpecT]], problems: Sequence[Problem]) -> Loaded[Manifest[SpecT]]:
    """All files of a kind as one mapping; a name that stands twice is a problem at its second place."""
    by_name: dict[str, Manifest[SpecT]] = {}
    faults = list(problems)
    for result in parsed.values():
        faults.extend(result.problems)
        for manifest in result.manifests:
            if first := by_name.get(manifest.name):
                faults.append(
                    manifest.problem(
                        f"{manifest.kind} {manifest.name!r} is already defined in {first.file}:{first.line}; "
                        "rename or remove one of them"
                    )
                )
            else:
                by_name[manifest.name] = manifest
    return Loaded(by_name=by_name, problems=sort_problems(faults))


def place_problems(
    problems: Sequence[Problem], content_of: Callable[[str], bytes | Problem | None]
) -> Sequence[Problem]:
    """The problems at their exact places, as far as they say what they mean. Raises what `content_of` does."""
    contents = {file: content_of(file) for file in {p.file for p in problems if p.at is not None}}
    return [_placed(p, contents.get(p.file)) for p in problems]


def _placed(problem: Problem, content: bytes | Problem | None) -> Problem:
    if problem.at is None or not isinstance(content, bytes):
        return problem
    return problem_at(problem.file, content, *problem.at, problem.message)


def problem_at(file: str, content: bytes, document: int, path: Sequence[str | int], message: str) -> Problem:
    """A problem at the place where `path` stands in the file."""
    line, column = locate(content, document, path)
    return Problem(file=file, line=line, column=column, message=message)


def validation_problems(
    file: str, content: bytes, document: int, exc: ValidationError, *, under: Sequence[str] = (), model: type[BaseModel]
) -> list[Problem]:
    """Each error of pydantic's as a problem at its place, in words of ours."""
    problems = []
    for error in exc.errors(include_url=False):
        path, within = _trace(model, error["loc"])
        if error["type"] in _TAG_ERRORS:
            path = (*path, error["ctx"]["discriminator"].strip("'"))
        problems.append(problem_at(file, content, document, (*under, *path), _words(error, (*under, *path), within)))
    return problems


def _parse_one(
    file: str,
    content: bytes,
    index: int,
    value: object,
    *,
    kind: str,
    model: type[SpecT],
    defaults: Mapping[str, Any],
) -> Manifest[SpecT] | list[Problem]:
    faults: list[Problem] = []
    if not isinstance(value, dict):
        line, column = locate(content, index, ())
        message = f"a {kind} manifest is a mapping with apiVersion, kind, metadata and spec"
        return [Problem(file=file, line=line, column=column, message=message)]
    for key, expected in (("apiVersion", API_VERSION), ("kind", kind)):
        if value.get(key) != expected:
            got = f"is {value[key]!r}" if key in value else "is missing"
            faults.append(problem_at(file, content, index, (key,), f"{key} {got}; expected {expected!r}"))
    if value.get("kind") != kind and value.get("kind") in DOCUMENT_KINDS:
        return faults
    for key in value.keys() - {"apiVersion", "kind", "metadata", "spec"}:
        message = f"unknown key {key!r}{_suggest(str(key), ['apiVersion', 'kind', 'metadata', 'spec'])}"
        faults.append(problem_at(file, content, index, (str(key),), message))
    metadata = _validate(file, content, index, Metadata, value.get("metadata"), "metadata", faults)
    written = merge(defaults, value.get("spec"))
    spec = _validate(file, content, index, model, written, "spec", faults)
    if faults or metadata is None or spec is None:
        return faults
    return Manifest(
        kind=kind.lower(),
        name=metadata.name,
        labels=metadata.labels,
        spec=spec,
        digest=digest(_written(metadata.labels, spec)),
        file=file,
        line=locate(content, index, ("metadata", "name"))[0] if index else 1,
        document=index,
        annotations=metadata.annotations,
    )


def _written(labels: Mapping[str, str], spec: Model) -> Mapping[str, Any]:
    return {"labels": dict(labels), "spec": spec.written()}


M = TypeVar("M", bound=BaseModel)


def _validate(
    file: str, content: bytes, index: int, model: type[M], value: object, key: str, faults: list[Problem]
) -> M | None:
    if value is None:
        faults.append(problem_at(file, content, index, (), f"{key} is missing"))
        return None
    try:
        return model.model_validate(value)
    except ValidationError as exc:
        faults.extend(validation_problems(file, content, index, exc, under=(key,), model=model))
        return None


def merge(defaults: Mapping[str, Any], value: object) -> Any:
    """`value` with `defaults` under it, mapping by mapping."""
    if not isinstance(value, Mapping):
        return value
    out = dict(value)
    for key, default in defaults.items():
        if key not in out:
            out[key] = default
        elif isinstance(default, Mapping):
            out[key] = merge(default, out[key])
    return out


_KINDS_OF_VALUE = {
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
}


_TAG_ERRORS = ("union_tag_invalid", "union_tag_not_found")


def _words(error: Any, location: Sequence[str | int], within: Sequence[type[BaseModel] | None]) -> str:
    """`within` are the models that the parts of `location` are looked up in."""
    path = ".".join(str(p) for p in location if p != "[key]") or "the document"
    shown = _shown(error["input"])
    match error["type"]:
        case "extra_forbidden":
            known = _known_keys(within[-1])
            where = path.rpartition(".")[0] or "the document"
            return f"unknown key {location[-1]!r} in {where}{_suggest(str(location[-1]), known)}"
        case "missing" | "union_tag_not_found":
            return f"{path} is missing"
        case "union_tag_invalid":
            return f"{path} is {error['ctx']['tag']!r}; expected {error['ctx']['expected_tags']}"
        case "literal_error":
            return f"{path} is {shown}; expected {error['ctx']['expected']}"
        case "value_error":
            return f"{path}: {error['ctx']['error']!s}"
        case "string_pattern_mismatch":
            return f"{path} is {shown}, which is not a valid value here; it must match {error['ctx']['pattern']}"
        case type_ if type_ in _KINDS_OF_VALUE:
            return f"{path} is {shown}; expected {_KINDS_OF_VALUE[type_]}"
        case _:
            return f"{path}: {error['msg'][0].lower()}{error['msg'][1:]} (found {shown})"


def _shown(value: object) -> str:
    if value is None or isinstance(value, bool):
        return "empty" if value is None else str(value).lower()
    text = ascii(value)
    return text if len(text) < 60 else f"{text[:57]}…"


def _trace(
    model: type[BaseModel], location: Sequence[str | int]
) -> tuple[tuple[str | int, ...], Sequence[type[BaseModel] | None]]:
    """The path that an error's location means, and for each part of it the model that has the field.

    In a union that is told apart by a tag, pydantic puts the tag into the location, though no key is called so.
    """
    path: list[str | int] = []
    within: list[type[BaseModel] | None] = []
    current: type[BaseModel] | None = model
    by_tag: Mapping[str, type[BaseModel]] = {}
    for part in location:
        if part in by_tag:
            current, by_tag = by_tag[str(part)], {}
            continue
        path.append(part)
        within.append(current)
        if isinstance(part, str):
            fields = {f.alias or n: f for n, f in current.model_fields.items()} if current is not None else {}
            current = _model_in(fields[part].annotation) if part in fields else None
            by_tag = _models_by_tag(fields[part]) if part in fields else {}
    return tuple(path), within


def _models_by_tag(field: FieldInfo) -> Mapping[str, type[BaseModel]]:
    if not isinstance(field.discriminator, str):
        return {}
    models = get_args(field.annotation)
    return {tag: m for m in models for tag in get_args(m.model_fields[field.discriminator].annotation)}


def _known_keys(model: type[BaseModel] | None) -> list[str]:
    return [f.alias or n for n, f in model.model_fields.items()] if model is not None else []


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The model of a field: itself, or that in an optional or a list of it."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for inner in get_args(annotation) if (found := _model_in(inner)) is not None), None)


def _suggest(word: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known: {', '.join(sorted(known))}" if known else ""
