"""Where images are taken from and brought to: interfaces that the command line's side of a node implements.

Law: whoever reads gets what was asked for or an error of `meshsat.errors`; what is put is checked against its
digest by the receiver, whose word it is that bytes were right.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from meshsat.oci.descriptor import Descriptor
from meshsat.oci.digest import Digest
from meshsat.oci.manifest import Manifest
from meshsat.oci.reference import Reference

PART = 1024 * 1024
"""Bytes that are moved at a time."""


class Stream(Protocol):
    """Bytes in order, as raw files and HTTP answers give them."""

    def readinto(self, buffer: memoryview, /) -> int:
        """At least one byte, or 0 at the end."""


Count = Callable[[int], None]
"""Told of bytes that were moved, for the eyes of whoever waits."""


@dataclass(frozen=True, slots=True, order=True)
class Repository:
    registry: str
    name: str

    @classmethod
    def of(cls, reference: Reference) -> "Repository":
        return cls(reference.registry, reference.repository)

    def __str__(self) -> str:
        return f"{self.registry}/{self.name}"


@dataclass(frozen=True, slots=True)
class Found:
    manifest: Manifest
    resolved_at: float | None = None
    """For a tag: Unix time at which its registry last said what it means, where that is known."""


class Origin(Protocol):
    """What images are exported from."""

    def manifest(self, repository: Repository, reference: str | Digest) -> Found | None:
        """Under a tag (str) or a digest; None where it cannot be had."""

    def tags(self, repository: Repository) -> list[str]: ...

    def referrers(self, repository: Repository, subject: Digest) -> list[Descriptor]: ...

    def open_blob(self, repository: Repository, blob: Descriptor) -> AbstractContextManager[Stream]:
        """Raises `NotFoundError` where it cannot be had."""


class Receiver(Protocol):
    """What images are imported into."""

    def lacking(self, repository: Repository, digests: Iterable[Digest]) -> set[Digest]:
        """Those that have to be put before a manifest that refers to them is taken."""

    def put_blob(self, repository: Repository, blob: Descriptor, data: Stream, count: Count) -> None:
        """Raises `DigestMismatchError` when these are not its bytes, and whatever `data` raises."""

    def put_manifest(self, repository: Repository, manifest: Manifest) -> None:
        """Raises a `MeshsatError` when something that it refers to is not there."""

    def tag(self, reference: Reference, manifest: Digest, resolved_at: float | None) -> bool:
        """Have a tag mean a manifest that is there, as of then (None: of now).

        False: what the receiver knows of the tag is younger, and stays.
        """


class Intake(Protocol):
    """Takes what is no image, and is brought to no repository."""

    def wants(self, manifest: Manifest) -> Collection[Digest] | None:
        """Which of its blobs, all of them small; None: it is an image like any other.

        Raises `InvalidInputError` where it is damaged."""

    def take(self, manifest: Manifest, blobs: Mapping[Digest, bytes]) -> str:
        """Returns what became of it, for a person. Raises a `MeshsatError`."""


class NoIntake:
    """Where everything is an image."""

    def wants(self, manifest: Manifest) -> Collection[Digest] | None:
        del manifest
        return None

    def take(self, manifest: Manifest, blobs: Mapping[Digest, bytes]) -> str:
        raise NotImplementedError


def read_whole(stream: Stream, size: int) -> bytes:
    """`size` bytes, or as many as there are."""
    data = bytearray(size)
    view = memoryview(data)
    filled = 0
    while filled < size and (count := stream.readinto(view[filled:])):
        filled += count
    return bytes(view[:filled])
