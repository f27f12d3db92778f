"""How far an agent is trusted: a score from 0 to 1, moved by what it does, going back to neutral with time. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Annotated

from pydantic import Field, StrictFloat, StrictInt

from reconciler.core.model import Model
from reconciler.core.quantity import Duration

Step = Annotated[StrictFloat, Field(ge=-1, le=1)]
_SMALLEST = 0.0005


class TrustCause(StrEnum):
    """What moves a score; the words of `orchestrator.trust.steps`, and of the record."""

    DENIED = "denied"
    INVALID = "invalid"
    FORGED = "forged"
    FLOOD = "flood"
    CRASH = "crash"
    NOT_ACCEPTED = "notAccepted"
    SUCCESS = "success"


_SHOWN = {
    TrustCause.DENIED: "messages that policy denied",
    TrustCause.INVALID: "messages that were not valid",
    TrustCause.FORGED: "messages in another's name",
    TrustCause.FLOOD: "floods of messages over its rate",
    TrustCause.CRASH: "crashes",
    TrustCause.NOT_ACCEPTED: "results that were not accepted",
    TrustCause.SUCCESS: "tasks that succeeded",
}


class TrustSteps(Model):
    """How far one event of each cause moves a score."""

    denied: Step = -0.02
    invalid: Step = -0.01
    forged: Step = -0.2
    flood: Step = -0.1
    crash: Step = -0.05
    not_accepted: Step = -0.05
    success: Step = 0.01

    @property
    def by_cause(self) -> Mapping[TrustCause, float]:
        written = self.model_dump(by_alias=True)
        return {cause: written[cause] for cause in TrustCause}


class TrustRules(Model):
    """Within one `window` what is of one cause is one change, in which no more than `most` events count.

    Half of the way back to `neutral` takes `half_life`.
    """

    neutral: StrictFloat = Field(default=1.0, ge=0, le=1)
    half_life: Duration = Field(default=12 * 3600.0, ge=0.05)
    window: Duration = Field(default=5.0, ge=0.05)
    most: StrictInt = Field(default=5, ge=1, le=1000)
    steps: TrustSteps = TrustSteps()


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """The score that an agent had at a time (UTC), under a manifest of this digest.

    `counted` is how many events of each cause the router `epoch` had told of by then.
    """

    score: float
    at: datetime
    spec_digest: str = ""
    epoch: str = ""
    counted: Mapping[str, int] = field(default_factory=dict)
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """One change of a score: why, how many events it stands for, from where, and to where."""

    cause: TrustCause
    events: int
    before: float
    after: float

    @property
    def reason(self) -> str:
        """As a sentence for people."""
        return f"{_SHOWN[self.cause]} ({self.events}): trust from {self.before:.2f} to {self.after:.2f}"


def score_at(standing: Standing, rules: TrustRules, now: datetime) -> float:
    """The score as it is now. A clock that was set back does not count."""
    passed_s = max(0.0, (now - standing.at).total_seconds())
    left: float = 0.5 ** (passed_s / rules.half_life)
    return rules.neutral + (standing.score - rules.neutral) * left


def move(
    standing: Standing, events: Mapping[TrustCause, int], rules: TrustRules, now: datetime
) -> tuple[Standing, tuple[Move, ...]]:
    """The standing after these events, and each change with its cause; what changes nothing is left out."""
    score, moves = score_at(standing, rules, now), []
    steps = rules.steps.by_cause
    for cause in TrustCause:
        count = events.get(cause, 0)
        after = min(1.0, max(0.0, score + steps[cause] * min(count, rules.most)))
        if abs(after - score) >= _SMALLEST:
            moves.append(Move(cause=cause, events=count, before=score, after=after))
            score = after
    if not moves:
        return standing, ()
    return replace(standing, score=score, at=now, reason=moves[-1].reason), tuple(moves)


def new_events(standing: Standing, epoch: str, told: Mapping[str, int]) -> Mapping[TrustCause, int]:
    """What a router tells of since it was last counted; all of it where that was another router."""
    before = standing.counted if standing.epoch == epoch else {}
    return {TrustCause(c): n - before.get(c, 0) for c, n in told.items() if n > before.get(c, 0)}


def is_fresh_start(standing: Standing, spec_digest: str, score: float, threshold: float) -> bool:
    """Whether a commit has given an agent, whom nobody trusted any more, another manifest."""
    return bool(standing.spec_digest) and standing.spec_digest != spec_digest and score < threshold
