"""The demo's WAN: a relay in front of the upstream, the only way to it that a node is told, with a meter.

It counts and does not slow down: the cap on the uplink is the node's own, and under test here.
"""

from dataclasses import dataclass
from functools import partial
from typing import Protocol

import trio

READ = 65536
"""Bytes."""


@dataclass(slots=True)
class Meter:
    """What crossed the WAN so far, in bytes of TCP payload (HTTP headers and all)."""

    down: int = 0
    """From the upstream."""
    up: int = 0
    connections: int = 0


class Started(Protocol):
    """What `nursery.start` hands over as `task_status`."""

    def started(self, port: int, /) -> None: ...


async def relay(
    host: str,
    port: int,
    meter: Meter,
    *,
    task_status: Started = trio.TASK_STATUS_IGNORED,
) -> None:
    """Listen on loopback until cancelled, starting `task_status` with the port; relay to `host`:`port`."""
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    task_status.started(listeners[0].socket.getsockname()[1])
    await trio.serve_listeners(partial(_connection, host, port, meter), listeners)


async def _connection(host: str, port: int, meter: Meter, client: trio.SocketStream) -> None:
    meter.connections += 1
    try:
        async with client, await trio.open_tcp_stream(host, port) as upstream, trio.open_nursery() as nursery:
            nursery.start_soon(_upwards, client, upstream, meter)
            await _downwards(upstream, client, meter)
            nursery.cancel_scope.cancel()
    except* (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
        pass  # one of them hung up: both ends are closed by now, and each sees it


async def _upwards(client: trio.SocketStream, upstream: trio.SocketStream, meter: Meter) -> None:
    while data := await client.receive_some(READ):
        meter.up += len(data)
        await upstream.send_all(data)
    await upstream.send_eof()


async def _downwards(upstream: trio.SocketStream, client: trio.SocketStream, meter: Meter) -> None:
    while data := await upstream.receive_some(READ):
        await client.send_all(data)
        meter.down += len(data)
    await client.send_eof()
