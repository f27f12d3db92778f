"""Remembering ids."""

from reconciler.router.seen import SeenIds


def test_an_accepted_id_is_remembered_until_its_time() -> None:
    seen = SeenIds()
    assert seen.begin("a", 0) == "new"
    seen.accept("a", 10)
    assert seen.begin("a", 9) == "accepted"
    assert seen.begin("a", 10) == "new"


def test_an_id_on_its_way_is_pending_and_forgotten_when_it_is_refused() -> None:
    seen = SeenIds()
    seen.begin("a", 0)
    assert seen.begin("a", 0) == "pending"
    seen.forget("a")
    assert seen.begin("a", 0) == "new"


def test_forgetting_does_not_touch_what_was_accepted() -> None:
    seen = SeenIds()
    seen.begin("a", 0)
    seen.accept("a", 10)
    seen.forget("a")
    assert seen.begin("a", 1) == "accepted"


def test_it_is_bounded_and_the_oldest_go_first() -> None:
    seen = SeenIds()
    for n in range(10_001):
        seen.begin(str(n), 0)
        seen.accept(str(n), 100)
    assert seen.begin("10000", 1) == "accepted"
    assert seen.begin("0", 1) == "new"
