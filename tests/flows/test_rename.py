"""An agent under another name: what it wrote into its workspace is there for the new one."""

import json

from tests.flows.fleet import Fleet, agent_text, task_text

VOLUME = "  workspace: {source: volume, writable: true}\n"


def agent(name: str, program: str) -> str:
    """The same but for its name: what it does goes by the file that it finds in its workspace."""
    return agent_text(name, argv=json.dumps(["python3", "-c", program]), more=VOLUME)


ADD_A_LETTER = "f = open('note', 'a+'); f.write('x'); f.seek(0); print(len(f.read()))"


def test_a_renamed_agent_finds_what_it_wrote_under_its_old_name(fleet: Fleet) -> None:
    fleet.commit({"agents.d/a.yaml": agent("old", ADD_A_LETTER), "tasks.d/t.yaml": task_text("first", "old")})
    answer = fleet.apply("--tasks")
    assert answer.code == 0, answer
    fleet.commit({"agents.d/a.yaml": agent("new", ADD_A_LETTER), "tasks.d/t.yaml": task_text("second", "new")})
    planned = fleet.call("plan", *fleet.places)
    assert "agent/old → agent/new" in planned.out, planned
    assert "with the workspaces that they had" in planned.out
    answer = fleet.apply("--tasks")
    assert answer.code == 0, (answer, fleet.evidence())
    note = fleet.data / "instances/new-0/workspace/note"
    assert note.read_text() == "xx"
    assert not (fleet.data / "instances/old-0").exists()
    assert fleet.check() == []
