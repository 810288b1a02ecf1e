"""A process that serves one file, some times over, to whoever asks, and reads what it is given: `FILE TIMES`. It
prints its address.

Beside the clients' process, so that what they cost does not count as the server's.
"""

import sys
from pathlib import Path

import trio

from meshsat.config import HttpSection
from meshsat.http.asgi import Receive, Scope, Send, respond
from meshsat.http.server import TcpBind, serve_app


async def main(path: str, times: int) -> None:
    size = Path(path).stat().st_size

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "PUT":
            while (await receive()).get("more_body", False):
                pass
            await respond(send, 201, [(b"content-length", b"0")])
            return
        length = [(b"content-length", b"%d" % (size * times))]
        await send({"type": "http.response.start", "status": 200, "headers": length})
        with Path(path).open("rb") as file:
            for left in reversed(range(times)):
                span = {"file": file, "offset": 0, "count": size, "more_body": left > 0}
                await send({"type": "http.response.zerocopysend", **span})

    async with trio.open_nursery() as nursery:
        (address,) = await nursery.start(serve_app, app, [TcpBind("127.0.0.1", 0)], HttpSection())
        sys.stdout.write(f"{address}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    trio.run(main, sys.argv[1], int(sys.argv[2]))
