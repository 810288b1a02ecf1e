import cbor2
import pytest

from meshsat.oci.digest import Digest
from meshsat.protocol import wire
from meshsat.protocol.wire import FrameError

BLOB = Digest.of(b"blob")
NAME = str(BLOB)
WORD = bytes(32)
SIGNATURE = bytes(64)


def decoded(*items: object) -> wire.Frame:
    return wire.decode_header_untrusted(cbor2.dumps(list(items)))


def test_the_lengths_come_first() -> None:
    encoded = wire.encode(wire.Chunk(BLOB, 3), 1000)
    header, payload = wire.decode_lengths_untrusted(encoded[:8])
    assert (header, payload) == (len(encoded) - 8, 1000)
    assert wire.decode_header_untrusted(encoded[8:]) == wire.Chunk(BLOB, 3)


@pytest.mark.parametrize(
    ("header", "payload"),
    [(0, 0), (wire.HEADER_LIMIT + 1, 0), (1, wire.PAYLOAD_LIMIT + 1), (2**32 - 1, 2**32 - 1)],
)
def test_a_frame_over_the_limits_is_refused_before_it_is_read(header: int, payload: int) -> None:
    with pytest.raises(FrameError, match="over the limit"):
        wire.decode_lengths_untrusted(wire.PREFIX.pack(header, payload))


@pytest.mark.parametrize("length", [0, 7, 9])
def test_a_prefix_has_eight_bytes(length: int) -> None:
    with pytest.raises(FrameError):
        wire.decode_lengths_untrusted(bytes(length))


@pytest.mark.parametrize(
    "items",
    [
        (99,),
        ("0", "name", True, [], []),
        (True, 1),
        (-1,),
        (0, "name", True, []),  # a field missing
        (1, 2, 3),  # one too many
        (1, -1),
        (1, 2**64),
        (1, True),
        (1, 1.0),
        (0, "n" * 513, True, [], []),
        (0, "name", 1, [], []),
        (0, "name", True, ["a"] * 17, []),
        (0, "name", True, "a", []),
        (0, b"name", True, [], []),
        (3, [["p", [], []]] * 65),
        (3, [["p", []]]),
        (5, [[NAME, 2**40 + 1]]),
        (5, [[NAME.upper(), 1]]),
        (6, [NAME] * 4097),
        (7, NAME, 1, 0, 0, [["r", "n", False]] * 17),
        (9, NAME, "bits"),
        (10, NAME, "author", 0, WORD[1:], SIGNATURE),
        (10, NAME, "author", 0, b"", SIGNATURE),
        (10, NAME, "author", 0, WORD, SIGNATURE[1:]),
        (12, NAME, [[0, WORD[1:]]]),
        (12, NAME, [[0, WORD]] * 257),
        (17, "r", "n", "t", float("inf")),
        (17, "r", "n", "t", float("nan")),
        (17, "r", "n", "t", -1.0),
        (17, "r", "n", "t", 10**400),
    ],
)
def test_what_is_not_exactly_a_frame_is_refused(items: tuple[object, ...]) -> None:
    with pytest.raises(FrameError):
        decoded(*items)


@pytest.mark.parametrize(
    "header",
    [b"", b"\xff", b"\x81" * 100_000, cbor2.dumps({0: 1}), cbor2.dumps([]), cbor2.dumps(0), b"\x82\x01"],
)
def test_what_is_no_list_is_refused(header: bytes) -> None:
    with pytest.raises(FrameError):
        wire.decode_header_untrusted(header)


def test_a_time_may_be_a_whole_number() -> None:
    assert decoded(17, "r", "n", "t", 3) == wire.Resolve("r", "n", "t", 3.0)


def test_what_an_author_signs_names_blob_and_place() -> None:
    messages = {
        wire.entries_message(blob, first, digests)
        for blob in (BLOB, Digest.of(b"other"))
        for first in (0, 1)
        for digests in (WORD, WORD * 2)
    }
    assert len(messages) == 8
