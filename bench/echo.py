"""The floor of the route: a bare ASGI application on the same server library, which answers each body with itself.

`python -m bench.echo SOCKET`
"""

import sys
from typing import Any

import uvicorn


async def echo(_scope: Any, receive: Any, send: Any) -> None:
    body = b""
    while True:
        event = await receive()
        body += event["body"]
        if not event.get("more_body"):
            break
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def main() -> None:
    uvicorn.run(
        echo,
        uds=sys.argv[1],
        http="httptools",
        loop="uvloop",
        interface="asgi3",
        ws="none",
        lifespan="off",
        access_log=False,
        server_header=False,
        date_header=False,
        log_level="warning",
    )


if __name__ == "__main__":
    main()
