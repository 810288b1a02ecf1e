"""On every plane, who is let in is `trust/admission.py`'s to say, before a handler sees anything, and for as
long as a stream lasts. No plane has an opinion of its own about the time."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from meshsat.mesh.identity import Identity, accept_pass
from meshsat.mesh.transport import DialError, Stream, Transport
from meshsat.metrics import Metrics
from meshsat.trust.admission import Admission
from meshsat.trust.clock import Reading, Source
from meshsat.trust.issuing import issue_pass
from meshsat.trust.passes import DAY
from meshsat.trust.revocations import Revocation, revoke
from tests.contract.test_transport import ECHO, PATIENCE, expect_break, serving
from tests.contract.transports import TWINS, Twin
from tests.fleet import Fleet

GRACE = 2 * DAY


class Gate:
    """A member's transport, with what it takes the time to be, and the streams that its handler saw."""

    def __init__(self, twin: Twin, fleet: Fleet, identity: Identity) -> None:
        self.identity = identity
        self.reading = Reading(fleet.now, Source.MACHINE)
        self.admission = Admission(
            fleet.root.certificate, identity.member.site, lambda: self.reading, grace=GRACE
        )
        self.handled: list[str] = []
        self.over = trio.Event()
        self.transport: Transport = twin.make(identity, (ECHO,), Metrics(), self.admission)

    async def handle(self, _protocol: str, stream: Stream) -> None:
        self.handled.append(stream.member.name)
        try:
            while data := await stream.receive_some():
                await stream.send_all(data)
        finally:
            self.over.set()

    async def reach(self, other: "Gate") -> Stream:
        return await self.transport.open_stream(
            other.identity.key.peer_id, other.transport.addresses, ECHO, PATIENCE
        )


class Bench:
    def __init__(self, twin: Twin, directory: Path) -> None:
        self.twin = twin
        self.fleet = Fleet()
        self.directory = directory

    def gate(self, name: str, *, site: str = "hq", ended: float | None = None) -> Gate:
        directory = self.directory / name
        if ended is None:
            identity = self.fleet.member(name, site=site, directory=directory)
        else:
            identity = self.fleet.stale(name, ended, directory=directory)
        return Gate(self.twin, self.fleet, identity)


@pytest.fixture(params=sorted(TWINS))
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    twin = TWINS[request.param]()
    yield Bench(twin, tmp_path)
    for close in twin.closing:
        close()


@asynccontextmanager
async def open_gates(*gates: Gate) -> AsyncIterator[None]:
    if not gates:
        yield
        return
    async with serving(gates[0].transport, gates[0].handle), open_gates(*gates[1:]):
        yield


def take_back(fleet: Fleet, gate: Gate) -> Revocation:
    root, peer = fleet.root.certificate, gate.identity.key.peer_id
    return revoke(fleet.root, root, peer=peer, site="hq", at=fleet.now, until=fleet.now + DAY)


async def works(one: Gate, other: Gate) -> None:
    stream = await one.reach(other)
    await stream.send_all(b"x")
    assert await stream.receive_some() == b"x"
    await stream.aclose()


async def refused(one: Gate, other: Gate) -> None:
    """Neither of the two gets through to the other."""
    for near, far in ((one, other), (other, one)):
        with pytest.raises(DialError):
            await near.reach(far)


async def test_a_pass_that_ran_out_within_the_grace_is_good(bench: Bench) -> None:
    bob, late = bench.gate("bob"), bench.gate("late", ended=DAY)
    async with open_gates(bob, late):
        await works(late, bob)
        await works(bob, late)


async def test_one_that_ran_out_before_is_refused_whoever_dials(bench: Bench) -> None:
    bob, late = bench.gate("bob"), bench.gate("late", ended=GRACE + 60)
    late.reading = Reading(0.0, Source.FLOOR)  # it believes itself; that changes nothing
    async with open_gates(bob, late):
        await refused(bob, late)
    assert bob.handled == late.handled == []


async def test_with_a_clock_in_1970_a_node_meets_members_and_no_others(bench: Bench) -> None:
    bob, early, late = bench.gate("bob"), bench.gate("early"), bench.gate("late", ended=GRACE + 60)
    early.reading = Reading(bench.fleet.now, Source.FLOOR)
    async with open_gates(bob, early, late):
        await works(early, bob)
        await works(bob, early)
        await refused(early, late)


async def test_a_revoked_one_is_refused_whoever_dials(bench: Bench) -> None:
    bob, eve = bench.gate("bob"), bench.gate("eve")
    async with open_gates(bob, eve):
        await works(eve, bob)
        bob.admission.revocations.take(take_back(bench.fleet, eve))
        bob.handled.clear()
        eve.handled.clear()
        await refused(bob, eve)
        assert bob.handled == eve.handled == []


async def test_a_live_stream_ends_when_its_member_is_revoked(bench: Bench) -> None:
    bob, eve, ann = bench.gate("bob"), bench.gate("eve"), bench.gate("ann")
    async with open_gates(bob, eve, ann):
        inbound, outbound, good = await eve.reach(bob), await bob.reach(eve), await ann.reach(bob)
        for stream in (inbound, outbound, good):
            await stream.send_all(b"x")
            assert await stream.receive_some() == b"x"
        await bob.transport.recheck()
        await inbound.send_all(b"x")
        assert await inbound.receive_some() == b"x"
        bob.admission.revocations.take(take_back(bench.fleet, eve))
        with trio.fail_after(PATIENCE):
            await bob.transport.recheck()
            await expect_break(lambda: outbound.send_all(b"x"))
            await expect_end(inbound)
            await eve.over.wait()
        await good.send_all(b"x")
        assert await good.receive_some() == b"x"
        for stream in (inbound, outbound, good):
            await stream.aclose()


async def expect_end(stream: Stream) -> None:
    async def receive() -> None:
        if not await stream.receive_some():
            await stream.aclose()

    await expect_break(receive)


async def test_a_live_stream_ends_with_its_pass_and_the_grace(bench: Bench) -> None:
    bob, eve = bench.gate("bob"), bench.gate("eve")
    async with open_gates(bob, eve):
        stream = await bob.reach(eve)
        await stream.send_all(b"x")
        assert await stream.receive_some() == b"x"
        bob.reading = Reading(eve.identity.member.not_after + GRACE + 1, Source.MACHINE)
        with trio.fail_after(PATIENCE):
            await bob.transport.recheck()
            await expect_break(lambda: stream.send_all(b"x"))
            await eve.over.wait()
        await stream.aclose()


async def test_a_pass_for_another_site_is_refused_whoever_dials(bench: Bench) -> None:
    bob, other = bench.gate("bob"), bench.gate("other", site="berlin")
    async with open_gates(bob, other):
        await refused(bob, other)
    assert bob.handled == other.handled == []


async def test_a_renewed_pass_is_shown_from_then_on(bench: Bench) -> None:
    bob, late = bench.gate("bob"), bench.gate("late", ended=GRACE + 60)
    late.reading = Reading(0.0, Source.FLOOR)
    async with open_gates(bob, late):
        await refused(bob, late)
        subject = bench.fleet.subject(late.identity.key, "late")
        chain = issue_pass(bench.fleet.enroller, subject, bench.fleet.now)
        late.transport.renew(accept_pass(bench.directory / "late", bench.fleet.root.certificate, chain))
        await works(late, bob)
        await works(bob, late)
