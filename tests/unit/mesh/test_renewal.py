"""When a pass is renewed and by whom, what happens when nobody does, and another key. Real processes:
tests/clients/test_passes.py."""

import itertools
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from meshsat.config import PassesSection
from meshsat.errors import DeniedError, MeshsatError, UnavailableError
from meshsat.mesh import identity, renewal
from meshsat.mesh.enrol import Enroller
from meshsat.mesh.identity import Identity, load, superseded
from meshsat.mesh.outcomes import Outcome
from meshsat.mesh.renewal import JITTER, SHARE, Renewal
from meshsat.mesh.standing import Standing
from meshsat.mesh.token_ledger import TokenLedger
from meshsat.mesh.transport import ByteStream, DialError, StreamBroken
from meshsat.trust.keys import NodeKey
from meshsat.trust.passes import DAY, ENROLLER, PASS_LIFETIME, verify_enroller_untrusted
from meshsat.trust.revocations import revoke
from tests.fleet import Fleet
from tests.unit.mesh.test_enrol import stream_pair

NOW = 1_800_000_000.0


class Desk:
    """A node that renews, and the enrollers that it reaches, by address."""

    def __init__(self, directory: Path, me: Identity, lifetime: float = PASS_LIFETIME) -> None:
        self.told: list[Outcome] = []
        self.standing = Standing(me, PassesSection(), self.wall, self.told.append)
        self.enrollers: dict[str, Enroller] = {}
        self.asked: list[str] = []
        self.renewal = Renewal(
            self.standing,
            directory,
            lifetime,
            lambda: list(self.enrollers),
            random.Random(1),
            self.told.append,
        )

    def wall(self) -> float:
        return NOW + trio.current_time()

    def add(self, address: str, boss: Identity) -> None:
        self.enrollers[address] = Enroller(
            boss,
            TokenLedger(None, self.wall),
            self.wall,
            admission=self.standing.admission,
            supersede=self.standing.supersede if boss is self.standing.identity else None,
        )

    @asynccontextmanager
    async def open(self, key: NodeKey, addresses: list[str], _timeout: float) -> AsyncIterator[ByteStream]:
        self.asked += addresses
        enroller = self.enrollers[addresses[0]]
        if enroller is None:
            raise DialError("nobody there")
        near, far = stream_pair(key.peer_id, enroller._issuer.key.peer_id)

        async def serve() -> None:
            with suppress(StreamBroken):
                await enroller.answer(far)
            await far.aclose()

        raised: MeshsatError | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            try:
                yield near
            except MeshsatError as fault:
                raised = fault
            await near.aclose()
        if raised is not None:
            raise raised


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


@pytest.fixture
def desk_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[Identity], Desk]:
    def make(me: Identity) -> Desk:
        assert me.directory is not None
        desk = Desk(me.directory.parent, me)
        monkeypatch.setattr(renewal, "open_enrol_stream", desk.open)
        return desk

    return make


Make = Callable[[Identity], Desk]


async def test_it_is_due_after_two_thirds_give_or_take(
    fleet: Fleet, tmp_path: Path, desk_of: Make, autojump_clock: MockClock
) -> None:
    me = fleet.member(lifetime=90 * DAY, directory=tmp_path)
    due = {desk_of(me).renewal.due_at}
    desk = desk_of(me)
    for seed in range(50):
        desk.renewal._jitter = random.Random(seed).uniform(-JITTER, JITTER)
        due.add(desk.renewal.due_at)
    assert len(due) > 40
    assert all(abs(at - NOW - 90 * DAY * SHARE) <= 90 * DAY * JITTER for at in due)


async def test_renewed_in_time_and_kept(
    fleet: Fleet, tmp_path: Path, desk_of: Make, autojump_clock: MockClock
) -> None:
    me = fleet.member(lifetime=9 * DAY, directory=tmp_path)
    desk = desk_of(me)
    desk.add("a:1", fleet.member("boss", enroller=True))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(desk.renewal.run)
        await trio.sleep(5 * DAY)
        assert desk.asked == []
        await trio.sleep(2 * DAY)
        nursery.cancel_scope.cancel()
    assert desk.asked == ["a:1"]
    kept = load(tmp_path)
    assert kept.member.serial != me.member.serial
    assert kept == desk.standing.identity
    assert desk.standing.clock.horizon == kept.member.not_after + PassesSection().grace
    assert [one.what for one in desk.told if one.done] == ["renew"]


async def test_any_enroller_will_do_and_refusals_are_told(
    fleet: Fleet, tmp_path: Path, desk_of: Make, autojump_clock: MockClock
) -> None:
    me = fleet.member(lifetime=90 * DAY, directory=tmp_path)
    desk = desk_of(me)
    desk.add("foreign:1", Fleet(now=NOW).member("boss", enroller=True))
    desk.add("elsewhere:1", fleet.member("boss", enroller=True, right="berlin"))
    with pytest.raises(UnavailableError, match="berlin only"):
        await desk.renewal.renew()
    desk.add("a:1", fleet.member("boss", enroller=True))
    await desk.renewal.renew()
    assert desk.asked == ["foreign:1", "elsewhere:1"] * 2 + ["a:1"]


async def test_nobody_in_sight_is_told_and_tried_again_with_growing_pauses(
    fleet: Fleet, tmp_path: Path, desk_of: Make, autojump_clock: MockClock
) -> None:
    me = fleet.member(lifetime=6 * DAY, directory=tmp_path)
    desk = desk_of(me)
    tries: list[float] = []

    def locate() -> list[str]:
        tries.append(trio.current_time())
        return []

    desk.renewal._locate = locate
    async with trio.open_nursery() as nursery:
        nursery.start_soon(desk.renewal.run)
        await trio.sleep(5 * DAY)
        nursery.cancel_scope.cancel()
    gaps = [after - before for before, after in itertools.pairwise(tries)]
    assert gaps[0] < 2
    assert 0.7 * 3600 < gaps[-1] < 1.3 * 3600
    assert len(tries) < 400
    assert desk.renewal.tried is not None
    assert "passes.enrollers" in str(desk.renewal.tried.fault)


async def test_a_pass_of_an_enroller_that_was_retired_is_renewed_at_once(
    fleet: Fleet, tmp_path: Path, desk_of: Make, autojump_clock: MockClock
) -> None:
    me = fleet.member(directory=tmp_path)
    desk = desk_of(me)
    desk.add("a:1", fleet.member("second", enroller=True))
    root, first = fleet.root.certificate, fleet.enroller.key.peer_id
    desk.standing.learn(revoke(fleet.root, root, peer=first, site="hq", at=NOW + 1, until=NOW + DAY).sealed)
    assert desk.standing.revoked is None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(desk.renewal.run)
        await trio.sleep(90)
        nursery.cancel_scope.cancel()
    assert desk.standing.identity.member.issuer not in (None, first)
    assert desk.asked == ["a:1"]


async def test_a_revoked_node_learns_it_by_asking_and_asks_no_more(
    fleet: Fleet, tmp_path: Path, desk_of: Make, autojump_clock: MockClock
) -> None:
    me = fleet.member(lifetime=3 * DAY, directory=tmp_path)
    desk = desk_of(me)
    boss = fleet.member("boss", enroller=True)
    desk.add("a:1", boss)
    elsewhere = Standing(boss, PassesSection(), desk.wall)
    desk.enrollers["a:1"]._admission = elsewhere.admission
    elsewhere.revoke(me.key.peer_id, None, "stolen")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(desk.renewal.run)
        await trio.sleep(5 * DAY)
        nursery.cancel_scope.cancel()
    assert desk.standing.revoked is not None
    assert desk.standing.revoked.reason == "stolen"
    assert desk.asked == ["a:1"]


async def test_an_enroller_gives_itself_the_next_pass(
    fleet: Fleet, tmp_path: Path, desk_of: Make, autojump_clock: MockClock
) -> None:
    boss = fleet.member("boss", enroller=True, lifetime=90 * DAY, directory=tmp_path)
    desk = desk_of(boss)
    await trio.sleep(70 * DAY)
    await desk.renewal.renew()
    member = desk.standing.identity.member
    assert (member.issuer, ENROLLER in member.roles) == (boss.key.peer_id, True)
    assert member.not_after > boss.member.not_after
    assert desk.asked == []


async def test_where_the_root_key_is_the_certificate_is_renewed_too(
    tmp_path: Path, desk_of: Make, autojump_clock: MockClock
) -> None:
    boss = identity.init_fleet(tmp_path, "acme", "hq", "boss", NOW)
    desk = desk_of(boss)
    await trio.sleep(4 * 366 * DAY)
    await desk.renewal.renew()
    renewed = desk.standing.identity
    assert renewed.enroller is not None
    rights = verify_enroller_untrusted(renewed.enroller, renewed.root, desk.wall())
    assert (rights.site, rights.issued_at) == ("*", float(int(desk.wall())))
    assert renewed.member.issuer is None


async def test_another_key_for_a_node(
    fleet: Fleet, tmp_path: Path, desk_of: Make, autojump_clock: MockClock
) -> None:
    me = fleet.member("till", directory=tmp_path)
    desk = desk_of(me)
    desk.add("a:1", fleet.member("boss", enroller=True))
    switched = await desk.renewal.rotate()
    assert switched.key.peer_id != me.key.peer_id
    assert (switched.member.name, switched.member.site) == ("till", "hq")
    assert superseded(tmp_path) is not None
    # It begins anew, and has the old key revoked: by the first enroller that will.
    again = desk_of(load(tmp_path))
    boss = fleet.member("boss", enroller=True)
    again.add("a:1", boss)
    elsewhere = Standing(boss, PassesSection(), again.wall)
    again.enrollers["a:1"]._supersede = elsewhere.supersede
    async with trio.open_nursery() as nursery:
        nursery.start_soon(again.renewal.run)
        await trio.sleep(5)
        nursery.cancel_scope.cancel()
    (revocation,) = again.standing.revocations
    assert (revocation.peer, revocation.author) == (me.key.peer_id, boss.key.peer_id)
    assert superseded(tmp_path) is None
    assert again.standing.revoked is None


async def test_a_rotation_that_nobody_answers_changes_nothing(
    fleet: Fleet, tmp_path: Path, desk_of: Make, autojump_clock: MockClock
) -> None:
    me = fleet.member("till", directory=tmp_path)
    desk = desk_of(me)
    with pytest.raises(UnavailableError):
        await desk.renewal.rotate()
    assert load(tmp_path) == me
    assert superseded(tmp_path) is None


async def test_whoever_made_the_fleet_takes_another_key_by_itself(
    tmp_path: Path, desk_of: Make, autojump_clock: MockClock
) -> None:
    boss = identity.init_fleet(tmp_path, "acme", "hq", "boss", NOW)
    switched = await desk_of(boss).renewal.rotate()
    assert switched.enroller is not None
    assert verify_enroller_untrusted(switched.enroller, switched.root, NOW).site == "*"
    again = desk_of(load(tmp_path))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(again.renewal.run)
        await trio.sleep(5)
        nursery.cancel_scope.cancel()
    (revocation,) = again.standing.revocations
    assert (revocation.peer, revocation.by_root, revocation.issued) == (boss.key.peer_id, True, False)


async def test_what_is_left_of_a_rotation_and_can_not_be_read_is_dropped(
    fleet: Fleet, tmp_path: Path, desk_of: Make, autojump_clock: MockClock
) -> None:
    me = fleet.member("till", directory=tmp_path)
    assert me.directory is not None
    for junk in (b"\xff", b"\x80", b"\x82\x80\x40"):
        (me.directory / "before.cbor").write_bytes(junk)
        desk = desk_of(me)
        await desk.renewal._finish_rotation()
        assert superseded(tmp_path) is None


async def test_a_revoked_node_takes_no_other_key(
    fleet: Fleet, tmp_path: Path, desk_of: Make, autojump_clock: MockClock
) -> None:
    me = fleet.member("till", directory=tmp_path)
    desk = desk_of(me)
    root = fleet.root.certificate
    desk.standing.learn(
        revoke(fleet.root, root, peer=me.key.peer_id, site="hq", at=NOW, until=NOW + DAY).sealed
    )
    with pytest.raises(DeniedError, match="new token"):
        await desk.renewal.rotate()
    assert issubclass(DeniedError, MeshsatError)
