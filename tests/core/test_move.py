"""What goes under one name and comes under another with the same specification is one move."""

from reconciler.core.change import Action, Change
from reconciler.core.move import Move, find_moves, moved


def change(
    name: str, action: Action, digest: str = "1:a", *, kind: str = "agent", instance: str | None = None
) -> Change:
    return Change(kind=kind, name=name, action=action, reason="", spec_digest=digest, instance=instance)


def test_the_same_spec_under_another_name_is_a_move() -> None:
    changes = [
        change("old", Action.REMOVE, instance="old-0"),
        change("old", Action.REMOVE, instance="old-1"),
        change("new", Action.CREATE, instance="new-0"),
        change("new", Action.CREATE, instance="new-1"),
    ]
    (move,) = find_moves(changes)
    assert move == Move(kind="agent", before="old", after="new")
    assert move.reason == "the same spec under another name; its instances are made anew"
    assert moved([move]) == {("agent", "old"), ("agent", "new")}


def test_an_instance_that_is_drained_before_it_goes_moves_too() -> None:
    draining = Change(
        kind="agent", name="old", action=Action.UPDATE, towards=Action.REMOVE, reason="", spec_digest="1:a"
    )
    assert find_moves([draining, change("new", Action.CREATE)]) == (Move(kind="agent", before="old", after="new"),)


def test_one_that_waits_for_the_other_keeps_its_files() -> None:
    waiting = Change(
        kind="agent", name="new", action=Action.HOLD, towards=Action.CREATE, reason="", spec_digest="1:a", wait_s=1.0
    )
    (move,) = find_moves([change("old", Action.REMOVE), waiting])
    assert move == Move(kind="agent", before="old", after="new", keeps_files=True)
    assert move.reason.endswith("its instances are made anew, with the workspaces that they had")


def test_another_spec_another_kind_or_no_digest_is_no_move() -> None:
    assert find_moves([change("old", Action.REMOVE), change("new", Action.CREATE, "1:b")]) == ()
    assert find_moves([change("old", Action.REMOVE), change("new", Action.CREATE, kind="task")]) == ()
    assert find_moves([change("old", Action.REMOVE, ""), change("new", Action.CREATE, "")]) == ()


def test_a_name_of_which_something_stays_does_not_move() -> None:
    scaled = [change("old", Action.KEEP, instance="old-0"), change("old", Action.REMOVE, instance="old-1")]
    assert find_moves([*scaled, change("new", Action.CREATE)]) == ()
    run_again = [change("job", Action.CANCEL, kind="task"), change("job", Action.CREATE, kind="task")]
    assert find_moves(run_again) == ()


def test_several_of_one_spec_are_paired_by_name_and_the_rest_is_no_move() -> None:
    changes = [change(n, Action.REMOVE) for n in ("b", "a", "c")] + [change(n, Action.CREATE) for n in ("y", "x")]
    assert [(m.before, m.after) for m in find_moves(changes)] == [("a", "x"), ("b", "y")]
    assert find_moves(reversed(changes)) == find_moves(changes)
