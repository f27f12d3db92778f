"""What an agent can do, as others see it."""

from tests.fakes.fleet import agent_view


def test_an_agent_has_what_is_required_only_if_it_has_all_of_it() -> None:
    agent = agent_view(capabilities=("docs.write", "git.read"))
    assert agent.has(("git.read", "docs.write"))
    assert agent.has(())
    assert not agent.has(("docs.write", "docs.publish"))
