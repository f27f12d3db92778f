"""Which message schemas become active, change or go."""

from reconciler.core.change import Action, FieldChange
from reconciler.kinds.kind import Desired, Facts
from reconciler.kinds.schema.plan import plan
from tests.fakes.clock import START
from tests.fakes.desired import desired_of

FACTS = Facts(now=START, boottime=0.0, boot_id="b")


def desired(**schemas: str) -> Desired:
    """Schemas by the last part of their type."""
    return desired_of({f"schemas/messages/a.{n}.schema.json": text for n, text in schemas.items()})


def test_new_changed_kept_and_gone_schemas_are_told_apart() -> None:
    wanted = desired(new="{}", changed='{"type": "object"}', kept="{}")
    digest = {n: s.digest for n, s in wanted.of("schema").items()}
    changes = plan(wanted, {"a.changed": "1:old", "a.kept": digest["a.kept"], "a.gone": "1:gone"}, FACTS)
    assert [(c.name, c.action, c.spec_digest, c.reason) for c in changes] == [
        ("a.gone", Action.REMOVE, "1:gone", "no longer in git"),
        ("a.changed", Action.UPDATE, digest["a.changed"], "changed in git"),
        ("a.kept", Action.KEEP, digest["a.kept"], "as in git"),
        ("a.new", Action.CREATE, digest["a.new"], "new"),
    ]
    assert changes[1].fields == (FieldChange(path="digest", before="1:old", after=digest["a.changed"]),)


def test_the_same_schema_written_otherwise_is_the_same() -> None:
    there = desired(x='{"type": "object", "title": "t"}').of("schema")["a.x"].digest
    back = desired(x='{\n "title": "t",\n "type": "object"\n}').of("schema")["a.x"].digest
    assert there == back
