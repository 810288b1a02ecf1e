"""What a node keeps beside its identity: `DATA/identity/revoked.cbor`, and the time's floors, `clock.json`.

Both can be lost: revocations come back by gossip, the floor from our own pass. So a file that cannot be read
is told, and keeps no node from starting.
"""

import json
from collections.abc import Iterable
from pathlib import Path

import cbor2

from meshsat.cbor import decode_cbor_untrusted
from meshsat.errors import InvalidInputError
from meshsat.mesh.identity import Identity
from meshsat.private_files import write_file
from meshsat.trust.clock import Floors
from meshsat.trust.revocations import LIMIT, RECORD_LIMIT, Revocation, Revocations

REVOKED = "revoked.cbor"
CLOCK = "clock.json"
_CLOCK_LIMIT = 4096


class DamagedError(InvalidInputError):
    """A file is there, and does not hold what it should."""


def read_revoked_untrusted(path: Path) -> list[bytes]:
    """The records as they travel, each still to be verified. Raises `DamagedError`."""
    data = _read(path, LIMIT * RECORD_LIMIT)
    if data is None:
        return []
    try:
        records = decode_cbor_untrusted(data)
    except InvalidInputError:
        raise DamagedError(f"{path} is damaged: revocations are learned anew from peers") from None
    if type(records) is not list or not all(type(one) is bytes for one in records):
        raise DamagedError(f"{path} is damaged: revocations are learned anew from peers")
    return records


def is_revoked(identity: Identity) -> bool:
    """Whether this machine has heard that its own pass was revoked."""
    revocations = Revocations(identity.root)
    if identity.directory is None:
        return False
    try:
        for data in read_revoked_untrusted(identity.directory / REVOKED):
            revocations.take_untrusted(data)
    except InvalidInputError:
        return False
    return revocations.of(identity.member) is not None


def write_revoked(path: Path, revocations: Iterable[Revocation]) -> None:
    """Raises `ConfigError`."""
    write_file(path, cbor2.dumps([one.sealed for one in revocations]))


def read_floors_untrusted(path: Path) -> Floors:
    """Raises `DamagedError`."""
    data = _read(path, _CLOCK_LIMIT)
    if data is None:
        return Floors()
    try:
        told = json.loads(data)
        signed, ran = told["signed"], told["ran"]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise DamagedError(f"{path} is damaged: what time has passed is told by the pass alone") from None
    if not all(type(one) in (int, float) and 0 <= one < 1 << 40 for one in (signed, ran)):
        raise DamagedError(f"{path} is damaged: what time has passed is told by the pass alone")
    return Floors(float(signed), float(ran))


def write_floors(path: Path, floors: Floors) -> None:
    """Raises `ConfigError`."""
    write_file(path, json.dumps({"signed": floors.signed, "ran": floors.ran}).encode())


def _read(path: Path, limit: int) -> bytes | None:
    """None: it is not there."""
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except FileNotFoundError:
        return None
    except OSError as fault:
        raise DamagedError(f"{path} cannot be read: {fault.strerror}") from None
    if len(data) > limit:
        raise DamagedError(f"{path} is larger than it can be")
    return data
