"""The mailbox, with time as a number."""

from hypothesis import given
from hypothesis import strategies as st

from reconciler.router.mailbox import MAX_TAKE_BYTES, Letter, Mailbox

LEASE_S = 30.0


def filled(*bodies: bytes, expires_at: float = 1000.0) -> Mailbox:
    mailbox = Mailbox("k")
    for body in bodies:
        mailbox.put(Letter(body, expires_at, "id", "writer-0"))
    return mailbox


def take(mailbox: Mailbox, now: float, count: int = 100) -> tuple[list[bytes], str]:
    batch = mailbox.take(now, count=count, lease_s=LEASE_S)
    return [letter.body for letter in batch.letters], batch.cursor


def test_messages_come_in_order_and_once_while_leased() -> None:
    mailbox = filled(b"1", b"2", b"3")
    assert take(mailbox, 0, count=2) == ([b"1", b"2"], "k.2")
    assert take(mailbox, 1) == ([b"3"], "k.3")
    assert take(mailbox, 2) == ([], "k.3")
    assert len(mailbox) == 3


def test_what_is_not_acknowledged_comes_again_in_its_old_place() -> None:
    mailbox = filled(b"1", b"2")
    take(mailbox, 0)
    mailbox.put(Letter(b"3", 1000.0, "id", "writer-0"))
    assert mailbox.next_return() == LEASE_S
    assert take(mailbox, LEASE_S) == ([b"1", b"2", b"3"], "k.3")


def test_acknowledging_a_cursor_drops_all_that_was_handed_out_up_to_it() -> None:
    mailbox = filled(b"1", b"2", b"3")
    _, cursor = take(mailbox, 0, count=2)
    assert mailbox.acknowledge(cursor)
    assert (len(mailbox), mailbox.size_bytes) == (1, 1)
    assert take(mailbox, LEASE_S + 1) == ([b"3"], "k.3")


def test_a_late_acknowledgement_still_counts() -> None:
    mailbox = filled(b"1")
    _, cursor = take(mailbox, 0)
    mailbox.purge(LEASE_S + 1)
    assert mailbox.acknowledge(cursor)
    assert take(mailbox, LEASE_S + 2)[0] == []


def test_a_cursor_never_acknowledges_what_was_not_handed_out() -> None:
    mailbox = filled(b"1", b"2")
    take(mailbox, 0, count=1)
    assert mailbox.acknowledge("k.99")
    assert take(mailbox, 1) == ([b"2"], "k.2")


def test_a_cursor_of_another_mailbox_acknowledges_nothing() -> None:
    mailbox = filled(b"1")
    take(mailbox, 0)
    assert mailbox.acknowledge("other.1")
    assert len(mailbox) == 1


def test_what_is_no_cursor_is_said_to_be_none() -> None:
    for text in ("", "k", "k.", "k.x", "k.-1", "k.1.2", "k." + "9" * 30, "k.²"):
        assert not filled(b"1").acknowledge(text)


def test_a_message_past_its_time_is_not_handed_out() -> None:
    mailbox = filled(b"1", expires_at=10)
    mailbox.put(Letter(b"2", 20, "id", "writer-0"))
    batch = mailbox.take(10, count=5, lease_s=LEASE_S)
    assert ([x.body for x in batch.letters], [x.body for x in batch.expired]) == ([b"2"], [b"1"])
    assert mailbox.size_bytes == 1


def test_purging_drops_the_expired_but_not_what_a_reader_holds() -> None:
    mailbox = filled(b"1", b"2", expires_at=10)
    take(mailbox, 0, count=1)
    assert [letter.body for letter in mailbox.purge(11)] == [b"2"]
    assert len(mailbox) == 1
    assert [letter.body for letter in mailbox.purge(LEASE_S + 1)] == [b"1"]
    assert (len(mailbox), mailbox.size_bytes) == (0, 0)


def test_draining_leaves_what_a_reader_holds() -> None:
    mailbox = filled(b"1", b"22", b"333")
    take(mailbox, 0, count=1)
    assert [letter.body for letter in mailbox.drain()] == [b"22", b"333"]
    assert (len(mailbox), mailbox.size_bytes) == (1, 1)
    assert mailbox.drain() == []


def test_it_is_bounded_by_messages_and_by_bytes() -> None:
    mailbox = Mailbox("k")
    assert mailbox.reserve(5, messages=2, bytes_=10)
    assert not mailbox.reserve(6, messages=2, bytes_=10)
    assert mailbox.reserve(5, messages=2, bytes_=10)
    assert not mailbox.reserve(0, messages=2, bytes_=10)
    mailbox.release(5)
    assert mailbox.reserve(5, messages=2, bytes_=10)


def test_one_poll_takes_a_bounded_number_of_bytes_but_always_one_message() -> None:
    big = b"x" * (MAX_TAKE_BYTES + 1)
    mailbox = filled(big, b"2", b"x" * (MAX_TAKE_BYTES - 1), b"4")
    assert take(mailbox, 0)[0] == [big]
    assert take(mailbox, 0)[0] == [b"2", b"x" * (MAX_TAKE_BYTES - 1)]
    assert take(mailbox, 0)[0] == [b"4"]


def test_a_notice_takes_the_place_of_older_ones_and_calls_nobody() -> None:
    mailbox = Mailbox("k")
    for body, notice in ((b"old", "policy"), (b"work", ""), (b"other", "weather"), (b"new", "policy")):
        mailbox.put(Letter(body, 1000.0, "id", "hub", notice=notice))
    assert (len(mailbox), mailbox.calls, mailbox.size_bytes) == (3, 1, len(b"workothernew"))
    taken, cursor = take(mailbox, 0)
    assert (taken, mailbox.calls) == ([b"work", b"other", b"new"], 1)
    mailbox.put(Letter(b"newer", 1000.0, "id", "hub", notice="policy"))
    assert (len(mailbox), mailbox.calls) == (4, 1)
    mailbox.acknowledge(cursor)
    assert (take(mailbox, 1)[0], mailbox.calls, len(mailbox)) == ([b"newer"], 0, 1)
    mailbox.acknowledge("k.99")
    assert (mailbox.size_bytes, mailbox.calls) == (0, 0)
    mailbox.put(Letter(b"work", 1000.0, "id", "w"))
    assert mailbox.calls == 1


steps = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(1, 50)),
        st.tuples(st.just("take"), st.integers(1, 3)),
        st.tuples(st.just("ack"), st.integers(0, 20)),
        st.tuples(st.just("wait"), st.integers(1, 40)),
        st.tuples(st.just("purge"), st.just(0)),
    ),
    max_size=60,
)


@given(steps)
def test_nothing_is_lost_or_handed_out_twice_under_a_lease(todo: list[tuple[str, int]]) -> None:
    mailbox, now, put = Mailbox("k"), 0.0, 0
    leased: dict[int, float] = {}
    acknowledged = 0
    handed_out = 0
    for step, n in todo:
        match step:
            case "put":
                put += 1
                mailbox.put(Letter(b"%d" % put, 1e9, str(put), "w"))
            case "take":
                batch = mailbox.take(now, count=n, lease_s=LEASE_S)
                for letter in batch.letters:
                    number = int(letter.message_id)
                    assert leased.get(number, -1) <= now
                    assert number > acknowledged
                    leased[number] = now + LEASE_S
                    handed_out = max(handed_out, number)
            case "ack":
                mailbox.acknowledge(f"k.{n}")
                acknowledged = max(acknowledged, min(n, handed_out))
            case "wait":
                now += n
            case _:
                mailbox.purge(now)
        assert len(mailbox) == put - acknowledged
        assert mailbox.size_bytes == sum(len(b"%d" % i) for i in range(acknowledged + 1, put + 1))
