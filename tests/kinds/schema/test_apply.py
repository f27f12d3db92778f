"""Which schemas are active is on record, and the router has the whole set."""

import json
from pathlib import Path

from reconciler.kinds.schema.observe import ACTIVE, active
from tests.fakes.fleet import FakeFleet, actions


def schema(name: str, text: str = "{}") -> dict[str, str]:
    return {f"schemas/messages/{name}.schema.json": text}


def test_schemas_are_recorded_and_reach_the_router_in_the_same_pass(tmp_path: Path) -> None:
    fleet = FakeFleet(tmp_path)
    fleet.commit({**schema("a.b"), **schema("c.d")})
    fleet.run()
    assert sorted(active(fleet.world)) == ["a.b", "c.d"]
    assert sorted(fleet.router.config["schemas"]) == ["a.b", "c.d"]
    fleet.commit(schema("a.b", '{"type": "object"}'))
    assert actions(fleet.run(), "schema") == {"c.d": "remove", "a.b": "update"}
    assert fleet.router.config["schemas"] == {"a.b": {"type": "object"}}
    assert list(json.loads(fleet.store.get_meta(ACTIVE) or "")) == ["a.b"]
    assert fleet.settle().is_converged
    fleet.end_hub()


def test_many_schemas_at_once_are_all_recorded(tmp_path: Path) -> None:
    fleet = FakeFleet(tmp_path)
    files: dict[str, str] = {}
    for number in range(12):
        files |= schema(f"a.s{number}")
    fleet.commit(
        files, hub="apiVersion: reconciler/v1\nkind: Hub\nmetadata: {name: x}\nspec: {loop: {concurrency: 8}}\n"
    )
    fleet.settle()
    assert len(active(fleet.world)) == 12
    fleet.end_hub()
