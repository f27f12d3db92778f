"""The checker: do the YAML files of the repository fit the JSON Schemas that it ships?

Operation: `schemas`. A document of kind Agent is checked against `schemas/agent.schema.json`, and
so on; the schemas themselves are checked against the meta-schema. Needs ruamel.yaml and
jsonschema_rs, which its image carries.
"""

import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from repository import list_files, read_text
from work import Result, Task, count, perform, progress, raise_finding

try:
    import jsonschema_rs
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError
    from ruamel.yaml.nodes import MappingNode, Node, SequenceNode
except ImportError as exc:
    sys.exit(f"{exc}; run the checker in an image that carries ruamel.yaml and jsonschema_rs")

MAX_FINDINGS_SENT = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What is wrong where. `line` and `column` count from 1; `pointer` is as in RFC 6901."""

    file: str
    line: int
    column: int
    pointer: str
    message: str


@dataclass(slots=True, kw_only=True)
class Report:
    """What the check has found so far."""

    checked: Counter[str] = field(default_factory=Counter)
    problems: list[Finding] = field(default_factory=list)
    unchecked: list[Result] = field(default_factory=list)


def schemas(task: Task, *, skip: Sequence[str] = ()) -> Result:
    """Check all `*.yaml` and `*.yml`, except those whose path matches a `skip` pattern."""
    report = Report()
    paths = [p for p in list_files(task.workspace) if not any(fnmatchcase(p, s) for s in skip)]
    validators = _load_validators(task, [p for p in paths if p.endswith(".schema.json")], report)
    yaml_paths = [p for p in paths if p.endswith((".yaml", ".yml"))]
    progress(f"{count(len(yaml_paths), 'YAML file')}, {count(len(validators), 'schema')}")
    for path in yaml_paths:
        _check_file(path, read_text(task.workspace, path), validators, report)
    report.problems.sort(key=lambda f: (f.file, f.line, f.column, f.message))
    documents = sum(report.checked.values())
    return {
        "ok": not report.problems,
        "summary": f"{count(len(report.problems), 'problem')} in "
        f"{count(documents, 'document')} and {count(len(validators), 'schema')}",
        "figures": {
            "documents": documents,
            "schemas": len(validators),
            "problems": len(report.problems),
            "unchecked": len(report.unchecked),
        },
        "checked": dict(sorted(report.checked.items())),
        "problems": [_to_json(f) for f in report.problems[:200]],
        "unchecked": report.unchecked,
        "messages": [_tell(task, f) for f in report.problems[:MAX_FINDINGS_SENT]],
    }


def _load_validators(task: Task, paths: Sequence[str], report: Report) -> dict[str, Any]:
    """Validators by path of the schema; what is no valid 2020-12 schema becomes a finding."""
    validators = {}
    for path in paths:
        try:
            schema = json.loads(read_text(task.workspace, path) or "")
            validators[path] = jsonschema_rs.Draft202012Validator(schema, offline=True)
        except json.JSONDecodeError as exc:
            report.problems.append(_at(path, exc.lineno, exc.colno, f"is not JSON: {exc.msg}"))
        except jsonschema_rs.ValidationError as exc:
            where = _pointer(exc.instance_path)
            message = f"is not a JSON Schema 2020-12: {exc.message}"
            report.problems.append(Finding(file=path, line=1, column=1, pointer=where, message=message))
    return validators


def _check_file(path: str, text: str | None, validators: Mapping[str, Any], report: Report) -> None:
    if text is None:
        report.unchecked.append({"file": path, "document": 0, "reason": "binary or larger than 2 MiB"})
        return
    try:
        documents = list(YAML(typ="safe", pure=True).load_all(text))
    except MarkedYAMLError as exc:
        mark = exc.problem_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        report.problems.append(_at(path, line, column, f"is not YAML: {exc.problem}"))
        return
    except (YAMLError, ValueError) as exc:
        report.problems.append(_at(path, 1, 1, f"is not YAML: {str(exc).splitlines()[0]}"))
        return
    for index, document in enumerate(documents):
        kind = document.get("kind") if isinstance(document, dict) else None
        validator = validators.get(f"schemas/{str(kind).lower()}.schema.json")
        if kind is None or validator is None:
            reason = "it has no kind" if kind is None else f"no schema for kind {kind}"
            report.unchecked.append({"file": path, "document": index, "reason": reason})
            continue
        report.checked[str(kind)] += 1
        report.problems.extend(_check_document(path, text, index, document, validator))


def _check_document(path: str, text: str, index: int, document: Any, validator: Any) -> Iterator[Finding]:
    errors = list(validator.iter_errors(_to_plain(document)))
    if not errors:
        return
    root = list(YAML(typ="safe", pure=True).compose_all(text))[index]
    for error in errors:
        line, column = _locate(root, error.instance_path)
        pointer = _pointer(error.instance_path)
        yield Finding(file=path, line=line, column=column, pointer=pointer, message=error.message)


def _to_plain(value: Any) -> Any:
    """What JSON can say: dates and other scalars of YAML become the text that they look like."""
    if isinstance(value, dict):
        return {str(key): _to_plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_to_plain(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _locate(root: Node, path: Sequence[str | int]) -> tuple[int, int]:
    """Line and column of the nearest enclosing node that is written in the file."""
    node, mark = root, root.start_mark
    for part in path:
        if isinstance(node, MappingNode):
            found = next(((k, v) for k, v in node.value if k.value == str(part)), None)
        elif isinstance(node, SequenceNode) and isinstance(part, int):
            found = (node.value[part], node.value[part])
        else:
            found = None
        if found is None:
            break
        mark, node = found[0].start_mark, found[1]
    return mark.line + 1, mark.column + 1


def _pointer(path: Sequence[str | int]) -> str:
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in path)


def _at(path: str, line: int, column: int, message: str) -> Finding:
    return Finding(file=path, line=line, column=column, pointer="", message=message)


def _to_json(finding: Finding) -> Result:
    return {
        "file": finding.file,
        "line": finding.line,
        "column": finding.column,
        "pointer": finding.pointer,
        "message": finding.message,
    }


def _tell(task: Task, finding: Finding) -> Result:
    message = f"{finding.pointer or '/'}: {finding.message}"
    return raise_finding(task, "schema", finding.file, finding.line, message)


if __name__ == "__main__":
    sys.exit(perform({"schemas": schemas}))
