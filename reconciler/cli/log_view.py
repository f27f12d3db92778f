"""What `run --log json` says instead of the lines for a person: the same news to the loggers, for programs."""

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from reconciler.core.outcome import Applied, Skipped
from reconciler.core.trace import trace_of
from reconciler.kinds.task.step import TaskWork

if TYPE_CHECKING:
    from reconciler.core.change import Change
    from reconciler.kinds.kind import World
    from reconciler.loop.apply import Done
    from reconciler.loop.run import PassReport

_LOG = logging.getLogger("reconciler.run")


class LogView:
    """Takes what `View` takes."""

    def __init__(self) -> None:
        from reconciler.cli.run import Runs

        self._fleet = ""
        self._revision: Callable[[], str] = str
        self.runs: Callable[[], Runs] = Runs
        self._seen: set[tuple[str, str, str]] = set()

    def follow(self, fleet: str, revision: Callable[[], str]) -> None:
        """From now on each line says of which fleet it is, and which revision is in force."""
        self._fleet, self._revision = fleet, revision

    def sum_up_when_done(self, world: "World") -> None:
        """Each change has its own line; there is no table."""

    def say(self, text: str) -> None:
        _LOG.info(text, extra=self._about())

    def on_done(self, done: "Done") -> None:
        """A change was applied or failed."""
        change, outcome = done.change, done.outcome
        if isinstance(outcome, Skipped):
            return
        is_applied = isinstance(outcome, Applied)
        text = (outcome.note or change.reason) if isinstance(outcome, Applied) else outcome.reason
        about = {**self._about(), **_about(change), "outcome": "applied" if is_applied else "failed"}
        level = logging.INFO if is_applied else logging.ERROR
        _LOG.log(level, "%s %s: %s", change.action, change.unit, text, extra=about)

    def on_pass(self, report: "PassReport") -> None:
        """Problems and conditions, when they begin and when they end."""
        news = {("ConfigInvalid", "hub", str(p)) for p in report.problems}
        news |= {(c.type, c.subject, c.message) for c in report.conditions if c.type != "ConfigInvalid"}
        for type_, subject, message in sorted(news - self._seen):
            _LOG.warning("%s of %s: %s", type_, subject, message, extra={**self._about(), "condition": type_})
        still = {(type_, subject) for type_, subject, _ in news}
        for type_, subject in sorted({(t, s) for t, s, _ in self._seen} - still):
            _LOG.info("%s of %s is over", type_, subject, extra={**self._about(), "condition": type_})
        self._seen = news

    def summary(self, world: "World", *, converged: bool) -> None:  # noqa: ARG002 - as `View` takes it
        """How `--once` ended."""
        self.say("converged" if converged else "NOT converged")

    def _about(self) -> dict[str, str]:
        return {"fleet": self._fleet, "revision": self._revision()}


def _about(change: "Change") -> dict[str, str]:
    """Which agent, task and run a change is about."""
    about = {"action": str(change.action), "instance": change.instance or ""}
    if change.kind == "agent":
        return {**about, "agent": change.name}
    if change.kind != "task":
        return about
    return {**about, "task": change.name, **(_about_run(change.spec) if isinstance(change.spec, TaskWork) else {})}


def _about_run(work: TaskWork) -> dict[str, str]:
    """The run, and who has it or is to have it."""
    if work.run is None:
        return {}
    agent = work.agent.name if work.agent is not None else work.run.agent
    instance = work.instance.name if work.instance is not None else work.run.instance
    return {"run": work.run.run, "trace": trace_of(work.run.run), "agent": agent, "instance": instance}
