"""One swap session: what goes out and in which order, and what a peer can do to it from the other end."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from meshsat.mesh import link as module
from meshsat.mesh.link import Link
from meshsat.oci.digest import Digest
from meshsat.protocol import wire
from meshsat.protocol.bitset import to_bytes
from tests.mesh.loose_stream import LooseStream

BLOB = Digest.of(b"blob")
OTHER = Digest.of(b"other")
RIGHT = b"\1" * 32


def have(*indexes: int, blob: Digest = BLOB) -> wire.Have:
    return wire.Have(blob, to_bytes(sum(1 << index for index in indexes), max(indexes) + 1))


class Told:
    """A receiver that writes down what it is told, and gives what the test says."""

    def __init__(self) -> None:
        self.frames: list[wire.Frame] = []
        self.chunks: list[tuple[int, bytes, bytes]] = []
        self.progress = 0
        self.asked: dict[int, int] = {}
        """Index -> length of the chunks that were asked for."""
        self.held: dict[int, bytes] = {}
        self.sent: list[tuple[int, bool]] = []
        self.together: list[int] = []
        """How many chunks were read at a time."""

    def frame_received(self, link: Link, frame: wire.Frame) -> None:
        self.frames.append(frame)

    def payload_progressed(self, link: Link) -> None:
        self.progress += 1

    def expected(self, link: Link, frame: wire.Chunk) -> tuple[int, bytes] | None:
        return (self.asked[frame.index], RIGHT) if frame.index in self.asked else None

    async def chunk_received(self, link: Link, frame: wire.Chunk, digest: bytes, payload: bytearray) -> None:
        await trio.lowlevel.checkpoint()
        self.chunks.append((frame.index, digest, bytes(payload)))

    async def read_chunks(self, chunks: Sequence[tuple[Digest, int]]) -> list[bytes | None]:
        await trio.lowlevel.checkpoint()
        self.together.append(len(chunks))
        return [self.held.get(index) for _, index in chunks]

    def chunk_sent(self, link: Link, blob: Digest, index: int, *, failed: bool) -> None:
        self.sent.append((index, failed))


class Session:
    def __init__(self, *, blocked: bool = False) -> None:
        self.stream = LooseStream(blocked=blocked)
        self.told = Told()
        self.link = Link(self.stream, self.told, dialled=True, plane="memory")
        self.reason = ""

    async def run(self) -> str:
        self.reason = await self.link.run()
        return self.reason

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Session"]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.run)
            yield self
            nursery.cancel_scope.cancel()


def chunk(index: int, payload: bytes) -> bytes:
    return wire.encode(wire.Chunk(BLOB, index), len(payload)) + payload


# --- out ---


async def test_frames_go_out_in_order_and_neighbouring_haves_of_a_blob_as_one() -> None:
    session = Session()
    for frame in (
        have(0), have(9), wire.Ping(1), have(2), have(0, 1, blob=OTHER), have(2, blob=OTHER), have(1)
    ):  # fmt: skip
        session.link.send(frame)
    async with session.running():
        await trio.testing.wait_all_tasks_blocked()
    assert session.stream.frames() == [
        have(0, 9), wire.Ping(1), have(2), have(0, 1, 2, blob=OTHER), have(1)
    ]  # fmt: skip
    assert session.link.bytes_out == len(session.stream.sent)


async def test_frames_overtake_chunks() -> None:
    session = Session()
    session.told.held = {0: b"zero", 1: b"one"}
    session.link.send_chunk(BLOB, 0, 4)
    session.link.send_chunk(BLOB, 1, 3)
    session.link.send(wire.Ping(1))
    async with session.running():
        await trio.testing.wait_all_tasks_blocked()
    assert session.stream.frames() == [wire.Ping(1), wire.Chunk(BLOB, 0), wire.Chunk(BLOB, 1)]
    assert session.stream.sent.endswith(b"one")
    assert session.told.sent == [(0, False), (1, False)]


async def test_small_chunks_go_out_in_one_write_and_large_ones_alone() -> None:
    session = Session()
    large = bytes(module.BATCH)
    session.told.held = {0: b"zero", 1: b"one", 3: large, 4: b"four"}
    for index, payload in ((0, b"zero"), (1, b"one"), (2, b"lost"), (3, large), (4, b"four")):
        session.link.send_chunk(BLOB, index, len(payload))
    async with session.running():
        await trio.testing.wait_all_tasks_blocked()
    assert session.told.together == [3, 1, 1]
    assert session.told.sent == [(0, False), (1, False), (2, True), (3, False), (4, False)]
    small = chunk(0, b"zero") + chunk(1, b"one")
    assert session.stream.sent == small + chunk(3, large) + chunk(4, b"four")


async def test_a_chunk_that_cannot_be_read_is_told_and_not_sent() -> None:
    session = Session()
    session.link.send_chunk(BLOB, 0, 4)
    async with session.running():
        await trio.testing.wait_all_tasks_blocked()
    assert session.told.sent == [(0, True)]
    assert session.stream.sent == b""


async def test_what_is_queued_while_it_waits_goes_out_at_once() -> None:
    session = Session()
    async with session.running():
        for token in range(3):
            await trio.testing.wait_all_tasks_blocked()
            session.link.send(wire.Ping(token))
        await trio.testing.wait_all_tasks_blocked()
    assert session.stream.frames() == [wire.Ping(0), wire.Ping(1), wire.Ping(2)]


async def test_a_peer_that_reads_nothing_is_given_up_when_the_queue_is_full(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "QUEUE_LIMIT", 10)
    session = Session(blocked=True)
    async with session.running():
        for token in range(11):
            session.link.send(wire.Ping(token))
        await trio.testing.wait_all_tasks_blocked()
    assert "does not read" in session.reason
    assert session.stream.closed


async def test_a_peer_that_takes_nothing_is_given_up_in_time(
    autojump_clock: trio.testing.MockClock,
) -> None:
    session = Session(blocked=True)
    session.link.send(wire.Ping(1))
    reason = await session.run()
    assert trio.current_time() == module.SEND_STALL
    assert "took nothing" in reason
    assert session.stream.closed


# --- in ---


async def test_frames_come_in_whatever_the_pieces() -> None:
    frames = [wire.Ping(1), have(3), wire.Unwant((BLOB,))]
    whole = b"".join(wire.encode(frame) for frame in frames)
    for size in (1, 7, len(whole)):
        session = Session()
        session.stream.arrive(*(whole[start : start + size] for start in range(0, len(whole), size)))
        session.stream.end()
        assert await session.run() == "the connection ended"
        assert session.told.frames == frames
        assert session.link.bytes_in == len(whole)
        assert session.stream.closed


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
async def test_a_chunk_comes_in_whatever_the_pieces_and_each_byte_counts_once(size: int) -> None:
    session = Session()
    session.told.asked[5] = 300
    payload = bytes(range(256)) + bytes(44)
    whole = chunk(5, payload) + wire.encode(wire.Ping(1))
    session.stream.arrive(*(whole[start : start + size] for start in range(0, len(whole), size)))
    session.stream.end()
    await session.run()
    assert session.told.chunks == [(5, RIGHT, payload)]
    assert session.told.frames == [wire.Ping(1)]
    assert session.link.bytes_in == len(whole)


async def test_a_chunk_that_nobody_asked_for_is_read_over() -> None:
    session = Session()
    session.stream.arrive(chunk(5, b"unasked"), wire.encode(wire.Ping(1)))
    session.stream.end()
    await session.run()
    assert session.told.chunks == [(5, b"", b"unasked")]
    assert session.told.frames == [wire.Ping(1)]


async def test_progress_of_a_slow_chunk_is_told_now_and_then(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "READ", 10)
    session = Session()
    session.told.asked[0] = 100
    async with session.running():
        session.stream.arrive(wire.encode(wire.Chunk(BLOB, 0), 100))
        for _ in range(10):
            session.stream.arrive(bytes(10))
            await trio.sleep(0.1)
        assert 2 <= session.told.progress <= 4
        assert len(session.told.chunks) == 1


def chunk_of_wrong_length(session: Session) -> None:
    session.told.asked[0] = 300
    session.stream.arrive(chunk(0, bytes(299)))


def oversized_header(session: Session) -> None:
    session.stream.arrive(wire.PREFIX.pack(wire.HEADER_LIMIT + 1, 0))


def oversized_payload(session: Session) -> None:
    session.stream.arrive(wire.PREFIX.pack(10, wire.PAYLOAD_LIMIT + 1))


def no_header(session: Session) -> None:
    session.stream.arrive(wire.PREFIX.pack(0, 0))


def garbage(session: Session) -> None:
    session.stream.arrive(wire.PREFIX.pack(4, 0) + b"\xff\xff\xff\xff")


def payload_behind_a_frame_that_has_none(session: Session) -> None:
    session.stream.arrive(wire.encode(wire.Ping(1), 3) + b"abc")


def end_in_a_prefix(session: Session) -> None:
    session.stream.arrive(b"\0\0\0")
    session.stream.end()


def end_in_a_header(session: Session) -> None:
    session.stream.arrive(wire.encode(wire.Ping(1))[:-1])
    session.stream.end()


def end_in_a_chunk(session: Session) -> None:
    session.told.asked[0] = 300
    session.stream.arrive(chunk(0, bytes(300))[:-1])
    session.stream.end()


def pulled_cable(session: Session) -> None:
    session.stream.break_off()


@pytest.mark.parametrize(
    ("does", "says"),
    [
        (chunk_of_wrong_length, "299 bytes where 300"),
        (oversized_header, "over the limit"),
        (oversized_payload, "over the limit"),
        (no_header, "over the limit"),
        (garbage, "does not speak"),
        (payload_behind_a_frame_that_has_none, "a payload behind"),
        (end_in_a_prefix, "in the middle of a frame"),
        (end_in_a_header, "in the middle of a frame"),
        (end_in_a_chunk, "in the middle of a chunk"),
        (pulled_cable, "cable"),
    ],
)
async def test_what_is_no_session_ends_it(does: Callable[[Session], None], says: str) -> None:
    session = Session()
    does(session)
    with trio.fail_after(1):
        reason = await session.run()
    assert says in reason
    assert session.told.frames == []
    assert session.told.chunks == []
    assert session.stream.closed


# --- its end ---


async def test_abort_ends_it_and_the_first_reason_is_told() -> None:
    session = Session()
    async with session.running():
        await trio.testing.wait_all_tasks_blocked()
        session.link.abort("it lies")
        session.link.abort("later")
        await trio.testing.wait_all_tasks_blocked()
        assert session.reason == "it lies"
        assert session.stream.closed


async def test_aborted_before_it_runs_it_does_nothing() -> None:
    session = Session()
    session.link.abort("banned")
    session.stream.arrive_frames(wire.Ping(1))
    assert await session.run() == "banned"
    assert session.told.frames == []


async def test_cancelled_from_outside_it_closes_its_stream() -> None:
    session = Session()
    async with session.running():
        await trio.testing.wait_all_tasks_blocked()
    assert session.stream.closed
