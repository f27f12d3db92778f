"""That the fleet, or one resource, is to be as an older revision says, until git has something newer to say of it."""

from dataclasses import dataclass

from reconciler.core.change import Change

FLEET, HUB = "fleet", "hub"
SHORT = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollback:
    """`subject` is `fleet` or KIND/NAME, `to` the revision that it went back to, `at` ISO with a zone.

    `since` is the revision that was rolled back. Of a resource `skipped` is its digest there, empty where it was not
    there: the rollback is over once git gives it another one. `actor` is `hub` where nobody asked for it.
    """

    subject: str
    to: str
    since: str
    skipped: str = ""
    reason: str = ""
    actor: str
    at: str

    def __str__(self) -> str:
        return f"rolled back to {self.to[:SHORT]} by {self.actor}{f': {self.reason}' if self.reason else ''}"

    @property
    def is_of_fleet(self) -> bool:
        return self.subject == FLEET

    @property
    def is_asked(self) -> bool:
        """Whether somebody asked for it, and it was not the hub's own doing."""
        return self.actor != HUB

    @property
    def ends(self) -> str:
        """What ends it, in words."""
        if self.is_of_fleet:
            return f"{self.since[:SHORT]} is skipped until there is a newer commit"
        return f"until a commit changes {self.subject}"

    def covers(self, change: Change) -> bool:
        """Whether a change is about what was rolled back."""
        return self.is_of_fleet or self.subject == f"{change.kind}/{change.name}"
