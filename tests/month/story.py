"""What a seed means: every commit of the team, what must become of it, and what goes wrong around it. Pure.

The verdict on a commit follows from its tree and its ancestors alone, by the rules that the documents promise. Nothing
here asks the hub or shares code with it.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from tests.month.team import FEWEST, ILLS, KEEPERS, MEMORY_MIB, MOST, WORKERS, Agent, Sort, Tree, first_tree

FAULTS = ("hub-kill", "router-kill", "container-remove", "limits-by-hand", "remote-away", "engine-cut")
FAULTY = 0.25
"""How many of the steps have a fault."""
FREELY_REMOVED = 3
LOOK_BACK = 8


class Verdict(StrEnum):
    """What must become of a head."""

    ACCEPTED = "accepted"
    INVALID = "invalid"
    HELD = "held"
    """It does not descend from what is in force."""
    REFUSED = "refused"
    """By a guard: only a person may let it through."""


@dataclass(frozen=True)
class Node:
    """One commit, by its number in the story."""

    number: int
    parents: tuple[int, ...]
    tree: Tree
    title: str


@dataclass(frozen=True)
class Step:
    """One push: `made` are its new commits in order, `head` is what the branch is then.

    `is_confirmed`: a person lets it through after the hub has held it. `in_force` is the commit that the fleet must be
    equal to at the end of the step. `moment_s` is how long after the push the hub or router is killed.
    """

    number: int
    kind: str
    made: tuple[Node, ...]
    head: int
    verdict: Verdict
    is_confirmed: bool
    in_force: int
    fault: str = ""
    victim: str = ""
    moment_s: float = 0.0

    def __str__(self) -> str:
        title = f" ({self.made[-1].title})" if self.made else ""
        then = ", confirmed" if self.is_confirmed else ""
        fault = f"; {self.fault} {self.victim}".rstrip() if self.fault else ""
        return f"step {self.number}: {self.kind}{title} -> {self.verdict}{then}{fault}"


def tell(seed: int, count: int) -> Iterator[Step]:
    """`count` steps, the first of which is the team's first commit. The first ones are the same for any count."""
    story = _Story(random.Random(f"month {seed}"))
    yield story.begin()
    for _ in range(count - 1):
        yield story.go_on()


class _Story:
    """What has happened so far."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self.nodes: list[Node] = []
        self._ancestors: list[frozenset[int]] = []
        self._head, self._in_force, self._steps = 0, 0, 0
        self._decks: dict[str, list[str]] = {}

    def begin(self) -> Step:
        first = self._commit((), first_tree(), "the first commit")
        return self._push("begin", [first], first.number, is_first=True)

    def go_on(self) -> Step:
        if self._head == self._in_force:
            return self._when_all_is_well()
        return self._when_the_head_is_not_in_force()

    def _when_all_is_well(self) -> Step:
        kinds: dict[str, Callable[[], Step]] = {
            "good": self._good,
            "broken": lambda: self._wrong(Sort.BROKEN),
            "malicious": lambda: self._wrong(Sort.MALICIOUS),
            "guarded": lambda: self._wrong(Sort.GUARDED),
            "clearing": self._clear_out,
            "reverted": self._revert,
            "rewritten": self._rewrite,
            "reset": self._reset,
            "merged": self._merge,
        }
        weights = (50, 10, 12, 4, 3, 6, 5, 3, 10)
        return kinds[self._chance.choices(list(kinds), weights)[0]]()

    def _when_the_head_is_not_in_force(self) -> Step:
        """Somebody goes on as if nothing were wrong, or puts it right; by force where it takes that."""
        good = self._tree(self._in_force)
        if self._chance.random() < 0.3:
            return self._child("good on top", *self._change(self._tree(self._head)))
        if self._in_force in self._ancestors[self._head] and self._chance.random() < 0.7:
            return self._child("reverted", replace(good, notes=good.notes + 1), "revert what was wrong")
        node = self._commit((self._in_force,), *self._change(good))
        return self._push("put right by force", [node], node.number)

    # --- kinds of steps -------------------------------------------------------------------------------------------------

    def _good(self) -> Step:
        return self._child("good", *self._change(self._tree(self._head)))

    def _wrong(self, sort: Sort) -> Step:
        ill = self._draw(sort, [name for name, i in ILLS.items() if i.sort is sort])
        tree = self._tree(self._head)
        return self._child(sort, replace(tree, ill=ill, victim=self._chance.choice(tree.workers)), ill)

    def _clear_out(self) -> Step:
        """More agents go at once than may go without somebody's word."""
        tree = self._tree(self._head)
        number = FREELY_REMOVED + 1
        if len(tree.agents) - number < FEWEST:
            return self._child("good", *self._add(tree))
        gone = self._chance.sample(tree.workers, number)
        return self._child("clearing", tree.without(*gone), f"remove {', '.join(gone)}", may_confirm=True)

    def _revert(self) -> Step:
        """Back to what was in force some commits ago, by a commit."""
        before = self._sound_ancestors(self._head)
        if not before:
            return self._good()
        old = self._chance.choice(before)
        tree = replace(self._tree(old), notes=self._tree(self._head).notes + 1)
        return self._child("reverted", tree, f"back to commit {old}", may_confirm=True)

    def _rewrite(self) -> Step:
        """History is written anew: what is in force is no ancestor of the new head."""
        before = self._sound_ancestors(self._head)
        if not before:
            return self._good()
        node = self._commit((self._chance.choice(before[:4]),), *self._change(self._tree(self._head)))
        return self._push("rewritten", [node], node.number, may_confirm=True)

    def _reset(self) -> Step:
        """The branch is set back to an older commit."""
        before = self._sound_ancestors(self._head)
        if not before:
            return self._good()
        return self._push("reset", [], self._chance.choice(before[:4]), may_confirm=True)

    def _merge(self) -> Step:
        """A branch that began before the head's last commits comes in; sometimes the head comes into the branch."""
        head, before = self._tree(self._head), self._sound_ancestors(self._head)
        shared = [(old, name) for old in before for name in self._tree(old).workers if name in head.agents]
        if not shared:
            return self._good()
        old, name = self._chance.choice(shared)
        base = self._tree(old)
        branch = self._commit((old,), base.having(self._edited(base.agents[name])), f"edit {name} on a branch")
        merged = head.having(branch.tree.agents[name])
        if self._chance.random() < 0.15:
            merged = replace(merged, ill=self._draw("merged ill", _ILLS_OF_MERGES), victim=name)
        parents = (self._head, branch.number) if self._chance.random() < 0.6 else (branch.number, self._head)
        title = f"merge a branch from commit {old}{f', with {merged.ill}' if merged.ill else ''}"
        merge = self._commit(parents, merged, title)
        return self._push("merged", [branch, merge], merge.number, may_confirm=not merged.ill)

    # --- changes of a tree ----------------------------------------------------------------------------------------------

    def _change(self, tree: Tree) -> tuple[Tree, str]:
        """One that a team makes on an ordinary day, and its title."""
        kinds = (self._edit, self._edit_two, self._limit, self._describe, self._scale, self._add, self._remove)
        others = (self._note, self._rule)
        return self._chance.choices((*kinds, *others), (36, 6, 16, 8, 8, 9, 7, 5, 5))[0](tree)

    def _edited(self, agent: Agent) -> Agent:
        return replace(agent, serial=self._steps * 10 + self._chance.randrange(10))

    def _edit(self, tree: Tree) -> tuple[Tree, str]:
        name = self._chance.choice(tree.workers)
        return tree.having(self._edited(tree.agents[name])), f"edit {name}"

    def _edit_two(self, tree: Tree) -> tuple[Tree, str]:
        first, second = self._chance.sample(tree.workers, 2)
        changed = tree.having(self._edited(tree.agents[first])).having(self._edited(tree.agents[second]))
        return changed, f"edit {first} and {second}"

    def _limit(self, tree: Tree) -> tuple[Tree, str]:
        agent = tree.agents[self._chance.choice(tree.workers)]
        memory = self._chance.choice([m for m in MEMORY_MIB if m != agent.memory_mib])
        return tree.having(replace(agent, memory_mib=memory)), f"{agent.name} gets {memory} MiB"

    def _describe(self, tree: Tree) -> tuple[Tree, str]:
        agent = tree.agents[self._chance.choice(tree.workers)]
        return tree.having(replace(agent, words=agent.words + 1)), f"describe {agent.name}"

    def _scale(self, tree: Tree) -> tuple[Tree, str]:
        agent = tree.agents[self._chance.choice(tree.workers)]
        replicas = 1 if agent.replicas == 2 else 2
        return tree.having(replace(agent, replicas=replicas)), f"{replicas} of {agent.name}"

    def _add(self, tree: Tree) -> tuple[Tree, str]:
        free = [name for name in WORKERS if name not in tree.agents]
        if not free or len(tree.agents) >= MOST:
            return self._edit(tree)
        name = self._chance.choice(free)
        return tree.having(self._edited(Agent(name))), f"add {name}"

    def _remove(self, tree: Tree) -> tuple[Tree, str]:
        able = [name for name in tree.workers if name != tree.victim]
        if len(tree.agents) <= FEWEST:
            return self._add(tree)
        name = self._chance.choice(able)
        return tree.without(name), f"remove {name}"

    def _note(self, tree: Tree) -> tuple[Tree, str]:
        return replace(tree, notes=tree.notes + 1), "a note"

    def _rule(self, tree: Tree) -> tuple[Tree, str]:
        return replace(tree, rules=tree.rules + 1), "another version of the policy"

    # --- the history ----------------------------------------------------------------------------------------------------

    def _tree(self, number: int) -> Tree:
        return self.nodes[number].tree

    def _sound_ancestors(self, number: int) -> list[int]:
        """Those of the last few commits with nothing wrong in them, newest first."""
        before = sorted(self._ancestors[number] - {number}, reverse=True)
        return [n for n in before if not self._tree(n).ill][:LOOK_BACK]

    def _commit(self, parents: tuple[int, ...], tree: Tree, title: str) -> Node:
        node = Node(len(self.nodes), parents, tree, title)
        self.nodes.append(node)
        above = (self._ancestors[parent] for parent in parents)
        self._ancestors.append(frozenset({node.number}).union(*above))
        return node

    def _child(self, kind: str, tree: Tree, title: str, *, may_confirm: bool = False) -> Step:
        node = self._commit((self._head,), tree, title)
        return self._push(kind, [node], node.number, may_confirm=may_confirm)

    def _push(
        self, kind: str, made: Sequence[Node], head: int, *, may_confirm: bool = False, is_first: bool = False
    ) -> Step:
        verdict = Verdict.ACCEPTED if is_first else self._judge(head)
        is_confirmed = may_confirm and verdict in (Verdict.HELD, Verdict.REFUSED) and self._chance.random() < 0.6
        if verdict is Verdict.ACCEPTED or is_confirmed:
            self._in_force = head
        self._head = head
        fault = "" if is_first or self._chance.random() >= FAULTY else self._draw("fault", FAULTS)
        step = Step(
            number=self._steps,
            kind=kind,
            made=tuple(made),
            head=head,
            verdict=verdict,
            is_confirmed=is_confirmed,
            in_force=self._in_force,
            fault=fault,
            victim=self._victim(fault),
            moment_s=round(self._chance.uniform(0.0, 1.5), 2),
        )
        self._steps += 1
        return step

    def _victim(self, fault: str) -> str:
        """What stops soon after its manifest was changed takes that back, as it shall, so only keepers are removed."""
        if fault == "container-remove":
            return f"{self._chance.choice(KEEPERS)}-0"
        if fault == "limits-by-hand":
            return f"{self._chance.choice(sorted(self._tree(self._in_force).agents))}-0"
        return ""

    def _judge(self, head: int) -> Verdict:
        tree, now = self._tree(head), self._tree(self._in_force)
        if tree.sort in (Sort.BROKEN, Sort.MALICIOUS):
            return Verdict.INVALID
        if self._in_force not in self._ancestors[head]:
            return Verdict.HELD
        if tree.sort is Sort.GUARDED or len(now.agents.keys() - tree.agents.keys()) > FREELY_REMOVED:
            return Verdict.REFUSED
        return Verdict.ACCEPTED

    def _draw(self, deck: str, cards: Sequence[str]) -> str:
        """Each card comes once before any comes again."""
        if not self._decks.get(deck):
            self._decks[deck] = list(cards)
            self._chance.shuffle(self._decks[deck])
        return self._decks[deck].pop()


_ILLS_OF_MERGES = [name for name, ill in ILLS.items() if ill.sort is not Sort.GUARDED]
