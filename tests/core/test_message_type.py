"""Which message types are the hub's own."""

import pytest

from reconciler.core.message_type import is_reserved
from reconciler.router.own_schemas import own_schemas


@pytest.mark.parametrize("type_", ["taskforce.met", "my.task.started", "task", "hubs.x", ""])
def test_what_only_looks_alike_is_free(type_: str) -> None:
    assert not is_reserved(type_)


def test_all_types_that_come_with_the_hub_are_its_own() -> None:
    assert [type_ for type_ in own_schemas() if not is_reserved(type_)] == []
