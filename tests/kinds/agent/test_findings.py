"""What a person should know of the fleet: containers without a record."""

from reconciler.core.condition import Finding
from reconciler.kinds.agent.findings import find
from reconciler.kinds.agent.state import AgentStates, InstanceState
from reconciler.ports import ContainerSummary


def stray(name: str) -> InstanceState:
    container = ContainerSummary(id=name, name=name, state="running", labels={}, image_id="i")
    return InstanceState(name=name, container=container)


def test_nothing_is_said_of_a_fleet_without_strays() -> None:
    assert find(AgentStates()) == {"runtime": ()}
    assert find(AgentStates(instances={"a-0": InstanceState(name="a-0")})) == {"runtime": ()}


def test_strays_are_one_finding_that_names_the_first() -> None:
    names = [f"s-{n}" for n in range(7)]
    message = "containers without a record: s-0, s-1, s-2, s-3, s-4 and 2 more; see `reconciler plan`"
    found = Finding(subject="runtime", type="Orphans", reason="NoRecord", message=message)
    assert find(AgentStates(instances={n: stray(n) for n in names})) == {"runtime": (found,)}
