from contextlib import suppress
from typing import Any

import trio

from meshsat.demo.meter import Meter, relay


async def serve_answer(size: int, *, task_status: Any) -> None:
    """Answer whatever comes with `size` bytes, and hang up."""

    async def answer(stream: trio.SocketStream) -> None:
        async with stream:
            with suppress(trio.BrokenResourceError):
                await stream.receive_some(1)
                await stream.send_all(bytes(size))

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    task_status.started(listeners[0].socket.getsockname()[1])
    await trio.serve_listeners(answer, listeners)


async def test_every_byte_is_passed_on_and_counted_both_ways() -> None:
    meter = Meter()
    async with trio.open_nursery() as nursery:
        upstream = await nursery.start(serve_answer, 300_000)
        port = await nursery.start(relay, "127.0.0.1", upstream, meter)
        async with await trio.open_tcp_stream("127.0.0.1", port) as client:
            await client.send_all(b"?")
            got = 0
            async for data in client:
                got += len(data)
        nursery.cancel_scope.cancel()
    assert got == 300_000
    assert (meter.up, meter.down, meter.connections) == (1, 300_000, 1)


async def test_a_client_that_hangs_up_and_an_upstream_that_is_gone_cost_one_connection() -> None:
    meter = Meter()
    async with trio.open_nursery() as nursery:
        upstream = await nursery.start(serve_answer, 10_000_000)
        port = await nursery.start(relay, "127.0.0.1", upstream, meter)
        client = await trio.open_tcp_stream("127.0.0.1", port)
        await client.send_all(b"?")
        await client.receive_some(1)
        await client.aclose()
        nobody = await nursery.start(relay, "127.0.0.1", 1, meter)
        async with await trio.open_tcp_stream("127.0.0.1", nobody) as client:
            assert await client.receive_some(1) == b""
        async with await trio.open_tcp_stream("127.0.0.1", port) as client:
            await client.send_all(b"?")
            assert await client.receive_some(1) == b"\0"
        nursery.cancel_scope.cancel()
    assert meter.connections == 3
