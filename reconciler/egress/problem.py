"""Why a request is not answered by a provider, in the words of the API that the caller speaks. Pure."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

import msgspec

from reconciler.router.answer import Answer, Header

Api: TypeAlias = Literal["anthropic", "openai"]

_encoder = msgspec.json.Encoder()
_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    411: "invalid_request_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Deny:
    """`code` is for the record; `status` is HTTP's, and `reason` a sentence that tells whose turn it is."""

    status: int
    code: str
    reason: str
    retry_after_s: int | None = None


def refuse(denied: Deny, api: Api) -> Answer:
    """The whole answer."""
    kind, message = _TYPES.get(denied.status, "api_error"), f"{denied.reason} (hub: {denied.code})"
    body: object
    if api == "anthropic":
        body = {"type": "error", "error": {"type": kind, "message": message}}
    else:
        body = {"error": {"message": message, "type": kind, "param": None, "code": denied.code}}
    headers: tuple[Header, ...] = ((b"hub-code", denied.code.encode()),)
    if denied.retry_after_s is not None:
        headers += ((b"retry-after", b"%d" % denied.retry_after_s),)
    if denied.status == 401:
        headers += ((b"www-authenticate", b"Bearer"),)
    return Answer(denied.status, _encoder.encode(body), headers)
