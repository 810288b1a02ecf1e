"""Archives from somebody's stick: they are imported, or refused with a reason; nothing else, and nothing wrong is taken."""

import io
import json
import tarfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from meshsat.bundle import compression, tar
from meshsat.bundle.compression import expanded_untrusted
from meshsat.bundle.docker_archive import parse_layers_untrusted, parse_saved_untrusted
from meshsat.bundle.gather import parse_platform_untrusted
from meshsat.bundle.layout import decode_index_untrusted
from meshsat.bundle.naming import Renaming
from meshsat.bundle.place import read_whole
from meshsat.bundle.sources import Archive, open_pipe
from meshsat.errors import InvalidInputError
from meshsat.oci.digest import Digest
from tests.bundle_place import MemoryPlace, layout_files, read
from tests.fuzz.test_oci_edge import ANYTHING, DESCRIPTOR, DIGEST, mostly
from tests.images import build_image

settings.register_profile("fuzz", derandomize=True, database=None, deadline=None)
FUZZ = settings(settings.get_profile("fuzz"), max_examples=80)

IMAGE = build_image([b"one", b"two" * 500], ("linux/amd64", "linux/arm64"))
FILES = layout_files(IMAGE)
NAMES = st.sampled_from(
    [*FILES, "manifest.json", "x.tar", "../x", "/etc/passwd", "blobs/sha256/x", "n" * 300]
)
NOTES = st.dictionaries(
    st.sampled_from(
        [f"io.meshsat.{word}" for word in ("bundle", "since", "left-out", "referrers", "resolved-at")]
        + ["org.opencontainers.image.ref.name", "io.containerd.image.name"]
    ),
    st.one_of(st.text(max_size=20), DIGEST, st.sampled_from(["reg.test/a:1", "latest", "1.5", "nan"])),
)
INDEX = st.fixed_dictionaries(
    {
        "manifests": mostly(
            st.lists(st.tuples(DESCRIPTOR, NOTES).map(lambda two: {**two[0], "annotations": two[1]}))
        )
    },
    optional={"annotations": mostly(NOTES)},
)
SAVED = st.lists(
    st.fixed_dictionaries(
        {"Config": mostly(st.just("c.json")), "Layers": mostly(st.lists(st.just("x.tar"), max_size=2))},
        optional={"RepoTags": mostly(st.lists(st.text(max_size=9), max_size=2))},
    ),
    max_size=3,
)
CONTENT = st.one_of(
    st.binary(max_size=700),
    st.sampled_from(list(FILES.values())),
    INDEX.map(json.dumps).map(str.encode),
    SAVED.map(json.dumps).map(str.encode),
)


def check(raw: bytes, path: Path) -> None:
    """Import it from a file and from a pipe; whatever comes of it is right."""
    path.write_bytes(raw)
    for piped in (False, True):
        there = MemoryPlace()
        with suppress(InvalidInputError):
            read(there, open_pipe(io.BytesIO(raw)) if piped else Archive(io.FileIO(path), "it"))
        assert all(digest.matches(data) for digest, data in there.blobs.items())
        assert all(digest == manifest.digest for (_, digest), manifest in there.manifests.items())
        for manifest in there.manifests.values():
            assert all(blob.digest in there.blobs for blob in manifest.blobs)


def packed(members: list[tuple[str, bytes, bytes]]) -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as archive:
        for name, data, kind in members:
            info = tarfile.TarInfo(name)
            info.size, info.type, info.linkname = len(data), kind, "index.json"
            archive.addfile(info, io.BytesIO(data))
    return raw.getvalue()


KINDS = st.sampled_from(
    [tarfile.REGTYPE, tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE]
)


@FUZZ
@given(st.lists(st.tuples(NAMES, CONTENT, KINDS), max_size=8), st.booleans())
def test_archives_of_anything(
    tmp_path_factory: Any, members: list[tuple[str, bytes, bytes]], zstd: bool
) -> None:
    raw = packed(members)
    check(zstandard.compress(raw) if zstd else raw, tmp_path_factory.getbasetemp() / "archive")


@FUZZ
@given(st.data(), st.booleans(), st.booleans())
def test_a_good_archive_with_a_few_bytes_changed_or_cut(
    tmp_path_factory: Any, data: st.DataObject, zstd: bool, ours: bool
) -> None:
    members = sorted(FILES.items(), key=lambda item: item[0].startswith("blobs"))
    if not ours:
        members.reverse()
    raw = packed([(name, content, tarfile.REGTYPE) for name, content in members])
    changed = bytearray(zstandard.compress(raw) if zstd else raw)
    for _ in range(data.draw(st.integers(0, 4))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    end = data.draw(st.one_of(st.just(len(changed)), st.integers(0, len(changed))))
    check(bytes(changed[:end]), tmp_path_factory.getbasetemp() / "archive")


@FUZZ
@given(
    st.one_of(st.binary(max_size=1200), st.binary(min_size=512, max_size=512).map(lambda raw: raw + tar.END))
)
def test_headers(raw: bytes) -> None:
    read_headers(raw)


def read_headers(raw: bytes) -> None:
    stream = io.BytesIO(raw)
    with suppress(InvalidInputError):
        for member in tar.members_untrusted(stream, lambda count: compression.skip(stream, count)):
            assert len(read_whole(member.content, min(member.size, 2000))) <= 2000


@FUZZ
@given(st.data())
def test_a_header_that_adds_up_and_says_anything(data: st.DataObject) -> None:
    header = bytearray(tar.header("a", 3))
    for _ in range(data.draw(st.integers(1, 6))):
        header[data.draw(st.integers(0, 511))] = data.draw(st.integers(0, 255))
    header[148:156] = b" " * 8
    header[148:155] = b"%06o\0" % sum(header)
    read_headers(bytes(header) + data.draw(st.binary(max_size=600)) + tar.END)


@FUZZ
@given(
    st.one_of(st.binary(max_size=200), st.binary(max_size=200).map(zstandard.compress)), st.binary(max_size=4)
)
def test_packed_streams(raw: bytes, more: bytes) -> None:
    for magic in (b"", compression.ZSTD_MAGIC, compression.GZIP_MAGIC):
        stream = expanded_untrusted(io.BytesIO(magic + raw + more), (magic + raw)[:4])
        with suppress(InvalidInputError):
            read_whole(stream, 10_000)


@FUZZ
@given(st.one_of(INDEX, ANYTHING).map(json.dumps).map(str.encode))
def test_indexes(raw: bytes) -> None:
    with suppress(InvalidInputError):
        for entry in decode_index_untrusted(raw).entries:
            assert Digest.parse_untrusted(str(entry.root.digest)) == entry.root.digest


@FUZZ
@given(st.one_of(SAVED, ANYTHING).map(json.dumps).map(str.encode))
def test_what_docker_saves(raw: bytes) -> None:
    with suppress(InvalidInputError):
        parse_saved_untrusted(raw)
    with suppress(InvalidInputError):
        parse_layers_untrusted(raw, 1)


@FUZZ
@given(st.text(max_size=40))
def test_words(text: str) -> None:
    for parse in (parse_platform_untrusted, Renaming.parse_untrusted):
        with suppress(InvalidInputError):
            parse(text)
