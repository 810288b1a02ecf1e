import io

from meshsat.bundle.place import Repository, read_whole
from meshsat.oci.reference import Reference


class Trickle:
    """Gives a byte at a time."""

    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)

    def readinto(self, buffer: memoryview, /) -> int:
        return self._data.readinto(buffer[:1])


def test_all_that_is_there_is_read_however_it_comes() -> None:
    assert read_whole(Trickle(b"abcdef"), 4) == b"abcd"
    assert read_whole(Trickle(b"abc"), 4) == b"abc"
    assert read_whole(Trickle(b"abc"), 0) == b""


def test_a_repository_is_a_reference_without_tag_and_digest() -> None:
    assert str(Repository.of(Reference.parse_untrusted("busybox:1"))) == "docker.io/library/busybox"
