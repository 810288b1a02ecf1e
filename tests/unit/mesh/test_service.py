"""The mesh as the rest of the node sees it: demands that count, questions that end."""

import pytest
import trio
import trio.testing

from meshsat.errors import DeniedError, MeshsatError, NotFoundError, UnavailableError
from meshsat.mesh.discovery import Sighting
from meshsat.mesh.service import Mesh, error_of
from meshsat.oci.digest import Digest
from meshsat.protocol import events
from meshsat.protocol.events import Fault, Priority
from meshsat.trust.keys import NodeKey
from tests.images import build_image
from tests.mesh.site import SOURCE, Node, Site

Clock = trio.testing.MockClock
KEY = ("up.example", "library/pos", "42")
BLOB = Digest.of(b"blob")


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Fault.NOT_FOUND, NotFoundError),
        (Fault.DENIED, DeniedError),
        (Fault.UNAVAILABLE, UnavailableError),
        (Fault.WRONG_BYTES, UnavailableError),
        (Fault.STORAGE, UnavailableError),
        (None, UnavailableError),
    ],
)
def test_each_fault_is_an_error(fault: Fault | None, kind: type[MeshsatError]) -> None:
    error = error_of(fault, "because")
    assert type(error) is kind
    assert str(error) == "because"


def one_node(*, uplink: bool = False) -> tuple[Site, Node]:
    site = Site()
    return site, site.add("one", uplink=1e6 if uplink else None)


async def test_a_demand_lasts_as_long_as_its_context(autojump_clock: Clock) -> None:
    site, node = one_node()
    async with site.running():
        with node.mesh.demand(BLOB, 4, (SOURCE,), Priority.PULL) as first:
            with node.mesh.demand(BLOB, 4, (SOURCE,), Priority.READER) as second:
                assert node.driver.demands[BLOB] == [first, second]
                assert node.machine.transfers[BLOB].priority is Priority.READER
            assert node.driver.demands[BLOB] == [first]
            assert node.machine.transfers[BLOB].priority is Priority.PULL
        assert node.driver.demands == {}
        assert node.machine.transfers == {}


async def test_a_demand_that_fails_inside_is_withdrawn(autojump_clock: Clock) -> None:
    site, node = one_node()
    async with site.running():
        with pytest.raises(ZeroDivisionError), node.mesh.demand(BLOB, 4, (), Priority.PULL):
            raise ZeroDivisionError
        assert node.machine.transfers == {}


async def test_readers_of_one_blob_are_told_apart(autojump_clock: Clock) -> None:
    site, node = one_node()
    async with site.running():
        with node.mesh.demand(BLOB, 1 << 20, (), Priority.READER), node.mesh.reader(BLOB) as first:
            first(0)
            with node.mesh.reader(BLOB) as second:
                second(600_000)
                assert sorted(node.machine.transfers[BLOB].readers.values()) == [0, 2]
            assert list(node.machine.transfers[BLOB].readers.values()) == [0]


async def test_what_can_be_had_is_what_a_peer_holds_or_an_uplink_may_bring(autojump_clock: Clock) -> None:
    site = Site()
    node, other = site.add("one"), site.add("other")
    other.store.keep(b"held", Digest.of(b"held"))
    async with site.running():
        assert node.mesh.obtainable(Digest.of(b"held"))
        assert not node.mesh.obtainable(BLOB)
        uplinked = site.add("up", uplink=1e6)
        await site.start(uplinked)
        site.introduce(site.nodes)
        await trio.sleep(5)
        assert node.mesh.obtainable(BLOB)
        site.kill(other)
        site.kill(uplinked)
        await trio.sleep(5)
        assert not node.mesh.obtainable(Digest.of(b"held"))


async def test_resolve_gives_the_record_or_says_why_not(autojump_clock: Clock) -> None:
    site, node = one_node(uplink=True)
    image = build_image([b"layer"])
    site.upstream.tags[KEY] = image.raw
    async with site.running():
        record = await node.mesh.resolve(*KEY, max_age=10, patience=5)
        assert str(record.digest) == image.root
        again = await node.mesh.resolve(*KEY, max_age=10, patience=5)
        assert again == record
        with pytest.raises(NotFoundError):
            await node.mesh.resolve("up.example", "library/pos", "nope", max_age=10, patience=5)
        site.upstream.fault = DeniedError("who are you")
        with pytest.raises(DeniedError, match="who are you"):
            await node.mesh.resolve("up.example", "library/secret", "1", max_age=10, patience=5)
        assert node.driver.questions == {}


async def test_an_answer_that_does_not_come_is_waited_for_no_longer_than_told(
    autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, node = one_node(uplink=True)
    assert node.uplink is not None
    monkeypatch.setattr(node.uplink, "resolve", lambda *_: trio.sleep_forever())
    async with site.running():
        began = trio.current_time()
        with pytest.raises(UnavailableError, match="nobody told in 3 s"):
            await node.mesh.resolve(*KEY, max_age=10, patience=3)
        assert trio.current_time() - began == 3
        with trio.move_on_after(1):  # who asks may also go away
            await node.mesh.resolve(*KEY, max_age=10, patience=3)
        assert node.driver.questions == {}


async def test_of_two_who_ask_one_may_leave(autojump_clock: Clock) -> None:
    site, node = one_node(uplink=True)
    site.upstream.tags[KEY] = build_image([b"layer"]).raw
    async with site.running():
        with node.mesh.question(*KEY, max_age=10) as stays:
            with node.mesh.question(*KEY, max_age=10):
                pass
            with trio.fail_after(5):
                await stays.wait()
            assert stays.record is not None
        assert len(site.upstream.requests) == 1


async def test_it_tells_its_addresses_and_takes_what_discovery_finds(
    autojump_clock: Clock,
) -> None:
    site = Site()
    node, other = site.add("one"), site.add("other")
    async with site.running():
        control, bulk = node.machine.addresses
        assert bulk == node.transport.addresses
        assert control == ()  # the plane in memory is none of libp2p's
        assert set(node.machine.sessions) == {other.peer}
        stranger = site.fleet.member("late").key.peer_id
        node.mesh._sighted(Sighting("acme", stranger, "hq", ("c:1",), ("b:1",)))
        known = node.machine.membership.known[stranger]
        assert (known.control, known.bulk) == (("c:1",), ("b:1",))


async def test_its_discoveries_begin_when_its_ports_are_known(autojump_clock: Clock) -> None:
    site, node = one_node()
    began: list[tuple[str, ...]] = []

    class Finds:
        async def run(self, on_found: object, *, task_status: object = None) -> None:
            began.append(node.transport.addresses)

    node.mesh._discoveries = lambda: [Finds()]
    async with site.running():
        assert began == [node.transport.addresses]
        assert began[0]
        node.driver.feed(events.TimerExpired())


async def test_of_those_who_hold_a_blob_one_keeps_its_copy(autojump_clock: Clock) -> None:
    """All of them agree on which, so that they do not all let go of theirs in trust of each other."""
    site = Site()
    nodes = [site.add(name) for name in ("a", "b", "c")]
    blobs = [Digest.of(f"{number}".encode()) for number in range(30)]
    async with site.running():
        for node in nodes:
            for blob in blobs:
                node.driver.feed(events.BlobPublished(blob, 4))
        await trio.sleep(2)
        keepers = {blob: [node for node in nodes if not node.mesh.kept_elsewhere(blob)] for blob in blobs}
        assert all(len(kept) == 1 for kept in keepers.values())
        assert {kept[0].machine.me for kept in keepers.values()} == {node.machine.me for node in nodes}
        assert all(not node.mesh.kept_elsewhere(BLOB) for node in nodes)


async def test_whoever_is_of_another_site_is_no_peer(autojump_clock: Clock) -> None:
    _, node = one_node()
    mesh = Mesh(node.machine, node.driver, [], list, site="hq")
    peers = [NodeKey.generate().peer_id for _ in range(3)]
    for peer, where in zip(peers, ("hq", "", "berlin"), strict=True):  # of static peers the site is not known
        mesh._sighted(Sighting("acme", peer, where, ("10.0.0.9:4701",), ()))
    assert list(node.machine.membership.known) == peers[:2]
