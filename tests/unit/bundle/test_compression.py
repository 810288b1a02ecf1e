import gzip
import io
import random

import pytest
import zstandard

from meshsat.bundle import compression
from meshsat.bundle.compression import expanded_untrusted, is_compressed, skip
from meshsat.bundle.place import read_whole
from meshsat.errors import InvalidInputError

DATA = random.Random(1).randbytes(300_000) + bytes(300_000)
PACKED = {
    "zstd": zstandard.ZstdCompressor(1, write_checksum=True).compress(DATA),
    "gzip": gzip.compress(DATA, 1),
}


def expand(raw: bytes) -> bytes:
    stream = expanded_untrusted(io.BytesIO(raw), raw[:4])
    out = b""
    while part := read_whole(stream, 100_000):
        out += part
    return out


@pytest.mark.parametrize("kind", PACKED)
def test_what_is_packed_is_read(kind: str) -> None:
    assert is_compressed(PACKED[kind])
    assert expand(PACKED[kind]) == DATA
    assert expand(PACKED[kind] * 2) == DATA * 2  # as `cat` joins them, and pigz and pzstd write them


def test_what_is_not_packed_says_so() -> None:
    assert not is_compressed(b"oci-layout")
    assert not is_compressed(b"")


@pytest.mark.parametrize("kind", PACKED)
def test_damage_is_told(kind: str) -> None:
    raw = bytearray(PACKED[kind])
    raw[len(raw) // 2] ^= 1
    with pytest.raises(InvalidInputError, match="damaged"):
        expand(bytes(raw))


def test_a_bomb_is_refused_before_it_has_gone_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compression, "GROWTH_FREE", 1_000_000)
    for raw in (zstandard.compress(bytes(50_000_000), 1), gzip.compress(bytes(50_000_000), 9)):
        with pytest.raises(InvalidInputError, match="200 times"):
            expand(raw)


def test_a_frame_that_wants_much_memory_is_refused() -> None:
    params = zstandard.ZstdCompressionParameters(window_log=29)
    packer = zstandard.ZstdCompressor(compression_params=params).compressobj()
    raw = packer.compress(bytes(1_000_000)) + packer.flush()
    with pytest.raises(InvalidInputError, match="damaged"):
        expand(raw)


def test_passing_over_what_is_not_there_is_told() -> None:
    stream = io.BytesIO(b"12345")
    skip(stream, 3)
    assert stream.read() == b"45"
    with pytest.raises(InvalidInputError, match="cut short"):
        skip(stream, 1)
