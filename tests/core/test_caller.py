"""Who asks, and why: what is proven stands first, and what is said is one short line."""

import pytest

from reconciler.core.caller import Caller, caller_of_uid, name_caller


def test_what_is_proven_stands_before_what_is_said() -> None:
    assert str(caller_of_uid(0, "alice")) == "uid:0 (alice)"
    assert str(caller_of_uid(1000)) == "uid:1000"
    assert str(name_caller("token:ci", "nightly build")) == "token:ci (nightly build)"


def test_a_name_cannot_take_the_place_of_what_is_proven() -> None:
    with pytest.raises(ValueError, match="the name must have no brackets"):
        caller_of_uid(7, "uid:0) (root")


def test_the_reason_stands_behind_what_all_rows_begin_with() -> None:
    assert caller_of_uid(0, "alice", " it leaks ").asked == "asked for: it leaks"
    assert caller_of_uid(0).asked == "asked for"


@pytest.mark.parametrize(
    ("proven", "uid"), [("uid:0", 0), ("uid:1000", 1000), ("token:7", None), ("7", None), ("uid:x", None)]
)
def test_the_user_is_known_only_where_it_was_proven(proven: str, uid: int | None) -> None:
    assert Caller(proven=proven).uid == uid


@pytest.mark.parametrize("text", ["two\nlines", "bell\a", "\x1b[31mred", "tab\tbed", "line\u2028two", "\u202eback"])
def test_what_does_not_print_on_one_line_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="the name must be one line of at most 100 characters"):
        caller_of_uid(0, text)
    with pytest.raises(ValueError, match="the reason must be one line of at most 500 characters"):
        caller_of_uid(0, "alice", text)


def test_lengths_are_bounded() -> None:
    assert len(str(caller_of_uid(0, "x" * 100, "y" * 500))) == len("uid:0 ()") + 100
    with pytest.raises(ValueError, match="the name"):
        caller_of_uid(0, "x" * 101)
    with pytest.raises(ValueError, match="the reason"):
        caller_of_uid(0, "x", "y" * 501)
