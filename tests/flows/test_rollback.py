"""A bad commit is rolled back and stays so: over resync passes and a new hub, until there is a newer commit."""

import os
from itertools import pairwise

from tests.flows.fleet import Fleet, agent_text, eventually
from tests.flows.test_alerts import get
from tests.flows.test_hub import audit, containers, running, settled

SAYS = {text: f'[python3, "-c", "print({text!r})"]' for text in ("good", "bad", "better")}
BY = ("--as", "alice", "--reason", "it answers nobody")


def files(says: str, other: str = "good") -> dict[str, str]:
    return {
        "agents.d/a.yaml": agent_text("a", argv=SAYS[says].replace("'", "")),
        "agents.d/b.yaml": agent_text("b", argv=SAYS[other].replace("'", "")),
    }


def revisions(fleet: Fleet) -> dict[str, str]:
    """Revision by agent, of those that are at work."""
    found = fleet.state()["instances"]
    return {i["agent"]: i["revision"] for i in found if i["phase"] == "executing"}


def conditions(fleet: Fleet) -> dict[str, str]:
    return {f"{c['subject']} {c['type']}": c["message"] for c in fleet.state()["conditions"]}


def pass_resyncs(fleet: Fleet, count: int) -> None:
    """Wait until so many more passes have ended, which nothing asked for."""
    ages = [age(fleet)]

    def has_passed() -> bool:
        ages.append(age(fleet))
        return sum(after < before for before, after in pairwise(ages)) >= count

    eventually(has_passed)


def age(fleet: Fleet) -> float:
    """Seconds since the last pass ended."""
    (line,) = [x for x in get(fleet, "/metrics")[1].splitlines() if x.startswith("reconciler_pass_age_seconds ")]
    return float(line.split()[1])


def test_a_bad_commit_is_rolled_back_and_stays_so_until_there_is_a_newer_one(fleet: Fleet) -> None:
    good = fleet.commit(files("good"))
    with running(fleet):
        eventually(lambda: settled(fleet))
        bad = fleet.commit(files("bad"))
        eventually(lambda: revisions(fleet).get("a") == bad)
        answer = fleet.call("rollback", "--to", "HEAD~1", *BY, *fleet.places)
        assert answer.code == 0, answer
        assert answer.out == f"fleet goes back to {good[:12]}; {bad[:12]} is skipped until there is a newer commit\n"
        eventually(lambda: revisions(fleet).get("a") == good)
        before = containers(fleet)
        pass_resyncs(fleet, 3)
        assert (containers(fleet), fleet.state()["revision"]) == (before, good)
        never = fleet.call("wait", "--for", f"revision={bad}", *fleet.places)
        assert never.code != 0
        assert "is not applied: the fleet is rolled back to" in never.out + never.err
    with running(fleet):
        eventually(lambda: get(fleet, "/readyz")[0] == 200)
        pass_resyncs(fleet, 2)
        assert (containers(fleet), fleet.state()["revision"]) == (before, good)
        assert conditions(fleet)["hub RolledBack"] == (
            f"rolled back to {good[:12]} by uid:{os.getuid()} (alice): it answers nobody; "
            f"{bad[:12]} is skipped until there is a newer commit"
        )
        planned = fleet.call("plan", *fleet.places)
        assert planned.code == 0, planned
        assert f"note: rolled back to {good[:12]}" in planned.out
        explained = fleet.call("explain", "agent/a", *fleet.places)
        assert "rolled back" in explained.out
        newer = fleet.commit(files("better"))
        eventually(lambda: revisions(fleet).get("a") == newer)
        assert fleet.call("wait", "--for", "converged", *fleet.places).code == 0
        assert "hub RolledBack" not in conditions(fleet)
    done = [(r["action"], r["actor"].split(" ")[0]) for r in audit(fleet) if r["action"].startswith("rollback")]
    assert done == [("rollback", f"uid:{os.getuid()}"), ("rollback-end", "Tester")]
    accepted = [r["name"] for r in audit(fleet) if r["action"] == "accept"]
    assert accepted == [good, bad, good, newer]
    verified = fleet.call("audit", "verify", *fleet.places)
    assert verified.code == 0, verified


def test_one_agent_goes_back_while_the_other_follows_and_a_person_ends_it(processes: Fleet) -> None:
    fleet = processes
    good = fleet.commit(files("good"))
    with running(fleet):
        eventually(lambda: settled(fleet))
        bad = fleet.commit(files("bad", "better"))
        eventually(lambda: revisions(fleet) == {"a": bad, "b": bad})
        assert fleet.call("rollback", "agent/a", "--to", good[:10], *BY, *fleet.places).code == 0
        eventually(lambda: revisions(fleet) == {"a": good, "b": bad})
    once = fleet.apply()
    assert once.code == 2, once
    assert revisions(fleet) == {"a": good, "b": bad}
    with running(fleet):
        eventually(lambda: get(fleet, "/readyz")[0] == 200)
        assert fleet.call("rollback", "agent/a", "--clear", *BY, *fleet.places).out == (
            "agent/a is as the source says again\n"
        )
        eventually(lambda: revisions(fleet) == {"a": bad, "b": bad})
        assert fleet.call("wait", "--for", "converged", *fleet.places).code == 0
    assert fleet.apply().code == 0


def test_what_cannot_be_rolled_back_is_said_and_nothing_is_done(processes: Fleet) -> None:
    fleet = processes
    fleet.commit({"agents.d/a.yaml": "nonsense: true"})
    good = fleet.commit(files("good"))
    assert fleet.call("rollback", "--to", good, *fleet.places).code == 64
    with running(fleet):
        eventually(lambda: settled(fleet))
        for to, said in (
            ("f" * 40, "there is no revision"),
            ("nowhere", "there is no revision 'nowhere'"),
            ("--upload-pack=touch", "write a commit id, a branch, a tag, or HEAD~1"),
            ("HEAD", "is the newest revision"),
            ("HEAD~1", "problem"),
        ):
            answer = fleet.call("rollback", f"--to={to}", *BY, *fleet.places)
            assert answer.code == 64, answer
            assert said in answer.err
    assert fleet.state()["rollbacks"] == []
    assert fleet.state()["revision"] == good


def test_with_revert_git_says_so_too_and_the_rollback_is_over(processes: Fleet) -> None:
    fleet = processes
    good = fleet.commit(files("good"))
    with running(fleet):
        eventually(lambda: settled(fleet))
        bad = fleet.commit(files("bad", "better"))
        eventually(lambda: revisions(fleet) == {"a": bad, "b": bad})
        agent = fleet.repository / "agents.d/a.yaml"
        agent.write_text(agent.read_text() + "# mine\n")
        dirty = fleet.call("rollback", "agent/a", "--to", good, "--revert", *BY, *fleet.places)
        assert dirty.code == 1
        assert "no revert commit was made" in dirty.err
        assert "changes that are not committed: agents.d/a.yaml" in dirty.err
        assert f"  git restore --source={good} --staged --worktree -- agents.d/a.yaml\n" in dirty.out
        eventually(lambda: revisions(fleet) == {"a": good, "b": bad})
        before = containers(fleet)
        fleet.git("checkout", "-q", "--", "agents.d/a.yaml")
        answer = fleet.call("rollback", "agent/a", "--to", good, "--revert", *BY, *fleet.places)
        assert answer.code == 0, answer
        head = fleet.git("rev-parse", "HEAD").strip()
        assert f"reverted on main by commit {head[:12]}" in answer.out
        eventually(lambda: fleet.state()["revision"] == head)
        eventually(lambda: fleet.state()["rollbacks"] == [])
        assert containers(fleet) == before
    subject = fleet.git("log", "-1", "--format=%an: %s").strip()
    assert subject == f"alice: Revert agent/a to {good[:12]}: it answers nobody"
    assert fleet.git("diff", "--stat", bad, "HEAD", "--", "agents.d/b.yaml") == ""
