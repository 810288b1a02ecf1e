"""What members send: a value or the documented error, and a machine that goes on whatever it is told."""

import random
from contextlib import suppress
from typing import Any

import cbor2
from hypothesis import given, settings
from hypothesis import strategies as st

from meshsat.cbor import decode_cbor_untrusted
from meshsat.errors import InvalidInputError
from meshsat.protocol import effects, events, wire
from meshsat.protocol.gossip import CONTEXT, ImageRecord, open_record_untrusted
from meshsat.protocol.machine import Settings
from meshsat.protocol.trace import (
    LENGTH,
    MAGIC,
    Ended,
    Happened,
    Started,
    TraceError,
    decode_untrusted,
    encode,
)
from meshsat.protocol.wire import FrameError
from meshsat.trust import envelope
from tests.brain import UNIX, Blob, Brain, key, peer
from tests.frames import FRAME
from tests.happenings import EVENT

LEAF = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.binary(max_size=40),
    st.sampled_from([str(Blob().digest), b"\0" * 32, b"\0" * 64, 2**64, 10**400]),
)
VALUE: st.SearchStrategy[Any] = st.recursive(
    LEAF,
    lambda inner: st.one_of(
        st.lists(inner, max_size=5),
        st.dictionaries(st.one_of(st.integers(), st.text(max_size=3)), inner, max_size=3),
        st.builds(cbor2.CBORTag, st.integers(0, 300), inner),
    ),
    max_leaves=12,
)
HEADER = st.one_of(
    st.binary(max_size=80),
    st.builds(lambda kind, items: [kind, *items], st.integers(-1, 20), st.lists(VALUE, max_size=7)).map(
        cbor2.dumps
    ),
    VALUE.map(cbor2.dumps),
)


def mangled(frame: wire.Frame, at: int, put: bytes) -> bytes:
    data = wire.encode(frame)[8:]
    at %= len(data)
    return data[:at] + put + data[at + 1 :]


MANGLED = st.builds(mangled, FRAME, st.integers(0, 10_000), st.binary(max_size=2))


@given(st.binary(max_size=12))
def test_lengths_are_read_or_refused(prefix: bytes) -> None:
    with suppress(FrameError):
        header, payload = wire.decode_lengths_untrusted(prefix)
        assert 0 < header <= wire.HEADER_LIMIT
        assert 0 <= payload <= wire.PAYLOAD_LIMIT


@given(st.one_of(HEADER, MANGLED))
def test_a_header_is_a_frame_or_refused(header: bytes) -> None:
    with suppress(FrameError):
        frame = wire.decode_header_untrusted(header)
        assert wire.decode_header_untrusted(wire.encode(frame)[8:]) == frame


def plain(value: object) -> bool:
    if isinstance(value, list):
        return all(map(plain, value))
    if isinstance(value, dict):
        return all(isinstance(name, str | bytes) and plain(inner) for name, inner in value.items())
    simple = (bool, int, float, str, bytes, type(None), cbor2.CBORSimpleValue, type(cbor2.undefined))
    return type(value) in simple


@given(st.one_of(HEADER, MANGLED))
def test_cbor_is_plain_or_refused(data: bytes) -> None:
    with suppress(InvalidInputError):
        value = decode_cbor_untrusted(data)
        assert plain(value)


@settings(max_examples=60)
@given(
    st.one_of(st.binary(max_size=60), st.lists(VALUE, max_size=8).map(cbor2.dumps)), st.floats(0, 2 * UNIX)
)
def test_a_record_is_read_or_refused(payload: bytes, now: float) -> None:
    for data in (payload, envelope.seal(key("a"), CONTEXT, payload)):
        with suppress(InvalidInputError):
            assert isinstance(open_record_untrusted(data, now), ImageRecord)


def mangled_entry(event: events.Event, at: int, put: bytes) -> bytes:
    data = encode(Happened(1.0, event, b"\0" * 6))
    return data[:at] + put + data[at + 1 :]


TRACE = encode(Started("1", b"seed", Settings(peer("me"), "me", uplink=True)))


@given(
    st.one_of(
        st.binary(max_size=80),
        st.binary(max_size=80).map(lambda body: LENGTH.pack(len(body)) + body),
        st.builds(lambda kind, items: [kind, *items], st.integers(-1, 6), st.lists(VALUE, max_size=5)).map(
            lambda row: LENGTH.pack(len(cbor2.dumps(row))) + cbor2.dumps(row)
        ),
        st.builds(mangled_entry, EVENT, st.integers(0, 200), st.binary(max_size=2)),
    ),
    st.sampled_from([TRACE, MAGIC, b""]),
)
def test_a_trace_is_read_or_refused(data: bytes, before: bytes) -> None:
    with suppress(TraceError):
        started, *_, last = decode_untrusted(before + data)
        assert isinstance(started, Started)
        assert isinstance(last, Ended)


BLOBS = [Blob("one", 3), Blob("two", 70), Blob("three", 1)]
INDEX = st.one_of(st.integers(0, 3), st.integers(0, 80), st.just(wire.BLOB_LIMIT))
PEER = st.sampled_from(["a", "b", "c"])


def of_blob(blob: Blob) -> st.SearchStrategy[wire.Frame]:
    """Frames that mean something to a machine that wants this blob."""
    author = st.sampled_from(["a", "b", "c", "d", "me"])
    size = st.sampled_from([blob.size, blob.size, blob.size - 1, 0, wire.BLOB_LIMIT])
    bits = st.one_of(st.binary(max_size=9), st.just(b"\xff" * 9), st.binary(max_size=40))
    chunk = st.sampled_from([*blob.chunks, *blob.lie()])
    return st.one_of(
        st.builds(lambda size: wire.Holds(((blob.digest, size),)), size),
        st.just(wire.Drops((blob.digest,))),
        st.builds(
            wire.Want,
            st.tuples(st.tuples(st.just(blob.digest), size, st.integers(0, 4), INDEX)),
            st.just((("up.example", "library/pos", False),)),
        ),
        st.just(wire.Unwant((blob.digest,))),
        st.builds(wire.Have, st.just(blob.digest), bits),
        st.builds(blob.entries, author, st.just(0), lie=st.sampled_from([None, "x", "y"])),
        st.builds(wire.AskEntries, st.just(blob.digest), size, bits),
        st.builds(
            wire.Request, st.just(blob.digest), st.lists(st.tuples(INDEX, chunk), max_size=4).map(tuple)
        ),
        st.builds(wire.Cancel, st.just(blob.digest), st.lists(INDEX, max_size=3).map(tuple)),
        st.builds(wire.Reject, st.just(blob.digest), INDEX),
        st.builds(wire.Failed, st.just(blob.digest), st.integers(0, 7), st.just("no")),
    )


SAID = st.one_of(*map(of_blob, BLOBS), FRAME)
MOVE = st.one_of(
    st.tuples(st.just("hear"), PEER, SAID),
    st.tuples(st.just("hear"), PEER, SAID),
    st.tuples(st.just("hear"), PEER, SAID),
    st.tuples(st.sampled_from(["open", "close", "uplink", "no uplink"]), PEER, st.none()),
    st.tuples(
        st.sampled_from(
            ["want", "unwant", "publish", "drop", "read", "refuse", "deliver", "mismatch", "full"]
        ),
        PEER,
        st.sampled_from(BLOBS),
    ),
    st.tuples(st.just("wait"), PEER, st.floats(0, 4)),
)


class Shell:
    """Does what the machine says, as a driver would, with the least of a disk and an upstream."""

    def __init__(self, *, uplink: bool) -> None:
        self.brain = Brain(uplink=uplink)
        self.blobs = {blob.digest: blob for blob in BLOBS}
        self.open: set[str] = set()
        self.runs: dict[object, effects.FetchUplink] = {}
        self.sending: list[effects.SendChunk] = []

    def feed(self, event: events.Event) -> None:
        todo = [event]
        while todo:
            for effect in self.brain.feed(todo.pop(0)):
                todo += self.do(effect)

    def do(self, effect: effects.Effect) -> list[events.Event]:
        match effect:
            case effects.Send():
                assert wire.decode_header_untrusted(wire.encode(effect.frame)[8:]) == effect.frame
            case effects.Disconnect():
                name = next(name for name in "abc" if peer(name) == effect.peer)
                if name in self.open:
                    self.open.discard(name)
                    return [events.SessionClosed(effect.peer)]
            case effects.OpenTransfer():
                return [events.TransferOpened(effect.blob)]
            case effects.FetchUplink():
                assert 0 <= effect.start < effect.stop
                assert effect.blob not in self.runs, "one run for a blob at a time"
                self.runs[effect.blob] = effect
            case effects.CancelUplink():
                del self.runs[effect.blob]
            case effects.ProbeUplink():
                return [events.UplinkProbed(up=True)]
            case effects.LoadRecipe():
                blob = self.blobs.get(effect.blob)
                return [] if blob is None else [events.RecipeLoaded(effect.blob, blob.chunks)]
            case effects.SendChunk():
                self.sending.append(effect)
        return []

    def move(self, what: str, name: str, with_: Any) -> None:
        blob = with_ if isinstance(with_, Blob) else BLOBS[0]
        transfer = self.brain.machine.transfers.get(blob.digest)
        match what:
            case "hear":
                if name in self.open:
                    self.feed(events.FrameReceived(peer(name), with_))
            case "open" | "uplink" if name not in self.open:
                self.open.add(name)
                self.feed(events.SessionOpened(peer(name), dialled=False))
                if name in self.open:
                    hello = wire.Hello(name, what == "uplink", ("x:1",), ("y:2",))
                    self.feed(events.FrameReceived(peer(name), hello))
            case "no uplink" if name in self.open:
                self.feed(events.FrameReceived(peer(name), wire.Uplink(up=False)))
            case "close" if name in self.open:
                self.open.discard(name)
                self.feed(events.SessionClosed(peer(name)))
            case "want":
                self.feed(blob.wanted())
            case "unwant":
                self.feed(events.BlobUnwanted(blob.digest, events.Priority.PULL))
            case "publish":
                self.feed(blob.published())
            case "drop":
                self.feed(events.BlobDropped(blob.digest))
            case "read":
                self.feed(events.ReaderMoved(blob.digest, 1, len(name) * blob.cut.chunk_length))
            case "mismatch" if transfer is not None and transfer.publishing:
                self.feed(events.BlobMismatched(blob.digest))
            case "full":
                self.feed(events.StorageFailed(blob.digest, "no space"))
            case "refuse" | "deliver" if transfer is not None:
                self.deliver(blob, refused=what == "refuse")
            case "wait":
                self.brain.now += with_
                self.feed(events.TimerExpired())
                self.work()

    def deliver(self, blob: Blob, *, refused: bool) -> None:
        transfer = self.brain.machine.transfers[blob.digest]
        for index, who in list(transfer.asked_of.items())[:3]:
            if transfer.asked_of.get(index) != who:
                continue  # what came before it changed that
            expected = self.brain.machine.expected(who, blob.digest, index)
            assert expected is not None
            if refused:
                self.feed(events.ChunkRefused(blob.digest, index, who))
            else:
                self.feed(events.ChunkStored(blob.digest, index, expected[1], who))

    def work(self) -> None:
        """The uplink brings a chunk of each run, or the upstream says that there is no such blob."""
        for digest, run in list(self.runs.items()):
            blob = self.blobs.get(run.blob)
            if blob is None or blob.size != run.size:
                del self.runs[digest]
                self.feed(events.UplinkEnded(run.blob, events.Fault.NOT_FOUND, "no"))
            elif self.runs.get(digest) is run:
                self.feed(blob.stored(run.start))
        for sent in self.sending[:]:
            self.sending.remove(sent)
            self.feed(events.ChunkSent(sent.peer, sent.blob, sent.index))

    def check(self) -> None:
        machine = self.brain.machine
        assert set(machine.sessions) == {peer(name) for name in self.open}
        for transfer in machine.transfers.values():
            assert set(transfer.holders) <= set(machine.sessions)
            assert transfer.run is None or transfer.blob in self.runs
            assert sum(transfer.levels) == transfer.everything
            for index, who in transfer.asked_of.items():
                assert (transfer.blob, index) in machine.sessions[who].asked
        for session in machine.sessions.values():
            assert session.asked_bytes == sum(length for _, length in session.asked.values())
            for digest, index in session.asked:
                assert machine.transfers[digest].asked_of[index] == session.peer
        for wanted in machine._state.wanted.values():
            assert wanted.wanters
            assert set(wanted.wanters) <= set(machine.sessions)


@settings(max_examples=100)
@given(st.booleans(), st.lists(MOVE, max_size=60))
def test_a_machine_goes_on_whatever_happens(uplink: bool, moves: list[tuple[str, str, Any]]) -> None:
    """Nothing that peers, upstream and disk can do breaks it, and its books stay right."""
    shell = Shell(uplink=uplink)
    for name in "ab":
        shell.move("open", name, None)
    for what, name, with_ in moves:
        shell.move(what, name, with_)
        shell.check()


def test_a_long_life() -> None:
    """As above, for longer than hypothesis would."""
    rng = random.Random(7)
    shell = Shell(uplink=True)
    frames = [
        *[wire.Holds(((blob.digest, blob.size),)) for blob in BLOBS],
        *[blob.want() for blob in BLOBS],
        *[wire.Unwant((blob.digest,)) for blob in BLOBS],
        *[blob.entries(name) for blob in BLOBS for name in "abc"],
        *[blob.entries(name, lie="x") for blob in BLOBS for name in "abc"],
        *[wire.Reject(blob.digest, index) for blob in BLOBS for index in range(blob.cut.count)],
        *[wire.Have(blob.digest, b"\x05") for blob in BLOBS],
        *[wire.Request(blob.digest, ((0, blob.chunks[0]),)) for blob in BLOBS],
    ]
    kinds = ["hear"] * 12 + ["wait"] * 3 + ["deliver"] * 3
    kinds += ["open", "uplink", "close", "no uplink", "want", "want", "unwant", "publish", "drop"]
    kinds += ["refuse", "mismatch", "full", "read"]
    for _ in range(6000):
        what = rng.choice(kinds)
        with_: Any = rng.choice(BLOBS)
        if what == "hear":
            with_ = rng.choice(frames)
        elif what == "wait":
            with_ = rng.uniform(0, 2)
        shell.move(what, rng.choice("abc"), with_)
    shell.check()
