"""Tasks from one end to the other on real processes: acceptance with a remedy, schedules, keys, and why one waits."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.flows.clock import Clock
from tests.flows.fleet import Fleet, agent_text, eventually, make_fleet, task_text

WRITER = """
import json, os, sys
given = json.load(sys.stdin)
open(os.path.join(os.environ["HUB_OUTPUT"], "report.md"), "w").write("# Report")
print(json.dumps({"title": "Good" if "remediation" in given else "bad", "given": given}))
"""
CHECK = """
import json, sys
given = json.load(sys.stdin)
sys.exit(0 if given["artefacts"][0]["text"] == "# Report" and given["input"]["value"] == 3 else "no report")
"""
REVIEWER = """
import json, sys
given = json.load(sys.stdin)
print(json.dumps({"accept": given["result"]["title"] == "Good", "reason": "it is not Good"}))
"""
SCHEMA = json.dumps({"type": "object", "required": ["title", "given"]})


def program(text: str) -> str:
    return json.dumps(["python3", "-c", text])


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    made = make_fleet("process")
    yield made
    made.destroy()


@contextmanager
def running(fleet: Fleet, clock: Clock | None = None) -> Iterator[None]:
    clock = clock or Clock(fleet.folder / "clock")
    hub = fleet.start("run", *fleet.places, *fleet.permission, env=clock.environment, program=clock.program)
    try:
        eventually(lambda: fleet.call("status", *fleet.places).code == 0)
        yield
    finally:
        hub.terminate()
        hub.communicate(timeout=180)


def test_a_result_is_checked_in_every_way_and_done_again_until_it_passes(fleet: Fleet) -> None:
    acceptance = f"""\
  output: {{artefacts: ["*.md"], schema: schemas/report.schema.json}}
  acceptance:
    - {{regex: '"title":'}}
    - {{command: {program(CHECK)}}}
    - {{agent: reviewer, prompt: "Is it good?"}}
"""
    fleet.commit(
        {
            "agents.d/writer.yaml": agent_text("writer", argv=program(WRITER)),
            "agents.d/reviewer.yaml": agent_text("reviewer", argv=program(REVIEWER)),
            "schemas/report.schema.json": SCHEMA,
            "tasks.d/t.yaml": task_text("report", "writer", value=3, more=acceptance),
        }
    )
    answer = fleet.call("run", "--once", *fleet.places, *fleet.permission)
    assert answer.code == 0, answer
    shown = json.loads(fleet.call("task", "show", "report", *fleet.places, "-o", "json").out)
    assert (shown["state"], shown["attempts"]) == ("succeeded", 2), fleet.evidence()
    assert [e["outcome"] for e in shown["executions"]] == ["not_accepted", "succeeded"]
    assert shown["executions"][0]["reason"] == "not accepted: verdict of reviewer: it is not Good"
    assert shown["result"]["given"]["remediation"]["result"]["title"] == "bad"
    assert [c["accept"] for c in shown["checks"]] == [True] * 4
    fetched = fleet.call("task", "show", "report", "--artefact", "report.md", *fleet.places)
    assert fetched.out == "# Report"


def test_the_same_key_is_the_same_run_and_a_task_that_waits_says_why(fleet: Fleet) -> None:
    fleet.commit(
        {
            "agents.d/a.yaml": agent_text("a"),
            "tasks.d/s.yaml": task_text("weekly", "a", more='  schedule: {cron: "0 6 * * 1", zone: Europe/Berlin}\n'),
        }
    )
    job = fleet.folder / "job.yaml"
    job.write_text(task_text("job", "a", more="  dependsOn: [later]\n"))

    def listed() -> str:
        return fleet.call("task", "list", *fleet.places).out

    def explained(name: str) -> str:
        return fleet.call("explain", f"task/{name}", *fleet.places).out

    with running(fleet):
        eventually(lambda: "weekly" in listed())
        first = fleet.call("task", "submit", str(job), "--key", "k 1", *fleet.places, "-o", "json")
        again = fleet.call("task", "submit", str(job), "--key", "k 1", *fleet.places, "-o", "json")
        assert first.code == 0, first
        assert json.loads(first.out)["run"] == json.loads(again.out)["run"]
        job.write_text(task_text("job", "a", value=9))
        refused = fleet.call("task", "submit", str(job), "--key", "k 1", *fleet.places)
        assert (refused.code, "was used for another manifest" in refused.err) == (64, True)
        eventually(lambda: "is not running, it is authorised: waiting for later." in explained("job"))
        assert "runs by its schedule: due next at 20" in explained("weekly")
        assert re.search(r"weekly +0 6 \* \* 1 +Europe/Berlin +20\d\d-\d\d-\d\d 06:00", listed())
    assert "and no hub runs to go on with it." in explained("job")


def test_a_schedule_makes_one_run_a_minute_and_none_of_it_twice_over_a_restart(fleet: Fleet) -> None:
    every = task_text("tick", "a", more='  schedule: {cron: "* * * * *"}\n')
    fleet.commit({"agents.d/a.yaml": agent_text("a"), "tasks.d/s.yaml": every})

    def runs() -> list[tuple[str, str]]:
        return [(t["due"], t["state"]) for t in fleet.state()["tasks"]]

    clock = Clock(fleet.folder / "clock")
    with running(fleet, clock):
        eventually(lambda: [i["phase"] for i in fleet.state()["instances"]] == ["executing"])
        let_the_minute_end(clock)
        eventually(lambda: any(state == "succeeded" for _, state in runs()), within_s=240)
    before = runs()
    with running(fleet, clock):
        eventually((fleet.run / "api.sock").exists)
        let_the_minute_end(clock)
        eventually(lambda: len(runs()) > len(before) and runs()[-1][1] == "succeeded", within_s=240)
    assert len({due for due, _ in runs()}) == len(runs())


def let_the_minute_end(clock: Clock) -> None:
    """Three seconds from now."""
    clock.set(clock.offset_s + (57 - int(clock.now())) % 60)
