"""Commits that cannot be applied, by real git through the whole program: each fault is named, and the fleet goes on."""

import re
from collections.abc import Iterator, Mapping

import pytest

from tests.flows.fleet import Fleet, agent_text, eventually, make_fleet, task_text
from tests.flows.test_hub import containers, running, settled

REGO = "package hub.task\n\nimport rego.v1\n\n"
LOOP = "count([1 | some a in r; some b in r; some c in r; a + b + c < 0]) > 0}\nr := numbers.range(1, 9999)\n"
BOMB = "\n".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}' if n else 'x'] * 10)}]" for n in range(9))
HEAD = agent_text("x").partition("spec:")[0] + "spec:\n"
SCHEMAS = "schemas/messages"

MANIFESTS: Mapping[str, tuple[str | bytes, str]] = {
    "agents.d/alias.yaml": (BOMB, ":5:45: expands through its anchors to more than 100000 values; use fewer"),
    "agents.d/broken.yaml": (
        agent_text("x") + "  env: {A: b\n",
        ":13:1: is not valid YAML: did not find expected ',' or '}', in what begins on line 12, column 8",
    ),
    "agents.d/control.yaml": (
        HEAD + "  role: \x07\n",
        ":5:9: contains the character U+0007, which YAML forbids; remove it",
    ),
    "agents.d/dots.yaml": (
        agent_text("../../etc"),
        ":3:12: metadata.name: '../../etc' is not a name: '.' is not allowed; use a-z, 0-9 and '-' (for example "
        "'doc-writer')",
    ),
    "agents.d/huge.yaml": (b"#" * (50 * 2**20), ": has 52428800 bytes; at most 1048576 are read; split it"),
    "agents.d/key.yaml": (agent_text("x") + "  rolle: y\n", ":12:3: unknown key 'rolle' in spec; did you mean 'role'?"),
    "agents.d/latin.yaml": (
        HEAD.encode() + b"  role: caf\xe9\n",
        ":5:12: is not UTF-8 text; save the file as UTF-8",
    ),
    "agents.d/line.yaml": (
        agent_text('"a\\nb"'),
        ":3:12: metadata.name: 'a\\nb' is not a name: '\\n' is not allowed; use a-z, 0-9 and '-' (for example "
        "'doc-writer')",
    ),
    "agents.d/nul.yaml": (HEAD + "  role: a\0\n", ":5:10: contains a NUL character; remove it"),
    "agents.d/other.yml": (
        agent_text("other"),
        ": is not read: only *.yaml directly in agents.d/ are; rename it, or move it away",
    ),
    "agents.d/second.yaml": (
        agent_text("a"),
        ":1:1: agent 'a' is already defined in agents.d/a.yaml:1; rename or remove one of them",
    ),
    "agents.d/tab.yaml": (HEAD + "\trole: worker\n", ":5:1: a tab is used for indentation; YAML wants spaces"),
    "agents.d/team/a.yaml": (
        agent_text("nested"),
        ": is not read: only *.yaml directly in agents.d/ are; move it there, or out of agents.d/",
    ),
    "agents.d/twice.yaml": (agent_text("x") + "  role: y\n", ":12:3: found duplicate key 'role'; keep one of them"),
    "agents.d/two\nlines.yaml": (
        agent_text("lines"),
        ": cannot be used: its name has characters that don't print; rename or remove it",
    ),
    "agents.d/unit.yaml": (
        agent_text("x", memory="128MB"),
        ":9:26: spec.resources.memory: '128MB' is not a size; write a number and one of B, KiB, MiB, GiB (for example "
        "'512MiB')",
    ),
    "agents.d/wr\u0456ter.yaml": (
        agent_text("wr\u0456ter"),
        ":3:12: metadata.name: 'wr\\u0456ter' is not a name: '\\u0456' is not allowed; use a-z, 0-9 and '-' (for "
        "example 'doc-writer')",
    ),
    f"{SCHEMAS}/a.b.schema.json": (
        '{\n  "properties": {"x": {"type": "objekt"}}\n}\n',
        ":2:24: is not a JSON Schema 2020-12: properties.x.type: is no type; expected array, boolean, integer, null, "
        "number, object or string",
    ),
    f"{SCHEMAS}/c.d.schema.json": ('{\n  "type": "object",\n}\n', ":3:1: is not valid JSON: "),
    "policies/http.rego": (
        REGO + "x := http.send({})\n",
        ":5:6: http.send reaches out of the hub; policies may not use it",
    ),
    "tasks.d/type.yaml": (
        task_text("t", "a", more="  priority: high\n"),
        ":8:3: spec.priority is 'high'; expected a whole number",
    ),
}
LINKS: Mapping[str, tuple[str, str]] = {
    "agents.d/link.yaml": ("/etc/passwd", ": is a symbolic link; commit the file itself"),
    "agents.d/linked": ("../../..", ": is a symbolic link, which is not followed; commit the files themselves"),
}


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    """One that runs `a` and is left so by each test."""
    made = make_fleet("process")
    made.commit({"agents.d/a.yaml": agent_text("a")})
    try:
        with running(made):
            eventually(lambda: settled(made))
            yield made
    finally:
        made.destroy()


@pytest.fixture(autouse=True)
def goes_on(fleet: Fleet) -> Iterator[None]:
    """Whatever a test commits leaves the fleet as it was, and a fix is applied."""
    before, good = containers(fleet), fleet.git("rev-parse", "HEAD").strip()
    yield
    assert fleet.state()["revision"] == good
    assert containers(fleet) == before
    fleet.git("read-tree", "-u", "--reset", good)
    fleet.git("commit", "-q", "--allow-empty", "-m", "fix")
    fixed = fleet.git("rev-parse", "HEAD").strip()
    eventually(lambda: fleet.state()["revision"] == fixed and invalid(fleet) == "")
    assert containers(fleet) == before
    assert fleet.check() == []


def invalid(fleet: Fleet) -> str:
    """The message of the condition `ConfigInvalid`; empty where it is not there."""
    return next((c["message"] for c in fleet.state()["conditions"] if c["type"] == "ConfigInvalid"), "")


def commit(fleet: Fleet, files: Mapping[str, str | bytes], links: Mapping[str, str] | None = None) -> None:
    """Add to what is there."""
    for name, content in files.items():
        path = fleet.repository / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    for name, target in (links or {}).items():
        (fleet.repository / name).symlink_to(target)
    fleet.git("add", "-A")
    fleet.git("commit", "-q", "-m", "bad")


def validate(fleet: Fleet) -> list[str]:
    """The problems as a committer reads them."""
    answer = fleet.call("validate", str(fleet.repository))
    assert answer.code == 1
    said = [line for line in answer.err.splitlines() if not line.startswith("checking policies")]
    *problems, count = said
    assert count == f"{len(problems)} problem{'s' * (len(problems) != 1)}"
    return problems


def test_every_fault_of_a_commit_is_named_at_once_with_its_place_and_what_to_do(fleet: Fleet) -> None:
    links = {name: target for name, (target, _) in LINKS.items()}
    commit(fleet, {name: content for name, (content, _) in MANIFESTS.items()}, links)
    said = validate(fleet)
    expected = {name.replace("\n", "\\n"): message for name, (_, message) in {**MANIFESTS, **LINKS}.items()}
    for name, message in expected.items():
        assert [s for s in said if s.startswith(f"{name}{message}")], (name, said)
    assert len(said) == len(expected)
    eventually(lambda: f"has {len(said)} problems; first: {said[0]}" in invalid(fleet))


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (
            {"policies/task.rego": REGO + 'decision := {"allow": true\n'},
            r"policies/task\.rego:5:13: is not valid Rego: this is unclosed",
        ),
        (
            {"policies/task.rego": REGO + 'decision := {"allow": ' + LOOP},
            # Which of the two depends on whether the machine is too slow for the engine to count its steps to the end.
            r"policies/task\.rego:5:1: data\.hub\.task\.decision (does not end|did not end within 1s)",
        ),
        (
            {
                "policies/task.rego": REGO + 'decision := {"allow": true, "reasons": []}\n',
                "policies/task_test.rego": REGO.replace("task", "task_test")
                + "import data.hub.task\n\ntest_denies if not task.decision.allow with input as {}\n",
            },
            r"policies/task_test\.rego:7:1: test_denies fails: an expression in it does not hold",
        ),
    ],
    ids=["does not parse", "never ends", "its test fails"],
)
def test_policies_that_cannot_be_used_are_named_at_their_place(
    fleet: Fleet, files: Mapping[str, str], said: str
) -> None:
    commit(fleet, files)
    (problem,) = validate(fleet)
    assert re.match(said, problem)
    eventually(lambda: re.search(f"has 1 problem; first: {said}", invalid(fleet)) is not None)


def test_a_commit_without_hub_yaml_is_not_an_empty_fleet(fleet: Fleet) -> None:
    fleet.git("rm", "-q", "hub.yaml")
    fleet.git("commit", "-q", "-m", "bad")
    eventually(lambda: "first: hub.yaml: is missing; a repository needs one" in invalid(fleet))


def test_an_empty_commit_is_not_an_empty_fleet(fleet: Fleet) -> None:
    fleet.git("rm", "-rq", ".")
    fleet.git("commit", "-q", "-m", "bad")
    eventually(lambda: "first: hub.yaml: is missing; a repository needs one" in invalid(fleet))


def test_a_commit_that_only_leaves_hub_yaml_is_refused_by_the_guard(fleet: Fleet) -> None:
    good = fleet.git("rev-parse", "HEAD").strip()
    fleet.git("rm", "-rq", "agents.d")
    fleet.git("commit", "-q", "-m", "bad")
    eventually(lambda: "PlanRefused" in {c["type"] for c in fleet.state()["conditions"]})
    assert fleet.state()["revision"] == good
