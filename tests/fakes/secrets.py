"""A provider of secrets in memory."""

from reconciler.core.reading import Absent, Ok, Reading, Unavailable
from reconciler.core.secret import MAX_SECRET_BYTES, SecretValue


class FakeSecrets:
    """`values` is what it has; `asked` every name that it was asked for; `fault` is why it cannot say anything now."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.fault = ""

    def read(self, name: str) -> Reading[SecretValue]:
        self.asked.append(name)
        if self.fault:
            return Unavailable(reason=self.fault)
        content = self.values.get(name, b"")
        if len(content) > MAX_SECRET_BYTES:
            return Unavailable(reason="it is too large")
        return Ok(SecretValue(content)) if content else Absent()
