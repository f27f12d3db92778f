"""What the router is told of an instance."""

from dataclasses import replace

from reconciler.kinds.route_entry import instance_entry
from tests.kinds.agent.build import manifest_of, record_of

RECORD = record_of(manifest_of(), token_expires_at=5.0)


def test_it_says_whose_the_instance_is_and_which_token_it_may_use() -> None:
    entry = instance_entry(RECORD)
    assert {k: v for k, v in entry.items() if k != "digest"} == {
        "agent": "writer",
        "uid": 1000,
        "tokens": [{"sha256": "0" * 64, "expires_at": 5.0}],
    }


def test_its_digest_changes_with_the_token_and_with_nothing_else_of_the_record() -> None:
    digest = instance_entry(RECORD)["digest"]
    assert instance_entry(replace(RECORD, phase="upgrading", updated_at="later", crashes=3))["digest"] == digest
    assert instance_entry(replace(RECORD, token_sha256="1" * 64))["digest"] != digest
