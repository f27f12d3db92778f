"""What a rollback says of itself, and which changes it is about."""

from reconciler.core.change import Action, Change
from reconciler.core.rollback import Rollback

OF_FLEET = Rollback(subject="fleet", to="a" * 40, since="b" * 40, reason="why", actor="uid:0 (alice)", at="")
OF_WRITER = Rollback(subject="agent/writer", to="a" * 40, since="b" * 40, actor="hub", at="")


def change(kind: str, name: str) -> Change:
    return Change(kind=kind, name=name, instance=f"{name}-0", action=Action.KEEP, reason="as in git")


def test_it_says_who_why_and_what_ends_it() -> None:
    assert str(OF_FLEET) == "rolled back to aaaaaaaaaaaa by uid:0 (alice): why"
    assert OF_FLEET.ends == "bbbbbbbbbbbb is skipped until there is a newer commit"
    assert str(OF_WRITER) == "rolled back to aaaaaaaaaaaa by hub"
    assert OF_WRITER.ends == "until a commit changes agent/writer"


def test_that_of_the_fleet_is_about_all_and_that_of_a_resource_about_its_instances() -> None:
    assert OF_FLEET.covers(change("router", "router"))
    assert OF_WRITER.covers(change("agent", "writer"))
    assert not OF_WRITER.covers(change("agent", "writer-2"))
    assert not OF_WRITER.covers(change("task", "writer"))


def test_what_the_hub_does_by_itself_nobody_asked_for() -> None:
    assert OF_FLEET.is_asked
    assert not OF_WRITER.is_asked
