"""Which built-in functions policies may use: each refusal with its place, and no false ones."""

import pytest

from reconciler.policy.builtins import ALLOWED, OPERATORS, REFUSED, restrict_capabilities
from reconciler.policy.link import WorkerLink
from tests.policy.example import module, problems_of

ASKING = [
    ("http.send({})", "http.send reaches out of the hub"),
    ("opa.runtime()", "opa.runtime shows the environment"),
    ('net.lookup_ip_addr("x")', "net.lookup_ip_addr reaches out of the hub"),
    ("time.now_ns()", "time.now_ns is a clock"),
    ('rand.intn("x", 3)', "rand.intn is random"),
    ('uuid.rfc4122("x")', "uuid.rfc4122 is random"),
    ('io.jwt.decode("x")', "io.jwt.decode is for keys and tokens"),
    ('crypto.sha256("x")', "crypto.sha256 is for keys and tokens"),
    ('print("x")', "print writes to the log"),
    ('trace("x")', "trace writes to the log"),
    ("rego.metadata.rule()", "rego.metadata.rule is not known to the embedded engine"),
    ("providers.aws.sign_req({}, {}, 1)", "providers.aws.sign_req reaches out of the hub, with credentials"),
    ("time.parse_rfc3339_ns(input.time)", "time.parse_rfc3339_ns does not read the 'Z'"),
    ('replace("a", "", "b")', "replace never ends on an empty pattern"),
    ("object.union({}, {})", "object.union merges only the top level"),
    ('to_number("08")', "to_number reads '08'"),
    ('re_match("a", "a")', "re_match is gone from Rego"),
    ('net.cidr_contains("10.0.0.0/8", "10.1.1.1")', "net.cidr_contains is not known to the embedded engine"),
    ("internal.print([])", "internal.print is not for policies"),
    ("nothing.known(1)", "there is no function nothing.known"),
    ("data.hub.lib.missing(1)", "there is no function data.hub.lib.missing"),
]


@pytest.mark.parametrize(("call", "said"), ASKING)
def test_what_is_not_allowed_is_refused_where_it_stands(call: str, said: str) -> None:
    (problem,) = problems_of(f"\nx := y if {{\n\ty := {call}\n}}")
    assert problem.startswith(f"5:7: {said}")


@pytest.mark.parametrize(("call", "said"), ASKING)
def test_what_stands_in_strings_and_comments_is_not(call: str, said: str) -> None:
    quoted = call.replace('"', "'")
    assert problems_of(f'x := "{quoted}" # {call}\ny := `{call}`') == []


@pytest.mark.parametrize(
    "body",
    [
        'x := time["now_ns"]()',
        "x := time [`now_ns`] ()",
        "x := time.\n\tnow_ns()",
        "x := time # .parse_ns\n\t.now_ns()",
        "x if count(input.a) == 1 with count as time.now_ns",
        "x if f(1) with data.hub.message.f as opa.runtime\nf(_) := 1",
        "import opa.runtime as r\nx := r()",
        "import time as t\nx := t.now_ns()",
        "x := input.f[input.g]()",
        "opa.runtime() := 1",
        "x := [y | y := rand.intn(1, 2)]",
        "x := {y: z | y := 1; z := opa.runtime()}",
        "x if every y in [1] { http.send(y) }",
        "default x := opa.runtime()",
        "x := 1 if false else := opa.runtime()",
        "x := y { y := 1 } { y := opa.runtime() }",
        'x[y] := 1 if { y := uuid["rfc4122"]("a") }',
        'x := regex["match"](input.pattern, "a")',
    ],
)
def test_no_way_of_writing_it_hides_a_builtin(body: str) -> None:
    assert problems_of(body) != []


def test_fields_of_the_input_may_have_names_of_builtins() -> None:
    assert problems_of("x := input.time\ny := input.opa.runtime\nz := data.http.send\nprint_it := 1") == []


def test_every_allowed_function_passes_with_its_arguments_and_no_other_number() -> None:
    for name, count in ALLOWED.items():
        arguments = ['"a"'] * count
        assert problems_of(f"x := {name}({', '.join(arguments)})") == []
        assert problems_of(f"x := {name}({', '.join([*arguments, '1', '2'])})") != []


def test_functions_of_the_policies_own_pass_with_their_number_of_arguments() -> None:
    assert problems_of("f(a, b) := a + b\nx := f(1, 2)\ny := data.hub.message.f(1, 2)\nz := set()") == []
    assert problems_of("f(a, b) := a + b\nx := f(1)") == ["4:6: f takes 2 arguments, not 1"]


def test_names_of_builtins_cannot_be_taken() -> None:
    assert problems_of("count(x) := 1") == ["3:1: count is the name of a built-in function; choose another name"]
    assert problems_of("import data.hub.x.http as print") == [
        "3:1: print is the name of a built-in function; choose another name"
    ]


def test_a_pattern_is_written_out_and_cannot_take_for_ever() -> None:
    assert problems_of('x if glob.match("a*", [], input.a)\ny if regex.match(`^[a-z]+$`, input.a)') == []
    assert problems_of("x if regex.match(input.a, input.b)") == [
        "3:6: the first argument of regex.match must be a regular expression written out as text"
    ]
    assert "repeats a group" in problems_of('x if regex.match("(a+)+$", input.b)')[0]
    assert "more than 4 repetitions" in problems_of('x if glob.match("*a*a*a*a*b", [], input.b)')[0]


def test_the_lists_do_not_contradict_each_other() -> None:
    assert not ALLOWED.keys() & REFUSED.keys()
    assert not ALLOWED.keys() & OPERATORS


def test_the_embedded_engine_knows_every_allowed_function() -> None:
    rules = [f"x{n} := {name}({', '.join(['input.a'] * count)})" for n, (name, count) in enumerate(ALLOWED.items())]
    rules = [r for r in rules if "regex.match" not in r and "glob.match" not in r]
    paths = [f"p/x{n}" for n, name in enumerate(ALLOWED) if name not in ("regex.match", "glob.match")]
    link = WorkerLink(memory_bytes=2**28)
    try:
        text = module("\n".join(rules), "p")
        link.ask("load", 10, modules={"p.rego": text}, data={"hub": {"revision": "r"}}, entry_points=paths)
        for path in paths:
            reply = link.ask("evaluate", 5, path=path, question={"a": None})
            assert "not found" not in str(reply), (path, reply)
    finally:
        link.close()


def test_capabilities_for_opa_hold_what_is_allowed_and_no_network() -> None:
    names = ["count", "http.send", "eq", "assign", "time.now_ns", "internal.member_2", "print"]
    given = {"builtins": [{"name": n, "decl": {}} for n in names], "features": ["rego_v1"]}
    assert restrict_capabilities(given) == {
        "builtins": [{"name": n, "decl": {}} for n in ["count", "eq", "assign", "internal.member_2"]],
        "features": ["rego_v1"],
        "allow_net": [],
    }
