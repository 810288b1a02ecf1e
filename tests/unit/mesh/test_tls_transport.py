"""What only real TLS can show: strangers of every kind, callers who dawdle, and that nothing is left behind.

The laws that it shares with the other transports are in tests/contract/test_transport.py.
"""

import os
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import structlog
import trio
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from meshsat.errors import ConfigError
from meshsat.mesh import tls_transport
from meshsat.mesh.half_open import PER_SOURCE
from meshsat.mesh.tls_transport import TlsTransport
from meshsat.mesh.transport import DialError, Stream
from meshsat.metrics import Metrics
from meshsat.trust.keys import NodeKey
from tests.fleet import Fleet
from tests.strangers import KINDS, Stranger

PROTOCOL = "/test/echo/1"
PATIENCE = 10.0


class Node:
    """One member that serves, what its handler saw, and others to call it."""

    def __init__(self, directory: Path) -> None:
        self.fleet = Fleet()
        self.directory = directory
        self.metrics = Metrics()
        self.identity = self.fleet.member("bob", directory=directory / "bob")
        self.transport = TlsTransport(self.identity, [PROTOCOL], self.metrics, listen="127.0.0.1")
        self._made = 0
        self.handled: list[str] = []

    def make(self, name: str) -> TlsTransport:
        self._made += 1
        identity = self.fleet.member(name, directory=self.directory / f"{name}-{self._made}")
        return TlsTransport(identity, [PROTOCOL], Metrics(), listen="127.0.0.1")

    @property
    def port(self) -> int:
        return int(self.transport.addresses[0].rpartition(":")[2])

    @property
    def refused(self) -> float:
        return float(self.metrics.refused.labels("tls")._value.get())

    async def handle(self, _protocol: str, stream: Stream) -> None:
        self.handled.append(stream.member.name)
        with suppress(trio.Cancelled):
            while data := await stream.receive_some():
                await stream.send_all(data)

    async def still_serves(self) -> None:
        stream = await self.make("ann").open_stream(
            self.identity.key.peer_id, self.transport.addresses, PROTOCOL, PATIENCE
        )
        await stream.send_all(b"hello")
        assert await stream.receive_some() == b"hello"
        await stream.aclose()

    async def until_refused(self, count: int) -> None:
        with trio.fail_after(PATIENCE):
            while self.refused < count:
                await trio.sleep(0.005)


@asynccontextmanager
async def serving(directory: Path) -> AsyncIterator[Node]:
    node = Node(directory)
    with trio.fail_after(3 * PATIENCE):
        async with trio.open_nursery() as nursery:
            await nursery.start(node.transport.serve, node.handle)
            yield node
            nursery.cancel_scope.cancel()


def context(directory: Path, stranger: Stranger | None) -> ssl.SSLContext:
    """A client that believes anybody and shows what `stranger` has."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    tls.check_hostname = False
    tls.verify_mode = ssl.CERT_NONE
    tls.set_alpn_protocols([PROTOCOL])
    if stranger is not None:
        private, chain = stranger
        path = directory / "stranger.pem"
        certificates = [x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM) for der in chain]
        key = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        path.write_bytes(b"".join([key, *certificates]))
        tls.load_cert_chain(path)
    return tls


async def call(node: Node, tls: ssl.SSLContext) -> bytes:
    """Handshake, ask for something, and return all that comes."""
    raw = await trio.open_tcp_stream("127.0.0.1", node.port)
    stream = trio.SSLStream(raw, tls, https_compatible=True)
    received = b""
    with suppress(trio.BrokenResourceError):
        await stream.do_handshake()
        await stream.send_all(b"What images have you?")
        while data := await stream.receive_some():
            received += data
    await trio.aclose_forcefully(stream)
    return received


STRANGERS: list[Callable[[Fleet], Stranger] | None] = [None, *KINDS]


@pytest.mark.parametrize("kind", STRANGERS, ids=lambda kind: kind.__name__ if kind else "no_pass")
async def test_a_stranger_learns_nothing(tmp_path: Path, kind: Callable[[Fleet], Stranger] | None) -> None:
    async with serving(tmp_path) as node:
        tls = context(tmp_path, kind(node.fleet) if kind else None)
        with structlog.testing.capture_logs() as logs:
            for attempt in range(3):
                assert await call(node, tls) == b""
                await node.until_refused(attempt + 1)
        told = [entry for entry in logs if entry["log_level"] == "warning"]
        assert [(entry["event"], entry["source"]) for entry in told] == [("stranger refused", "127.0.0.1")]
        assert node.handled == []
        await node.still_serves()
        assert node.handled == ["ann"]
        assert node.refused == 3


async def test_a_member_through_the_same_door(tmp_path: Path) -> None:
    """The strangers' test would see a difference."""
    async with serving(tmp_path) as node:
        member = NodeKey.generate()
        tls = context(tmp_path, (member.private, node.fleet.chain(member, "ann")))
        raw = await trio.open_tcp_stream("127.0.0.1", node.port)
        stream = trio.SSLStream(raw, tls, https_compatible=True)
        await stream.send_all(b"\x01x")
        assert await stream.receive_some() == b"\x01"
        assert await stream.receive_some() == b"x"
        await trio.aclose_forcefully(stream)


@pytest.mark.parametrize(
    "said", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01" + b"\xff" * 400, os.urandom(2000)]
)
async def test_who_does_not_speak_tls(tmp_path: Path, said: bytes) -> None:
    async with serving(tmp_path) as node:
        raw = await trio.open_tcp_stream("127.0.0.1", node.port)
        with suppress(trio.BrokenResourceError):
            await raw.send_all(said)
            answer = b""
            while data := await raw.receive_some():
                answer += data
            assert len(answer) < 10  # at most an alert
        await node.until_refused(1)
        await raw.aclose()
        await node.still_serves()


async def test_old_tls_is_not_spoken(tmp_path: Path) -> None:
    async with serving(tmp_path) as node:
        member = NodeKey.generate()
        tls = context(tmp_path, (member.private, node.fleet.chain(member, "ann")))
        tls.maximum_version = ssl.TLSVersion.TLSv1_2
        assert await call(node, tls) == b""
        await node.until_refused(1)
        assert node.handled == []


async def test_whoever_says_nothing_is_closed_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls_transport, "HANDSHAKE_TIMEOUT", 0.2)
    async with serving(tmp_path) as node:
        raw = await trio.open_tcp_stream("127.0.0.1", node.port)
        with trio.fail_after(PATIENCE), suppress(trio.BrokenResourceError):
            assert await raw.receive_some() == b""
        assert node.refused == 1
        await raw.aclose()


async def test_a_crowd_that_says_nothing_keeps_nobody_out(tmp_path: Path) -> None:
    """More half-open callers than there are places, none of whose time is up: the oldest make room."""
    async with serving(tmp_path) as node:
        crowd = [socket.create_connection(("127.0.0.1", node.port)) for _ in range(100)]
        for caller in crowd[::2]:
            caller.send(b"\x16\x03")
        await node.still_serves()
        await node.until_refused(100 - PER_SOURCE - 1)
        for caller in crowd:
            caller.close()
        await node.still_serves()


async def test_streams_of_one_peer_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls_transport, "STREAMS_PER_PEER", 2)
    async with serving(tmp_path) as node:
        ann = node.make("ann")
        peer, addresses = node.identity.key.peer_id, node.transport.addresses
        first, second = [await ann.open_stream(peer, addresses, PROTOCOL, PATIENCE) for _ in range(2)]
        with pytest.raises(DialError, match="refused"):
            await ann.open_stream(peer, addresses, PROTOCOL, PATIENCE)
        other = await node.make("eve").open_stream(peer, addresses, PROTOCOL, PATIENCE)
        await first.aclose()
        with trio.fail_after(PATIENCE):
            while len(node.transport._streams.of(ann._identity.key.peer_id)) > 1:
                await trio.sleep(0.005)
        third = await ann.open_stream(peer, addresses, PROTOCOL, PATIENCE)
        for stream in (second, other, third):
            await stream.aclose()


async def test_no_descriptor_is_left_behind(tmp_path: Path) -> None:
    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    before = descriptors()
    async with serving(tmp_path) as node:
        ann = node.make("ann")
        peer, addresses = node.identity.key.peer_id, node.transport.addresses
        for protocol in (PROTOCOL, "/test/unknown/1"):
            for dialled in (peer, ann._identity.key.peer_id):
                with suppress(DialError):
                    stream = await ann.open_stream(dialled, addresses, protocol, PATIENCE)
                    with trio.move_on_after(0.05):
                        await stream.send_all(bytes(100_000_000))
                    await stream.aclose()
        await call(node, context(tmp_path, None))
        await node.until_refused(1)
    assert descriptors() == before


async def test_a_port_in_use_is_told(tmp_path: Path) -> None:
    node = Node(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        transport = TlsTransport(
            node.identity, [PROTOCOL], Metrics(), listen="127.0.0.1", port=taken.getsockname()[1]
        )
        with pytest.raises(ConfigError, match=r"mesh\.bulk_port"):
            await transport.serve(node.handle)


def test_files_that_cannot_be_used_are_told(tmp_path: Path) -> None:
    fleet = Fleet()
    with pytest.raises(ConfigError, match="files"):
        TlsTransport(fleet.member("ann"), [PROTOCOL], Metrics())
    identity = fleet.member("bob", directory=tmp_path)
    assert identity.directory is not None
    (identity.directory / "node.key").write_bytes(NodeKey.generate().to_pem())
    with pytest.raises(ConfigError, match="restore"):
        TlsTransport(identity, [PROTOCOL], Metrics())


async def test_the_wildcard_is_not_an_address(tmp_path: Path) -> None:
    node = Node(tmp_path)
    transport = TlsTransport(node.identity, [PROTOCOL], Metrics())
    async with trio.open_nursery() as nursery:
        await nursery.start(transport.serve, node.handle)
        assert transport.addresses
        assert not any(address.startswith("0.0.0.0") for address in transport.addresses)
        nursery.cancel_scope.cancel()
