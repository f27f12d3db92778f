"""A checkpoint: up to which row the audit log is what it was at a time, and the bytes that are signed. Pure."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from typing import Any

TYPE = "Checkpoint"


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """`hash` is that of row `seq`, so that it stands for all rows up to there. `time` is ISO 8601, UTC.

    `key` is the public key as `hub.pub` shows it; `signature` is base64 over `signed_bytes`, empty before it is signed.
    """

    fleet: str
    seq: int
    hash: str
    time: str
    key: str
    signature: str = ""

    @property
    def signed_bytes(self) -> bytes:
        """What the signature is over; no field can hold a line break and stay what it is."""
        texts = ("reconciler checkpoint 1", self.fleet, str(self.seq), self.hash, self.time, self.key)
        lines = [text.encode("utf-8", "surrogatepass") for text in texts]
        return b"".join(b"%d:%b\n" % (len(line), line) for line in lines)

    def document(self) -> str:
        """What a sink gets (JSON): all of it, with an `id` and a `type` of its own."""
        return json.dumps({"id": f"checkpoint-{self.fleet}-{self.seq}", "type": TYPE, **asdict(self)})


def read_documents(text: str) -> Iterator[Checkpoint]:
    """The checkpoints among the documents that a sink got, one in a line. Raises ValueError with the line's number."""
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip() and (found := _read_document(line, number)) is not None:
            yield found


def _read_document(line: str, number: int) -> Checkpoint | None:
    """None for what is a document of another type."""
    try:
        document = json.loads(line)
    except (ValueError, RecursionError) as exc:
        raise ValueError(f"line {number} is no JSON document") from exc
    if not isinstance(document, dict):
        raise ValueError(f"line {number} is no JSON document that a sink got")
    if document.get("type") != TYPE:
        return None
    values: dict[str, Any] = {f.name: document.get(f.name) for f in fields(Checkpoint)}
    wrong = [name for name, value in values.items() if type(value) is not (int if name == "seq" else str)]
    if wrong:
        raise ValueError(f"line {number} is no whole checkpoint: {', '.join(wrong)}")
    return Checkpoint(**values)
