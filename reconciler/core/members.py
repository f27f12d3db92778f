"""The members of one JSON object, each as the bytes it stands in; or what is wrong with the text. Pure.

For formats that are translated before they are read as messages: a key that stands twice, at any depth, would mean one
thing to us and another to whoever wrote or signed it.
"""

import json

import msgspec

_TOO_DEEP = "it is nested too deeply"

_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])


def read_members(body: bytes) -> dict[str, msgspec.Raw] | str:
    """Names and raw values of the object in `body`, or a reason, which never repeats a value."""
    try:
        members = _decoder.decode(body)
        twice = find_repeated_key(body)
    except RecursionError:
        return _TOO_DEEP
    except UnicodeDecodeError as error:
        return f"it is not UTF-8 (at byte {error.start} of a string)"
    except msgspec.DecodeError as error:
        return str(error)
    return members if twice is None else f"the key {twice[:64]!a} stands twice in one object"


def find_repeated_key(body: bytes) -> str | None:
    """A key that stands twice in one object of JSON text, or None. Numbers stay text: some take long to read."""
    found: list[str] = []

    def check(pairs: list[tuple[str, object]]) -> None:
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                found.append(key)
            seen.add(key)

    json.loads(body, object_pairs_hook=check, parse_int=str, parse_float=str)
    return found[0] if found else None
