from __future__ import annotations

import pytest

from reconciler.agentd.assignment import Assignment, AssignmentError, Ref, parse_assignment

PAYLOAD = {"task": "demo", "run": "r-1", "generation": 2}


def test_a_whole_assignment_is_read() -> None:
    payload = {
        **PAYLOAD,
        "lease_s": 30,
        "timeout_s": 600,
        "prompt": "Do it.",
        "input": [1],
        "parents": {"collect": {"n": 1}},
        "workspace": "/workspaces/abc/",
        "output": {"maxSize": 10, "artefacts": ["*.md"]},
        "argv": ["true"],
        "sensitivity": "internal",
    }
    assert parse_assignment(payload, "m-1") == Assignment(
        ref=Ref(task="demo", run="r-1", generation=2),
        correlation_id="m-1",
        timeout_s=600.0,
        prompt="Do it.",
        input=[1],
        parents={"collect": {"n": 1}},
        workspace="/workspaces/abc",
        max_size_bytes=10,
        artefacts=("*.md",),
        argv=("true",),
    )


def test_what_is_null_or_missing_has_a_default() -> None:
    nulls = dict.fromkeys(("timeout_s", "prompt", "input", "parents", "workspace", "output", "argv"))
    expected = Assignment(ref=Ref(task="demo", run="r-1", generation=2))
    assert parse_assignment(PAYLOAD, "") == parse_assignment({**PAYLOAD, **nulls}, "") == expected


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"task": ""}, "task"),
        ({"run": 7}, "run"),
        ({"generation": True}, "generation"),
        ({"timeout_s": 0}, "timeout_s"),
        ({"timeout_s": float("nan")}, "timeout_s"),
        ({"workspace": "relative"}, "workspace"),
        ({"prompt": 1}, "prompt"),
        ({"argv": "ls"}, "argv"),
        ({"output": [1]}, "output"),
        ({"output": {"maxSize": "1MiB"}}, "output.maxSize"),
        ({"output": {"artefacts": "a"}}, "artefacts"),
        ({"parents": {"../x": 1}}, "parents"),
        ({"parents": {".hidden": 1}}, "parents"),
        ({"parents": [1]}, "parents"),
    ],
)
def test_what_cannot_be_run_is_refused_by_name(fields: dict[str, object], named: str) -> None:
    with pytest.raises(AssignmentError, match=named):
        parse_assignment({**PAYLOAD, **fields}, "")


def test_a_payload_that_is_no_object_is_refused() -> None:
    with pytest.raises(AssignmentError, match="not an object"):
        parse_assignment([], "")
