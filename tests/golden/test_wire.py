"""The bytes of each frame of `/meshsat/swap/1`. They never change: another wire is another protocol id."""

import hashlib

import pytest

from meshsat.oci.digest import Digest
from meshsat.protocol import wire
from meshsat.protocol.events import Fault, Priority
from meshsat.protocol.gossip import open_record_untrusted, seal
from tests.brain import key

BLOB = Digest("sha256", "ab" * 32)
WORD, SIGNATURE = b"\x11" * 32, b"\x22" * 64
ADDRESSES = ("10.0.0.1:4702",)
SHORT = {
    "BLOB": str(BLOB).encode().hex(),
    "WORD": WORD.hex(),
    "SIGN": SIGNATURE.hex(),
    "ADDR": ADDRESSES[0].encode().hex(),
}
"""What stands for long bytes below."""

FRAMES: list[tuple[wire.Frame, str]] = [
    (wire.Hello("pi", uplink=True, control=ADDRESSES, bulk=()), "00000017 00000000 8600627069f5816dADDR8000"),
    (wire.Ping(7), "00000003 00000000 820107"),
    (wire.Pong(2**64 - 1), "0000000b 00000000 82021bffffffffffffffff"),
    (wire.Peers(BLOB, (("12D3", ADDRESSES, ()),)), "00000062 00000000 83037847BLOB81836431324433816dADDR80"),
    (wire.Uplink(up=False, rate=3_125_000), "00000008 00000000 8304f41a002faf08"),
    (wire.Holds(((BLOB, 262145),)), "00000052 00000000 820581827847BLOB1a00040001"),
    (wire.Drops((BLOB,)), "0000004c 00000000 8206817847BLOB"),
    (wire.Want(((BLOB, 262145, 2, 1),), (("r", "n", True),)), "0000005b 00000000 830781847847BLOB1a00040001020181836172616ef5"),
    (wire.Unwant((BLOB,)), "0000004c 00000000 8208817847BLOB"),
    (wire.Have(BLOB, b"\x03"), "0000004d 00000000 83097847BLOB4103"),
    (wire.Entries(BLOB, "12D3", 1, WORD, SIGNATURE), "000000b5 00000000 860a7847BLOB6431324433015820WORD5840SIGN"),
    (wire.AskEntries(BLOB, 262145, b"\x03"), "00000052 00000000 840b7847BLOB1a000400014103"),
    (wire.Request(BLOB, ((1, WORD),)), "00000070 00000000 830c7847BLOB8182015820WORD"),
    (wire.Cancel(BLOB, (1, 2)), "0000004e 00000000 830d7847BLOB820102"),
    (wire.Chunk(BLOB, 1), "0000004c 00000005 830e7847BLOB01"),
    (wire.Reject(BLOB, 1), "0000004c 00000000 830f7847BLOB01"),
    (wire.Failed(BLOB, 1, "no"), "0000004f 00000000 84107847BLOB01626e6f"),
    (wire.Resolve("r", "n", "t", 1.5), "00000011 00000000 85116172616e6174fb3ff8000000000000"),
    (wire.Resolved("r", "n", "t", b"\x01", 0, ""), "0000000c 00000000 87126172616e617441010060"),
    (wire.Lease(BLOB, 1, 64, 262145), "00000053 00000000 85137847BLOB0118401a00040001"),
    (wire.News(((3, b"\x01"),), more=True), "00000008 00000000 83178182034101f5"),
    (wire.Compare(((0, "", 2**64 - 1), (2, "0f", 1))), "00000016 00000000 821818828300601bffffffffffffffff830262306601"),
    (wire.Summary(((1, "f", b"\x01" * 16),), answer=False), "0000001a 00000000 83181981830161665001010101010101010101010101010101f4"),
    (wire.Find(BLOB, 262145), "00000051 00000000 83181a7847BLOB1a00040001"),
]  # fmt: skip


@pytest.mark.parametrize(("frame", "text"), FRAMES, ids=lambda one: type(one).__name__)
def test_bytes(frame: wire.Frame, text: str) -> None:
    for short, long in SHORT.items():
        text = text.replace(short, long)
    expected = bytes.fromhex(text)
    assert wire.encode(frame, 5 if isinstance(frame, wire.Chunk) else 0) == expected
    assert wire.decode_header_untrusted(expected[8:]) == frame


def test_every_frame_is_pinned() -> None:
    types = [frame.type for frame, _ in FRAMES]
    assert types == sorted(set(types))
    assert {type(frame).__name__ for frame, _ in FRAMES} == {
        kind.__name__ for kind in wire.Frame.__subclasses__()
    }


def test_what_an_author_signs() -> None:
    message = wire.entries_message(BLOB, 1, WORD)
    assert message == b"meshsat/entries/1\0\x83\x78\x47" + str(BLOB).encode() + b"\x01\x58\x20" + WORD


def test_a_sealed_record() -> None:
    record = seal(
        key("golden"),
        registry="r",
        repository="n",
        reference="t",
        media_type="m",
        digest=BLOB,
        size=7,
        resolved_at=1.5,
    )
    assert hashlib.sha256(record.sealed).hexdigest() == (
        "2fff9e8d332bab7e8fb2aeb54ffd2ea64962443dc4a77fda9809562266e3ace8"
    )
    assert open_record_untrusted(record.sealed, 2.0) == record


def test_faults_and_priorities_keep_their_numbers() -> None:
    assert {fault.name: fault.value for fault in Fault} == {
        "NOT_FOUND": 1, "DENIED": 2, "UNAVAILABLE": 3, "WRONG_BYTES": 4, "STORAGE": 5,
    }  # fmt: skip
    assert {one.name: one.value for one in Priority} == {"FOLLOW": 0, "BACKGROUND": 1, "PULL": 2, "READER": 3}
