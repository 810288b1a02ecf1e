import io
import tarfile

import pytest

from meshsat.bundle import compression, tar
from meshsat.bundle.place import read_whole
from meshsat.errors import InvalidInputError

LONG = "blobs/" + "x" * 200


def read(raw: bytes) -> list[tuple[str, bytes]]:
    stream = io.BytesIO(raw)
    members = tar.members_untrusted(stream, lambda count: compression.skip(stream, count))
    return [(member.name, read_whole(member.content, member.size)) for member in members]


def made(*members: tarfile.TarInfo | tuple[str, bytes], form: int = tarfile.PAX_FORMAT) -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=form) as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                archive.addfile(info, io.BytesIO(member[1]))
    return raw.getvalue()


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_what_the_standard_library_writes_is_read(form: int) -> None:
    files = [("a", b"1" * 511), ("b", b""), ("c/d", b"3" * 512), ("e", b"4" * 513)]
    if form != tarfile.USTAR_FORMAT:
        files.append((LONG, b"5"))
    files.append(("d" * 90 + "/" + "n" * 90, b"6"))
    assert read(made(*files, form=form)) == files


def test_what_is_written_the_standard_library_reads() -> None:
    raw = tar.header("blobs/", 0)
    for name, data in (("a", b"x" * 700), (LONG, b"y")):
        raw += tar.header(name, len(data)) + data + tar.padding(len(data))
    raw += tar.END
    with tarfile.open(fileobj=io.BytesIO(raw)) as archive:
        assert [(one.name, one.size, one.isdir()) for one in archive] == [
            ("blobs", 0, True),
            ("a", 700, False),
            (LONG, 1, False),
        ]
    assert read(raw) == [("a", b"x" * 700), (LONG, b"y")]


def test_a_blob_of_more_than_8_gib_has_its_size_told() -> None:
    stream = io.BytesIO(tar.header("a", 9 << 30) + bytes(tar.RECORD))
    member = next(tar.members_untrusted(stream, lambda count: compression.skip(stream, count)))
    assert (member.name, member.size) == ("a", 9 << 30)


def test_members_that_are_not_read_are_passed_over() -> None:
    stream = io.BytesIO(made(("a", b"1" * 2000), ("b", b"2")))
    members = tar.members_untrusted(stream, lambda count: compression.skip(stream, count))
    assert [member.name for member in members] == ["a", "b"]


def test_nothing_but_regular_files_has_content() -> None:
    raw = made(
        special("dir", tarfile.DIRTYPE),
        special("link", tarfile.SYMTYPE, "/etc/passwd"),
        special("hard", tarfile.LNKTYPE, "../../etc/passwd"),
        special("device", tarfile.BLKTYPE),
        special("tty", tarfile.CHRTYPE),
        special("pipe", tarfile.FIFOTYPE),
        ("x", b"1"),
    )
    assert read(raw) == [("x", b"1")]


def test_a_name_is_a_text_and_no_path() -> None:
    names = ["../../etc/passwd", "/etc/passwd", "./index.json", "a\x01b"]
    found = [name for name, _ in read(made(*((name, b"") for name in names)))]
    assert found == ["../../etc/passwd", "/etc/passwd", "index.json", "a\x01b"]
    assert read(made(("n" * 600, b"1"), ("x", b"2"))) == [("x", b"2")]


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"x" * 100,
        b"x" * 1024,
        made(("a", b"1"))[:512],
        made(("a", b"1" * 600))[:1100],
        made(("a", b"1"))[:1024],
        made((LONG, b"1"))[:600],
        made(special("s", b"S")),
    ],
)
def test_what_is_broken_is_refused(raw: bytes) -> None:
    with pytest.raises(InvalidInputError):
        read(raw)


def record(name: bytes = b"a", size: bytes = b"0", kind: bytes = b"0") -> bytes:
    """A header with what no library would write."""
    raw = bytearray(tar.RECORD)
    raw[: len(name)] = name
    raw[124 : 124 + len(size)] = size
    raw[156:157] = kind
    raw[148:156] = b" " * 8
    raw[148:155] = b"%06o\0" % sum(raw)
    return bytes(raw)


@pytest.mark.parametrize(
    "raw",
    [
        record(size=b"77777777777", kind=b"x"),
        record(size=b"77777777777", kind=b"L"),
        record(size=b"\xff" * 12),
        record(size=b"\x80" + b"\xff" * 11),
        record(size=b"-1"),
        record(size=b"1 1"),
        record(size=b"8"),
        record(kind=b"x", size=b"4") + b"9 a\n" + bytes(508),
        record(kind=b"x", size=b"4") + b"0 a=" + bytes(508),
        record(kind=b"x", size=b"12") + b"12 size=-10\n" + bytes(500),
        record(kind=b"x", size=b"4"),
    ],
)
def test_so_is_what_would_take_the_machines_memory(raw: bytes) -> None:
    with pytest.raises(InvalidInputError):
        read(raw + tar.END)


def test_an_archive_has_so_many_members_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tar, "MEMBER_LIMIT", 3)
    assert len(read(made(("a", b""), ("b", b"")))) == 2
    with pytest.raises(InvalidInputError, match="more than 3"):
        read(made(*((name, b"") for name in "abcd")))
