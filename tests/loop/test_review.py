"""A review: changes that say the same share a line, and one number says how it ends."""

from reconciler.core.change import Action, Change
from reconciler.core.plan import Plan, Refusal
from reconciler.core.problem import Problem
from reconciler.loop.review import Review, compare_settings, find_places, gather, problem_review
from tests.fakes.desired import desired_of
from tests.fakes.texts import agent_text, hub_text, task_text


def change(instance: str | None = None, action: Action = Action.REPLACE, reason: str = "changed in git") -> Change:
    return Change(kind="agent", name="writer", action=action, reason=reason, instance=instance)


def review(*changes: Change, **parts: object) -> Review:
    return Review(plan=Plan(revision="r2", compared_with="base", changes=changes, **parts))  # type: ignore[arg-type]


def test_what_is_alike_is_one_line() -> None:
    lines = gather([change("writer-0"), change("writer-1"), change("writer-2", reason="waits")])
    assert [line.subject for line in lines] == ["agent/writer (2 instances)", "agent/writer-2"]
    assert [line.subject for line in gather([change("writer-0")])] == ["agent/writer-0"]
    assert [line.subject for line in gather([change()])] == ["agent/writer"]


def test_the_exit_code_goes_by_the_worst() -> None:
    refused = (Refusal(guard="protect", reason="no"),)
    problems = (Problem(file="hub.yaml", message="no"),)
    kept, held = change(action=Action.KEEP), change(action=Action.HOLD)
    found = [review(kept, held), problem_review(problems), review(change()), review(change(), refused=refused)]
    assert [r.exit_code for r in found] == [0, 1, 2, 3]
    assert review(change(), refused=refused, problems=problems).exit_code == 1


def test_settings_are_compared_in_the_words_of_hub_yaml() -> None:
    before = desired_of({"hub.yaml": hub_text()})
    after = desired_of({"hub.yaml": hub_text(router={"maxBody": "2MiB"})})
    assert [(f.path, f.after) for f in compare_settings(before, after)] == [("router.maxBody", 2 * 2**20)]
    assert compare_settings(before, before) == ()


def test_places_are_those_of_the_later_revision() -> None:
    before = desired_of({"agents.d/a.yaml": agent_text(), "agents.d/b.yaml": agent_text("gone")})
    two = f"{agent_text('first')}---\n{agent_text()}"
    after = desired_of(
        {"agents.d/c.yaml": two, "tasks.d/t.yaml": task_text(), "schemas/messages/a.b.schema.json": "{}"}
    )
    places = find_places(None, before, after)
    assert places["agent", "writer"] == ("agents.d/c.yaml", two.splitlines().index("---") + 4)
    assert places["agent", "gone"] == ("agents.d/b.yaml", 1)
    assert places["schema", "a.b"] == ("schemas/messages/a.b.schema.json", 1)
    assert review().place("router", "router") == ("hub.yaml", 1)
