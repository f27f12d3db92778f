"""Where a repository is, on this host or another: the text that an operator writes, and what is refused of it. Pure."""

import re
from dataclasses import dataclass
from typing import Literal

from reconciler.core.address import TcpAddress

Scheme = Literal["https", "http", "ssh", "file"]

_URL = re.compile(
    r"(?P<scheme>[a-z]{2,10})://(?:(?P<user>[A-Za-z0-9_][A-Za-z0-9_.-]*)@)?"
    r"(?P<host>[A-Za-z0-9][A-Za-z0-9.-]*|\[[0-9A-Fa-f:.]+\])?(?P<port>:[0-9]{1,5})?(?P<path>/[!-~]*)"
)
_SCP = re.compile(r"(?:(?P<user>[A-Za-z0-9_][A-Za-z0-9_.-]*)@)(?P<host>[A-Za-z0-9][A-Za-z0-9.-]*):(?P<path>[!-~]+)")
_HELP = "write https://host/path, ssh://git@host/path or file:///path"


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """A repository that is not simply a directory. `server` is scheme, host and port."""

    url: str
    scheme: Scheme
    server: str = ""


def is_remote(text: str) -> bool:
    """Whether it is meant as an address, and not as a directory of this host."""
    return "://" in text or "::" in text or _SCP.fullmatch(text) is not None


def parse_origin(text: str) -> Origin:
    """Raises ValueError that says what to write; it never repeats a password."""
    if scp := _SCP.fullmatch(text):
        if scp["path"].startswith("-"):
            raise ValueError(f"has a path that begins with a dash; {_HELP}")
        return Origin(url=text, scheme="ssh", server=f"ssh://{scp['host']}")
    if re.match(r"[a-z+]+://[^/]*:[^/]*@", text):
        raise ValueError("has a password in it; put it into the file that source.credentials.file names")
    found = _URL.fullmatch(text)
    if found is None or "?" in text or "#" in text:
        raise ValueError(f"is no address of a repository; {_HELP}")
    scheme, host, server = found["scheme"], found["host"], f"{found['scheme']}://{found['host']}{found['port'] or ''}"
    if scheme == "file":
        if host or found["user"] or found["port"]:
            raise ValueError("has a host; write file:///path, with three slashes")
        return Origin(url=text, scheme="file")
    if not host:
        raise ValueError(f"has no host; {_HELP}")
    if scheme == "https" or (scheme == "http" and _is_here(host)):
        if found["user"]:
            raise ValueError("has a user in it; put 'user:password' into the file that source.credentials.file names")
        return Origin(url=text, scheme="https" if scheme == "https" else "http", server=server)
    if scheme == "ssh":
        return Origin(url=text, scheme="ssh", server=server)
    if scheme == "http":
        raise ValueError("is http, which anybody on the way can change; write https")
    raise ValueError(f"has the scheme {scheme!r}; {_HELP}")


def _is_here(host: str) -> bool:
    return TcpAddress(host=host.strip("[]"), port=80).is_local
