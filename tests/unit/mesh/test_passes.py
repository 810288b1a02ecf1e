"""What an operator is told of a node's pass, and what a change of the identity's files brings about."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest
import trio
from trio.testing import MockClock

from meshsat.config import PassesSection
from meshsat.errors import ConfigError, InvalidInputError
from meshsat.mesh import identity as identities
from meshsat.mesh.driver import Driver
from meshsat.mesh.identity import Identity, accept_pass, begin_switch
from meshsat.mesh.passes import LOOK, Passes
from meshsat.mesh.renewal import Tried
from meshsat.trust.keys import NodeKey
from meshsat.trust.passes import DAY
from meshsat.trust.revocations import revoke
from tests.fleet import Fleet
from tests.unit.mesh.test_standing import Mesh

NOW = 1_800_000_000.0


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


def passes_of(directory: Path, me: Identity, wall: float = NOW) -> Passes:
    passes = Passes(directory, me, PassesSection(), wall=lambda: wall + trio.current_time())
    passes.attach(cast("Driver", Mesh()), [], random.Random(1))
    return passes


def troubles(passes: Passes) -> str:
    return " ".join(trouble for ask in passes.troubles() if (trouble := ask()) is not None)


async def test_a_pass_in_order_is_no_trouble(fleet: Fleet, tmp_path: Path, autojump_clock: MockClock) -> None:
    passes = passes_of(tmp_path, fleet.member("till", directory=tmp_path))
    assert troubles(passes) == ""
    status = passes.status()
    assert (status.state, status.roles, status.fault, status.revoked) == ("active", ("node",), None, None)
    assert (status.time, status.time_source) == (NOW, "this machine's clock")
    assert status.certificate_expires is None
    assert passes.enroller is None


async def test_why_it_is_not_renewed_is_told_once_it_is_due(
    fleet: Fleet, tmp_path: Path, autojump_clock: MockClock
) -> None:
    passes = passes_of(tmp_path, fleet.member("till", lifetime=30 * DAY, directory=tmp_path))
    passes.renewal.tried = Tried(NOW, "no enroller of the fleet is in sight")
    assert troubles(passes) == ""
    autojump_clock.jump(25 * DAY)
    assert "ends in 5.0 days" in troubles(passes)
    assert "no enroller" in troubles(passes)
    autojump_clock.jump(6 * DAY)
    assert "ended 1.0 days ago" in troubles(passes)
    autojump_clock.jump(30 * DAY)  # by its own clock the grace is over too: which of the two is wrong?
    assert "join again" in troubles(passes)


async def test_a_revoked_node_says_so(fleet: Fleet, tmp_path: Path, autojump_clock: MockClock) -> None:
    me = fleet.member("till", directory=tmp_path)
    passes = passes_of(tmp_path, me)
    root = fleet.root.certificate
    passes.standing.learn(
        revoke(
            fleet.root, root, peer=me.key.peer_id, site="hq", at=NOW, until=NOW + DAY, reason="stolen"
        ).sealed
    )
    assert "stolen; join again with a new token" in troubles(passes)
    assert passes.status().state == "revoked"


async def test_the_end_of_the_right_to_enrol_is_told_long_before(
    fleet: Fleet, tmp_path: Path, autojump_clock: MockClock
) -> None:
    boss = fleet.member("boss", enroller=True, lifetime=6 * 365 * DAY, directory=tmp_path)
    passes = passes_of(tmp_path, boss)
    assert passes.enroller is not None
    assert "right to enrol" not in troubles(passes)
    autojump_clock.jump(4.6 * 365.25 * DAY)
    assert "right to enrol others ends" in troubles(passes)


async def test_whom_to_revoke(fleet: Fleet, tmp_path: Path, autojump_clock: MockClock) -> None:
    passes = passes_of(tmp_path, fleet.member("boss", enroller=True, directory=tmp_path))
    till = fleet.member("till")
    passes.standing._see(till.member)
    assert passes.revoke("till", None, "lost", issued=False).peer == till.key.peer_id
    assert passes.revoke(None, "hq", "", issued=False).peer is None
    for who, site in ((None, None), ("till", "hq")):
        with pytest.raises(InvalidInputError):
            passes.revoke(who, site, "", issued=False)


async def test_a_newer_pass_in_the_files_is_shown_and_another_key_begins_anew(
    fleet: Fleet, tmp_path: Path, autojump_clock: MockClock
) -> None:
    me = fleet.member("till", directory=tmp_path)
    passes = passes_of(tmp_path, me)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(passes.run, trio.CancelScope())
        await trio.sleep(3 * LOOK)
        newer = accept_pass(tmp_path, fleet.root.certificate, fleet.chain(me.key, "till"))
        await trio.sleep(2 * LOOK)
        assert passes.standing.identity == newer
        assert not passes.standing.replaced.is_set()
        identities.switch(tmp_path, fleet.chain(begin_switch(tmp_path), "till"))
        with trio.fail_after(2 * LOOK):
            await passes.standing.replaced.wait()
        nursery.cancel_scope.cancel()


async def test_files_that_are_of_no_use_are_passed_over(
    fleet: Fleet, tmp_path: Path, autojump_clock: MockClock
) -> None:
    me = fleet.member("till", directory=tmp_path)
    assert me.directory is not None
    passes = passes_of(tmp_path, me)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(passes.run, trio.CancelScope())
        await trio.sleep(LOOK / 2)
        (me.directory / "pass.crt").write_text("nonsense")
        await trio.sleep(2 * LOOK)
        assert passes.standing.identity == me
        assert not passes.standing.replaced.is_set()
        nursery.cancel_scope.cancel()


async def test_addresses_of_enrollers_are_checked(
    fleet: Fleet, tmp_path: Path, autojump_clock: MockClock
) -> None:
    me = fleet.member("till", directory=tmp_path)
    with pytest.raises(ConfigError, match=r"passes\.enrollers"):
        Passes(tmp_path, me, PassesSection(enrollers=("nowhere",)))
    assert NodeKey.generate().peer_id != me.key.peer_id
