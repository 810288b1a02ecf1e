"""The two documents that a fleet's desired state hangs on, each signed by a threshold of keys (`dsse`).

  root   who may sign: roots (the role `root`) and desired states (the role `state`), each role some keys and
         how many of them it takes
  head   which desired state is the fleet's: its revision (`version`), its body's digest and size

Both name their fleet, since when and until when they are good, and count up. The body (`fleet.document`) is
not signed itself: it has the digest that the head says.

Laws: a field that is not known here is passed over, so what changes the meaning of the others needs another
payload type. Times are whole seconds of UTC.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Any, Self, TypeVar

from meshsat.errors import InvalidInputError
from meshsat.oci.digest import SHA256, Digest
from meshsat.oci.fields import parse_object_untrusted, take_integer, take_objects, take_text
from meshsat.trust.dsse import Signed
from meshsat.trust.keys import PeerId, parse_peer_id_untrusted
from meshsat.trust.passes import DAY

ROOT_TYPE = "application/vnd.meshsat.root.v1+json"
HEAD_TYPE = "application/vnd.meshsat.state.head.v1+json"
BODY_LIMIT = 4 * 1024 * 1024
"""Bytes of a body (`fleet.document.DOCUMENT_LIMIT`)."""
KEYS_LIMIT = 16
"""Keys of a role: so that a root with all its signatures fits into an envelope."""
ROOTS_LIMIT = 512
"""The highest version of a root. All roots are kept: a newcomer follows them one by one."""
VERSION_LIMIT = 2**53 - 1
"""What every JSON parser reads as it is."""
LIFE_LIMIT = 732 * DAY
"""Seconds from `issued` to `expires`."""
MOMENT_LIMIT = 7_258_118_400
"""Unix seconds of the year 2200."""
T = TypeVar("T")
_MOMENT = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")


class Refused(Enum):
    """Why a document is refused."""

    MALFORMED = "malformed"
    TOO_LARGE = "too large"
    LATER_VERSION = "of a later version of meshsat"
    FOREIGN = "of another fleet"
    FORGED = "not signed by a key that may"
    THRESHOLD = "signed by too few"
    REVOKED = "signed by keys that do not count any more"
    ROLLBACK = "older than what is known"
    CONFLICT = "another of the same version is known"
    GAP = "what it builds on is not here yet"
    EXPIRED = "expired"
    MISMATCH = "not what the head says"


class StateError(InvalidInputError):
    """A root, a head or a body that is refused."""

    def __init__(self, reason: Refused, text: str) -> None:
        super().__init__(text)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Role:
    keys: frozenset[PeerId]
    threshold: int

    def met_by(self, signers: frozenset[PeerId]) -> bool:
        return len(self.keys & signers) >= self.threshold


@dataclass(frozen=True, slots=True)
class Root:
    fleet: str
    version: int
    issued: int
    """Unix seconds, as `expires`."""
    expires: int
    root: Role
    state: Role

    def encode(self) -> bytes:
        roles = {name: _role_fields(role) for name, role in (("root", self.root), ("state", self.state))}
        return _encode(
            {
                "fleet": self.fleet,
                "version": self.version,
                "issued": moment_text(self.issued),
                "expires": moment_text(self.expires),
                "roles": roles,
            }
        )

    @classmethod
    def parse_untrusted(cls, payload: bytes) -> Self:
        """Raises `StateError` (MALFORMED)."""
        return _checked("root", payload, cls._of)

    @classmethod
    def _of(cls, fields: dict[str, Any]) -> Self:
        fleet, version, issued, expires = _shared(fields)
        if version > ROOTS_LIMIT:
            raise InvalidInputError(f"version: a root's is at most {ROOTS_LIMIT}")
        roles = _object(fields, "roles")
        return cls(fleet, version, issued, expires, _role(roles, "root"), _role(roles, "state"))


@dataclass(frozen=True, slots=True)
class Head:
    fleet: str
    version: int
    """The revision."""
    root: int
    """The version of the root that its signers went by."""
    issued: int
    """Unix seconds, as `expires`."""
    expires: int
    digest: Digest
    """Of the body, SHA-256."""
    size: int
    """Bytes of the body."""

    def encode(self) -> bytes:
        return _encode(
            {
                "fleet": self.fleet,
                "version": self.version,
                "root": self.root,
                "issued": moment_text(self.issued),
                "expires": moment_text(self.expires),
                "body": {"digest": str(self.digest), "size": self.size},
            }
        )

    @classmethod
    def parse_untrusted(cls, payload: bytes) -> Self:
        """Raises `StateError` (MALFORMED)."""
        return _checked("head", payload, cls._of)

    @classmethod
    def _of(cls, fields: dict[str, Any]) -> Self:
        fleet, version, issued, expires = _shared(fields)
        root = take_integer(fields, "root", ROOTS_LIMIT)
        body = _object(fields, "body")
        digest = Digest.parse_untrusted(body.get("digest"))
        if digest.algorithm != SHA256 or root < 1:
            raise InvalidInputError("the body's digest is not SHA-256, or root not a version")
        return cls(fleet, version, root, issued, expires, digest, take_integer(body, "size", BODY_LIMIT))


Document = Root | Head


def document_untrusted(signed: Signed) -> Document:
    """What the payload says, by its type. Raises `StateError`."""
    match signed.payload_type:
        case "application/vnd.meshsat.root.v1+json":
            return Root.parse_untrusted(signed.payload)
        case "application/vnd.meshsat.state.head.v1+json":
            return Head.parse_untrusted(signed.payload)
    raise StateError(
        Refused.LATER_VERSION,
        f"a document of the type {signed.payload_type!r} is not known here; a later version may know it",
    )


def unsigned(document: Document) -> Signed:
    return Signed(ROOT_TYPE if isinstance(document, Root) else HEAD_TYPE, document.encode())


def check_body_untrusted(head: Head, body: bytes) -> None:
    """Whether these bytes are what the head is about. Raises `StateError`."""
    if len(body) != head.size or not head.digest.matches(body):
        raise StateError(
            Refused.MISMATCH,
            f"the body of revision {head.version} has not the digest {head.digest} that its head says",
        )


def moment_text(unix: int) -> str:
    return datetime.fromtimestamp(unix, UTC).isoformat().replace("+00:00", "Z")


def _encode(fields: dict[str, Any]) -> bytes:
    return json.dumps(fields, separators=(",", ":")).encode()


def _role_fields(role: Role) -> dict[str, Any]:
    return {"keyids": sorted(role.keys), "threshold": role.threshold}


def _checked(what: str, payload: bytes, build: Callable[[dict[str, Any]], T]) -> T:
    try:
        return build(parse_object_untrusted(payload, what))
    except InvalidInputError as fault:
        text = str(fault) if str(fault).startswith(what) else f"{what}: {fault}"
        raise StateError(Refused.MALFORMED, text) from None


def _shared(fields: Mapping[str, Any]) -> tuple[str, int, int, int]:
    fleet = take_text(fields, "fleet", 128)
    version = take_integer(fields, "version", VERSION_LIMIT)
    issued, expires = _moment(fields, "issued"), _moment(fields, "expires")
    if not fleet or version < 1:
        raise InvalidInputError("fleet or version is missing")
    if not 0 < expires - issued <= LIFE_LIMIT:
        raise InvalidInputError(f"expires: not after issued, or more than {LIFE_LIMIT / DAY:.0f} days after")
    return fleet, version, issued, expires


def _moment(fields: Mapping[str, Any], name: str) -> int:
    text = take_text(fields, name, 32) or ""
    try:
        unix = int(datetime.fromisoformat(text).timestamp()) if _MOMENT.fullmatch(text) else None
    except ValueError:
        unix = None
    if unix is None:
        raise InvalidInputError(f"{name}: not a time like 2026-12-01T02:00:00Z")
    if not 0 <= unix < MOMENT_LIMIT:
        raise InvalidInputError(f"{name}: not between 1970 and 2200")
    return unix


def _role(roles: Mapping[str, Any], name: str) -> Role:
    fields = _object(roles, name)
    named = take_objects(fields, "keyids")
    if not 1 <= len(named) <= KEYS_LIMIT:
        raise InvalidInputError(f"roles.{name}: 1 to {KEYS_LIMIT} keys")
    keys = frozenset(map(parse_peer_id_untrusted, named))
    threshold = take_integer(fields, "threshold", KEYS_LIMIT)
    if len(keys) != len(named) or not 1 <= threshold <= len(keys):
        raise InvalidInputError(f"roles.{name}: a key twice, or a threshold that can't be met")
    return Role(keys, threshold)


def _object(fields: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = fields.get(name)
    if not isinstance(value, dict):
        raise InvalidInputError(f"{name}: not an object")
    return value
