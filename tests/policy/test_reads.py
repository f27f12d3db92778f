"""What a policy can read of its input, as the worker finds it in its plan; and the same from the plan of the real OPA."""

import json
import subprocess
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given, settings

from reconciler.policy.bundle import answer_module, without_tests
from reconciler.policy.link import WorkerLink
from reconciler.policy.reads import Function, Operand, Plan, Reads, Statement, find_reads, reads_from_json
from tests.policy.example import example_bundle, message_bundle
from tests.policy.opa_servers import need_opa
from tests.policy.random_rego import DATA, whole_policies

ALLOW = 'decision := {"allow": allow}\n'

CASES = {
    "allow if input.a.b == 1": ["a.b"],
    "allow if { input.a.b == 1; input.c }": ["a.b", "c"],
    'allow if input["a b"].c': ["a b.c"],
    "allow if input.a": ["a"],
    "allow if { input.a; input.a.b == 1 }": ["a"],
    "allow if not input.a.b": ["a.b"],
    "allow if x := input.a.b": ["a.b"],
    "allow if { x := input.a; x.b == 1 }": ["a.b"],
    "allow if { x := input.a; not x.b.c }": ["a.b.c"],
    "allow if input.a[0] == 1": ["a"],
    "allow if input.a[input.b] == 1": ["a", "b"],
    'allow if { some k in ["x"]; input.a[k] }': ["a"],
    "allow if { some x in input.a; x.b == 1 }": ["a"],
    "allow if { every x in input.a { x > 1 } }": ["a"],
    "allow if count([x | x := input.a[_]; x > input.b]) > 0": ["a", "b"],
    'allow if object.get(input.a, "b", 1) == input.c': ["a.b", "c"],
    'allow if object.get({}, "x", input.a).b == 1': ["a.b"],
    'allow if object.get(input.a, ["b", "c"], 1) == 1': ["a"],
    "allow if data.limits[input.a] > 1": ["a"],
    "allow if f(input.a)\nf(x) if x.b == 1": ["a.b"],
    "allow if { f(input.a); f(input.c) }\nf(x) if x.b == 1": ["a.b", "c.b"],
    "allow if f(input.a).c == 1\nf(x) := x.b": ["a.b.c"],
    "allow if f(input.a).c == 1\nf(x) := x.b if x.d\nelse := 1": ["a.b", "a.d"],
    "allow if s.b == 1\ns := input.a": ["a.b"],
    "allow if s == 1\ndefault s := 0\ns := input.a": ["a"],
    "allow if input.a == 1\nunused if input.b": ["a"],
    "allow := {1: input.a}": ["a"],
    "allow if [input.a, 1] == [1, 1]": ["a"],
    "allow := true": [],
}

OBSTACLES = {
    "allow if count(input) > 1": "it uses input as a whole",
    "allow if f(input)\nf(x) if x == {}": "it uses input as a whole",
    "allow if some x in input": "it uses input as a whole",
    "allow if input[data.key] == 1": "it uses input as a whole",
    "allow if { x := input; x[data.key] }": "it uses input as a whole",
    "allow if data.hub.message[input.a]": "it calls a rule by a name that it computes",
}

SAME_AS_WHOLE = {"allow if f(input)\nf(x) if x.a.b == 1": ["a.b"], "allow if { x := input; x.a.b }": ["a.b"]}


@pytest.fixture(scope="module")
def link() -> Iterator[WorkerLink]:
    found = WorkerLink(memory_bytes=2**27)
    yield found
    found.close()


def load(link: WorkerLink, modules: Mapping[str, str], data: Mapping[str, Any]) -> dict[str, Reads]:
    reply = link.ask("load", 10, modules=modules, data=data)
    return {kind: reads_from_json(value) for kind, value in reply["reads"].items()}


def of_message(link: WorkerLink, body: str) -> Reads:
    bundle = message_bundle(ALLOW + body)
    return load(link, bundle.modules, bundle.data)["message"]


@pytest.mark.parametrize(("body", "paths"), [*CASES.items(), *SAME_AS_WHOLE.items()])
def test_the_paths_that_are_read(link: WorkerLink, body: str, paths: list[str]) -> None:
    assert of_message(link, body) == Reads(paths=tuple(tuple(path.split(".")) for path in paths))


@pytest.mark.parametrize(("body", "obstacle"), OBSTACLES.items())
def test_why_nobody_can_tell(link: WorkerLink, body: str, obstacle: str) -> None:
    assert of_message(link, body) == Reads(obstacle=obstacle)


@given(text=whole_policies())
@settings(max_examples=30)
def test_a_whole_input_is_an_obstacle_wherever_it_stands(link: WorkerLink, text: str) -> None:
    assert load(link, {"m.rego": text}, DATA)["message"] == Reads(obstacle="it uses input as a whole")


def test_what_may_answer_differently_each_time_is_an_obstacle(link: WorkerLink) -> None:
    # Straight into the worker: such a policy is refused long before.
    text = 'package hub.message\nimport rego.v1\ndecision := {"allow": time.now_ns() > input.a}'
    found = load(link, {"a.rego": text}, {"hub": {"revision": "r"}})
    assert found["message"].obstacle == "it calls time.now_ns, which may answer differently each time"


def test_each_kind_has_its_own(link: WorkerLink) -> None:
    bundle = example_bundle()
    found = load(link, bundle.modules, bundle.data)
    assert sorted(found) == ["admission", "delegation", "llm", "message", "task"]
    assert ("time",) in found["task"].paths
    assert ("time",) not in found["message"].paths
    assert not any(reads.obstacle for reads in found.values())


def test_reads_survive_json() -> None:
    for reads in (Reads(paths=(("a", "b"), ("c",))), Reads(obstacle="why")):
        assert reads_from_json(json.loads(json.dumps(reads.to_json()))) == reads


# --- the plan of the real OPA ---


def plan_of_opa(folder: Path, modules: Mapping[str, str], kinds: list[str]) -> Plan:
    texts = {**without_tests(modules), "answer.rego": answer_module(kinds)}
    for path, text in texts.items():
        (folder / Path(path).name).write_text(text)
    entry_points = [part for kind in kinds for part in ("-e", f"hub/answer/{kind}")]
    command = [
        need_opa(),
        "build",
        "-t",
        "plan",
        *entry_points,
        "-o",
        str(folder / "b.tgz"),
        *map(str, folder.glob("*.rego")),
    ]
    subprocess.run(command, check=True, capture_output=True)
    with tarfile.open(folder / "b.tgz") as archive:
        member = archive.extractfile("/plan.json")
        assert member is not None
        return read_json_plan(json.load(member))


def read_json_plan(plan: Any) -> Plan:
    texts = [text["value"] for text in plan["static"]["strings"]]
    return Plan(
        entry_points={entry["name"]: read_blocks(entry["blocks"], texts) for entry in plan["plans"]["plans"]},
        functions={
            function["name"]: Function(
                parameters=tuple(function["params"]),
                result=function["return"],
                body=read_body(function, texts),
            )
            for function in plan["funcs"]["funcs"]
        },
    )


def read_body(function: Any, texts: list[str]) -> tuple[Statement, ...]:
    """OPA numbers the locals of each rule of a name alike, from the first free one on; here each has its own."""
    bodies = [read_blocks([block], texts) for block in function["blocks"]]
    kept = {*function["params"], function["return"]}
    for body in bodies:
        # Those that one block sets for another.
        kept |= {o for s in walk(body) for o in s.operands if isinstance(o, int)} - {s.target for s in walk(body)}
    return tuple(renumber(s, kept, 1000 * nth) for nth, body in enumerate(bodies, start=1) for s in body)


def walk(body: Sequence[Statement]) -> Iterator[Statement]:
    for statement in body:
        yield statement
        for block in statement.blocks:
            yield from walk(block)


def renumber(statement: Statement, kept: set[int], by: int) -> Statement:
    def move(operand: Operand) -> Operand:
        return operand + by if isinstance(operand, int) and operand not in kept else operand

    return replace(
        statement,
        operands=tuple(map(move, statement.operands)),
        target=None if statement.target is None else cast("int", move(statement.target)),
        blocks=tuple(tuple(renumber(s, kept, by) for s in block) for block in statement.blocks),
    )


def read_blocks(blocks: Any, texts: list[str]) -> tuple[Statement, ...]:
    found: list[Statement] = []
    for block in blocks:
        for statement in block["stmts"] or []:
            name, fields = statement["type"], statement["stmt"]
            if name == "ScanStmt":
                found += [Statement(name="ResetLocalStmt", target=fields[set_by_it]) for set_by_it in ("key", "value")]
            found.append(read_statement(name, fields, texts))
    return tuple(found)


def read_statement(name: str, fields: Any, texts: list[str]) -> Statement:
    inner = [fields["block"]] if "block" in fields else fields.get("blocks", [])
    operands: list[Operand] = []
    for field in ("source", "key", "value", "a", "b", "array", "object", "set"):
        if field in fields and not (name == "ScanStmt" and field != "source") and name != "MakeNumberIntStmt":
            operands.append(read_operand(fields[field], texts))
    operands.extend(read_operand(argument, texts) for argument in fields.get("args") or ())
    return Statement(
        name=name,
        operands=tuple(operands),
        target=fields.get("result", fields.get("target")),
        function=fields.get("func", ""),
        blocks=tuple(read_blocks([block], texts) for block in inner or ()),
    )


def read_operand(value: Any, texts: list[str]) -> Operand:
    if isinstance(value, int):
        return int(value)
    match value["type"]:
        case "local":
            return int(value["value"])
        case "string_index":
            return str(texts[value["value"]])
    return None


def test_the_example_is_read_alike_by_opa(link: WorkerLink, tmp_path: Path) -> None:
    bundle = example_bundle()
    ours = load(link, bundle.modules, bundle.data)
    plan = plan_of_opa(tmp_path, bundle.modules, sorted(ours))
    assert {kind: find_reads(plan, f"hub/answer/{kind}") for kind in ours} == ours


@pytest.mark.parametrize(("body", "paths"), CASES.items())
def test_each_case_is_read_alike_by_opa(tmp_path: Path, body: str, paths: list[str]) -> None:
    plan = plan_of_opa(tmp_path, message_bundle(ALLOW + body).modules, ["message"])
    assert [".".join(path) for path in find_reads(plan, "hub/answer/message").paths] == paths
