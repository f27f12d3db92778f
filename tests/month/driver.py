"""The driver: one commit after the other, and after each a look from outside; at the end the books.

It waits for what stays: a row of the log says that the hub has seen the commit, and only then the fleet is compared,
with git and `docker inspect` alone. A run that fails names its seed and the step.
"""

import json
import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.flows.forks import ROOT
from tests.month.site import PATIENCE_S, Row, Site, StuckError
from tests.month.story import Step, Verdict, tell
from tests.month.team import Agent, Tree
from tests.outside.checker import Wanted, compare_docker, containers, wanted_by_git
from tests.outside.record import check_chain
from tests.outside.report import check_report

START_S = 240.0
CONFIRM = re.compile(r"reconciler apply --confirm (\S+)")


@dataclass
class Outcome:
    """What a month came to; `wrong` is empty where all was as it shall be."""

    seed: int
    verdicts: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    commits: int = 0
    births: int = 0
    rows: int = 0
    seconds: float = 0.0
    wrong: list[str] = field(default_factory=list)
    timeline: list[str] = field(default_factory=list)

    def table(self) -> str:
        """The figures."""
        lines = [
            f"{self.verdicts.total()} pushes of {self.commits} commits, {self.births} containers, {self.rows} rows, {self.seconds:.0f} s"
        ]
        lines += [
            ", ".join(f"{count} {name}" for name, count in sorted(c.items())) for c in (self.verdicts, self.faults)
        ]
        return "\n".join([*lines, f"seed {self.seed}"])

    def story(self) -> str:
        """What a person needs to understand a failed run, and to have it again."""
        again = f"again: python -m tests.month {self.verdicts.total() + 1} {self.seed}"
        return "\n".join([*self.timeline[-40:], "", *self.wrong, "", self.table(), again])


def play(count: int, seed: int, *, code: Path = ROOT) -> Outcome:
    """A month of so many pushes, from start to end; nothing of it is left. Never raises for what the fleet did."""
    outcome, began = Outcome(seed), time.monotonic()
    site = Site(code)
    try:
        month = _Month(site, outcome)
        month.live(count)
        month.close_the_books()
    except (StuckError, AssertionError, pytest.fail.Exception) as error:
        outcome.wrong += [str(error), site.evidence()]
    finally:
        site.close()
    outcome.seconds = time.monotonic() - began
    return outcome


class _Month:
    def __init__(self, site: Site, outcome: Outcome) -> None:
        self._site, self._outcome, self._began = site, outcome, time.monotonic()
        self._trees: dict[int, Tree] = {}
        self._wanted: dict[int, dict[str, Wanted]] = {}
        self._in_force = 0
        self._running: dict[str, str] = {}

    # --- each day -------------------------------------------------------------------------------------------------------

    def live(self, count: int) -> None:
        try:
            for step in tell(self._outcome.seed, count):
                self._trees |= {node.number: node.tree for node in step.made}
                self._take(step)
                self._outcome.verdicts[step.verdict] += 1
                self._outcome.commits += len(step.made)
                if step.fault:
                    self._outcome.faults[step.fault] += 1
        except StuckError as error:
            raise StuckError(f"{step}: {error}; {self._look(step.in_force)}") from error

    def _take(self, step: Step) -> None:
        """One push with all that befalls it, and what must have become of it."""
        site, after, began = self._site, self._site.last_seq(), time.monotonic()
        site.commit(step.made)
        if step.number == 0:
            self._begin(step)
        else:
            self._befall(step, after)
        self._await_verdict(step, after)
        if step.is_confirmed:
            self._await_fleet(self._in_force)
            self._check_accepted(site.rows(after), set())
            self._confirm(step, after)
        self._await_fleet(step.in_force)
        let_in = step.verdict is Verdict.ACCEPTED or step.is_confirmed
        self._check_accepted(site.rows(after), {site.ids[step.head]} if let_in else set())
        self._check_untouched(step)
        self._say(f"{step}; {time.monotonic() - began:.1f} s")

    def _begin(self, step: Step) -> None:
        site = self._site
        site.push(step.head)
        site.start_hub()
        site.wait((site.fleet.data / "fleet.json").exists, "the hub does not start", START_S)
        site.follow_births()

    def _befall(self, step: Step, after: int) -> None:
        """The push, and the fault before, around or after it."""
        site = self._site
        match step.fault:
            case "remote-away":
                site.fleet.shared.rename(site.fleet.away)
                site.push(step.head, site.fleet.away)
                site.wake()
                site.wait(lambda: site.has_row(after, "SourceUnavailable", "^now true"), "nobody misses the remote")
                site.fleet.away.rename(site.fleet.shared)
            case "engine-cut":
                site.link.cut()
                site.push(step.head)
                site.wake()
                site.wait(lambda: site.has_row(after, "RuntimeUnavailable", "^now true"), "nobody misses the engine")
                site.link.mend()
                site.wait(lambda: site.has_row(after, "RuntimeUnavailable", "^over"), "nobody finds the engine again")
            case "container-remove":
                site.remove_container(step.victim)
                site.push(step.head)
            case "limits-by-hand":
                site.set_limits(step.victim)
                site.push(step.head)
            case _:
                site.push(step.head)
        site.wake()
        if step.fault in ("hub-kill", "router-kill"):
            time.sleep(step.moment_s)  # so that it hits another moment each time
        if step.fault == "hub-kill":
            site.kill_hub()
            site.start_hub()
            # Without a hub, a command of a person's would take the data lock, and the hub would not start.
            site.wait(site.wake, "the hub does not come back", START_S)
        if step.fault == "router-kill":
            site.kill_router()

    def _await_verdict(self, step: Step, after: int) -> None:
        site, head = self._site, self._site.ids[step.head]

        def is_it(row: Row) -> bool:
            match step.verdict:
                case Verdict.ACCEPTED:
                    return (row.kind, row.action, row.name) == ("revision", "accept", head)
                case Verdict.INVALID:
                    return row.action == "ConfigInvalid" and f"now true: revision {head[:12]} has" in row.reason
                case Verdict.HELD:
                    return row.action == "HistoryRewritten" and f"now true: {head[:12]}, by" in row.reason
                case Verdict.REFUSED:
                    return row.action == "PlanRefused" and row.reason.startswith("now true")

        def is_told() -> bool:
            rows = site.rows(after)
            self._check_accepted(rows, {head} if step.verdict is Verdict.ACCEPTED else set())
            return any(map(is_it, rows))

        within_s = START_S if step.number == 0 else PATIENCE_S
        site.wait(is_told, f"no word that it is {step.verdict}", within_s)

    def _check_accepted(self, rows: Sequence[Row], allowed: set[str]) -> None:
        """Nothing came into force that may not. Raises StuckError."""
        accepted = {row.name for row in rows if row.action == "accept"}
        if not accepted <= allowed:
            raise StuckError(f"what came into force is {sorted(accepted)}, and only {sorted(allowed)} may")

    def _confirm(self, step: Step, after: int) -> None:
        """A person takes the digest that the hub shows, and the hub has to take it."""
        site, head = self._site, self._site.ids[step.head]

        def is_through() -> bool:
            if any((r.action, r.name) == ("accept", head) for r in site.rows(after)):
                return True
            shown = [
                found[1] for r in site.rows(after) if r.action == "PlanRefused" and (found := CONFIRM.search(r.reason))
            ]
            if shown:
                site.confirm(shown[-1])
            return False

        site.wait(is_through, "what a person confirmed does not come into force")

    def _await_fleet(self, number: int) -> None:
        """Until the fleet is equal to a commit."""
        self._site.wait(lambda: not self._look(number), f"the fleet is not what commit {number} says")

    def _look(self, number: int) -> list[str]:
        """What the outside checker finds."""
        if number not in self._wanted:
            self._wanted = {number: wanted_by_git(self._site.fleet.repository, self._site.ids[number])}
        try:
            return compare_docker(self._wanted[number], self._site.fleet.id)
        except (OSError, AssertionError) as error:
            return [f"nobody can say what runs: {error!r}"]

    def _check_untouched(self, step: Step) -> None:
        """What the commit is not about was left alone, unless a fault struck. Raises StuckError."""
        running = containers(self._site.fleet.id)
        before, now = self._trees[self._in_force].agents, self._trees[step.in_force].agents
        same = [n for n in now if n in before and _runs_the_same(before, now, n)]
        kept = {i for i in running.keys() & self._running.keys() if i.rpartition("-")[0] in same}
        changed = sorted(i for i in kept if running[i] != self._running[i])
        if changed and not step.fault:
            raise StuckError(f"made anew without need: {', '.join(changed)}")
        self._in_force, self._running = step.in_force, running

    # --- the end --------------------------------------------------------------------------------------------------------

    def close_the_books(self) -> None:
        """What an auditor does months later; then again, after one row was changed."""
        site, fleet, outcome = self._site, self._site.fleet, self._outcome
        site.stop_hub()
        births = site.read_births()
        outcome.births = len(births)
        outcome.rows = site.last_seq()
        outcome.wrong += check_chain(fleet.data)
        verified = fleet.call("audit", "verify", *fleet.places, "-o", "json", timeout_s=300)
        with suppress(ValueError):
            outcome.wrong += [f"audit verify: {fault}" for fault in json.loads(verified.out)["faults"]]
        if verified.code != 0:
            outcome.wrong.append(f"audit verify ended with {verified.code}: {verified.err[-2000:]}")
        page = fleet.folder / "report.html"
        reported = fleet.call("audit", "report", "-f", str(page), *fleet.places, timeout_s=300)
        if reported.code != 0:
            outcome.wrong.append(f"audit report ended with {reported.code}: {reported.err[-2000:]}")
        else:
            outcome.wrong += check_report(page.read_text(), births)
        self._tamper()

    def _tamper(self) -> None:
        seq = self._outcome.rows // 2 + self._outcome.seed % 7
        self._site.tamper(seq)
        verified = self._site.fleet.call("audit", "verify", *self._site.fleet.places, timeout_s=300)
        if verified.code != 1 or f"row {seq} was changed" not in verified.err:
            self._outcome.wrong.append(
                f"row {seq} was changed, and audit verify says {verified.code}: {verified.err[-2000:]}"
            )
        if not check_chain(self._site.fleet.data):
            self._outcome.wrong.append(f"row {seq} was changed, and the outside checker does not see it")

    def _say(self, what: str) -> None:
        self._outcome.timeline.append(f"{time.monotonic() - self._began:7.1f}  {what}")
        with (self._site.fleet.folder / "timeline").open("a") as out:
            out.write(f"{self._outcome.timeline[-1]}\n")


def _runs_the_same(before: Mapping[str, Agent], now: Mapping[str, Agent], name: str) -> bool:
    """Whether nothing changed that a container is made of; limits are changed in place, but the engine may refuse that."""
    old, new = before[name], now[name]
    return (old.serial, old.memory_mib) == (new.serial, new.memory_mib)
