"""What is to be done and said about the secrets of one instance. Pure: names and faults come in, sentences go out."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache

from reconciler.core.change import Action, Change
from reconciler.core.secret import SecretFault

_OUTDATED = {
    SecretFault.CHANGED: "secret {} has another value now",
    SecretFault.WITHDRAWN: "secret {} was withdrawn",
}
_STARTING = (Action.CREATE, Action.REPLACE, Action.RESTART)
_LACKING = {
    SecretFault.MISSING: "it runs without secret {}, which its provider does not have",
    SecretFault.UNREADABLE: "it runs without secret {}, which its provider cannot read now",
}


@lru_cache(maxsize=4096)
def secret_names(manifest: str) -> tuple[str, ...]:
    """The secrets that a manifest (JSON, as recorded) asks for."""
    return tuple(json.loads(manifest)["spec"].get("secrets", ())) if '"secrets"' in manifest else ()


def outdated(faults: Mapping[str, SecretFault]) -> tuple[tuple[str, ...], str]:
    """The secrets whose files have to be written or removed, and why; both empty where there are none."""
    names = tuple(name for name, fault in sorted(faults.items()) if fault in _OUTDATED)
    return names, _sentence({name: _OUTDATED[faults[name]] for name in names})


def lacking(faults: Mapping[str, SecretFault]) -> str:
    """Which secrets a running instance has to do without; empty where it has all."""
    return _sentence({name: _LACKING[fault] for name, fault in sorted(faults.items()) if fault in _LACKING})


def without(faults: Mapping[str, SecretFault]) -> str:
    """The same, with those that it is about to lose: why it cannot do what its manifest says."""
    gone = {n: _OUTDATED[fault] for n, fault in sorted(faults.items()) if fault is SecretFault.WITHDRAWN}
    return "; ".join(filter(None, (_sentence(gone), lacking(faults))))


def await_secrets(change: Change, names: Sequence[str], lacking: Mapping[str, str]) -> Change:
    """The change, or a HOLD in its place where it would start an instance without a secret that it asks for."""
    missing = [name for name in names if name in lacking] if change.action in _STARTING else []
    if not missing:
        return change
    why = "; ".join(f"secret {name} of agent {change.name}: {lacking[name]}" for name in missing)
    return replace(change, action=Action.HOLD, reason=f"{change.reason}; {why}", disruptive=False)


def _sentence(said: Mapping[str, str]) -> str:
    return "; ".join(text.format(name) for name, text in said.items())
