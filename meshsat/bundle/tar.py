"""Tar archives (POSIX.1-2017 pax, ustar, GNU long names): headers written, and read from hostile hands.

Laws: no more is read into memory than `HEADER_LIMIT`, whatever an archive says; a name is a text and never a
path of this machine; only regular files have content here, everything else is passed over. Written headers
are the same for the same name and size. Why the reader is our own: docs/decisions/0024.
"""

import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from meshsat.bundle.place import Stream, read_whole
from meshsat.errors import InvalidInputError

RECORD = 512
END = bytes(2 * RECORD)
HEADER_LIMIT = 64 * 1024
"""Bytes of an extended header or a long name."""
MEMBER_LIMIT = 200_000
NAME_LIMIT = 512
"""Characters. What has a longer name is passed over: nothing of an image has."""
SIZE_LIMIT = 2**53
"""Bytes of a member: what no disk holds is an attack or an accident."""

Skip = Callable[[int], None]
"""Pass over so many bytes of the archive, all of them."""


def header(name: str, size: int) -> bytes:
    """Of a regular file; of a directory where `name` ends in a slash."""
    member = tarfile.TarInfo(name.rstrip("/"))
    member.size = size
    member.mode = 0o644
    if name.endswith("/"):
        member.type, member.mode = tarfile.DIRTYPE, 0o755
    return member.tobuf(tarfile.PAX_FORMAT)


def padding(size: int) -> bytes:
    """What follows a member's bytes."""
    return bytes(-size % RECORD)


class Content:
    """The bytes of one member, until the next one is asked for."""

    def __init__(self, stream: Stream, size: int) -> None:
        self._stream = stream
        self.left = size

    def readinto(self, buffer: memoryview, /) -> int:
        """Raises `InvalidInputError` where the archive ends before its member."""
        if not self.left:
            return 0
        count = self._stream.readinto(buffer[: self.left])
        if not count:
            raise InvalidInputError("the archive is cut short: copy it anew from where it was made")
        self.left -= count
        return count


@dataclass(frozen=True, slots=True)
class Member:
    name: str
    size: int
    content: Content


def members_untrusted(stream: Stream, skip: Skip) -> Iterator[Member]:
    """The regular files of an archive, in its order. Raises `InvalidInputError`, and what `stream` raises."""
    name: str | None = None
    size: int | None = None
    for _ in range(MEMBER_LIMIT):
        record = read_whole(stream, RECORD)
        if record == END[:RECORD]:
            return
        head = _parse_header_untrusted(record)
        if head.kind in (b"x", b"L"):
            if head.size > HEADER_LIMIT:
                raise _broken(f"a header of {head.size} bytes")
            raw = read_whole(stream, head.size)
            if len(raw) < head.size:
                raise _broken("it is cut short")
            skip(-head.size % RECORD)
            if head.kind == b"L":
                name = _text(raw.rstrip(b"\0"))
            else:
                name, size = _parse_pax_untrusted(raw, name, size)
            continue
        whole = head.size if size is None else size
        if head.kind in (b"0", b"\0", b"7"):
            content = Content(stream, whole)
            plain = _plain(name or head.name)
            if len(plain) <= NAME_LIMIT:
                yield Member(plain, whole, content)
            skip(content.left + -whole % RECORD)
        elif head.kind == b"S":
            raise _broken("a sparse file, which no tool makes of an image")
        elif head.kind not in (b"1", b"2", b"3", b"4", b"5", b"6"):
            # Of links, devices and directories the size means nothing; of what is unknown it does (pax).
            skip(whole + -whole % RECORD)
        if head.kind != b"g":
            name = size = None
    raise _broken(f"more than {MEMBER_LIMIT} members")


@dataclass(frozen=True, slots=True)
class _Header:
    name: str
    size: int
    kind: bytes


def _parse_header_untrusted(record: bytes) -> _Header:
    if len(record) < RECORD:
        raise _broken("it is cut short")
    if _number(record[148:156]) != sum(record[:148]) + 8 * ord(" ") + sum(record[156:]):
        raise _broken("a header has the wrong checksum")
    name = record[:100].partition(b"\0")[0]
    if record[257:263] == b"ustar\0":
        prefix = record[345:500].partition(b"\0")[0]
        name = prefix + b"/" + name if prefix else name
    return _Header(_text(name), _number(record[124:136]), record[156:157])


def _parse_pax_untrusted(raw: bytes, name: str | None, size: int | None) -> tuple[str | None, int | None]:
    """`LENGTH KEY=VALUE` lines; `path` and `size` matter here."""
    while raw:
        digits, _, _ = raw[:8].partition(b" ")
        length = int(digits) if digits.isdigit() else 0
        line, raw = raw[:length], raw[length:]
        key, equals, value = line[len(digits) + 1 : -1].partition(b"=")
        if not line.endswith(b"\n") or not equals:
            raise _broken("a malformed extended header")
        if key == b"path":
            name = _text(value)
        elif key == b"size":
            if not value.isdigit() or len(value) > 20 or int(value) > SIZE_LIMIT:
                raise _broken("a member of an impossible size")
            size = int(value)
    return name, size


def _number(field: bytes) -> int:
    """Octal, or GNU's base 256."""
    if field[0] & 0x80:
        value = int.from_bytes(field, "big") - (0x80 << 8 * (len(field) - 1))
    else:
        digits = field.strip(b" \0")
        if digits.translate(None, b"01234567"):
            raise _broken("a header with a malformed number")
        value = int(digits or b"0", 8)
    if not 0 <= value <= SIZE_LIMIT:
        raise _broken("a member of an impossible size")
    return value


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")


def _plain(name: str) -> str:
    """Without the `./` that `tar -C DIR .` puts before each name."""
    while name.startswith("./"):
        name = name[2:].lstrip("/")
    return name


def _broken(what: str) -> InvalidInputError:
    return InvalidInputError(f"not a sound tar archive: {what}")
