"""A month in the life of a team, on a real engine; and that the driver and what looks from outside can fail.

`python -m tests.month N SEED` is the same for longer.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.chaos.sabotage import make_code
from tests.flows.fleet import need_engine
from tests.month.driver import play
from tests.outside.births import Birth
from tests.outside.report import check_report

SEED = 9
PUSHES = int(os.environ.get("RECONCILER_MONTH", "30"))
"""CI plays two hundred."""
HELD_EARLY = 1
"""A seed whose fourth push sets the branch back."""


@pytest.mark.engine
@pytest.mark.slow
def test_after_each_commit_of_a_month_the_fleet_is_what_the_newest_permitted_one_says() -> None:
    need_engine("docker")
    outcome = play(PUSHES, SEED)
    print(outcome.table())
    assert outcome.wrong == [], outcome.story()


@pytest.fixture
def folder() -> Iterator[Path]:
    """Where every user can read, since agents run the code that lies there."""
    made = Path(tempfile.mkdtemp(prefix="rc-", dir="/tmp"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


@pytest.mark.engine
@pytest.mark.slow
def test_without_the_guard_of_history_the_driver_names_the_step(folder: Path) -> None:
    need_engine("docker")
    outcome = play(4, HELD_EARLY, code=make_code(folder, "history"))
    assert outcome.wrong[0].startswith("step 3: reset -> held"), outcome.story()
    assert "what came into force is" in outcome.wrong[0]


# --- the outside checker of a report ----------------------------------------------------------------------------------

AT = datetime(2026, 11, 21, 12, 0, 1, tzinfo=UTC).timestamp()


def page(*rows: tuple[str, ...]) -> str:
    lines = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<h2>Every container that ran</h2><table><tr><th>Container</th></tr>{lines}</table><h2>Exceptions</h2>"


def row(id_: str, made: str = "2026-11-21 12:00:00", ended: str = "runs") -> tuple[str, ...]:
    return ("a-0", f"<code>{id_}</code>", made, "abc", "create: new", ended, "", "#1")


def test_a_container_is_explained_by_its_id_or_by_an_unfinished_attempt_of_that_time() -> None:
    births = [Birth("1" * 64, "a-0", AT), Birth("2" * 64, "a-0", AT + 60)]
    known, attempt = row("1" * 12), row("", "2026-11-21 12:01:00", "2026-11-21 12:01:05")
    assert check_report(page(known, attempt), births) == []


def test_a_container_that_the_report_lacks_and_one_that_it_invents_are_named() -> None:
    births = [Birth("1" * 64, "a-0", AT)]
    assert check_report(page(row("3" * 12)), births) == [
        "container 333333333333 is in the report, and the engine never made it",
        "container 111111111111 of a-0, made 2026-11-21T12:00:01+00:00, is not in the report",
    ]
    too_late, too_early = row("", "2026-11-21 12:00:02"), row("", "2026-11-21 11:59:00", "2026-11-21 12:00:00")
    assert len(check_report(page(too_late, too_early), births)) == 1
