"""What happened because of a commit, to an agent, with a task, in a span of time: by whatever word names it."""

from collections.abc import Iterator
from datetime import datetime, timedelta

import pytest

from reconciler.audit.account import Account, Archive, Messages, give_account
from reconciler.errors import UsageError
from reconciler.router.traffic import Row, TrafficDatabase
from tests.audit.books import Books
from tests.fakes.clock import START
from tests.fakes.fleet import FLEET
from tests.fakes.texts import agent_text, hub_text, task_text


@pytest.fixture(scope="module")
def books(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Books]:
    """A first commit with a task, and an hour later a second one with another agent. Messages in both hours."""
    made = Books(tmp_path_factory.mktemp("account"))
    files = {"hub.yaml": hub_text(), "agents.d/writer.yaml": agent_text(), "tasks.d/changelog.yaml": task_text()}
    made.repo.commit(files, "First\n\nReviewed-by: Bob <bob@example.org>")
    made.settle()
    made.fleet.clock.advance(3600)
    made.repo.commit({"agents.d/reviewer.yaml": agent_text("reviewer")}, "Second")
    made.settle()
    traffic = TrafficDatabase(made.fleet.folder / "traffic.db")
    traffic.commit([_message("writer", 1), _message("writer", 1), _message("reviewer", 3610, verdict="deny")], [])
    traffic.close()
    yield made
    made.kill()


def _message(agent: str, after_s: float, verdict: str = "allow") -> Row:
    return Row(
        time=START.timestamp() + after_s,
        instance=f"{agent}-0",
        agent=agent,
        verdict=verdict,  # type: ignore[arg-type]
        code="forbidden" if verdict == "deny" else None,
        type="note",
        recipient="hub",
        policy_revision="p1",
    )


def ask(books: Books, what: str, now: datetime = START + timedelta(hours=2)) -> Account:
    archive = Archive(
        store=books.fleet.store, traffic=books.fleet.folder / "traffic.db", ledger=books.ledger, fleet=FLEET
    )
    return give_account(archive, what, now)


def commits(books: Books) -> list[str]:
    """Oldest first."""
    return books.repo.git("rev-list", "--reverse", "main").split()


def counted(account: Account) -> dict[str, int]:
    return {message.agent: message.count for message in account.messages}


def test_a_commit_is_shown_with_its_diff_its_people_its_note_and_what_was_done(books: Books) -> None:
    first, second = commits(books)
    account = ask(books, second[:10])
    assert account.commit is not None
    assert account.commit.revision.subject == "Second"
    assert account.base == first
    assert "+++ b/agents.d/reviewer.yaml" in account.diff
    assert "changelog" not in account.diff
    assert account.note is not None
    assert account.note.commit == second
    assert {row.entry.revision for row in account.rows} == {second}
    assert ("reviewer-0", "create", "applied") in {
        (r.entry.name, r.entry.action, r.entry.outcome) for r in account.rows
    }


def test_only_the_messages_of_its_own_time_are_counted_with_a_commit(books: Books) -> None:
    first, second = commits(books)
    assert counted(ask(books, first)) == {"writer": 2}
    assert ask(books, second).messages == (
        Messages(
            count=1,
            verdict="deny",
            agent="reviewer",
            type="note",
            recipient="hub",
            code="forbidden",
            policy_revision="p1",
        ),
    )
    assert "p1" in ask(books, second).policies


def test_the_first_commit_is_compared_with_nothing_and_names_who_approved_it(books: Books) -> None:
    account = ask(books, commits(books)[0])
    assert account.base == ""
    assert "+++ b/hub.yaml" in account.diff
    assert account.commit is not None
    assert account.commit.approvals == ("Reviewed-by: Bob <bob@example.org>",)


@pytest.mark.parametrize("what", ["writer", "writer-0", "agent/writer"])
def test_an_agent_is_shown_by_its_rows_and_messages(books: Books, what: str) -> None:
    account = ask(books, what)
    assert {row.entry.name for row in account.rows} == {"writer-0"}
    assert counted(account) == {"writer": 2}
    assert account.commit is None


@pytest.mark.parametrize("what", ["changelog", "task/changelog"])
def test_a_task_is_shown_by_its_rows(books: Books, what: str) -> None:
    account = ask(books, what)
    assert {(row.entry.kind, row.entry.name) for row in account.rows} == {("task", "changelog")}
    assert {row.entry.action for row in account.rows} >= {"create", "authorise", "dispatch", "task.completed"}


def test_a_span_of_time_has_its_rows_and_messages(books: Books) -> None:
    since = START + timedelta(minutes=30)
    account = ask(books, f"{since.isoformat()}..")
    assert {row.entry.revision for row in account.rows} == {commits(books)[1]}
    assert counted(account) == {"reviewer": 1}
    assert ask(books, "2026-01-02").rows == ()
    assert len(ask(books, "3h").rows) == len(ask(books, "2026-01-01").rows)


def test_a_commit_that_was_never_in_force_says_so(books: Books) -> None:
    books.repo.git("switch", "--quiet", "-c", "idea")
    books.repo.commit({"hub.yaml": "nonsense"}, "Idea")
    books.repo.git("switch", "--quiet", "main")
    account = ask(books, "idea")
    assert account.rows == ()
    assert account.remarks == ("no row of the log: it was never in force",)
    assert "+nonsense" in account.diff


@pytest.mark.parametrize("what", ["nobody", "agent/nobody", "task/nobody", "ffffffff", "--all", "a b", ""])
def test_what_names_nothing_is_said(books: Books, what: str) -> None:
    with pytest.raises(UsageError, match=r"no commit, agent or task|no row of the log is about"):
        ask(books, what)
