"""Who may speak to a model, and with which work, as the record has it."""

import json

from reconciler.core.exposure import highest
from reconciler.core.fleet import FIRST_DELEGATE
from reconciler.kinds.egress_entry import Outgoing
from reconciler.store import attempts, records
from reconciler.store.records import InstanceRecord
from reconciler.store.store import Store


def read_outgoing(store: Store, only: str | None = None) -> dict[str, Outgoing]:
    """Of all instances on record, or of one, those that may speak to a model. Raises StoreError."""
    one = records.instance(store, only) if only is not None else None
    known = records.instances(store).values() if only is None else [one] if one is not None else []
    instances = {r.name: r for r in known if r.token_sha256 and '"llm"' in r.manifest}
    if not instances:
        return {}
    heard = attempts.heard(store, [*instances])
    at_work: dict[str, list[tuple[str, str]]] = {}
    for run in attempts.in_flight(store, only):
        at_work.setdefault(run.instance, []).append((run.run, run.name))
    found = ((name, _outgoing(record, at_work.get(name, []), heard)) for name, record in sorted(instances.items()))
    return {name: outgoing for name, outgoing in found if outgoing is not None}


def _outgoing(record: InstanceRecord, work: list[tuple[str, str]], heard: list[attempts.Heard]) -> Outgoing | None:
    spec = json.loads(record.manifest)["spec"]
    llm = spec.get("llm")
    if llm is None:
        return None
    of_it = {h.sensitivity for h in heard if h.instance == record.name and h.last_at >= record.created_at}
    return Outgoing(
        agent=record.agent,
        uid=record.uid,
        token_sha256=record.token_sha256,
        token_expires_at=record.token_expires_at,
        llm=json.dumps(llm, sort_keys=True),
        executor=spec["executor"]["type"],
        work=tuple(sorted(work)),
        sensitivity=highest(of_it),
        capabilities=tuple(spec.get("capabilities", ())) if record.ordinal >= FIRST_DELEGATE else None,
    )
