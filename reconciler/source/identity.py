"""Who somebody says they are in their git configuration: what they author commits as."""

from reconciler.errors import SourceError
from reconciler.source.git import run_as_person


def read_identity(path: str) -> str:
    """`Ada <ada@example.org>` by the repository at `path`, else the person's own configuration; empty where none says.

    Never raises: a name that cannot be read is none.
    """
    try:
        answer = run_as_person(path, ["config", "--get-regexp", r"^user\.(name|email)$"])
    except SourceError:
        return ""
    lines = answer.stdout.decode("utf-8", "replace").splitlines() if answer.code == 0 else []
    said = {key: value for key, _, value in (line.partition(" ") for line in lines)}
    name, email = said.get("user.name", "").strip(), said.get("user.email", "").strip()
    return f"{name} <{email}>" if name and email else name or email
