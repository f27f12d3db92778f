"""What `hub.yaml` says of the router, in the router's own words."""

import msgspec

from reconciler.router.config import Config, TlsEntry
from reconciler.settings import OperatorSpec
from tests.fakes.desired import desired_of
from tests.fakes.texts import agent_text, hub_text


def configured(**router: object) -> Config:
    """The configuration as the router takes it."""
    files = {"hub.yaml": hub_text(router=router), "agents.d/a.yaml": agent_text()}
    return msgspec.convert(desired_of(files).route, Config)


def test_the_rate_is_per_second_and_there_is_one_also_where_none_is_written() -> None:
    limits = configured().limits
    assert limits.rate is not None
    assert (limits.rate.messages_per_s, limits.rate.bytes_per_s, limits.rate_by_type) == (10.0, float(2**20), {})
    limits = configured(
        rate={"messages": "300/min", "bytes": "30MiB/min", "perType": {"review.note": {"messages": "6/min"}}}
    ).limits
    assert limits.rate is not None
    assert (limits.rate.messages_per_s, limits.rate.bytes_per_s) == (5.0, 2.0**19)
    assert limits.rate_by_type["review.note"].messages_per_s == 0.1
    assert limits.rate_by_type["review.note"].bytes_per_s is None


def tls_of(**plane: object) -> TlsEntry | None:
    operator = OperatorSpec.model_validate({"agentPlane": plane})
    return msgspec.convert(desired_of({"agents.d/a.yaml": agent_text()}, operator=operator).route, Config).tls


def test_the_router_listens_on_the_network_where_the_operator_says_under_the_names_that_agents_may_use() -> None:
    assert tls_of() is None
    assert tls_of(listen="tcp://10.0.0.1:8421") == TlsEntry(host="10.0.0.1", port=8421, names=("10.0.0.1",))
    both = tls_of(listen="tcp://10.0.0.1:8421", advertise="hub.example.org:443")
    assert both == TlsEntry(host="10.0.0.1", port=8421, names=("10.0.0.1", "hub.example.org"))
    told = tls_of(listen="tcp://[::]:8421", advertise="hub.example.org:443")
    assert told == TlsEntry(host="::", port=8421, names=("hub.example.org",))


def test_without_it_the_configuration_is_as_before() -> None:
    assert "tls" not in desired_of({"agents.d/a.yaml": agent_text()}).route
