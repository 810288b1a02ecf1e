"""What Harbor Satellite writes and says, as values: its states, its configuration, Ground Control's answers.

    satellite/satellite-state/NAME/state:latest   the root: which groups, which configuration
    satellite/group-state/GROUP/state:latest      the images of a group
    satellite/config-state/CONFIG/state:latest    the satellite's settings

Each is an image of one layer that holds one file, `artifacts.json`; here is what stands in that file, as of
github.com/container-registry/harbor-satellite v0.0.4 and what its main branch added until 2026-09.
Laws: pure. It is another's format: fields that are not known are passed over; an entry that makes no sense is
told (`faults`) and takes nothing else with it; a document that is no such document is refused as a whole, so
that a broken one never reads as "nothing is wanted". No secret is in an error, a repr or a value but
`Registration`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import urlsplit

from meshsat.errors import InvalidInputError
from meshsat.fleet.document import IMAGES_LIMIT
from meshsat.oci.digest import Digest
from meshsat.oci.fields import parse_object_untrusted, take_objects, take_text
from meshsat.oci.reference import (
    DEFAULT_TAG,
    SITE,
    looks_like_registry,
    parse_registry_untrusted,
    parse_repository_untrusted,
    parse_tag_untrusted,
)

JSON_LIMIT = 4 * 1024 * 1024
"""Bytes of an `artifacts.json`."""
GROUPS_LIMIT = 256
TAGS_LIMIT = 1000
"""Of one artifact."""
FAULTS_LIMIT = 20
"""Told of one document; what is wrong is passed over all the same."""
ANSWER_LIMIT = 64 * 1024
"""Bytes of an answer of Ground Control."""
INTERVALS = (1.0, 86400.0)
"""Seconds that an interval may have."""
REFRESH = "refresh_credentials"
"""What Ground Control asks for in its answer to a report when the robot account is about to expire."""

_ADDRESS_LIMIT = 1024
_PORTS = {"https": 443, "http": 80}
_STEP = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(h|m(?!s)|s|ms|us|µs|ns)")
_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_SATELLITE = re.compile(r"(?:.*/)?satellite-state/([^/]+)/state")
_TAKEN_OVER = frozenset({"state_replication_interval", "heartbeat_interval"})


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Where a state artifact is in a registry."""

    registry: str
    repository: str
    tag: str = DEFAULT_TAG

    def at(self, registry: str) -> "Place":
        """The same place in another registry."""
        return Place(registry, self.repository, self.tag)

    @property
    def satellite(self) -> str | None:
        """Whose root state it is, where it is one."""
        found = _SATELLITE.fullmatch(self.repository)
        return found[1] if found else None

    def __str__(self) -> str:
        return f"{self.registry}/{self.repository}:{self.tag}"


@dataclass(frozen=True, slots=True)
class SatelliteState:
    """The root."""

    groups: tuple[Place, ...]
    config: Place | None = None
    faults: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Artifact:
    repository: str
    tags: tuple[str, ...] = ()
    """None: it is held by its digest alone."""
    digest: Digest | None = None
    """None: whatever the tags mean."""
    deleted: bool = False


@dataclass(frozen=True, slots=True)
class GroupState:
    artifacts: tuple[Artifact, ...]
    faults: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SatelliteSettings:
    """What of a satellite's configuration means something here."""

    poll: float | None = None
    """Seconds between two looks at the states."""
    report: float | None = None
    """Seconds between two reports to Ground Control."""
    passed_over: tuple[str, ...] = ()
    """What else is set in it."""


@dataclass(frozen=True, slots=True)
class Registration:
    place: Place
    registry: str
    """Which registry the login is for."""
    username: str
    secret: str = field(repr=False)

    @classmethod
    def of_untrusted(cls, told: Mapping[str, Any]) -> Self:
        """Of a `state_config`. Raises `InvalidInputError`."""
        auth = told.get("auth")
        if not isinstance(auth, dict):
            raise InvalidInputError("auth: not an object")
        state, url = take_text(told, "state", _ADDRESS_LIMIT), take_text(auth, "url", _ADDRESS_LIMIT)
        username, secret = take_text(auth, "username", 255), take_text(auth, "password", 4096)
        if not state or not url or not username or not secret:
            raise InvalidInputError("state, auth.url, auth.username and auth.password: all are needed")
        if not username.isprintable() or ":" in username or not secret.isprintable():
            raise InvalidInputError("auth: a name or password has characters that no login may have")
        return cls(parse_place_untrusted(state), parse_registry_address_untrusted(url), username, secret)


def parse_satellite_state_untrusted(raw: bytes) -> SatelliteState:
    """Raises `InvalidInputError`."""
    told = _document(raw, "satellite state", ("states", "config"))
    listed = take_objects(told, "states")
    if len(listed) > GROUPS_LIMIT:
        raise InvalidInputError(f"satellite state: more than {GROUPS_LIMIT} groups")
    faults = _Faults()
    groups = [
        faults.told(f"group {number}", parse_place_untrusted, one) for number, one in enumerate(listed, 1)
    ]
    config = told.get("config")
    place = faults.told("config", parse_place_untrusted, config) if config else None
    return SatelliteState(tuple(dict.fromkeys(one for one in groups if one is not None)), place, faults.all)


def parse_group_state_untrusted(raw: bytes) -> GroupState:
    """Raises `InvalidInputError`."""
    told = _document(raw, "group state", ("group", "registry", "artifacts"))
    listed = take_objects(told, "artifacts")
    if len(listed) > IMAGES_LIMIT:
        raise InvalidInputError(f"group state: more than {IMAGES_LIMIT} artifacts")
    faults = _Faults()
    artifacts = [faults.told(f"artifact {number}", _artifact, one) for number, one in enumerate(listed, 1)]
    return GroupState(tuple(one for one in artifacts if one is not None), faults.all)


def parse_config_untrusted(raw: bytes) -> SatelliteSettings:
    """Of a configuration artifact. Raises `InvalidInputError`."""
    return settings_of_untrusted(
        _document(raw, "satellite configuration", ("app_config", "state_config", "zot_config"))
    )


def settings_of_untrusted(told: Mapping[str, Any]) -> SatelliteSettings:
    """Of a satellite's configuration. Raises `InvalidInputError`."""
    app = told.get("app_config")
    if app is None:
        app = {}
    if not isinstance(app, dict):
        raise InvalidInputError("app_config: not an object")
    intervals = {name: _interval(app.get(name)) for name in _TAKEN_OVER}
    others = [f"app_config.{name}" for name, value in app.items() if value and intervals.get(name) is None]
    if told.get("zot_config"):
        others.append("zot_config")
    return SatelliteSettings(
        intervals["state_replication_interval"],
        intervals["heartbeat_interval"],
        tuple(sorted(_shown(name) for name in others)[:FAULTS_LIMIT]),
    )


def parse_registration_untrusted(raw: bytes) -> Registration:
    """Ground Control's answer to a registration. Raises `InvalidInputError`."""
    return Registration.of_untrusted(_answer(raw, "registration"))


def parse_refresh_untrusted(raw: bytes) -> str:
    """The robot account's new secret. Raises `InvalidInputError`."""
    secret = take_text(_answer(raw, "new login"), "secret", 4096)
    if not secret or not secret.isprintable():
        raise InvalidInputError("new login: no usable secret")
    return secret


def parse_report_answer_untrusted(raw: bytes) -> frozenset[str]:
    """What Ground Control asks for in its answer: names of actions. Raises `InvalidInputError`."""
    if not raw.strip():
        return frozenset()
    told = _answer(raw, "answer to a report")
    asked = [*take_objects(told, "actions"), *take_objects(told, "events")]
    return frozenset(one for one in asked[:64] if isinstance(one, str))


def parse_token_untrusted(raw: bytes) -> str:
    """A registration token, from its file. Raises `InvalidInputError`."""
    text = raw.strip().decode("ascii", "replace")
    if not re.fullmatch(r"[\x21-\x7e]{8,512}", text):
        raise InvalidInputError("no token of 8 to 512 printable characters")
    return text


def parse_place_untrusted(text: object) -> Place:
    """`[https://]HOST[:PORT]/REPOSITORY[:TAG]`. Raises `InvalidInputError`."""
    if not isinstance(text, str) or len(text) > _ADDRESS_LIMIT:
        raise InvalidInputError(f"not an address of at most {_ADDRESS_LIMIT} characters")
    scheme, separator, rest = text.partition("://")
    if not separator:
        scheme, rest = "https", text
    if scheme not in _PORTS:
        raise InvalidInputError("an address of another scheme than http and https")
    host, _, path = rest.partition("/")
    head, slash, last = path.rpartition("/")
    last, colon, tag = last.partition(":")
    return Place(
        _registry(host, scheme),
        parse_repository_untrusted(head + slash + last),
        parse_tag_untrusted(tag) if colon else DEFAULT_TAG,
    )


def parse_registry_address_untrusted(text: object) -> str:
    """The registry of `[https://]HOST[:PORT][/...]`. Raises `InvalidInputError`."""
    if not isinstance(text, str) or len(text) > _ADDRESS_LIMIT:
        raise InvalidInputError(f"not an address of at most {_ADDRESS_LIMIT} characters")
    try:
        parts = urlsplit(text if "://" in text else f"https://{text}")
    except ValueError:
        raise InvalidInputError("not the address of a registry") from None
    if parts.scheme not in _PORTS:
        raise InvalidInputError("an address of another scheme than http and https")
    return _registry(parts.netloc, parts.scheme)


def _registry(host: str, scheme: str) -> str:
    """A name without a dot would read as a part of a repository on Docker Hub; with its port it does not."""
    registry = parse_registry_untrusted(host)
    if registry == SITE:
        raise InvalidInputError(f"{SITE} is what was pushed at a site: no registry")
    return registry if looks_like_registry(registry) else f"{registry}:{_PORTS[scheme]}"


def _artifact(value: object) -> Artifact:
    if not isinstance(value, dict):
        raise InvalidInputError("not an object")
    repository = parse_repository_untrusted(value.get("repository"))
    tags = take_objects(value, "tag")
    if len(tags) > TAGS_LIMIT:
        raise InvalidInputError(f"more than {TAGS_LIMIT} tags")
    digest, deleted = value.get("digest") or None, value.get("deleted") or False
    if not isinstance(deleted, bool):
        raise InvalidInputError("deleted: neither true nor false")
    if digest is None and not tags:
        raise InvalidInputError("neither a tag nor a digest")
    return Artifact(
        repository,
        tuple(dict.fromkeys(parse_tag_untrusted(tag) for tag in tags)),
        None if digest is None else Digest.parse_untrusted(digest),
        deleted,
    )


class _Faults:
    """What is wrong with some entries."""

    def __init__(self) -> None:
        self.all: tuple[str, ...] = ()

    def told(self, what: str, parse: Any, value: object) -> Any:
        """What `parse` makes of it, or None."""
        try:
            return parse(value)
        except InvalidInputError as fault:
            if len(self.all) < FAULTS_LIMIT:
                self.all += (f"{what} is passed over: {fault}",)
            return None


def _document(raw: bytes, what: str, known: tuple[str, ...]) -> dict[str, Any]:
    if len(raw) > JSON_LIMIT:
        raise InvalidInputError(f"{what}: more than {JSON_LIMIT} bytes")
    told = parse_object_untrusted(raw, what)
    if not any(name in told for name in known):
        raise InvalidInputError(f"{what}: none of {', '.join(known)} is in it")
    try:
        for name in known:
            if name in ("states", "artifacts"):
                take_objects(told, name)
    except InvalidInputError as fault:
        raise InvalidInputError(f"{what}: {fault}") from None
    return told


def _answer(raw: bytes, what: str) -> dict[str, Any]:
    if len(raw) > ANSWER_LIMIT:
        raise InvalidInputError(f"{what}: more than {ANSWER_LIMIT} bytes")
    return parse_object_untrusted(raw, what)


def _interval(value: object) -> float | None:
    """Seconds of `@every 00h00m30s`; None for what Harbor Satellite does not run either."""
    if not isinstance(value, str) or len(value) > 64 or not value.startswith("@every "):
        return None
    text = value.removeprefix("@every ").strip()
    steps = _STEP.findall(text)
    if not steps or "".join(number + unit for number, unit in steps) != text:
        return None
    seconds = sum(float(number) * _SECONDS[unit] for number, unit in steps)
    return seconds if INTERVALS[0] <= seconds <= INTERVALS[1] else None


def _shown(name: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in name[:64])
