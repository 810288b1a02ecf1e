"""Connections on loopback: bounded by the kernel before they are opened, and counted by it."""

import socket
from typing import Any

import pytest
import trio

from meshsat.uplink.sockets import HEADERS, TcpWire, connect

FLOOD = 5_000_000


async def serve(stream: trio.SocketStream) -> None:
    """Send far more than anybody asked for."""
    async with stream:
        await stream.receive_some(1)
        try:
            await stream.send_all(bytes(FLOOD))
            await stream.receive_some(1)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return


@pytest.mark.parametrize("window", [8192, 65_536])
async def test_no_more_comes_than_was_allowed_whatever_is_sent(window: int) -> None:
    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(lambda task_status: trio.serve_tcp(serve, 0, host="127.0.0.1", task_status=task_status))  # fmt: skip
        stream = await connect("127.0.0.1", listener.socket.getsockname()[1], window)
        wire = TcpWire(stream.socket)
        assert wire.count()[0] == 0
        await stream.send_all(b"x")
        allowed = window
        for more in (window, 4 * window):
            for _ in range(200):
                await trio.sleep(0.001)
                arrived, on_wire = wire.count()
                assert arrived <= allowed
                assert on_wire >= arrived + HEADERS[socket.AF_INET]
            assert arrived > window // 8, "some of it is used"
            read = len(await stream.receive_some(1024))
            wire.allow(more)
            allowed += read + more
        assert wire.sent() >= HEADERS[socket.AF_INET]
        assert 0 < wire.round_trip() < 1
        await stream.aclose()
        wire.allow(window)  # closed: nothing to bound, nothing to fail
        assert wire.count()[0] > 0
        nursery.cancel_scope.cancel()


class Names(trio.abc.HostnameResolver):
    def __init__(self, *addresses: tuple[str, int]) -> None:
        self.addresses = addresses

    async def getaddrinfo(self, *_: Any, **__: Any) -> Any:
        await trio.lowlevel.checkpoint()
        families = [socket.AF_INET6 if ":" in host else socket.AF_INET for host, _ in self.addresses]
        return [
            (family, socket.SOCK_STREAM, 6, "", address)
            for family, address in zip(families, self.addresses, strict=True)
        ]

    async def getnameinfo(self, *_: Any) -> Any:
        raise NotImplementedError


def closed_port() -> int:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port: int = unused.getsockname()[1]
        return port


async def test_the_first_address_that_answers_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        trio.socket.set_custom_hostname_resolver(Names(("127.0.0.1", closed_port()), ("127.0.0.1", port)))
        stream = await connect("reg.test", port, None)
        assert stream.socket.getpeername()[1] == port
        await stream.aclose()


async def test_one_family_that_does_not_work_is_no_end() -> None:
    """Eight addresses that lead nowhere come before the one that answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        names = Names(*(("::1", closed_port()) for _ in range(8)), ("127.0.0.1", port))
        trio.socket.set_custom_hostname_resolver(names)
        stream = await connect("reg.test", port, 8192)
        assert stream.socket.getpeername()[:2] == ("127.0.0.1", port)
        await stream.aclose()


async def test_where_none_answers_all_are_told() -> None:
    trio.socket.set_custom_hostname_resolver(Names(*(("127.0.0.1", closed_port()) for _ in range(3))))
    with pytest.raises(OSError, match=r"no address of reg\.test answers") as refused:
        await connect("reg.test", 1, 8192)
    group = refused.value.__cause__
    assert isinstance(group, ExceptionGroup)
    assert len(group.exceptions) == 3
    assert all(isinstance(one, ConnectionRefusedError) for one in group.exceptions)


async def test_whoever_gives_up_leaves_no_connection_behind() -> None:
    with socket.socket() as full, socket.socket() as first, socket.socket() as second:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for waiting in (first, second):
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        with trio.move_on_after(0.1) as gave_up:
            await connect("127.0.0.1", full.getsockname()[1], None)
        assert gave_up.cancelled_caught
