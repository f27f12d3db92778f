"""What `hub.yaml` says of the router, in the router's own words."""

import msgspec

from reconciler.router.config import Config
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
