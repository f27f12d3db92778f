"""Names in levels, such as `review.done`, against patterns: `*` stands for one level, a final `>`
for one or more. Pure.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

_KEPT = 10_000


def matches(pattern: str, name: str) -> bool:
    """Whether `name` falls under `pattern`."""
    if pattern in (name, ">"):
        return True
    if "*" not in pattern and not pattern.endswith(".>"):
        return False
    wanted, given = pattern.split("."), name.split(".")
    if wanted[-1] == ">":
        wanted.pop()
        if len(given) <= len(wanted):
            return False
        given = given[: len(wanted)]
    return len(wanted) == len(given) and all(w in ("*", g) for w, g in zip(wanted, given, strict=True))


class Subscriber(NamedTuple):
    """An agent that a topic reaches; `is_all` when each of its instances shall have it."""

    agent: str
    is_all: bool


class TopicIndex:
    """Who subscribes to a topic. Answers are kept, as many as `_KEPT`, since topics come from agents."""

    def __init__(self, subscriptions: Iterable[tuple[str, str, bool]]) -> None:
        """`subscriptions`: agent, topic pattern, whether all of its instances shall have it."""
        self._by_topic: dict[str, dict[str, bool]] = {}
        self._patterns: list[tuple[str, str, bool]] = []
        self._found: dict[str, Sequence[Subscriber]] = {}
        for agent, pattern, is_all in subscriptions:
            if "*" in pattern or pattern.endswith(">"):
                self._patterns.append((pattern, agent, is_all))
            else:
                agents = self._by_topic.setdefault(pattern, {})
                agents[agent] = agents.get(agent, False) or is_all

    def find(self, topic: str) -> Sequence[Subscriber]:
        """Each subscribing agent once, by name; `all` wins over `one` where both patterns match."""
        found = self._found.get(topic)
        if found is None:
            if len(self._found) >= _KEPT:
                self._found.clear()
            found = self._found[topic] = self._look_up(topic)
        return found

    def _look_up(self, topic: str) -> Sequence[Subscriber]:
        agents: dict[str, bool] = dict(self._by_topic.get(topic, _NOBODY))
        for pattern, agent, is_all in self._patterns:
            if matches(pattern, topic):
                agents[agent] = agents.get(agent, False) or is_all
        return tuple(Subscriber(a, is_all) for a, is_all in sorted(agents.items()))


_NOBODY: Mapping[str, bool] = {}
