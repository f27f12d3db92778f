"""A stand-in of the Messages API that costs as little as can be: the same stream for each request, as it is.

`python -m bench.messages_server PORT`
"""

import asyncio
import json
import sys
from collections.abc import Mapping
from typing import Any

import httptools
import uvloop

from tests.fakes.messages_api import Answer, stream_message

DELTAS = 40


class Line(asyncio.Protocol):
    """One connection; the head of the answer, and its first event, go out apart from the rest."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport
        self._parser = httptools.HttpRequestParser(self)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        self._transport.write(BEGIN)
        asyncio.get_running_loop().call_soon(self._transport.write, REST)


def write_stream() -> list[bytes]:
    """The events of one message of a few hundred words, as the stand-in of the tests says them."""
    events: list[Mapping[str, Any]] = []
    for event in stream_message({"model": "claude-opus"}, Answer(input_tokens=900, output_tokens=4 * DELTAS)):
        events += [event] * (DELTAS if event["type"] == "content_block_delta" else 1)
    return [f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode() for event in events]


def _chunk(content: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(content), content)


_first, *_others = write_stream()
BEGIN = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n" + _chunk(_first)
REST = b"".join(map(_chunk, _others)) + b"0\r\n\r\n"


async def serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Line, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
