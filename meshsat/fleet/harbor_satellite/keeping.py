"""What is remembered over a restart, DATA/fleet/satellite.json, mode 0600: the last good states, who we are.

With it a site that is dark when its machines start still knows what it must hold.
Laws: written whole or not at all; no secret is in it; what cannot be read is as if there were nothing.
"""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from meshsat.errors import InvalidInputError, StorageError
from meshsat.fleet.harbor_satellite.shapes import (
    GROUPS_LIMIT,
    JSON_LIMIT,
    GroupState,
    Place,
    SatelliteSettings,
    SatelliteState,
    parse_group_state_untrusted,
    parse_place_untrusted,
    parse_satellite_state_untrusted,
)
from meshsat.oci.digest import Digest
from meshsat.oci.fields import take_integer, take_objects, take_text
from meshsat.store.disk import make_directories, rename, storage_errors, sync_directory, write_file

DIRECTORY = "fleet"
FILE = "satellite.json"
DOCUMENTS_LIMIT = 16 * 1024 * 1024
"""Bytes of the documents of all groups together."""
FILE_LIMIT = 4 * DOCUMENTS_LIMIT
_FORMAT = 1
_REVISION_LIMIT = 2**40


@dataclass(frozen=True, slots=True)
class KeptGroup:
    digest: Digest
    document: bytes = field(repr=False)
    state: GroupState
    fetched_at: float
    """Unix seconds."""


@dataclass(frozen=True, slots=True)
class Enlisted:
    """That Ground Control registered this node."""

    place: Place
    registry: str
    """Which registry the login is for."""
    token: str
    """SHA-256 of the token, in hex: it is good for once."""
    at: float
    """Unix seconds."""


@dataclass(frozen=True, slots=True)
class Kept:
    place: Place | None = None
    """Of the root that `root` and `groups` are of."""
    root_digest: Digest | None = None
    root: SatelliteState | None = None
    groups: dict[Place, KeptGroup] = field(default_factory=dict)
    config_digest: Digest | None = None
    settings: SatelliteSettings = field(default_factory=SatelliteSettings)
    enlisted: Enlisted | None = None
    version: str | None = None
    """Of the desired state that was offered last."""
    revision: int = 0
    """How many were offered."""

    def of(self, place: Place) -> "Kept":
        """What is kept of that root; nothing of another's."""
        if self.place == place:
            return self
        return Kept(place=place, enlisted=self.enlisted, version=self.version, revision=self.revision)


def encode_kept(kept: Kept) -> bytes:
    root = kept.root
    told: dict[str, Any] = {"format": _FORMAT, "version": kept.version, "revision": kept.revision}
    if kept.place is not None:
        told["place"] = str(kept.place)
    if root is not None and kept.root_digest is not None:
        document: dict[str, Any] = {"states": [str(group) for group in root.groups]}
        if root.config is not None:
            document["config"] = str(root.config)
        told["root"] = {"digest": str(kept.root_digest), "document": json.dumps(document)}
    told["groups"] = [
        {
            "place": str(place),
            "digest": str(group.digest),
            "document": group.document.decode("utf-8", "replace"),
            "fetched_at": group.fetched_at,
        }
        for place, group in sorted(kept.groups.items())
    ]
    if kept.config_digest is not None:
        told["config"] = {
            "digest": str(kept.config_digest),
            "poll": kept.settings.poll,
            "report": kept.settings.report,
            "passed_over": list(kept.settings.passed_over),
        }
    if kept.enlisted is not None:
        one = kept.enlisted
        told["enlisted"] = {
            "place": str(one.place),
            "registry": one.registry,
            "token": one.token,
            "at": one.at,
        }
    return json.dumps(told, indent=1).encode()


def parse_kept_untrusted(raw: bytes) -> Kept:
    """Raises `InvalidInputError`."""
    if len(raw) > FILE_LIMIT:
        raise InvalidInputError(f"more than {FILE_LIMIT} bytes")
    try:
        told = json.loads(raw)
    except (ValueError, RecursionError):
        raise InvalidInputError("not JSON") from None
    if not isinstance(told, dict) or told.get("format") != _FORMAT:
        raise InvalidInputError("not of this version's format")
    listed = take_objects(told, "groups")
    if len(listed) > GROUPS_LIMIT:
        raise InvalidInputError(f"more than {GROUPS_LIMIT} groups")
    kept = Kept(
        place=parse_place_untrusted(told["place"]) if "place" in told else None,
        groups=dict(_group(one) for one in listed),
        version=take_text(told, "version", 128),
        revision=take_integer(told, "revision", _REVISION_LIMIT),
    )
    if (root := _object(told, "root")) is not None:
        state = parse_satellite_state_untrusted(_text(root, "document").encode())
        kept = replace(kept, root=state, root_digest=Digest.parse_untrusted(root.get("digest")))
    if (config := _object(told, "config")) is not None:
        kept = replace(
            kept,
            config_digest=Digest.parse_untrusted(config.get("digest")),
            settings=SatelliteSettings(
                _seconds(config.get("poll")),
                _seconds(config.get("report")),
                tuple(str(one)[:128] for one in take_objects(config, "passed_over")[:32]),
            ),
        )
    if (enlisted := _object(told, "enlisted")) is not None:
        kept = replace(
            kept,
            enlisted=Enlisted(
                parse_place_untrusted(enlisted.get("place")),
                _text(enlisted, "registry"),
                _text(enlisted, "token"),
                _seconds(enlisted.get("at")) or 0.0,
            ),
        )
    return kept


def load(data_dir: Path) -> Kept:
    """Raises `InvalidInputError`, `StorageError`; nothing kept is no error."""
    path = data_dir / DIRECTORY / FILE
    with storage_errors("read", path):
        try:
            with path.open("rb") as file:
                raw = file.read(FILE_LIMIT + 1)
        except FileNotFoundError:
            return Kept()
    return parse_kept_untrusted(raw)


def save(data_dir: Path, kept: Kept) -> None:
    """Raises `StorageError`."""
    keep_file(data_dir, FILE, encode_kept(kept))


def keep_file(data_dir: Path, name: str, raw: bytes) -> None:
    """Put a file into DATA/fleet, whole or not at all. Raises `StorageError`."""
    directory = data_dir / DIRECTORY
    make_directories((directory,))
    unfinished = directory / f".{name}.new"
    try:
        write_file(unfinished, raw)
        rename(unfinished, directory / name)
    except StorageError:
        unfinished.unlink(missing_ok=True)
        raise
    sync_directory(directory)


def _group(value: object) -> tuple[Place, KeptGroup]:
    if not isinstance(value, dict):
        raise InvalidInputError("a group is no object")
    document = _text(value, "document").encode("utf-8", "replace")
    return parse_place_untrusted(value.get("place")), KeptGroup(
        Digest.parse_untrusted(value.get("digest")),
        document,
        parse_group_state_untrusted(document),
        _seconds(value.get("fetched_at")) or 0.0,
    )


def _object(told: dict[str, Any], name: str) -> dict[str, Any] | None:
    value = told.get(name)
    if value is not None and not isinstance(value, dict):
        raise InvalidInputError(f"{name}: not an object")
    return value


def _text(told: dict[str, Any], name: str) -> str:
    text = take_text(told, name, JSON_LIMIT)
    if text is None:
        raise InvalidInputError(f"{name}: missing")
    return text


def _seconds(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e12:
        return None
    return float(value)
