"""Sites whose members revoke, cheat with clocks and tokens, or are of elsewhere: what each attempt comes to."""

from collections.abc import Iterable

import pytest
import trio
from trio.testing import MockClock

from meshsat.config import PassesSection
from meshsat.errors import DeniedError, InvalidInputError
from meshsat.mesh.identity import Identity, make_token
from meshsat.mesh.memory_transport import MemoryTransport
from meshsat.mesh.transport import DialError
from meshsat.metrics import Metrics
from meshsat.oci.digest import Digest
from meshsat.protocol import events, wire
from meshsat.protocol.gossip import seal
from meshsat.protocol.spread import Kind
from meshsat.protocol.wire import PROTOCOL as SWAP
from meshsat.trust.keys import NodeKey, PeerId
from meshsat.trust.passes import DAY, NODE
from meshsat.trust.revocations import revoke as sign_revocation
from meshsat.trust.tokens import Grant, parse_untrusted
from tests.mesh.site import UNIX, Node, Site

OFF = 10.0
"""Seconds after which a revoked node is off everywhere."""
FEW = 40
"""Revocations of one enroller, where that many are enough."""


def site_of(*names: str, grace: float = 30 * DAY) -> tuple[Site, dict[str, Node]]:
    """`boss` is an enroller for all sites."""
    site = Site(passes=PassesSection(grace=grace))
    nodes = {"boss": site.add("boss", identity=site.fleet.member("boss", enroller=True))}
    nodes |= {name: site.add(name) for name in names}
    return site, nodes


def revoke(boss: Node, peer: PeerId) -> None:
    assert boss.passes is not None
    boss.passes.revoke(peer, None, "stolen", issued=False)


def meets(nodes: Iterable[Node], peer: PeerId) -> list[str]:
    """Who has a session with it."""
    return [node.name for node in nodes if peer in node.driver.links]


async def test_a_revoked_node_is_cut_off_everywhere_and_knows_why(autojump_clock: MockClock) -> None:
    site, nodes = site_of("a", "b", "c", "d", "bad")
    async with site.running():
        bad = nodes["bad"]
        assert len(meets(nodes.values(), bad.peer)) == 5
        revoke(nodes["boss"], bad.peer)
        await trio.sleep(OFF)
        assert meets(nodes.values(), bad.peer) == []
        assert not bad.driver.links
        assert bad.passes is not None
        assert "stolen" in str(bad.passes._pass_trouble())
        assert bad.passes.status().state == "revoked"
        for name in ("boss", "a", "b", "c", "d"):
            machine = nodes[name].machine
            assert bad.peer not in machine.membership.known
            assert machine.roster.get(bad.peer) is None
            assert len(machine.sessions) == 4
        # It keeps trying; others go on telling where it is; nobody listens to either.
        for node in nodes.values():
            node.driver.feed(events.PeerSighted(bad.peer, ("bad:4702",), ("bad:4702",)))
        await trio.sleep(300)
        assert meets(nodes.values(), bad.peer) == []


async def test_who_was_cut_off_hears_of_it_when_the_lan_is_whole_again(autojump_clock: MockClock) -> None:
    site, nodes = site_of("a", "b", "bad")
    async with site.running():
        bad = nodes["bad"]
        site.network.partition(["boss", "a"], ["b", "bad"])
        await trio.sleep(60)
        revoke(nodes["boss"], bad.peer)
        await trio.sleep(60)
        assert meets(nodes.values(), bad.peer) == ["b"]  # the partition has not heard: docs/security.md
        site.network.heal_all()
        await trio.sleep(90)
        assert meets(nodes.values(), bad.peer) == []
        late = site.add("late")
        await site.start(late)
        site.introduce(site.nodes)
        await trio.sleep(30)
        assert late.passes is not None
        assert len(late.passes.standing.revocations) == 1
        assert meets([late], bad.peer) == []


async def test_what_a_revoked_member_told_counts_up_to_then(autojump_clock: MockClock) -> None:
    site, nodes = site_of("a", "bad")

    def record(tag: str, at: float) -> bytes:
        return seal(
            nodes["bad"].identity.key,
            registry="up.example",
            repository="pos",
            reference=tag,
            media_type="m",
            digest=Digest.of(b"x"),
            size=1,
            resolved_at=at,
        ).sealed

    async with site.running():
        boss, a = nodes["boss"], nodes["a"]
        before, after = record("1", UNIX - 5), record("2", UNIX + 200)
        # An accomplice passes on what it sealed, after the revocation as well.
        a.driver.feed(events.FrameReceived(boss.peer, wire.News(((int(Kind.IMAGE), before),), more=False)))
        revoke(boss, nodes["bad"].peer)
        await trio.sleep(OFF)
        a.driver.feed(events.FrameReceived(boss.peer, wire.News(((int(Kind.IMAGE), after),), more=False)))
        assert [one.reference for one in a.machine.records] == ["1"]
        assert boss.peer in a.machine.sessions  # whoever passes it on is not to blame


async def test_replayed_and_forged_revocations(autojump_clock: MockClock) -> None:
    """A member that replays an older word, or makes one up, moves nobody, and pays with its session."""
    site, nodes = site_of("a", "mallory", "victim")
    async with site.running():
        boss, a, mallory = nodes["boss"], nodes["a"], nodes["mallory"]
        assert boss.passes is not None
        assert a.passes is not None
        first = boss.passes.standing.revoke(nodes["victim"].peer, None, "first")
        await trio.sleep(2)
        second = boss.passes.standing.revoke(nodes["victim"].peer, None, "second")
        await trio.sleep(OFF)
        news = wire.News(((int(Kind.REVOCATION), first.sealed),), more=False)
        a.driver.feed(events.FrameReceived(mallory.peer, news))
        assert list(a.passes.standing.revocations) == [second]
        assert mallory.peer in a.machine.sessions
        forged = bytearray(first.sealed)
        forged[60] ^= 1
        news = wire.News(((int(Kind.REVOCATION), bytes(forged)),), more=False)
        a.driver.feed(events.FrameReceived(mallory.peer, news))
        assert a.machine.sessions[mallory.peer].expelled
        assert len(a.passes.standing.revocations) == 1


async def test_a_clock_in_1970_locks_nobody_out_and_lets_nobody_in(autojump_clock: MockClock) -> None:
    site, nodes = site_of("a", "b", grace=DAY)
    old = nodes["old"] = site.add("old")
    old.wall = 0.0
    async with site.running():
        assert len(old.driver.links) == 3
        await trio.sleep(5)
        assert old.passes is not None
        # Three members agree on the time; and the machine says what is wrong.
        reading = old.passes.standing.clock.read()
        assert abs(reading.now - UNIX - trio.current_time()) < 2
        assert "1970" in str(reading.problem)
        late = site.fleet.stale("late", 2 * DAY)
        await _is_refused(site, old, late)


async def test_a_site_of_clocks_in_1970_alone_goes_on(autojump_clock: MockClock) -> None:
    site, nodes = site_of("a", "b")
    for node in nodes.values():
        node.wall = 0.0
    async with site.running():
        assert all(len(node.driver.links) == 2 for node in nodes.values())
        for node in nodes.values():
            assert node.passes is not None
            # None of them votes: what they know is what has passed, and not what time it is.
            assert not node.passes.standing.clock.voters()
        late = site.fleet.stale("late", 31 * DAY)
        await _is_refused(site, nodes["a"], late)


async def test_a_clock_far_ahead_neither_locks_out_nor_misleads(autojump_clock: MockClock) -> None:
    site, nodes = site_of("a", "b")
    ahead = nodes["ahead"] = site.add("ahead")
    ahead.wall = UNIX + 70 * 365 * DAY
    async with site.running():
        await trio.sleep(5)
        assert len(ahead.driver.links) == 3
        assert ahead.passes is not None
        assert "pass and the grace have ended" not in str(ahead.passes.standing.clock.read().problem)
        assert abs(ahead.passes.now() - UNIX - trio.current_time()) < 2
        for name in ("boss", "a", "b"):
            passes = nodes[name].passes
            assert passes is not None
            assert abs(passes.now() - UNIX - trio.current_time()) < 2
            assert "ahead" not in passes.standing.clock.voters()


async def test_one_member_that_lies_about_the_time_moves_nobody(autojump_clock: MockClock) -> None:
    site, nodes = site_of("a", "b", "liar")
    nodes["liar"].wall = UNIX + 100 * DAY  # within its pass: it believes itself, until the others agree
    async with site.running():
        await trio.sleep(5)
        for node in nodes.values():
            assert node.passes is not None
            assert abs(node.passes.now() - UNIX - trio.current_time()) < 2


async def test_members_of_another_site_of_the_fleet_get_nothing(autojump_clock: MockClock) -> None:
    site, nodes = site_of("a")
    other = nodes["other"] = site.add("other", identity=site.fleet.member("other", site="berlin"))
    async with site.running():
        assert not other.driver.links
        assert len(nodes["a"].driver.links) == 1
        await _is_refused(site, nodes["a"], other.identity)


async def test_a_pass_that_ends_ends_its_sessions(autojump_clock: MockClock) -> None:
    site, nodes = site_of("a", grace=60.0)
    short = nodes["short"] = site.add("short", identity=site.fleet.member("short", lifetime=60.0))
    async with site.running():
        await trio.sleep(80)
        assert len(short.driver.links) == 2  # within the grace
        await trio.sleep(60)
        assert meets(nodes.values(), short.peer) == []


async def _is_refused(site: Site, node: Node, stranger: Identity) -> None:
    name = f"host-{stranger.member.name}"
    transport = MemoryTransport(
        site.network, site.network.add_host(name), stranger, (SWAP,), Metrics(), lambda: UNIX
    )
    with pytest.raises(DialError):
        await transport.open_stream(node.peer, node.transport.addresses, SWAP, 5.0)


# --- tokens


def admit(node: Node, text: str) -> PeerId:
    joiner = NodeKey.generate().peer_id
    node.ledger.admit(parse_untrusted(text), joiner, UNIX + trio.current_time())
    return joiner


async def test_uses_of_a_token_are_counted_across_enrollers_and_not_across_a_cut(
    autojump_clock: MockClock,
) -> None:
    site, nodes = site_of("a", "b")
    second = nodes["second"] = site.add("second", identity=site.fleet.member("second", enroller=True))
    boss = nodes["boss"]
    grant = Grant("hq", frozenset({NODE}), 2, UNIX + DAY)
    async with site.running():
        text = make_token(boss.identity, grant)
        admit(boss, text)
        await trio.sleep(2)
        admit(second, text)
        await trio.sleep(2)
        for enroller in (boss, second):
            with pytest.raises(DeniedError, match="used up"):
                admit(enroller, text)
        # Cut off from each other, each gives what it believes to be left: at most uses x enrollers.
        text = make_token(boss.identity, grant)
        site.network.partition(["boss", "a"], ["second", "b"])
        await trio.sleep(30)
        for enroller in (boss, second):
            admit(enroller, text)
            admit(enroller, text)
            with pytest.raises(DeniedError, match="used up"):
                admit(enroller, text)
        site.network.heal_all()
        await trio.sleep(120)
        token = parse_untrusted(text)
        for enroller in (boss, second):
            assert len(enroller.ledger.joiners(token.id)) == 4  # both see by now that it was too many
            with pytest.raises(DeniedError, match="used up"):
                admit(enroller, text)


async def test_a_hostile_enroller_of_the_site_is_bounded_and_undone_by_the_root(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meshsat.trust.revocations.AUTHOR_LIMIT", FEW)
    site, nodes = site_of("a", "victim")
    hostile = site.add("hostile", identity=site.fleet.member("hostile", enroller=True, right="hq"))
    a, boss, victim = nodes["a"].passes, nodes["boss"], nodes["victim"]
    async with site.running():
        assert a is not None
        assert hostile.passes is not None
        flood = hostile.passes.standing
        flood.revoke(victim.peer, None)
        for _ in range(FEW - 1):
            flood.revoke(NodeKey.generate().peer_id, None)
        with pytest.raises(DeniedError, match="too many"):
            flood.revoke(NodeKey.generate().peer_id, None)
        with pytest.raises(DeniedError, match="root"):
            flood.revoke(boss.peer, None)  # an enroller
        with pytest.raises(InvalidInputError, match="at another"):
            flood.revoke(None, "berlin")
        await trio.sleep(60)
        assert len(a.standing.revocations) == FEW
        assert meets(nodes.values(), victim.peer) == []
        assert len(nodes["a"].driver.links) == 2  # boss and the hostile one
        # Its key is revoked with all that it signed: the victim is a member again.
        undone = sign_revocation(
            site.fleet.root,
            site.fleet.root.certificate,
            peer=hostile.peer,
            site="hq",
            at=UNIX,
            until=UNIX + 400 * DAY,
            issued=True,
        )
        a.standing.learn(undone.sealed)
        await trio.sleep(OFF)
        assert meets(nodes.values(), hostile.peer) == []
        site.introduce(nodes.values())
        await trio.sleep(700)
        assert set(meets(nodes.values(), victim.peer)) == {"a", "boss"}
