"""What the router is told of an instance."""

import json
from dataclasses import replace

from reconciler.core.digest import digest
from reconciler.kinds.route_entry import Part, config_digest, instance_entry, recorded_address
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
    before = instance_entry(RECORD)["digest"]
    assert instance_entry(replace(RECORD, phase="upgrading", updated_at="later", crashes=3))["digest"] == before
    assert instance_entry(replace(RECORD, token_sha256="1" * 64))["digest"] != before


def test_a_container_that_was_made_to_call_over_the_network_has_a_token_for_tls() -> None:
    fields = json.loads(RECORD.fields)
    del fields["env"]["HUB_SOCKET"]
    far = replace(RECORD, fields=json.dumps({**fields, "env": {**fields["env"], "HUB_ADDRESS": "hub:1"}}))
    entry = instance_entry(far)
    assert entry["transport"] == "tls"
    assert entry["digest"] != instance_entry(RECORD)["digest"]
    assert (recorded_address(far.fields), recorded_address(RECORD.fields), recorded_address("{}")) == ("hub:1", "", "")


def test_what_an_author_writes_is_not_taken_for_it() -> None:
    argv = ["echo", '"HUB_ADDRESS": "evil:1"', "HUB_ADDRESS"]
    text = {"type": "command", "argv": argv, "env": {"X": '{"HUB_ADDRESS": "evil:1"}'}}
    record = record_of(manifest_of(executor=text, env={"Y": '"HUB_ADDRESS": "evil:1"'}))
    assert recorded_address(record.fields) == ""
    assert "transport" not in instance_entry(record)


def test_a_part_is_the_mapping_that_it_was_made_of_and_knows_its_digest() -> None:
    part = Part({"role": "writer", "sends": []})
    assert part == {"role": "writer", "sends": []}
    assert part.digest == digest(dict(part))


def test_the_digest_of_a_configuration_changes_with_each_section_and_each_part() -> None:
    writer, editor = Part({"role": "writer"}), Part({"role": "editor"})
    base = {"agents": {"a": writer, "b": editor}, "limits": {"lease_s": 1.0}, "policy": None}
    others = [
        {**base, "agents": {"a": editor, "b": writer}},
        {**base, "agents": {"a": writer}},
        {**base, "agents": {"a": writer, "c": editor}},
        {**base, "agents": {"a": writer, "b": Part({"role": "editor", "version": "2"})}},
        {**base, "limits": {"lease_s": 2.0}},
        {**base, "policy": {}},
    ]
    assert len({config_digest(config) for config in (base, *others)}) == 1 + len(others)
    again = {"policy": None, "limits": {"lease_s": 1.0}, "agents": {"b": Part(dict(editor)), "a": writer}}
    assert config_digest(again) == config_digest(base)
