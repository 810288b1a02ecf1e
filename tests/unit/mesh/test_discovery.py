"""What the contract of discoveries leaves: announcements as strangers make them, and zeroconf at its worst."""

import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
import structlog
import trio
from structlog.typing import EventDict
from zeroconf import Error, IPVersion, ServiceInfo, Zeroconf

from meshsat.errors import InvalidInputError
from meshsat.mesh import discovery
from meshsat.mesh.discovery import (
    SERVICE,
    Announcement,
    MdnsDiscovery,
    Sighting,
    parse_sighting_untrusted,
)
from meshsat.trust.keys import NodeKey, PeerId
from tests.mdns import hasten

pytestmark = pytest.mark.slow  # it waits on real clocks

PATIENCE = 15.0
ANN = NodeKey.generate().peer_id
TXT: dict[bytes, bytes | None] = {
    b"v": b"1",
    b"fleet": b"acme-0123",
    b"peer": ANN.encode(),
    b"site": b"hq",
    b"bulk": b"4702",
}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    hasten(monkeypatch)


@pytest.fixture
def logged() -> Iterator[list[EventDict]]:
    with structlog.testing.capture_logs() as entries:
        yield entries


def announcement(peer: PeerId = ANN) -> Announcement:
    return Announcement(f"test-{NodeKey.generate().peer_id[-16:].lower()}", peer, "hq", 1001, 1002)


async def until(true: Callable[[], object]) -> None:
    with trio.fail_after(PATIENCE):
        while not true():
            await trio.sleep(0.02)


async def running(
    run: Callable[..., Awaitable[None]], during: Callable[[list[Sighting]], Awaitable[None]]
) -> list[Sighting]:
    found: list[Sighting] = []
    with trio.fail_after(2 * PATIENCE):
        async with trio.open_nursery() as nursery:
            await nursery.start(run, found.append)
            await during(found)
            nursery.cancel_scope.cancel()
    return found


# --- what is announced


def test_an_announcement_is_read() -> None:
    assert parse_sighting_untrusted(TXT, ["192.0.2.7", "192.0.2.8"], 4701) == Sighting(
        "acme-0123",
        ANN,
        "hq",
        ("192.0.2.7:4701", "192.0.2.8:4701"),
        ("192.0.2.7:4702", "192.0.2.8:4702"),
    )


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (b"v", b"2"),
        (b"v", None),
        (b"fleet", b""),
        (b"fleet", b"x" * 65),
        (b"fleet", b"two words"),
        (b"fleet", b"\xff"),
        (b"peer", b"12D3KooW"),
        (b"peer", b"0" * 52),
        (b"site", b"../etc"),
        (b"bulk", b"0"),
        (b"bulk", b"65536"),
        (b"bulk", b"-1"),
        (b"bulk", b"4702x"),
        (b"bulk", "²".encode()),
        (b"bulk", None),
    ],
)
def test_a_malformed_announcement_is_refused(key: bytes, value: bytes | None) -> None:
    with pytest.raises(InvalidInputError):
        parse_sighting_untrusted({**TXT, key: value}, ["192.0.2.7"], 4701)


@pytest.mark.parametrize(
    "addresses", [[], ["::1"], ["0.0.0.0"], ["224.0.0.251"], ["255.255.255.255"], ["nonsense"]]
)
def test_addresses_that_nobody_can_dial_do_not_count(addresses: list[str]) -> None:
    with pytest.raises(InvalidInputError):
        parse_sighting_untrusted(TXT, addresses, 4701)
    assert parse_sighting_untrusted(TXT, [*addresses, "192.0.2.7"], 4701).control == ("192.0.2.7:4701",)


def test_addresses_are_bounded() -> None:
    many = [f"192.0.2.{number}" for number in range(100)]
    assert len(parse_sighting_untrusted(TXT, many, 4701).control) == 8


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_ports_are_ports(port: int) -> None:
    with pytest.raises(InvalidInputError):
        parse_sighting_untrusted(TXT, ["192.0.2.7"], port)


# --- zeroconf at its worst


@pytest.mark.parametrize("fault", [OSError(98, "Address already in use"), RuntimeError("x"), Error()])
async def test_without_multicast_it_tries_on_and_says_so_once(
    fault: Exception, logged: list[EventDict], monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[object] = []

    def fails(**options: object) -> None:
        tries.append(options)
        raise fault

    monkeypatch.setattr(discovery, "Zeroconf", fails)
    monkeypatch.setattr(discovery, "_PAUSE", 0.001)
    monkeypatch.setattr(discovery, "_PAUSE_MOST", 0.002)

    async def wait(_found: list[Sighting]) -> None:
        await until(lambda: len(tries) >= 5)

    await running(MdnsDiscovery("127.0.0.1", None, announcement()).run, wait)
    assert [entry["event"] for entry in logged] == ["no discovery by mDNS for now"]


async def test_it_recovers_once_there_is_multicast(monkeypatch: pytest.MonkeyPatch) -> None:
    faults = [OSError(19, "No such device")] * 3

    def fails(**options: Any) -> Zeroconf:
        if faults:
            raise faults.pop()
        return Zeroconf(**options)

    monkeypatch.setattr(discovery, "Zeroconf", fails)
    monkeypatch.setattr(discovery, "_PAUSE", 0.001)
    said = announcement()

    async def look(found: list[Sighting]) -> None:
        await running(MdnsDiscovery("127.0.0.1", said.fleet, None).run, lambda seen: until(lambda: seen))

    await running(MdnsDiscovery("127.0.0.1", None, said).run, look)


async def test_a_name_that_is_taken_keeps_nobody_out(
    logged: list[EventDict], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clone, or a liar, has our name: we take another if we hear of it, and it is the peer id that counts."""
    liar = Zeroconf(interfaces=["127.0.0.1"], ip_version=IPVersion.V4Only)
    said = announcement(NodeKey.generate().peer_id)
    taken = ServiceInfo(
        SERVICE,
        f"{said.peer}.{SERVICE}",
        port=9,
        addresses=[socket.inet_aton("127.0.0.1")],
        server="liar.local.",
    )

    register, allowed = Zeroconf.register_service, []

    def count(zeroconf: Zeroconf, info: ServiceInfo, **options: Any) -> None:
        allowed.append(options)
        register(zeroconf, info, **options)

    async def look(_found: list[Sighting]) -> None:
        lookout = MdnsDiscovery("127.0.0.1", said.fleet, None)
        seen = await running(lookout.run, lambda seen: until(lambda: seen))
        assert {one.peer for one in seen} == {said.peer}

    try:
        await trio.to_thread.run_sync(liar.register_service, taken)
        monkeypatch.setattr(Zeroconf, "register_service", count)
        await running(MdnsDiscovery("127.0.0.1", None, said).run, look)
    finally:
        await trio.to_thread.run_sync(liar.close)
    assert [entry["event"] for entry in logged if entry["log_level"] == "warning"] == []
    assert allowed == [{"allow_name_change": True}]


async def test_malformed_announcements_do_not_hide_the_others() -> None:
    rogue = Zeroconf(interfaces=["127.0.0.1"], ip_version=IPVersion.V4Only)
    said = announcement(NodeKey.generate().peer_id)

    def flood() -> None:
        for number in range(8):
            rogue.registry.async_add(
                ServiceInfo(
                    SERVICE,
                    f"rogue-{number}-{said.peer[-8:]}.{SERVICE}",
                    port=number,
                    addresses=[socket.inet_aton("127.0.0.1")],
                    properties={b"peer": b"\xff" * number, b"fleet": said.fleet.encode()},
                    server=f"rogue-{number}.local.",
                )
            )

    try:
        await trio.to_thread.run_sync(flood)

        async def look(found: list[Sighting]) -> None:
            lookout = MdnsDiscovery("127.0.0.1", said.fleet, None)
            seen = await running(lookout.run, lambda seen: until(lambda: seen))
            assert {one.peer for one in seen} == {said.peer}

        await running(MdnsDiscovery("127.0.0.1", None, said).run, look)
    finally:
        await trio.to_thread.run_sync(rogue.close)


async def test_the_announcement_follows_the_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    """127.0.0.1 and 127.0.0.2 stand for a LAN that was renumbered."""
    addresses = [("127.0.0.1",)]
    monkeypatch.setattr(discovery, "POLL", 0.2)
    monkeypatch.setattr(discovery, "reachable_addresses", lambda _listen: addresses[0])
    said = announcement(NodeKey.generate().peer_id)

    async def look(found: list[Sighting]) -> None:
        lookout = MdnsDiscovery("127.0.0.1", said.fleet, None)

        async def renumber(seen: list[Sighting]) -> None:
            await until(lambda: any(one.control == ("127.0.0.1:1001",) for one in seen))
            addresses[0] = ("127.0.0.2",)
            await until(lambda: any("127.0.0.2:1001" in one.control for one in seen))

        await running(lookout.run, renumber)

    await running(MdnsDiscovery("127.0.0.1", None, said).run, look)


async def test_a_swollen_cache_is_thrown_away(
    logged: list[EventDict], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discovery, "POLL", 0.05)
    monkeypatch.setattr(discovery, "_CACHE_MOST", -1)
    made: list[Zeroconf] = []

    def count(**options: Any) -> Zeroconf:
        made.append(Zeroconf(**options))
        return made[-1]

    monkeypatch.setattr(discovery, "Zeroconf", count)

    async def wait(_found: list[Sighting]) -> None:
        await until(lambda: len(made) >= 2)

    await running(MdnsDiscovery("127.0.0.1", None, None).run, wait)
    assert made[0].done


async def test_those_who_stay_are_told_of_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "POLL", 0.3)
    said = announcement(NodeKey.generate().peer_id)

    async def look(_found: list[Sighting]) -> None:
        lookout = MdnsDiscovery("127.0.0.1", said.fleet, None)
        await running(lookout.run, lambda seen: until(lambda: len(seen) >= 3))

    found = await running(MdnsDiscovery("127.0.0.1", None, said).run, look)
    assert said.peer not in {one.peer for one in found}, "nobody finds itself"


async def test_a_flood_costs_a_bounded_look(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    class Pointer:
        def __init__(self, number: int) -> None:
            self.alias = f"flood-{number}.{SERVICE}"

    class Cache:
        def entries_with_name(self, _name: str) -> list[Pointer]:
            return [Pointer(number) for number in range(100_000)]

    class Info:
        properties, port = TXT, 4701

        def __init__(self, _kind: str, name: str) -> None:
            self.name = name

        def load_from_cache(self, _zeroconf: object) -> bool:
            return self.name.endswith(f"0.{SERVICE}")

        def request(self, _zeroconf: object, timeout: float) -> bool:
            asked.append(self.name)
            assert timeout <= 200
            return False

        def parsed_addresses(self, _version: object) -> list[str]:
            return ["192.0.2.7"]

    class Flooded:
        cache = Cache()

    monkeypatch.setattr(discovery, "ServiceInfo", Info)
    session = discovery._Session(("127.0.0.1",), None)
    session._zeroconf = Flooded()  # type: ignore[assignment]
    assert len(session.look()) == discovery.MOST // 10 + 1
    assert len(asked) == 2


async def test_wake_ups_do_not_pile_up() -> None:
    """However many changes zeroconf tells of, at most one callback waits in trio's queue."""
    session = discovery._Session(("127.0.0.1",), None)
    crossings: list[Callable[[], None]] = []
    token = trio.lowlevel.current_trio_token()

    class Token:
        def run_sync_soon(self, callback: Callable[[], None]) -> None:
            crossings.append(callback)

    session._token = Token()  # type: ignore[assignment]
    changed: Any = session._changed
    for _ in range(1000):
        changed(None, SERVICE, "x", None)
    assert len(crossings) == 1
    crossings.pop()()
    assert session.news.is_set()
    changed(None, SERVICE, "x", None)
    assert len(crossings) == 1
    del token


async def test_a_start_that_was_cancelled_leaves_nothing_open(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = threading.Event()
    going_on = threading.Event()
    made: list[Zeroconf] = []

    def slow(**options: Any) -> Zeroconf:
        opened.set()
        going_on.wait(PATIENCE)
        made.append(Zeroconf(**options))
        return made[-1]

    monkeypatch.setattr(discovery, "Zeroconf", slow)
    async with trio.open_nursery() as nursery:
        await nursery.start(MdnsDiscovery("127.0.0.1", None, announcement()).run, lambda _: None)
        await until(opened.is_set)
        began = trio.current_time()
        nursery.cancel_scope.cancel()
    assert trio.current_time() - began < 1
    going_on.set()
    with suppress(IndexError):
        await until(lambda: made and made[0].done)
