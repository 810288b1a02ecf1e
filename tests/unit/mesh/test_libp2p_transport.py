"""What the contract suite and the defects' tests leave: strangers at the door, connections that die, the host that dies."""

import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import pytest
import structlog
import trio
from structlog.typing import EventDict
from trio.testing import wait_all_tasks_blocked

from meshsat.mesh.greeting import encode_greeting
from meshsat.mesh.identity import Identity
from meshsat.mesh.interfaces import split_address_untrusted
from meshsat.mesh.libp2p_dial import ENROL, connect, open_enrol_stream
from meshsat.mesh.libp2p_transport import MEMBER, EnrolHandler, Libp2pTransport, Limits
from meshsat.mesh.libp2p_wire import Wire
from meshsat.mesh.muxer import Limits as MuxerLimits
from meshsat.mesh.muxer import Muxer
from meshsat.mesh.transport import ByteStream, DialError, Handler, Stream, StreamBroken
from meshsat.metrics import Metrics
from meshsat.trust.keys import NodeKey
from tests.fleet import Fleet

pytestmark = pytest.mark.slow  # it waits on real clocks

ECHO = "/test/echo/1"
PATIENCE = 10.0
FLEET = Fleet()


async def echo(_protocol: str, stream: Stream) -> None:
    while data := await stream.receive_some():
        await stream.send_all(data)


def member(name: str, limits: Limits | None = None, enrol_handler: EnrolHandler | None = None) -> "Member":
    identity = FLEET.member(name)
    metrics = Metrics()
    transport = Libp2pTransport(
        identity, (ECHO,), metrics, listen="127.0.0.1", enrol_handler=enrol_handler, limits=limits
    )
    return Member(identity, transport, metrics)


@dataclass
class Member:
    identity: Identity
    transport: Libp2pTransport
    metrics: Metrics
    handler: Handler = field(default=echo)

    async def dial(self, other: "Member", timeout: float = PATIENCE) -> Stream:
        return await self.transport.open_stream(
            other.identity.key.peer_id, other.transport.addresses, ECHO, timeout
        )

    async def reaches(self, other: "Member") -> bool:
        stream = await self.dial(other)
        await stream.send_all(b"hello")
        heard = await stream.receive_some()
        await stream.aclose()
        return heard == b"hello"

    @property
    def refused(self) -> float:
        return float(self.metrics.refused.labels("libp2p")._value.get())


@asynccontextmanager
async def serving(*members: Member) -> AsyncIterator[trio.Nursery]:
    with trio.fail_after(2 * PATIENCE):
        async with trio.open_nursery() as nursery:
            for one in members:
                await nursery.start(one.transport.serve, one.handler)
            yield nursery
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def stranger(target: Member, key: NodeKey | None = None) -> AsyncIterator[tuple[Wire, Muxer]]:
    """A connection of somebody with a key and no more."""
    wire = Wire(key or NodeKey.generate())
    channel = await connect(wire, target.transport.addresses[0], None)
    muxer = Muxer(channel, initiator=True, limits=MuxerLimits())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(muxer.run)
        yield wire, muxer
        nursery.cancel_scope.cancel()


async def until(true: Callable[[], object]) -> None:
    with trio.fail_after(PATIENCE):
        while not true():
            await trio.sleep(0.005)


async def closed_by_peer(receive: Callable[[], Awaitable[bytes]]) -> bool:
    """Whether the other side ends it. (That multistream-select is spoken there, it may say.)"""
    with trio.move_on_after(0.2) as scope, suppress(StreamBroken, trio.BrokenResourceError):
        while await receive():
            pass
    return not scope.cancelled_caught


@pytest.fixture
def logged() -> Iterator[list[EventDict]]:
    with structlog.testing.capture_logs() as entries:
        yield entries


def port_of(target: Member) -> int:
    split = split_address_untrusted(target.transport.addresses[0])
    assert split is not None
    return split[1]


# --- the host dies


@pytest.mark.parametrize(
    "fault",
    [
        RuntimeError("the listener"),
        OSError(5, "I/O error"),
        ExceptionGroup("many", [KeyError("a"), TypeError("b")]),
    ],
)
async def test_the_host_dies_and_the_node_lives(
    fault: Exception, logged: list[EventDict], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever breaks the listener: told once, started again with back-off, on the same port."""
    ann, bob = member("ann"), member("bob", Limits(restart=0.01))
    faults, healthy = [fault, fault, fault], trio.Event()
    accept = trio.SocketListener.accept

    async def failing(listener: trio.SocketListener) -> trio.SocketStream:
        if listener.socket.getsockname()[1] == port:
            if faults:
                raise faults.pop()
            healthy.set()
        return await accept(listener)

    async with serving(ann, bob):
        port = port_of(bob)
        stream = await ann.dial(bob)
        monkeypatch.setattr(trio.SocketListener, "accept", failing)
        knock = await trio.open_tcp_stream("127.0.0.1", port)  # ends the accept that is under way
        await knock.aclose()
        with pytest.raises(StreamBroken):
            await stream.receive_some()
        await healthy.wait()
        assert port_of(bob) == port
        assert await ann.reaches(bob)
    told = [entry for entry in logged if entry["event"] == "control plane failed, starting again"]
    assert len(told) == 1


async def test_a_port_that_is_lost_meanwhile_is_tried_again(
    logged: list[EventDict], monkeypatch: pytest.MonkeyPatch
) -> None:
    ann, bob = member("ann"), member("bob", Limits(restart=0.01))
    open_listeners: Callable[..., Awaitable[object]] = trio.open_tcp_listeners
    faults = [OSError(98, "Address already in use")] * 3
    dying, healthy = [RuntimeError("dies")], trio.Event()
    accept = trio.SocketListener.accept

    async def fails_to_open(*arguments: object, **options: object) -> object:
        if faults:
            raise faults.pop()
        return await open_listeners(*arguments, **options)

    async def fails_to_accept(listener: trio.SocketListener) -> trio.SocketStream:
        if listener.socket.getsockname()[1] == port:
            if dying:
                raise dying.pop()
            healthy.set()
        return await accept(listener)

    async with serving(ann, bob):
        port = port_of(bob)
        assert await ann.reaches(bob)
        monkeypatch.setattr(trio, "open_tcp_listeners", fails_to_open)
        monkeypatch.setattr(trio.SocketListener, "accept", fails_to_accept)
        knock = await trio.open_tcp_stream("127.0.0.1", port)
        await knock.aclose()
        await healthy.wait()
        assert not faults
        assert await ann.reaches(bob)
    told = [entry for entry in logged if entry["event"] == "control plane cannot listen, trying on"]
    assert len(told) == 1


async def test_out_of_file_descriptors_is_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    ann, bob = member("ann"), member("bob")
    faults = [OSError(24, "Too many open files")]
    accept = trio.SocketListener.accept

    async def failing(listener: trio.SocketListener) -> trio.SocketStream:
        if faults:
            raise faults.pop()
        return await accept(listener)

    monkeypatch.setattr(trio.SocketListener, "accept", failing)
    async with serving(ann, bob):
        stream = await ann.dial(bob)
        await wait_all_tasks_blocked()
        await stream.send_all(b"still the same connection")
        assert await stream.receive_some()


async def test_a_fault_nobody_foresaw_ends_one_connection(
    logged: list[EventDict], monkeypatch: pytest.MonkeyPatch
) -> None:
    ann, bob = member("ann"), member("bob")
    async with serving(ann, bob):
        stream = await ann.dial(bob)
        monkeypatch.setattr(bob.transport, "_link", lambda *_: int("no link"))
        eve = await trio.open_tcp_stream("127.0.0.1", port_of(bob))
        channel = await Wire(NodeKey.generate()).secure_outbound(eve, bob.identity.key.peer_id)
        with pytest.raises(StreamBroken):
            await channel.receive()
        await stream.send_all(b"unharmed")
        assert await stream.receive_some() == b"unharmed"
    assert [entry["event"] for entry in logged if entry["log_level"] == "error"] == ["connection failed"]


# --- strangers


@pytest.mark.parametrize(
    "said", [b"", b"GET / HTTP/1.1\r\n\r\n", b"\x13/multistream/1.0.0\n\x07/noise\n" + bytes(300)]
)
async def test_no_handshake_in_time_is_closed_upon(said: bytes) -> None:
    bob = member("bob", Limits(handshake=0.1))
    async with serving(bob):
        eve = await trio.open_tcp_stream("127.0.0.1", port_of(bob))
        async with eve:
            await eve.send_all(said) if said else None
            with trio.fail_after(PATIENCE), suppress(trio.BrokenResourceError):
                while await eve.receive_some(1000):
                    pass
        await until(lambda: bob.refused == 1)


async def test_no_pass_in_time_is_closed_upon() -> None:
    bob = member("bob", Limits(proof=0.1))
    async with serving(bob), stranger(bob) as (_, muxer):
        stream = muxer.open_stream()
        assert await closed_by_peer(stream.receive_some)
        await until(lambda: not muxer.alive)
        assert bob.refused == 1


async def test_a_member_is_not_closed_upon_for_being_quiet() -> None:
    ann, bob = member("ann"), member("bob", Limits(proof=0.05))
    async with serving(ann, bob):
        stream = await ann.dial(bob)
        await trio.sleep(0.15)
        await stream.send_all(b"after a pause")
        assert await stream.receive_some() == b"after a pause"


@pytest.mark.parametrize(
    "protocol",
    [
        ECHO,
        "/ipfs/id/1.0.0",
        "/ipfs/id/push/1.0.0",
        "/ipfs/ping/1.0.0",
        "/meshsub/1.1.0",
        "/ipfs/kad/1.0.0",
        ENROL,
    ],
)
async def test_nothing_else_is_answered(protocol: str) -> None:
    """Not identify, not ping, not what members speak; nor pubsub, which a malformed message would kill."""
    bob = member("bob")
    async with serving(bob), stranger(bob) as (wire, muxer):
        with pytest.raises(StreamBroken, match="'na'"), trio.fail_after(PATIENCE):
            await wire.select(muxer.open_stream(), protocol)


async def test_a_pass_that_was_seen_elsewhere_opens_nothing(logged: list[EventDict]) -> None:
    """Noise proves the key, the pass a membership: they must be of the same node."""
    ann, bob = member("ann"), member("bob")
    async with serving(bob), stranger(bob) as (wire, muxer):
        stream = muxer.open_stream()
        await wire.select(stream, MEMBER)
        await stream.send_all(encode_greeting(ann.identity.chain, ECHO))
        assert await closed_by_peer(stream.receive_some)
        await until(lambda: not muxer.alive)
    assert bob.refused == 1
    assert [entry["event"] for entry in logged] == ["stranger refused"]


async def test_a_stranger_who_knocks_on_is_told_of_once(logged: list[EventDict]) -> None:
    bob = member("bob")
    async with serving(bob):
        for _ in range(5):
            async with stranger(bob) as (wire, muxer):
                stream = muxer.open_stream()
                await wire.select(stream, MEMBER)
                await stream.send_all(encode_greeting([b"no certificate"], ECHO))
                assert await closed_by_peer(stream.receive_some)
        await until(lambda: bob.refused == 5)
    assert len(logged) == 1


async def test_a_stranger_has_few_streams() -> None:
    bob = member("bob", Limits(streams_unproved=2))
    async with serving(bob), stranger(bob) as (_, muxer):
        streams = [muxer.open_stream() for _ in range(5)]
        refused = [await closed_by_peer(stream.receive_some) for stream in streams]
        assert refused.count(True) == 3
        assert muxer.alive


async def test_strangers_who_crowd_lock_no_member_out() -> None:
    ann, bob = member("ann"), member("bob", Limits(handshake=10 * PATIENCE))
    async with serving(ann, bob):
        idle = [await trio.open_tcp_stream("127.0.0.1", port_of(bob)) for _ in range(60)]
        assert await ann.reaches(bob)
        await until(lambda: bob.transport._inbound <= 40)
        for stream in idle:
            await stream.aclose()


async def test_inbound_connections_are_bounded_and_come_free_again() -> None:
    bob = member("bob", Limits(connections=2))
    async with serving(bob):
        first = [await trio.open_tcp_stream("127.0.0.1", port_of(bob)) for _ in range(2)]
        await until(lambda: bob.transport._inbound == 2)
        third = await trio.open_tcp_stream("127.0.0.1", port_of(bob))
        assert await closed_by_peer(third.receive_some)
        for stream in (*first, third):
            await stream.aclose()
        await until(lambda: bob.transport._inbound == 0)
        async with stranger(bob) as (_, muxer):
            assert muxer.alive


# --- enrolment


async def hail(stream: ByteStream) -> None:
    await stream.send_all(b"welcome " + await stream.receive_some())


async def test_enrolment_is_the_door_without_a_pass() -> None:
    bob, joiner = member("bob", enrol_handler=hail), NodeKey.generate()
    async with serving(bob), open_enrol_stream(joiner, bob.transport.addresses, PATIENCE) as stream:
        assert stream.peer == bob.identity.key.peer_id
        await stream.send_all(b"joe")
        assert await stream.receive_some() == b"welcome joe"
        assert await stream.receive_some() == b""


async def test_enrolments_are_bounded(logged: list[EventDict]) -> None:
    inside = trio.Event()

    async def dawdle(stream: ByteStream) -> None:
        inside.set()
        await stream.receive_some()

    bob = member("bob", Limits(enrolments=1), enrol_handler=dawdle)
    async with serving(bob):
        async with open_enrol_stream(NodeKey.generate(), bob.transport.addresses, PATIENCE):
            await inside.wait()
            async with open_enrol_stream(NodeKey.generate(), bob.transport.addresses, PATIENCE) as second:
                with pytest.raises(StreamBroken):
                    await second.receive_some()
        await until(lambda: bob.transport._enrolments == 0)
        async with open_enrol_stream(NodeKey.generate(), bob.transport.addresses, PATIENCE) as third:
            await third.send_all(b"x")
            assert await third.receive_some() == b""


async def test_an_enrolment_has_a_deadline_beyond_that_of_the_pass() -> None:
    over = trio.Event()

    async def dawdle(stream: ByteStream) -> None:
        try:
            await trio.sleep_forever()
        finally:
            over.set()

    bob = member("bob", Limits(proof=0.05, enrolment=0.3), enrol_handler=dawdle)
    async with serving(bob):
        began = trio.current_time()
        async with open_enrol_stream(NodeKey.generate(), bob.transport.addresses, PATIENCE) as stream:
            with suppress(StreamBroken):
                await stream.receive_some()
            assert trio.current_time() - began > 0.25
            await over.wait()


async def test_an_enrol_handler_that_fails_harms_nobody(logged: list[EventDict]) -> None:
    async def fail(stream: ByteStream) -> None:
        raise ValueError("the enrol handler")

    bob = member("bob", enrol_handler=fail)
    async with serving(bob):
        for _ in range(2):
            async with open_enrol_stream(NodeKey.generate(), bob.transport.addresses, PATIENCE) as stream:
                with pytest.raises(StreamBroken):
                    await stream.receive_some()
    assert [entry["event"] for entry in logged] == ["enrol handler failed"] * 2


# --- connections between members


class Proxy:
    """A wire between two members that can be frozen: nothing passes, nobody is told."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.frozen = False
        self.connections = 0

    async def run(self, *, task_status: trio.TaskStatus[str]) -> None:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        task_status.started(f"127.0.0.1:{listeners[0].socket.getsockname()[1]}")
        await trio.serve_listeners(self._pass_on, listeners)

    async def _pass_on(self, near: trio.SocketStream) -> None:
        self.connections += 1
        far = await trio.open_tcp_stream("127.0.0.1", self._port)
        async with near, far, trio.open_nursery() as nursery:
            nursery.start_soon(self._copy, near, far)
            await self._copy(far, near)
            nursery.cancel_scope.cancel()

    async def _copy(self, source: trio.SocketStream, sink: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError):
            while data := await source.receive_some():
                if self.frozen:
                    await trio.sleep_forever()
                await sink.send_all(data)


QUICK = Limits(muxer=MuxerLimits(keepalive=0.1, silence=0.3))


async def test_a_peer_that_falls_silent_is_noticed_and_dialled_anew() -> None:
    ann, bob = member("ann", QUICK), member("bob", QUICK)
    async with serving(ann, bob) as nursery:
        proxy = Proxy(port_of(bob))
        address = await nursery.start(proxy.run)
        stream = await ann.transport.open_stream(bob.identity.key.peer_id, [address], ECHO, PATIENCE)
        proxy.frozen = True
        began = trio.current_time()
        with pytest.raises(StreamBroken, match="silent"):
            await stream.receive_some()
        assert trio.current_time() - began < 2
        assert await ann.reaches(bob)


async def test_a_connection_that_died_unused_costs_one_silence_limit() -> None:
    """Nobody pings while there are no streams; the next stream finds out, and goes by another connection."""
    ann, bob = member("ann", QUICK), member("bob", QUICK)
    async with serving(ann, bob) as nursery:
        proxy = Proxy(port_of(bob))
        address = await nursery.start(proxy.run)
        stream = await ann.transport.open_stream(bob.identity.key.peer_id, [address], ECHO, PATIENCE)
        await stream.aclose()
        await wait_all_tasks_blocked(0.05)
        proxy.frozen = True
        assert await ann.reaches(bob)


async def test_a_dial_that_was_given_up_takes_the_dead_connection_along() -> None:
    ann, bob = member("ann", QUICK), member("bob", QUICK)
    async with serving(ann, bob) as nursery:
        proxy = Proxy(port_of(bob))
        address = await nursery.start(proxy.run)
        stream = await ann.transport.open_stream(bob.identity.key.peer_id, [address], ECHO, PATIENCE)
        await stream.aclose()
        await wait_all_tasks_blocked(0.05)
        proxy.frozen = True
        with pytest.raises(DialError):
            await ann.dial(bob, timeout=0.2)
        stream = await ann.dial(bob, timeout=0.2)
        await stream.aclose()


async def test_a_peer_that_was_away_is_reached_as_soon_as_it_is_back() -> None:
    """py-libp2p refuses to dial a peer for 60 s after a failure."""
    ann, bob = member("ann"), member("bob")
    async with serving(ann):
        async with serving(bob):
            addresses = bob.transport.addresses
            assert await ann.reaches(bob)
        for _ in range(3):
            with pytest.raises(DialError):
                await ann.transport.open_stream(bob.identity.key.peer_id, addresses, ECHO, PATIENCE)
        async with serving(bob):
            assert bob.transport.addresses == addresses
            assert await ann.reaches(bob)


async def test_a_connection_is_made_at_once() -> None:
    """py-libp2p's `connect()` always takes 250 ms."""
    ann, bob = member("ann"), member("bob")
    async with serving(ann, bob):
        times = []
        for _ in range(5):
            began = time.perf_counter()
            stream = await ann.dial(bob)
            times.append(time.perf_counter() - began)
            await stream.aclose()
            await ann.transport.drop(bob.identity.key.peer_id)
        assert min(times) < 0.2


async def test_many_at_once_share_one_connection_and_both_sides_use_it() -> None:
    ann, bob = member("ann"), member("bob")
    async with serving(ann, bob) as outer:
        proxy = Proxy(port_of(bob))
        address = await outer.start(proxy.run)

        async def one() -> None:
            stream = await ann.transport.open_stream(bob.identity.key.peer_id, [address], ECHO, PATIENCE)
            await stream.send_all(b"x")
            assert await stream.receive_some() == b"x"
            await stream.aclose()

        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(one)
        back = await bob.transport.open_stream(ann.identity.key.peer_id, (), ECHO, PATIENCE)
        await back.send_all(b"the other way")
        assert await back.receive_some() == b"the other way"
        await back.aclose()
        assert proxy.connections == 1
        assert ann.transport._dialling == {}


async def test_a_member_has_few_connections() -> None:
    bob, ann = member("bob", Limits(links_per_member=2)), FLEET.member("ann")
    async with serving(bob), trio.open_nursery() as nursery:
        closing = trio.Event()
        tried: list[bool] = []

        async def one() -> None:
            transport = Libp2pTransport(ann, (), Metrics(), listen="127.0.0.1")
            async with trio.open_nursery() as inner:
                await inner.start(transport.serve, echo)
                with suppress(DialError):  # the newest may have to go before it was greeted
                    await transport.open_stream(
                        bob.identity.key.peer_id, bob.transport.addresses, ECHO, PATIENCE
                    )
                tried.append(True)
                await closing.wait()
                inner.cancel_scope.cancel()

        for _ in range(5):
            nursery.start_soon(one)
        await until(lambda: len(tried) == 5 and bob.transport._inbound == 2)
        assert len(bob.transport._links[ann.key.peer_id]) == 2
        closing.set()


async def test_nothing_is_left_and_nothing_runs_on_its_own() -> None:
    """No thread of the library's, no task of a finished connection; nobody dials whom nobody asked to be dialled."""
    ann, bob = member("ann"), member("bob")
    threads = set(threading.enumerate())
    async with serving(ann, bob):
        await wait_all_tasks_blocked()
        tasks = trio.lowlevel.current_statistics().tasks_living
        assert await ann.reaches(bob)
        await ann.transport.drop(bob.identity.key.peer_id)
        await until(lambda: trio.lowlevel.current_statistics().tasks_living == tasks)
        assert ann.transport._links == bob.transport._links == {}
        assert set(threading.enumerate()) <= threads


async def test_many_nodes_in_one_process() -> None:
    members = [member(f"node-{number}") for number in range(12)]
    async with serving(*members), trio.open_nursery() as nursery:
        met = []

        async def meet(one: Member, other: Member) -> None:
            met.append(await one.reaches(other))

        for number, one in enumerate(members):
            for step in (1, 3, 5):
                nursery.start_soon(meet, one, members[(number + step) % len(members)])
    assert met == [True] * 36
