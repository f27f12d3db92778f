"""What a seed means: always the same, and something of everything."""

from itertools import pairwise

import pytest

from tests.month.story import FAULTS, Verdict, tell
from tests.month.team import FEWEST, ILLS
from tests.month.test_month import SEED

KINDS = {
    "good",
    "good on top",
    "broken",
    "malicious",
    "guarded",
    "clearing",
    "reverted",
    "rewritten",
    "reset",
    "merged",
}


def test_a_seed_tells_the_same_story_each_time_and_a_longer_one_begins_with_it() -> None:
    assert list(tell(SEED, 30)) == list(tell(SEED, 60))[:30]
    assert list(tell(SEED, 30)) != list(tell(SEED + 1, 30))


def test_two_hundred_pushes_have_every_kind_every_verdict_every_ill_and_every_fault() -> None:
    steps = list(tell(SEED, 200))
    trees = {node.number: node.tree for step in steps for node in step.made}
    assert {str(step.kind) for step in steps} >= KINDS
    assert {step.fault for step in steps} == {"", *FAULTS}
    assert {(step.verdict, step.is_confirmed) for step in steps} >= {
        *((verdict, False) for verdict in Verdict),
        (Verdict.HELD, True),
        (Verdict.REFUSED, True),
    }
    assert {tree.ill for tree in trees.values()} == {"", *ILLS}
    assert len({tree.files()["hub.yaml"] for tree in trees.values() if "hub.yaml" in tree.files()}) > 1


@pytest.mark.parametrize("seed", range(20))
def test_in_force_comes_only_what_is_sound_and_accepted_or_confirmed(seed: int) -> None:
    steps = list(tell(seed, 100))
    trees = {node.number: node.tree for step in steps for node in step.made}
    for before, step in pairwise(steps):
        is_let_in = step.verdict is Verdict.ACCEPTED or step.is_confirmed
        assert step.in_force == (step.head if is_let_in else before.in_force)
        assert not trees[step.in_force].ill
        assert len(trees[step.in_force].agents) >= FEWEST
