"""The list of models, in the shape of either API: the one that an instance may use. Pure."""

import msgspec

from reconciler.egress.problem import Api
from reconciler.egress.route import Way
from reconciler.router.answer import Answer

_encoder = msgspec.json.Encoder()
_SINCE = "1970-01-01T00:00:00Z"
"""Nobody here knows when a model was made."""


def list_models(way: Way, api: Api) -> Answer:
    """As `GET /v1/models` of that API answers."""
    if api == "openai":
        shown = {"id": way.model, "object": "model", "created": 0, "owned_by": way.name}
        return Answer(200, _encoder.encode({"object": "list", "data": [shown]}))
    model = {"type": "model", "id": way.model, "display_name": way.model, "created_at": _SINCE}
    page = {"data": [model], "has_more": False, "first_id": way.model, "last_id": way.model}
    return Answer(200, _encoder.encode(page))
