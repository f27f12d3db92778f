"""Many short lives of a hub, each of which may be killed at any point."""

from reconciler.home import is_locked
from tests.flows.fleet import Answer, Fleet, eventually
from tests.flows.forks import Forks


class Lives:
    """One life at a time, all with the same environment. `said` is what the last one printed."""

    def __init__(self, fleet: Fleet, **env: str) -> None:
        self.said, self._data = fleet.folder / "said", fleet.data
        self._env = {**fleet.environment(), **env}
        self._forks = Forks(**env)

    def begin(self, *arguments: str) -> int:
        """Start a command; returns its pid."""
        self.said.write_text("")
        return self._forks.begin(arguments, self._env, self.said, self.said)

    def end(self, timeout_s: float = 300.0) -> Answer:
        """Wait for the command that was begun; the test fails where it does not end.

        One that is killed while it starts a program leaves its lock to that, until the program runs.
        """
        code = self._forks.end(timeout_s)
        eventually(lambda: not is_locked(self._data), within_s=60.0, step_s=0.01)
        return Answer(code=code, out=self.said.read_text(errors="replace"), err="")

    def has_ended(self, within_s: float = 0.0) -> bool:
        """Whether `end` would answer at once."""
        return self._forks.has_ended(within_s)

    def live(self, *arguments: str) -> Answer:
        self.begin(*arguments)
        return self.end()

    def close(self) -> None:
        self._forks.close()
