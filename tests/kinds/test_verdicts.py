"""Verdicts on policies outlive a process, and only those of the same judge count."""

from reconciler.core.problem import Problem
from reconciler.kinds.verdicts import KEPT, Verdicts

FOUND = (Problem(file="policies/a.rego", line=3, column=1, message="wrong"),)


class Kept:
    """What outlives a process."""

    def __init__(self, text: str = "") -> None:
        self.text = text

    def open(self, judge: str = "judge") -> Verdicts:
        def save(text: str) -> None:
            self.text = text

        return Verdicts(judge, lambda: self.text, save)


def test_a_verdict_is_known_to_the_next_process() -> None:
    kept = Kept()
    assert kept.open().get("1:a") is None
    kept.open().put("1:a", FOUND)
    kept.open().put("1:b", ())
    assert (kept.open().get("1:a"), kept.open().get("1:b")) == (FOUND, ())


def test_a_verdict_of_another_judge_or_a_damaged_one_is_none() -> None:
    kept = Kept()
    kept.open().put("1:a", FOUND)
    assert kept.open("another").get("1:a") is None
    for damaged in ("{", "[]", '{"judge": "judge"}', '{"judge": "judge", "found": {"1:a": [{"no": 1}]}}'):
        assert Kept(damaged).open().get("1:a") is None


def test_only_the_newest_verdicts_are_kept() -> None:
    kept = Kept()
    for number in range(KEPT + 1):
        kept.open().put(f"1:{number}", FOUND)
    assert [n for n in range(KEPT + 1) if kept.open().get(f"1:{n}") is None] == [0]
