"""What is known of the desired state, kept over restarts: `DATA/fleet/`, directory 0700, every file 0600.

  trusted.json        roots and heads, as they were accepted and in that order, and which is in force
  trusted.copy.json   the same again, written when the first is durable
  bodies/<hex>        the bodies of these heads, named by their SHA-256

Laws: a file is replaced whole or not at all. Nothing here is believed for being here: envelopes are verified
again, bodies hashed again. Two copies, because the highest version that was ever seen must survive what may
happen to one file.
"""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

from meshsat.errors import InvalidInputError, StorageError
from meshsat.oci.digest import Digest
from meshsat.oci.fields import parse_object_untrusted, take_integer, take_objects
from meshsat.store import disk

log = structlog.get_logger(__name__)

TRUSTED = ("trusted.json", "trusted.copy.json")
BODIES = "bodies"
FILE_LIMIT = 16 * 1024 * 1024
"""Bytes; all roots and heads that there can be are less."""
_SERIAL_LIMIT = 2**53


@dataclass(frozen=True, slots=True)
class Kept:
    """One copy, as it was read: nothing of it is verified."""

    serial: int
    """How often this was written: the higher of two copies is the younger."""
    envelopes: tuple[bytes, ...]
    in_force: int | None
    """Which of them, from 0."""


class Keeping:
    """Blocking; each call is short. Raises `StorageError`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._serial = 0

    def load(self) -> list[Kept]:
        """The copies that can be read, the younger first."""
        found: list[Kept] = []
        for name in TRUSTED:
            path = self._directory / name
            if not path.exists():
                continue
            try:
                found.append(parse_kept_untrusted(self._read(path)))
            except (InvalidInputError, StorageError) as damaged:
                log.warning("a copy of the trusted state can't be read", path=str(path), problem=str(damaged))
        found.sort(key=lambda kept: -kept.serial)
        self._serial = max((kept.serial for kept in found), default=0)
        return found

    def save(self, envelopes: Sequence[bytes], in_force: int | None) -> None:
        """Durable when it returns. Killed on the way, one of the copies is whole."""
        self._serial += 1
        raw = encode_kept(Kept(self._serial, tuple(envelopes), in_force))
        for name in TRUSTED:
            self._write(self._directory / name, raw)

    def body(self, digest: Digest) -> bytes | None:
        """None where there is none, or it is damaged."""
        path = self._body_path(digest)
        if not path.exists():
            return None
        raw = self._read(path)
        if not digest.matches(raw):
            log.error("a kept desired state is damaged; it is fetched again", path=str(path))
            return None
        return raw

    def put_body(self, digest: Digest, raw: bytes) -> None:
        self._write(self._body_path(digest), raw)

    def keep_only(self, digests: Collection[Digest]) -> None:
        """Remove other bodies, and what an interrupted write left."""
        wanted = {self._body_path(digest).name for digest in digests}
        with disk.storage_errors("list", self._directory / BODIES):
            present = (
                list((self._directory / BODIES).iterdir()) if (self._directory / BODIES).is_dir() else []
            )
        for path in present:
            if path.name not in wanted:
                disk.remove(path)

    def _body_path(self, digest: Digest) -> Path:
        return self._directory / BODIES / digest.hex

    @staticmethod
    def _read(path: Path) -> bytes:
        with disk.storage_errors("read", path), path.open("rb") as file:
            raw = file.read(FILE_LIMIT + 1)
        if len(raw) > FILE_LIMIT:
            raise StorageError(f"{path} is longer than {FILE_LIMIT} bytes: it is none of ours")
        return raw

    @staticmethod
    def _write(path: Path, raw: bytes) -> None:
        disk.make_directories((path.parent.parent, path.parent))
        source = path.with_name(f".{path.name}.new")
        try:
            disk.write_file(source, raw)
            disk.rename(source, path)
        except StorageError:
            disk.remove(source)
            raise
        disk.sync_directory(path.parent)


def encode_kept(kept: Kept) -> bytes:
    fields = {
        "serial": kept.serial,
        "accepted": [json.loads(raw) for raw in kept.envelopes],
        "in_force": kept.in_force,
    }
    return json.dumps(fields, indent=0).encode()


def parse_kept_untrusted(raw: bytes) -> Kept:
    """Raises `InvalidInputError`."""
    fields = parse_object_untrusted(raw, "trusted state")
    accepted = take_objects(fields, "accepted")
    envelopes = tuple(json.dumps(one, separators=(",", ":")).encode() for one in accepted)
    serial = take_integer(fields, "serial", _SERIAL_LIMIT)
    in_force = fields.get("in_force")
    if in_force is not None:
        in_force = take_integer(fields, "in_force", max(0, len(envelopes) - 1))
    return Kept(serial, envelopes, in_force)
