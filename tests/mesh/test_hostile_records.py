"""A member that floods the site with records of tags, its own or of keys that it makes up."""

import pytest
import trio
from trio.testing import MockClock as Clock

from meshsat.oci.digest import Digest
from meshsat.protocol import gossip, wire
from meshsat.protocol.gossip import ImageRecord, RecordSet, seal
from meshsat.protocol.spread import Kind
from meshsat.trust.keys import NodeKey
from tests.brain import key
from tests.images import build_image
from tests.mesh.full_node import POS, FullNode, full_site, hold, unix

IMAGE = build_image([b"one" * 1000])
SHARE = 50


@pytest.fixture(autouse=True)
def small_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a flood is one that a test has time for."""
    init = RecordSet.__init__
    monkeypatch.setattr(gossip.RecordSet, "__init__", lambda self: init(self, 6 * SHARE, SHARE))


def lie(author: NodeKey, number: int, ahead: float = 0.0) -> ImageRecord:
    return seal(
        author,
        registry="up.example",
        repository="evil/x",
        reference=f"t{number}",
        media_type="m",
        digest=Digest.of(b"%d" % number),
        size=1,
        resolved_at=unix() + ahead,
    )


async def say(bad: FullNode, records: list[ImageRecord]) -> None:
    for first in range(0, len(records), 50):
        items = tuple((int(Kind.IMAGE), record.sealed) for record in records[first : first + 50])
        for link in bad.node.driver.links.values():
            link.send(wire.News(items, more=False))
        await trio.sleep(0.2)


async def honest(up: FullNode, dark: FullNode) -> list[str]:
    """Tags that the uplinked node resolved, known to the other."""
    tags = [f"v{number}" for number in range(20)]
    for tag in tags:
        hold(up.site.upstream, IMAGE, tag)
        assert await dark.fetcher.manifest(POS, tag) is not None
    await trio.sleep(1)
    return tags


def known(node: FullNode, tags: list[str]) -> bool:
    keys = {record.key for record in node.node.machine.records}
    return all((POS.registry, POS.repository, tag) in keys for tag in tags)


@pytest.mark.parametrize("made_up", [False, True], ids=["its own", "made-up keys"])
async def test_a_flood_of_records_displaces_nothing_that_members_told(
    autojump_clock: Clock, made_up: bool
) -> None:
    async with full_site("up", "dark", "bad") as (up, dark, bad):
        tags = await honest(up, dark)
        own = bad.node.identity.key
        await say(bad, [lie(key(f"made up {n}") if made_up else own, n) for n in range(12 * SHARE)])
        await trio.sleep(60)
        for node in (up, dark):
            assert known(node, tags)
            assert sum(record.repository == "evil/x" for record in node.node.machine.records) <= SHARE
            assert sum(record.repository == "evil/x" for record in node.store.records()) <= 12 * SHARE
            assert node.node.machine.sessions, "the site lives on"
        assert await dark.fetcher.manifest(POS, "v1") is not None


async def test_records_dated_ahead_reach_nobody(autojump_clock: Clock) -> None:
    async with full_site("up", "dark", "bad") as (up, dark, bad):
        tags = await honest(up, dark)
        await say(bad, [lie(bad.node.identity.key, number, ahead=86400.0) for number in range(20)])
        await trio.sleep(40)
        for node in (up, dark):
            assert known(node, tags)
            assert not any(record.repository == "evil/x" for record in node.node.machine.records)
            assert bad.node.identity.key.peer_id in node.node.machine.sessions, "one of two clocks is wrong"
