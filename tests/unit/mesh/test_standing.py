"""What a node knows of passes, revocations and the time, and keeps. Whole sites: tests/mesh/test_passes.py."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio
from trio.testing import MockClock

from meshsat.config import PassesSection
from meshsat.errors import DeniedError, InvalidInputError
from meshsat.mesh.driver import Driver
from meshsat.mesh.identity import Identity
from meshsat.mesh.outcomes import Outcome
from meshsat.mesh.pass_files import CLOCK, REVOKED
from meshsat.mesh.standing import FIRST_SAVE, GRACE_MOST, Standing
from meshsat.protocol import events
from meshsat.protocol.events import Event, Judgement
from meshsat.protocol.spread import Kind
from meshsat.trust.keys import NodeKey, PeerId
from meshsat.trust.passes import DAY, PASS_LIFETIME, PassError, PassFault
from meshsat.trust.revocations import revoke
from tests.fleet import Fleet

NOW = 1_800_000_000.0
PEER = NodeKey.generate().peer_id


class Mesh:
    """`Driver`, as far as `Standing` looks at it."""

    def __init__(self) -> None:
        self.links: dict[PeerId, Any] = {}
        self.machine = SimpleNamespace(sessions={})
        self.judges: dict[int, Any] = {}
        self.fed: list[Event] = []

    def feed(self, event: Event) -> None:
        self.fed.append(event)

    def of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.fed if isinstance(event, kind)]


def standing_of(identity: Identity, wall: float = NOW) -> tuple[Standing, Mesh, list[Outcome]]:
    told: list[Outcome] = []
    standing = Standing(identity, PassesSection(), lambda: wall + trio.current_time(), told.append)
    mesh = Mesh()
    standing.attach(cast("Driver", mesh), [])
    return standing, mesh, told


@pytest.fixture(autouse=True)
def no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that jumps does not wait for threads."""

    async def run_sync(work: Callable[..., object], *arguments: object) -> object:
        await trio.lowlevel.checkpoint()
        return work(*arguments)

    monkeypatch.setattr(trio.to_thread, "run_sync", run_sync)


@pytest.fixture
def fleet() -> Fleet:
    return Fleet(now=NOW)


async def test_what_is_judged(fleet: Fleet, autojump_clock: MockClock) -> None:
    _, mesh, told = standing_of(fleet.member())
    judge = mesh.judges[int(Kind.REVOCATION)]
    root = fleet.root.certificate
    first, second = (
        revoke(fleet.root, root, peer=PEER, site="hq", at=at, until=NOW + DAY) for at in (NOW, NOW + 1)
    )
    verdicts = [judge(one.sealed, PEER).judgement for one in (first, second, second, first)]
    assert verdicts == [Judgement.NEWS, Judgement.NEWS, Judgement.KNOWN, Judgement.OUTDATED]
    wrong = judge(b"junk", PEER)
    assert (wrong.judgement, wrong.name) == (Judgement.WRONG, "")
    assert [(one.what, one.peer) for one in told] == [("revoke", PEER), ("revoke", PEER)]


async def test_only_an_enroller_revokes_and_the_root_alone_an_enroller(
    fleet: Fleet, autojump_clock: MockClock
) -> None:
    node, _, _ = standing_of(fleet.member())
    with pytest.raises(DeniedError, match="no enroller"):
        node.revoke(PEER, None)
    boss, other = fleet.member("boss", enroller=True), fleet.member("other", enroller=True)
    enroller, mesh, told = standing_of(boss)
    enroller._see(other.member)
    for peer, issued in ((other.key.peer_id, False), (PEER, True)):
        with pytest.raises(DeniedError, match="root"):
            enroller.revoke(peer, None, issued=issued)
    with pytest.raises(DeniedError, match="itself"):
        enroller.revoke(boss.key.peer_id, None)
    revocation = enroller.revoke(PEER, None, "lost")
    assert (revocation.site, revocation.by_root) == ("hq", False)
    assert revocation.until == int(NOW + 2 * PASS_LIFETIME + GRACE_MOST)
    assert [event.judgement for event in mesh.of(events.ItemJudged)] == [Judgement.NEWS]
    assert told == []  # the operator's deed is recorded where it is done
    with pytest.raises(InvalidInputError):
        enroller.revoke(PEER, None, "two\nlines")


async def test_what_is_known_outlives_the_process(
    fleet: Fleet, tmp_path: Path, autojump_clock: MockClock
) -> None:
    boss = fleet.member("boss", enroller=True, directory=tmp_path)
    standing, mesh, _ = standing_of(boss)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(standing.run)
        await trio.sleep(FIRST_SAVE + 5)
        standing.revoke(PEER, None, "lost")
        await trio.sleep(5)
        nursery.cancel_scope.cancel()
    assert mesh.of(events.PeersRevoked)[-1].peers == ((PEER, float(int(NOW + FIRST_SAVE + 5))),)
    again, mesh, _ = standing_of(boss, wall=0.0)
    assert [one.peer for one in again.revocations] == [PEER]
    assert again.clock.now() >= NOW + FIRST_SAVE
    assert again.problems == []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(again.run)
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert len(mesh.of(events.ItemJudged)) == 1
    assert mesh.of(events.ClockSet)[0].right is False


async def test_damaged_files_are_told_and_keep_no_node_from_starting(
    fleet: Fleet, tmp_path: Path, autojump_clock: MockClock
) -> None:
    node = fleet.member(directory=tmp_path)
    assert node.directory is not None
    (node.directory / REVOKED).write_bytes(b"\xff")
    (node.directory / CLOCK).write_text("{")
    standing, _, _ = standing_of(node)
    assert len(standing.problems) == 2
    assert standing.clock.now() == pytest.approx(NOW, abs=5)


async def test_a_full_disk_is_told_and_the_revocation_counts(
    fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    boss = fleet.member("boss", enroller=True, directory=tmp_path)
    standing, _, _ = standing_of(boss)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    member = fleet.member("till").member
    standing.revoke(member.peer, None)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(standing.run)
        await trio.sleep(5)
        nursery.cancel_scope.cancel()
    assert "No space left" in " ".join(standing.problems)
    with pytest.raises(PassError) as caught:
        standing.admission.admit_untrusted(member.chain)
    assert caught.value.reason is PassFault.REVOKED


async def test_members_by_state(fleet: Fleet, autojump_clock: MockClock) -> None:
    boss = fleet.member("boss", enroller=True)
    standing, _, _ = standing_of(boss)
    kinds = {
        "active": fleet.member("a"),
        "expiring": fleet.member("b", lifetime=10 * DAY),
        "expired": fleet.stale("c", DAY),
        "revoked": fleet.member("d"),
    }
    for one in kinds.values():
        standing._see(one.member)
    standing.revoke(kinds["revoked"].key.peer_id, None, "lost")
    standing.revoke(PEER, None)
    autojump_clock.jump(9 * DAY)
    states = {one.peer: one.state for one in standing.members()}
    assert {state: states[one.key.peer_id] for state, one in kinds.items()} == {
        state: state for state in kinds
    }
    assert states[PEER] == "revoked"
    assert states[boss.key.peer_id] == "active"


async def test_a_member_is_found_by_name_or_peer_id(fleet: Fleet, autojump_clock: MockClock) -> None:
    standing, _, _ = standing_of(fleet.member("boss"))
    one, other = fleet.member("till"), fleet.member("till")
    standing._see(one.member)
    assert standing.find("till") == one.key.peer_id
    standing._see(other.member)
    with pytest.raises(InvalidInputError, match="2 members"):
        standing.find("till")
    assert standing.find(other.key.peer_id) == other.key.peer_id
    assert standing.find(PEER) == PEER
    with pytest.raises(InvalidInputError, match="no member"):
        standing.find("nobody")


async def test_those_seen_are_bounded(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    monkeypatch.setattr("meshsat.mesh.standing.MEMBERS_LIMIT", 3)
    standing, _, _ = standing_of(fleet.member("boss"))
    for number in range(5):
        standing._see(fleet.member(f"till-{number}").member)
    assert [one.name for one in standing.members()] == ["boss", "till-2", "till-3", "till-4"]


async def test_old_revocations_are_forgotten_by_a_clock_that_is_right(
    fleet: Fleet, autojump_clock: MockClock
) -> None:
    for wall, left in ((NOW + 2 * DAY, 0), (0.0, 1)):
        standing, mesh, _ = standing_of(fleet.member(), wall=wall)
        revocation = revoke(fleet.root, fleet.root.certificate, peer=PEER, site="hq", at=NOW, until=NOW + DAY)
        standing.learn(revocation.sealed)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(standing.run)
            await trio.sleep(5)
            nursery.cancel_scope.cancel()
        assert len(standing.revocations) == left
        assert len(mesh.of(events.ItemDropped)) == 1 - left


async def test_a_member_has_one_word_on_the_time_however_many_keys(
    fleet: Fleet, autojump_clock: MockClock
) -> None:
    standing, mesh, _ = standing_of(fleet.member())
    for _ in range(3):
        liar = fleet.member("liar").member
        mesh.links[liar.peer] = SimpleNamespace(stream=SimpleNamespace(member=liar))
        mesh.machine.sessions[liar.peer] = SimpleNamespace(clock=NOW + 50 * DAY)
    standing._look()
    assert standing.clock.voters() == {"liar"}
    assert standing.clock.now() == NOW
    mesh.links.clear()
    standing._look()
    assert not standing.clock.voters()
