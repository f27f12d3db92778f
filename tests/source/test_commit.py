"""Reading raw commits, well formed and not."""

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from reconciler.ports import Revision
from reconciler.source.commit import parse_commit


def test_author_subject_and_the_time_of_the_committer_are_taken() -> None:
    text = (
        b"tree 1\nparent 2\nauthor A B <a@b> 1 +0000\ncommitter C <c@d> 3600 +0200\n"
        b"gpgsig -----BEGIN\n author Evil <e@f> 5 +0000\n\nSubject line\n\nauthor X <x@y> 9 +0000\n"
    )
    assert parse_commit("1" * 40, text) == Revision(
        id="1" * 40,
        author="A B <a@b>",
        subject="Subject line",
        time=datetime(1970, 1, 1, 1, tzinfo=UTC),
    )


def test_the_first_author_counts() -> None:
    text = b"tree 1\nauthor A <a> 1 +0000\nauthor B <b> 1 +0000\n\nx"
    assert parse_commit("1", text).author == "A <a>"


def test_another_encoding_is_decoded() -> None:
    text = b"author J\xfcrgen <j> 1 +0000\nencoding latin-1\n\ngr\xfc\xdfe"
    revision = parse_commit("1", text)
    assert (revision.author, revision.subject) == ("Jürgen <j>", "grüße")
    for encoding in (b"nosuch", b"hex", b"a\0b"):
        replaced = text.replace(b"latin-1", encoding)
        assert parse_commit("1", replaced).author == "J\ufffdrgen <j>"


def test_impossible_times_are_left_out() -> None:
    assert parse_commit("1", b"committer A <a> 999999999999999 +0000\n\n").time is None
    assert parse_commit("1", b"committer A <a> soon\n\n").time is None


@given(st.binary(max_size=300))
def test_any_bytes_make_a_revision_that_prints(text: bytes) -> None:
    revision = parse_commit("1", text)
    assert (revision.author + revision.subject).isprintable()


def test_a_long_subject_is_cut() -> None:
    assert len(parse_commit("1", b"tree 1\n\n" + b"x" * 10_000).subject) == 500
