"""A checkpoint: up to which row the audit log is what it was at a time, and the bytes that are signed. Pure."""

from dataclasses import dataclass


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
