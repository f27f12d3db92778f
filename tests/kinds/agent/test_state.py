"""The lifecycle as data: which phase follows on which."""

from reconciler.kinds.agent.state import TRANSITIONS, Phase


def test_every_phase_has_its_entry_and_can_be_come_to_and_left() -> None:
    assert set(TRANSITIONS) == set(Phase)
    assert {p for p in Phase if not TRANSITIONS[p]} == {Phase.TERMINATED}
    assert set(Phase) - {p for nexts in TRANSITIONS.values() for p in nexts} == {Phase.DEFINED}


def test_from_every_phase_there_is_a_way_to_the_end_and_none_leads_to_itself() -> None:
    for phase in Phase:
        seen, todo = set[Phase](), [phase]
        while todo:
            seen.add(at := todo.pop())
            todo.extend(TRANSITIONS[at] - seen)
        assert Phase.TERMINATED in seen
        assert phase not in TRANSITIONS[phase]


def test_what_is_in_quarantine_works_again_only_as_something_made_anew() -> None:
    assert TRANSITIONS[Phase.QUARANTINED] == {Phase.ACTIVATING, Phase.TERMINATING}
