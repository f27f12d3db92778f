"""`apply` and `run --once` as people call them one after the other: refusals, confirmations, what ran before."""

import re
import signal

from tests.flows.fleet import Fleet, agent_text, eventually, task_text
from tests.flows.test_hub import drop, running, settled

SIX = {f"agents.d/a{n}.yaml": agent_text(f"a{n}") for n in range(6)}
ENDLESS = """\
package hub.message
import rego.v1
deny contains "x" if { x := numbers.range(1, 4000); count({[a, b, c] | some a in x; some b in x; some c in x}) > 1 }
decision := {"allow": count(deny) == 0, "reasons": deny}
"""


def confirmation(text: str) -> str:
    (found,) = set(re.findall(r"--confirm (\S+)", text))
    return str(found)


def test_a_refused_apply_ends_at_once_and_only_the_digest_of_now_confirms_it(processes: Fleet) -> None:
    fleet = processes
    fleet.commit(SIX)
    assert fleet.apply().code == 0
    fleet.commit({"agents.d/a0.yaml": agent_text("a0")})
    refused = fleet.apply()
    assert (refused.code, refused.out.count("PlanRefused")) == (3, 1)
    first = confirmation(refused.out)
    assert confirmation(fleet.apply().out) == first
    assert f"--confirm {first}" in fleet.call("plan", *fleet.places).out
    fleet.commit({"agents.d/a1.yaml": agent_text("a1")})
    stale = fleet.apply("--confirm", first)
    assert stale.code == 3
    now = confirmation(stale.out)
    assert now != first
    assert f"error: the plan that is refused is {now}, not {first}; see what it does with" in stale.err
    assert fleet.apply("--confirm", now).code == 0
    assert [i["name"] for i in fleet.state()["instances"]] == ["a1-0"]


def test_a_running_hub_says_that_a_confirmation_is_stale(processes: Fleet) -> None:
    fleet = processes
    fleet.commit({"agents.d/a.yaml": agent_text("a")})
    with running(fleet):
        eventually(lambda: settled(fleet))
        answer = fleet.apply("--confirm", "1:stale")
    assert (answer.code, answer.err.startswith("error: no refused plan has the digest 1:stale")) == (3, True)


def test_what_failed_in_an_earlier_run_does_not_fail_the_next_one(processes: Fleet) -> None:
    fleet = processes
    failing = agent_text("bad", argv='[python3, "-c", "raise SystemExit(3)"]')
    fleet.commit(
        {"agents.d/a.yaml": agent_text("a"), "agents.d/bad.yaml": failing, "tasks.d/t.yaml": task_text("t", "a")}
    )
    inbox = fleet.repository / "inbox"
    inbox.mkdir()
    retries = "  retries: {maxAttempts: 1}\n"
    with running(fleet):
        eventually(lambda: settled(fleet, tasks=1))
        drop(inbox, "d.yaml", task_text("dropped", "bad", more=retries))
        eventually(lambda: any(t["state"] == "failed" for t in fleet.state()["tasks"]))
    once = ("run", "--once", *fleet.places, *fleet.permission)
    answer = fleet.call(*once)
    assert answer.code == 0, answer
    assert "nothing new to run" in answer.out
    assert "1 of 1 tasks succeeded" in answer.out
    fleet.commit({**fleet.files, "tasks.d/u.yaml": task_text("u", "bad", more=retries)})
    answer = fleet.call(*once)
    assert answer.code == 2
    assert "1 of 2 tasks succeeded" in answer.out


def test_policies_that_left_git_are_taken_out_of_force_once(processes: Fleet) -> None:
    fleet = processes
    rego = 'package hub.task\n\nimport rego.v1\n\ndecision := {"allow": true, "reasons": []}\n'
    agents = {"agents.d/a.yaml": agent_text("a")}
    fleet.commit({**agents, "policies/task.rego": rego})
    assert fleet.apply().code == 0
    fleet.commit({**agents, "tasks.d/t.yaml": task_text("t", "a")})
    answer = fleet.apply("--tasks")
    assert answer.code == 0, answer
    assert answer.out.count("policy/policies") == 1
    assert fleet.apply().out.count("policy/policies") == 0


def test_a_policy_that_never_ends_is_named_within_seconds_and_judged_once(processes: Fleet) -> None:
    fleet = processes
    good = {"agents.d/a.yaml": agent_text("a")}
    fleet.commit(good)
    said = r"policies/bad\.rego:4:1: data\.hub\.message\.decision (does not end|did not end within 1s)"
    with running(fleet) as hub:
        eventually(lambda: settled(fleet))
        fleet.commit({**good, "policies/bad.rego": ENDLESS})
        eventually(lambda: any(re.search(said, c["message"]) for c in fleet.state()["conditions"]))
        hub.send_signal(signal.SIGINT)
        hub.communicate(timeout=180)
    answer = fleet.apply()
    assert answer.code == 1
    assert re.search(said, answer.out)
    assert "checking policies" not in answer.out
