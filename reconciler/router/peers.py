"""External peers: agents whose manifest names a public key. They speak KLP: they sign what they send to others, and get
signed what is delivered to them.

Bytes of a peer come in and its message in the hub's own form goes out, or a denial; and the other way round. Only a
configuration with peers loads this module, and with it the hub's key.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import rfc8785
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from reconciler.identity.hub_key import load_or_make_key, read_public_key, show_public_key
from reconciler.identity.klp import Fault, Opened, Replays, is_too_complex, open_message, seal_message
from reconciler.router.answer import find_header
from reconciler.router.config import AgentEntry, RefusedError
from reconciler.router.message import Deny

_OF_IDENTITY = frozenset({"unauthenticated", "duplicate", "expired"})


class Peers:
    """The peers of the configuration in force. `folder` is the data directory, with the hub's key.

    Nothing that was signed before `since_s`, wall clock, is taken: what was taken before is not known any more.
    """

    def __init__(self, folder: Path, since_s: float) -> None:
        """Raises StoreError."""
        self._key = load_or_make_key(folder)
        self._since_s = since_s
        self._keys: Mapping[str, Ed25519PublicKey] = {}
        self._replays: dict[str, Replays] = {}
        self.public_key = show_public_key(self._key.public_key())

    def __contains__(self, agent: str) -> bool:
        return agent in self._keys

    def use(self, keys: Mapping[str, Ed25519PublicKey]) -> None:
        """Swap in the keys of a configuration."""
        self._keys = keys

    def open(self, agent: str, body: bytes, headers: Sequence[tuple[bytes, bytes]], wall_s: float) -> Opened | Deny:
        """A peer's message, if it signed it lately and for the first time."""
        opened = open_message(body, self._keys[agent], _find_token(headers), wall_s)
        if isinstance(opened, Fault):
            return _deny(opened)
        if agent not in self._replays:
            self._replays[agent] = Replays(self._since_s)
        fault = self._replays[agent].begin(opened, wall_s)
        return opened if fault is None else _deny(fault)

    def forget(self, agent: str, opened: Opened) -> None:
        """It was refused after all, and may come again."""
        self._replays[agent].forget(opened)

    def seal(self, delivered: bytes, wall_s: float) -> bytes | None:
        """A message as a peer reads it; None where it has numbers without a form in RFC 8785, or too many values."""
        if is_too_complex(delivered):
            return None
        try:
            return seal_message(delivered, self._key, wall_s)
        except rfc8785.CanonicalizationError:
            return None


def read_keys(agents: Mapping[str, AgentEntry]) -> Mapping[str, Ed25519PublicKey]:
    """The public keys of a configuration's peers. Raises RefusedError that names the agent."""
    keys: dict[str, Ed25519PublicKey] = {}
    for name, agent in agents.items():
        try:
            if agent.klp is not None:
                keys[name] = read_public_key(agent.klp)
        except ValueError as error:
            raise RefusedError(f"agents.{name}.klp: {error}") from error
    return keys


def _find_token(headers: Sequence[tuple[bytes, bytes]]) -> bytes:
    return find_header(headers, b"authorization").partition(b" ")[2].strip()


def _deny(fault: Fault) -> Deny:
    return Deny(
        code=fault.code,
        step="identity" if fault.code in _OF_IDENTITY else "schema",
        reason=fault.reason,
        retry_after_s=1 if fault.code == "rate_limited" else None,
        is_forgery=fault.code == "unauthenticated",
    )
