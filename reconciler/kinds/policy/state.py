"""What is known of policies: which bundle answers, and the OPA that the hub runs."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class OpaState:
    """`running` is the digest of what the server that runs was started with, `wanted` of what one would be now.

    Both are empty where there is none; `wanted` also as long as the router has not said where it listens. Where nobody
    asks for a server, `program` and `wanted` are not looked for.
    """

    program: str | None = None
    running: str = ""
    wanted: str = ""
    was_running: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyState:
    """Digests of the bundle that was activated last, and of the one in the engine now; empty where none is."""

    recorded: str = ""
    in_engine: str = ""
    opa: OpaState = OpaState()
