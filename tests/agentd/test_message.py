from __future__ import annotations

import json

from reconciler.agentd.assignment import Ref
from reconciler.agentd.message import build_completed, build_failed, build_heartbeat

REF = Ref(task="demo", run="r-1", generation=1)


def test_each_message_has_an_id_of_its_own_in_its_bytes() -> None:
    one, other = build_heartbeat([REF]), build_heartbeat([REF])
    assert one.id != other.id
    assert json.loads(one.body) == {
        "id": one.id,
        "type": "agent.heartbeat",
        "pattern": "event",
        "to": "hub",
        "payload": {"tasks": [{"task": "demo", "generation": 1}]},
    }


def test_half_a_surrogate_pair_does_not_make_the_bytes_invalid() -> None:
    message = build_completed(REF, json.loads('"a\\ud800b ü"'), (), 0.1, "m-1")
    assert json.loads(message.body.decode("utf-8"))["payload"]["result"] == "a?b ü"


def test_a_failure_carries_a_result_only_when_there_is_one() -> None:
    def build(partial: object) -> dict[str, object]:
        message = build_failed(
            REF,
            exit_code=None,
            reason="spawn",
            error="no such file",
            stderr_tail="",
            duration_s=0.0,
            correlation_id="",
            partial=partial,
        )
        payload: dict[str, object] = json.loads(message.body)["payload"]
        return payload

    fields = {"exit_code": None, "reason": "spawn", "error": "no such file", "stderr_tail": ""}
    expected = {"task": "demo", "run": "r-1", "generation": 1, "duration_s": 0.0, **fields}
    assert build(None) == expected
    assert build("part") == {**expected, "result": "part"}
