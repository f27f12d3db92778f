"""What a person sees while a hub works."""

import signal
import threading
from collections.abc import Iterator
from dataclasses import replace
from queue import Queue

import pytest

from reconciler.cli.run import Interrupts, View, choose_runs, is_pointless
from reconciler.core.change import Action, Change
from reconciler.core.outcome import Applied, Failed, Outcome, Skipped
from reconciler.core.plan import Plan, Refusal
from reconciler.core.problem import Problem
from reconciler.loop.apply import Done
from reconciler.loop.run import PassReport
from reconciler.store.records import TaskRecord
from tests.fakes.desired import desired_of
from tests.fakes.texts import agent_text, task_text


def held(name: str, reason: str, wait_s: float | None = None) -> Change:
    return Change(kind="agent", name=name, instance=f"{name}-0", action=Action.HOLD, reason=reason, wait_s=wait_s)


def report(*changes: Change) -> PassReport:
    return PassReport(revision="r1", plan=Plan(revision="r1", compared_with="engine", changes=changes))


def said(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What is said to be on hold, without the times."""
    lines = capsys.readouterr().out.splitlines()
    return [line.partition(" on hold: ")[2] for line in lines if " on hold: " in line]


def test_what_waits_for_somebody_is_told_once_and_by_reason(capsys: pytest.CaptureFixture[str]) -> None:
    view = View()
    waiting = [held(n, "no image") for n in ("a", "b", "c")]
    view.on_pass(report(*waiting, held("d", "its turn", wait_s=1.0)))
    assert said(capsys) == ["a-0 and 2 more: no image"]
    view.on_pass(report(*waiting))
    assert said(capsys) == []
    view.on_pass(report(waiting[0], held("e", "by hand")))
    assert said(capsys) == ["a-0: no image", "e-0: by hand"]


def test_each_thing_done_is_one_line_whatever_its_text_holds(capsys: pytest.CaptureFixture[str]) -> None:
    view = View()
    long = "no [space]: " + "very long " * 20 + "end"
    outcomes: list[Outcome] = [Applied(note="on :x:"), Failed(reason=long + "\r"), Skipped(reason="later"), Applied()]
    for outcome in outcomes:
        change = Change(kind="task", name="a", action=Action.DISPATCH, reason="due")
        view.on_done(Done(change=change, outcome=outcome))
    assert [line.partition(" ")[2] for line in capsys.readouterr().out.split("\n")] == [
        f"→ dispatch  {'task/a':<30} on :x:",
        f"✗ dispatch  {'task/a':<30} {long}",
        f"→ dispatch  {'task/a':<30} due",
        "",
    ]


def test_an_apply_goes_on_only_where_another_pass_may_get_further() -> None:
    problem = Problem(file="agents.d/a.yaml", line=1, column=1, message="it is odd")
    refusal = Refusal(guard="prune-budget", reason="too many", confirm="1:x")
    pending = report(held("a", "its turn", wait_s=1.0))
    assert not is_pointless(pending)
    assert is_pointless(replace(pending, problems=(problem,)))
    assert is_pointless(replace(pending, plan=replace(pending.plan, refused=(refusal,))))


@pytest.fixture
def handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("handlers")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_that_comes_before_there_is_anything_to_stop_is_not_lost(number: signal.Signals) -> None:
    stopped: list[str] = []
    interrupts = Interrupts()
    signal.raise_signal(number)
    assert signal.getsignal(number) is signal.SIG_DFL
    interrupts.use(lambda: stopped.append("once"))
    assert stopped == ["once"]


@pytest.mark.usefixtures("handlers")
def test_an_interrupt_stops_what_there_is() -> None:
    stopped = threading.Event()
    interrupts = Interrupts()
    interrupts.use(stopped.set)
    assert not stopped.is_set()
    signal.raise_signal(signal.SIGINT)
    assert stopped.wait(60)


@pytest.mark.usefixtures("handlers")
def test_an_interrupt_does_not_wait_for_a_lock_of_what_it_interrupts() -> None:
    taken: Queue[bool] = Queue()
    lock = threading.Lock()
    interrupts = Interrupts()
    interrupts.use(lambda: taken.put(lock.acquire(timeout=120)))
    with lock:
        signal.raise_signal(signal.SIGINT)
    assert taken.get(timeout=120)


# --- which runs a start is about --------------------------------------------------------------------------------------

BEGAN = "2026-11-21T12:00:00+00:00"
EARLIER, LATER = "2026-11-21T11:00:00+00:00", "2026-11-21T13:00:00+00:00"
DESIRED = desired_of({"agents.d/a.yaml": agent_text(), "tasks.d/t.yaml": task_text("t")})


def run_of(name: str, *, digest: str = "1:x", created: str = EARLIER, ended: str = EARLIER, **more: str) -> TaskRecord:
    values = {"run": f"{name}.1", "manifest": "{}", "source": "git", "state": "failed", **more}
    return TaskRecord(name=name, spec_digest=digest, created_at=created, finished_at=ended, **values)  # type: ignore[arg-type]


def test_a_start_is_about_what_git_defines_now_and_what_ran_since() -> None:
    in_git = run_of("t", digest=DESIRED.of("task")["t"].digest)
    old = (run_of("dropped", source="inbox"), run_of("gone"))
    assert choose_runs([*old, in_git], DESIRED, BEGAN).of_interest == [in_git]
    assert not choose_runs([*old, in_git], DESIRED, BEGAN).is_new
    since = [run_of("made", created=LATER, ended=""), run_of("ended", ended=LATER)]
    found = choose_runs([*old, in_git, *since], DESIRED, BEGAN)
    assert (found.of_interest, found.is_new) == ([in_git, *since], True)


def test_an_earlier_manifest_of_a_task_and_what_the_hub_made_for_a_check_are_not_what_is_asked_about() -> None:
    check = run_of("t-check", created=LATER, purpose="check")
    assert choose_runs([run_of("t", digest="1:before"), check], DESIRED, BEGAN).of_interest == []
