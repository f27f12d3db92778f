"""`audit verify` over a long log: rows per second, beside the bare hashing of the same bytes in the same run."""

import hashlib
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bench.figure import Figure, timed
from reconciler.audit.gather import Places, gather
from reconciler.audit.ledger import Ledger
from reconciler.audit.signing import Signer, open_signer
from reconciler.audit.verify import judge
from reconciler.store.audit import COLUMNS, AuditEntry, Choice, append, choose, newest
from reconciler.store.checkpoints import put_checkpoint
from reconciler.store.store import Store

ROWS = 100_000
BATCH = 1000
"""As many rows as there are between two checkpoints."""
FLEET = "0a1b2c3d"


def measure() -> list[Figure]:
    """One figure, in rows per second."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder) / "state.db")
        signer = open_signer(Path(folder), FLEET)
        _fill(store, signer)
        places = Places(
            store=store,
            fleet=FLEET,
            seal_key=b"",
            trusted_key=signer.public_key,
            ledger=Ledger(repository=folder, branch="", notes_path=folder, is_remote=False),
            runtime=None,
        )
        seconds = timed(lambda: judge(gather(places)), runs=3)
        verdict = judge(gather(places))
        assert (verdict.rows, verdict.by_checkpoint, verdict.faults) == (ROWS, ROWS, ())
        contents = list(_contents(store))
        bare = timed(lambda: [hashlib.sha256(content).hexdigest() for content in contents], runs=3)
        store.close()
    return [
        Figure(
            name="audit verify, rows with their checkpoints",
            value=ROWS / seconds,
            unit="rows/s",
            reference="bare SHA-256",
            reference_value=ROWS / bare,
            budget=100_000,
            at_most=False,
        )
    ]


def _fill(store: Store, signer: Signer) -> None:
    """Rows as a hub writes them: two for each change, most of them of tasks."""
    for start in range(0, ROWS, BATCH):
        append(store, [_entry(number) for number in range(start, start + BATCH)])
        seq, row_hash = newest(store)
        put_checkpoint(store, signer.sign_checkpoint(seq, row_hash, "2026-11-21T12:00:00+00:00"))


def _entry(number: int) -> AuditEntry:
    change, is_outcome = divmod(number, 2)
    return AuditEntry(
        time=f"2026-11-21T12:{change // 60 % 60:02}:{change % 60:02}.{number % 1_000_000:06}+00:00",
        boottime=1000.0 + number / 7,
        fleet=FLEET,
        revision=f"worktree:{change // 500:040x}",
        actor="Ada Lovelace <ada@example.org>",
        cause="commit",
        kind="task",
        name=f"changelog-{change}",
        action="dispatch",
        before="",
        after=f'{{"generation": {change}}}',
        outcome="applied" if is_outcome else "intent",
        reason=f"to writer-{change % 20}, generation {change}",
        plan_digest=f"1:{change // 4:032x}",
        policy_revision="6d67594fc6cec4ee37a26b2872c8e94b",
    )


def _contents(store: Store) -> Iterator[bytes]:
    """Of each row the bytes that its hash is over."""
    for row in choose(store, Choice()):
        values = [row.prev, str(row.seq), *(str(getattr(row.entry, c)) for c in COLUMNS)]
        encoded = [value.encode() for value in values]
        yield b"".join(struct.pack(">Q", len(value)) + value for value in encoded)
