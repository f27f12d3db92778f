"""Which revision is in force, and what is kept of it so that it stays so without git."""

from collections.abc import Sequence

import pytest

from reconciler.core.problem import Problem
from reconciler.errors import CheckStoppedError, SourceError
from reconciler.kinds import KINDS
from reconciler.loop.kept import APPLIED, StoredSnapshot
from reconciler.loop.revision import Revisions
from reconciler.ports import PolicyBundle
from reconciler.settings import OperatorSpec
from reconciler.store import records
from tests.fakes.fleet import FakeFleet
from tests.fakes.policy import FakePolicy
from tests.fakes.texts import agent_text, hub_text, task_text

FILES = {
    "agents.d/a.yaml": agent_text(),
    "agents.d/bin/run.py": "print(1)",
    "tasks.d/t.yaml": task_text(),
    "policies/task.rego": 'package hub.task\n\nimport rego.v1\n\ndecision := {"allow": true}\n',
    "README.md": "not kept",
}


def revisions_of(fleet: FakeFleet, own: FakePolicy | None = None) -> Revisions:
    return Revisions(
        fleet.source,
        fleet.store,
        KINDS,
        fleet.operator,
        fleet.clock,
        fleet.policy,
        (lambda: own) if own is not None else None,
    )


def accept_head(revisions: Revisions) -> str:
    desired = revisions.in_force().desired
    assert desired is not None
    revisions.accept(desired)
    return desired.revision.id


def test_an_accepted_revision_is_kept_with_the_contents_of_its_manifests_only(fleet: FakeFleet) -> None:
    revision = fleet.commit(FILES)
    assert accept_head(revisions_of(fleet)) == revision
    record = records.revision(fleet.store, revision)
    assert record is not None
    stored = StoredSnapshot(record, fleet.store)
    paths = [e.path for e in stored.entries("")]
    assert paths == ["agents.d/a.yaml", "hub.yaml", "policies/task.rego", "tasks.d/t.yaml"]
    assert stored.read(stored.entries("agents.d")) == {"agents.d/a.yaml": FILES["agents.d/a.yaml"].encode()}
    assert [e.path for e in stored.entries("agents.d/a.yaml")] == ["agents.d/a.yaml"]
    assert (record.author, record.audited, record.applied_at) == (
        "Ada <ada@example.org>",
        True,
        fleet.clock.now().isoformat(),
    )
    assert fleet.store.get_meta(APPLIED) == revision


def test_the_kept_revision_is_the_same_as_the_one_from_git(fleet: FakeFleet) -> None:
    fleet.commit(FILES)
    first = revisions_of(fleet)
    accept_head(first)
    there = first.last_good()
    again = revisions_of(fleet).last_good()
    assert there is not None
    assert again is not None
    assert again.route == there.route
    assert {
        k: {n: getattr(m, "digest", "") for n, m in loaded.by_name.items()} for k, loaded in again.loaded.items()
    } == {k: {n: getattr(m, "digest", "") for n, m in loaded.by_name.items()} for k, loaded in there.loaded.items()}


def test_only_the_contents_of_the_last_good_revision_are_kept(fleet: FakeFleet) -> None:
    fleet.commit(FILES)
    revisions = revisions_of(fleet)
    accept_head(revisions)
    before = records.blob_ids(fleet.store)
    fleet.commit({"agents.d/a.yaml": agent_text(version="2")})
    accept_head(revisions)
    after = records.blob_ids(fleet.store)
    assert len(before) == 4
    assert len(after) == 2
    assert len(before & after) == 1


def test_a_record_that_lost_content_is_no_last_good_revision(fleet: FakeFleet) -> None:
    revision = fleet.commit(FILES)
    accept_head(revisions_of(fleet))
    records.keep_blobs(fleet.store, {}, records.blob_ids(fleet.store))
    record = records.revision(fleet.store, revision)
    assert record is not None
    stored = StoredSnapshot(record, fleet.store)
    with pytest.raises(SourceError, match="has lost content"):
        stored.read(stored.entries(""))
    assert revisions_of(fleet).last_good() is None


def test_a_revision_is_loaded_once(fleet: FakeFleet) -> None:
    revision = fleet.commit(FILES)
    revisions = revisions_of(fleet)
    first = revisions.in_force().desired
    reads = len(fleet.source.snapshots[revision].read_paths)
    assert revisions.in_force().desired is first
    assert len(fleet.source.snapshots[revision].read_paths) == reads


def test_only_what_changed_is_read_of_the_next_revision(fleet: FakeFleet) -> None:
    fleet.commit(FILES)
    revisions = revisions_of(fleet)
    accept_head(revisions)
    second = fleet.commit({**FILES, "tasks.d/u.yaml": task_text("u")})
    revisions.in_force()
    assert sorted(set(fleet.source.snapshots[second].read_paths) - {"hub.yaml"}) == ["tasks.d/u.yaml"]


class CountingPolicy(FakePolicy):
    """Counts how often it had to look at policies."""

    def __init__(self) -> None:
        super().__init__()
        self.checks = 0

    def check(self, bundle: PolicyBundle) -> Sequence[Problem]:
        self.checks += 1
        return super().check(bundle)


def test_the_same_policies_are_judged_once_in_the_life_of_a_fleet(fleet: FakeFleet) -> None:
    fleet.policy = policy = CountingPolicy()
    policy.problems = [Problem(file="policies/task.rego", line=5, column=1, message="does not end")]
    fleet.commit(FILES)
    for _start in range(3):
        assert revisions_of(fleet).in_force().problems == tuple(policy.problems)
    assert policy.checks == 1
    policy.problems = []
    fleet.commit({**FILES, "policies/task.rego": FILES["policies/task.rego"] + "# mended\n"})
    assert revisions_of(fleet).in_force().problems == ()
    assert policy.checks == 2


def test_another_time_limit_judges_policies_anew(fleet: FakeFleet) -> None:
    fleet.policy = policy = CountingPolicy()
    fleet.commit(FILES)
    revisions_of(fleet).in_force()
    fleet.operator = OperatorSpec.model_validate({"policy": {"checkTimeout": "60s"}})
    revisions_of(fleet).in_force()
    assert policy.checks == 2


def test_policies_that_could_not_be_judged_are_looked_at_again(fleet: FakeFleet) -> None:
    fleet.policy = policy = CountingPolicy()
    policy.is_away = True
    fleet.commit(FILES)
    assert revisions_of(fleet).in_force().faults[0][:2] == ("PolicyFallback", "CannotJudge")
    policy.is_away = False
    assert revisions_of(fleet).in_force().faults == ()


def test_a_check_that_a_person_stopped_leaves_the_last_good_revision_and_is_no_fault(fleet: FakeFleet) -> None:
    class Stopped(FakePolicy):
        def check(self, bundle: PolicyBundle) -> Sequence[Problem]:
            raise CheckStoppedError(f"stopped at {bundle.digest}")

    good = fleet.commit(FILES)
    accept_head(revisions_of(fleet))
    fleet.policy = Stopped()
    fleet.commit({**FILES, "policies/task.rego": FILES["policies/task.rego"] + "# changed\n"})
    found = revisions_of(fleet).in_force()
    assert found.desired is not None
    assert (found.desired.revision.id, found.problems, found.faults) == (good, (), ())


def test_descent_is_asked_of_the_applied_revision(fleet: FakeFleet) -> None:
    first = fleet.commit(FILES)
    revisions = revisions_of(fleet)
    desired = revisions.in_force().desired
    assert desired is not None
    assert revisions.is_descendant(desired)
    accept_head(revisions)
    fleet.commit({})
    newer = revisions.in_force().desired
    assert newer is not None
    assert revisions.is_descendant(newer)
    accept_head(revisions)
    fleet.source.go_to(first)
    older = revisions.in_force().desired
    assert older is not None
    assert not revisions.is_descendant(older)


def test_what_its_own_policies_deny_is_a_broken_revision(fleet: FakeFleet) -> None:
    good = fleet.commit(FILES)
    own = FakePolicy()
    revisions = revisions_of(fleet, own)
    assert accept_head(revisions) == good
    own.deny("admission", "no editors", lambda q: q["name"] == "editor")
    fleet.commit({**FILES, "agents.d/e.yaml": agent_text("editor")})
    in_force = revisions.in_force()
    assert [str(p) for p in in_force.problems] == ["agents.d/e.yaml:1:1: admission denied (fake): no editors"]
    assert in_force.desired is not None
    assert in_force.desired.revision.id == good
    assert in_force.faults[0][0] == "ConfigInvalid"


def test_policies_in_force_that_object_make_a_dispute(fleet: FakeFleet) -> None:
    fleet.commit(FILES)
    revisions = revisions_of(fleet, FakePolicy())
    accept_head(revisions)
    fleet.policy.revision = "1:in force"
    fleet.policy.deny("admission", "no editors", lambda q: q["name"] == "editor")
    fleet.commit({**FILES, "agents.d/e.yaml": agent_text("editor")}, hub=hub_text())
    desired = revisions.in_force().desired
    assert desired is not None
    assert desired.disputed == ("agent/editor: no editors",)


def test_a_revision_that_nobody_vouches_for_is_not_even_read(fleet: FakeFleet) -> None:
    good = fleet.commit(FILES)
    revisions = revisions_of(fleet)
    accept_head(revisions)
    bad = fleet.commit({"agents.d/a.yaml": "not even yaml: ["})
    fleet.source.faults[bad] = "commit abc is refused: it is not signed"
    found = revisions.in_force()
    assert found.desired is not None
    assert found.desired.revision.id == good
    assert found.faults == (("SourceUnverified", "Refused", "commit abc is refused: it is not signed"),)
    assert fleet.source.snapshots[bad].read_paths == []
    del fleet.source.faults[bad]
    assert [type_ for type_, _, _ in revisions.in_force().faults] == ["ConfigInvalid"]


def test_without_a_revision_in_force_an_unsigned_one_puts_nothing_into_force(fleet: FakeFleet) -> None:
    fleet.source.faults[fleet.commit(FILES)] = "it is not signed"
    found = revisions_of(fleet).in_force()
    assert (found.desired, [reason for _, reason, _ in found.faults]) == (None, ["Refused"])


def test_what_is_in_force_is_not_asked_about_again(fleet: FakeFleet) -> None:
    revision = fleet.commit(FILES)
    accept_head(revisions_of(fleet))
    fleet.source.faults[revision] = "its key has expired"
    assert revisions_of(fleet).in_force().faults == ()


def test_a_history_that_was_rewritten_is_told_until_somebody_takes_it(fleet: FakeFleet) -> None:
    old = fleet.commit(FILES)
    accept_head(revisions_of(fleet))
    new = fleet.source.rewrite({"hub.yaml": hub_text(), **FILES, "README.md": "rewritten"})
    found = revisions_of(fleet).in_force()
    assert found.desired is not None
    assert found.faults == (
        (
            "HistoryRewritten",
            "ForcedPush",
            f"{new[:12]}, by Ada <ada@example.org>, does not descend from {old[:12]}; held until somebody confirms it",
        ),
    )
    assert not revisions_of(fleet).is_descendant(found.desired)
    fleet.source.commit({"hub.yaml": hub_text(), **FILES})
    accept_head(revisions_of(fleet))
    assert revisions_of(fleet).in_force().faults == ()


@pytest.mark.parametrize("source", [{"forcePush": "accept"}, {"ref": f"commit:{'1' * 40}"}])
def test_an_operator_may_take_history_as_it_comes(fleet: FakeFleet, source: dict[str, str]) -> None:
    fleet.operator = OperatorSpec.model_validate({"source": source})
    fleet.commit(FILES)
    accept_head(revisions_of(fleet))
    fleet.source.rewrite({"hub.yaml": hub_text(), **FILES})
    found = revisions_of(fleet).in_force()
    assert found.desired is not None
    assert revisions_of(fleet).is_descendant(found.desired)
    assert found.faults[0][2].endswith("taken as it comes")


def test_a_revision_whose_signatures_cannot_be_checked_is_not_followed(fleet: FakeFleet) -> None:
    good = fleet.commit(FILES)
    revisions = revisions_of(fleet)
    accept_head(revisions)
    new = fleet.commit({**FILES, "README.md": "new"})
    fleet.source.cannot_verify = "reading the keys in /keys: No such file or directory"
    found = revisions.in_force()
    assert found.desired is not None
    assert found.desired.revision.id == good
    message = f"the signatures of {new[:12]} cannot be checked: reading the keys in /keys: No such file or directory"
    assert found.faults == (("SourceUnverified", "CannotCheck", message),)
