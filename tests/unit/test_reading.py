"""Readers of one blob: pieces in order, patience that ends. What they do in a site is in test_fetch.py."""

from contextlib import aclosing
from pathlib import Path

import pytest
import trio
import trio.testing

from meshsat.errors import DeniedError, MeshsatError, NotFoundError, UnavailableError
from meshsat.oci.digest import Digest
from meshsat.protocol.events import Fault
from meshsat.reading import NO_SOURCE_LIMIT, READ, STALL_LIMIT, ArrivingBlob, Part, Patience, StoredBlob
from meshsat.store.store import Store
from tests.images import random_bytes
from tests.mesh.full_node import RATE, full_site

Clock = trio.testing.MockClock
SOURCE = ("up.example", "library/pos", False)


async def test_patience_lasts_while_something_moves(autojump_clock: Clock) -> None:
    patience = Patience(lambda: True)
    for progress in range(5):
        await trio.sleep(STALL_LIMIT - 1)
        patience.check(progress, [])
    await trio.sleep(STALL_LIMIT + 1)
    with pytest.raises(UnavailableError, match="nothing came for 90 s: no route"):
        patience.check(4, [(None, ""), (Fault.UNAVAILABLE, "no route")])


async def test_patience_with_nobody_there_ends_sooner(autojump_clock: Clock) -> None:
    there = False
    patience = Patience(lambda: there)
    await trio.sleep(NO_SOURCE_LIMIT - 1)
    patience.check(0, [])
    there = True
    patience.check(0, [])
    there = False
    await trio.sleep(NO_SOURCE_LIMIT - 1)
    patience.check(0, [])
    await trio.sleep(2)
    with pytest.raises(UnavailableError, match="no node of this site holds it"):
        patience.check(0, [])


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Fault.NOT_FOUND, NotFoundError),
        (Fault.DENIED, DeniedError),
        (Fault.STORAGE, UnavailableError),
        (Fault.WRONG_BYTES, UnavailableError),
    ],
)
async def test_some_faults_end_it_at_once(fault: Fault, kind: type[MeshsatError]) -> None:
    patience = Patience(lambda: True)
    patience.check(0, [(Fault.UNAVAILABLE, "for now")])
    with pytest.raises(kind, match="because"):
        patience.check(1, [(fault, "because")])


async def test_a_blob_that_is_held_is_read_in_pieces(tmp_path: Path) -> None:
    data = random_bytes(2 * READ + 10)
    async with await Store.open(tmp_path, threads=0) as store:
        await store.put(data, Digest.of(data))
        for start, stop in ((0, len(data)), (5, 5), (READ - 1, READ + 1), (len(data) - 1, len(data))):
            reader = StoredBlob(store, Digest.of(data), len(data))
            async with reader, aclosing(reader.stream(start, stop)) as pieces:
                got = [piece async for piece in pieces]
            assert b"".join(got) == data[start:stop]
            assert all(0 < len(piece) <= READ for piece in got)


async def test_two_readers_of_an_arriving_blob_share_its_transfer(autojump_clock: Clock) -> None:
    data = random_bytes(int(RATE))
    async with full_site("up") as (up,):
        blob = up.site.upstream.add(data)
        got: list[bytes] = []

        async def read(start: int) -> None:
            reader = ArrivingBlob(up.store, up.node.mesh, blob, Part(len(data), (SOURCE,)))
            async with reader, aclosing(reader.stream(start, len(data))) as pieces:
                got.append(b"".join([piece async for piece in pieces]))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read, 0)
            nursery.start_soon(read, 100)
        assert sorted(got, key=len) == [data[100:], data]
        assert up.site.upstream.bytes <= 1.02 * len(data)
        assert up.node.driver.demands == {}


async def test_a_chunk_that_is_forgotten_while_it_is_read_comes_again(
    autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = random_bytes(int(RATE))
    async with full_site("up") as (up,):
        blob = up.site.upstream.add(data)
        reader = ArrivingBlob(up.store, up.node.mesh, blob, Part(len(data), (SOURCE,)))
        async with reader, aclosing(reader.stream(0, len(data))) as pieces:
            first = await anext(pieces)
            partial = up.node.mesh.partial(blob)
            assert partial is not None
            read = partial.read
            lost: list[int] = []

            async def forgotten_once(index: int, start: int = 0, stop: int | None = None) -> bytes:
                if not lost:
                    lost.append(index)
                    raise NotFoundError("forgotten while it was read")
                return await read(index, start, stop)

            monkeypatch.setattr(partial, "read", forgotten_once)
            assert first + b"".join([piece async for piece in pieces]) == data
            assert len(lost) == 1


async def test_a_reader_that_was_never_entered_gives_nothing(autojump_clock: Clock) -> None:
    async with full_site("up") as (up,):
        blob = up.site.upstream.add(b"data")
        reader = ArrivingBlob(up.store, up.node.mesh, blob, Part(4, (SOURCE,)))
        with pytest.raises(UnavailableError, match="closed"):
            await anext(reader.stream(0, 4))
        assert up.node.machine.transfers == {}
