"""The desired state: what every site of a fleet must hold, and within which means. The words of the document.

It is one JSON object, whatever it was authored in. That it is signed, of which version, and until when it is
good, stands beside it (trust/): here is only what it says. All of it is checked when it is read, so that what
is in force never turns out to be malformed later: whoever publishes it learns that at once, and nodes keep
what they had.

Laws: a field that is not known is refused, since it may forbid something; the order of images is their order
of importance among equals.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    PlainSerializer,
    ValidationError,
    field_validator,
    model_validator,
)

from meshsat.config import PullThroughSection, WindowSection
from meshsat.errors import InvalidInputError
from meshsat.oci.pattern import Glob, Pattern
from meshsat.oci.reference import SITE, Reference
from meshsat.section import Section, Zone
from meshsat.trust.cosign import VerificationKey

DOCUMENT_LIMIT = 4 * 1024 * 1024
"""Bytes of one desired state."""
IMAGES_LIMIT = 10_000
SCOPE_LIMIT = 1000
"""Sites, groups, roles or platforms named in one place."""
KEPT_LIMIT = 10
MOMENT_LIMIT = 7_258_118_400.0
"""Unix seconds of the year 2200."""
FAULTS_TOLD = 5
_NAME = r"^[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$"
_SITE_PATTERN = r"^[A-Za-z0-9*](?:[A-Za-z0-9._*-]{0,61}[A-Za-z0-9*])?$"


def _moment(value: object) -> float:
    """Unix seconds of a date with its time zone."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            raise ValueError("write a time like 2026-12-01T02:00:00Z") from None
    if not isinstance(value, datetime) or value.tzinfo is None:
        raise ValueError("write a time with its zone, like 2026-12-01T02:00:00Z")
    moment = value.timestamp()
    if not 0 <= moment < MOMENT_LIMIT:
        raise ValueError("a time lies between 1970 and 2200")
    return moment


def _as_text(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat().replace("+00:00", "Z")


Moment = Annotated[float, BeforeValidator(_moment), PlainSerializer(_as_text)]
"""Unix seconds; written as RFC 3339."""
Name = Annotated[str, Field(pattern=_NAME)]
Names = Annotated[tuple[Name, ...], Field(max_length=SCOPE_LIMIT)]
SitePattern = Annotated[str, Field(pattern=_SITE_PATTERN)]
"""A site's name, in which `*` stands for any characters."""


class Scope(Section):
    """Which sites something is for. Nothing named: all of them."""

    sites: Annotated[tuple[SitePattern, ...], Field(max_length=SCOPE_LIMIT)] = ()
    groups: Names = ()

    def covers(self, site: str, groups: "Mapping[str, Group]") -> bool:
        if not self.sites and not self.groups:
            return True
        return _among(site, self.sites) or any(_among(site, groups[name].sites) for name in self.groups)


class Group(Section):
    """A name for some sites."""

    sites: Annotated[tuple[SitePattern, ...], Field(max_length=SCOPE_LIMIT)]


class DesiredImage(Scope):
    reference: str
    """`REGISTRY/REPOSITORY:TAG`; with `@DIGEST` that is what the tag means at the site, whatever an upstream
    says. Without, the tag is followed."""
    follow: Annotated[float, Field(ge=10, le=30 * 86400)] = 300.0
    """Seconds between two looks at what a tag without a digest means upstream."""
    roles: Names = ()
    """Which nodes of a site hold it: those with one of these roles. None: any."""
    copies: Annotated[int, Field(ge=1, le=1000)] | Literal["all"] = "all"
    """On how many of these nodes it is; the others have it from them when they are asked for it."""
    platforms: Annotated[
        tuple[Annotated[str, Field(pattern=r"^[a-z0-9._]+/[a-z0-9._]+(/[a-z0-9._]+)?$")], ...],
        Field(max_length=SCOPE_LIMIT),
    ] = ()
    """`OS/ARCHITECTURE[/VARIANT]` of an index that are held. None: all."""
    priority: Annotated[int, Field(ge=0, le=100)] = 50
    """What is fetched first: the higher number."""
    not_before: Moment | None = None
    """When to begin to fetch it."""
    active_from: Moment | None = None
    """When the tag begins to mean it, where it is held whole by then."""
    deadline: Moment | None = None
    """By when it is to be there: what a plan is measured by, and what is told when it is missed."""
    keep: Annotated[int, Field(ge=0, le=KEPT_LIMIT)] = 1
    """How many earlier meanings of the tag stay on the site, to go back to without the uplink."""

    @field_validator("reference")
    @classmethod
    def _names_a_tag(cls, text: str) -> str:
        reference = _reference(text)
        if reference.tag is None:
            raise ValueError("name a tag as well: REGISTRY/REPOSITORY:TAG@DIGEST")
        if reference.registry == SITE:
            raise ValueError("what is pushed at a site can not be desired of others: push it to a registry")
        return str(reference)

    @model_validator(mode="after")
    def _times_in_order(self) -> Self:
        times = [at for at in (self.not_before, self.active_from) if at is not None]
        if times != sorted(times):
            raise ValueError("active_from lies before not_before")
        return self

    @property
    def parsed(self) -> Reference:
        return _reference(self.reference)

    @property
    def name(self) -> str:
        """`REGISTRY/REPOSITORY:TAG`: of one name there is one desired image a site."""
        parsed = self.parsed
        return f"{parsed.name}:{parsed.tag}"


class Quota(Section):
    """Bytes over the WAN a calendar period; None: no cap."""

    hour: Annotated[int, Field(gt=0)] | None = None
    day: Annotated[int, Field(gt=0)] | None = None
    month: Annotated[int, Field(gt=0)] | None = None
    timezone: Zone = "UTC"


class Limits(Scope):
    """The means of a site, each node's; where the node's own configuration is stricter, that holds."""

    rate: Annotated[int, Field(gt=0)] | None = None
    """Bytes per second over the WAN."""
    quota: Quota | None = None
    windows: Annotated[tuple[WindowSection, ...], Field(max_length=64)] = ()
    disk: Annotated[int, Field(gt=0)] | None = None
    """Bytes of the disk budget."""


class SignatureRule(Section):
    pattern: str
    """`REGISTRY/REPOSITORY[:TAG]`, with `*` and `**`. The first rule that matches decides."""
    action: Literal["block", "warn", "accept"] = "block"
    keys: Annotated[tuple[Annotated[str, Field(max_length=8192)], ...], Field(max_length=32)] = ()
    """Public keys in PEM."""
    threshold: Annotated[int, Field(ge=1, le=32)] = 1
    """How many of them must have signed."""

    @field_validator("keys")
    @classmethod
    def _are_keys(cls, keys: tuple[str, ...]) -> tuple[str, ...]:
        for number, text in enumerate(keys, 1):
            try:
                VerificationKey.parse_untrusted(text.encode(), str(number))
            except InvalidInputError as fault:
                raise ValueError(str(fault)) from None
        return keys

    @field_validator("pattern")
    @classmethod
    def _is_a_pattern(cls, text: str) -> str:
        return _pattern(text)

    @model_validator(mode="after")
    def _can_be_met(self) -> Self:
        if self.action != "accept" and len(set(self.keys)) < self.threshold:
            raise ValueError("a rule needs at least as many different keys as its threshold")
        return self


class DesiredState(Section):
    groups: dict[Name, Group] = Field(default_factory=dict, max_length=SCOPE_LIMIT)
    images: Annotated[tuple[DesiredImage, ...], Field(max_length=IMAGES_LIMIT)] = ()
    limits: Annotated[tuple[Limits, ...], Field(max_length=SCOPE_LIMIT)] = ()
    """The first that is for a site holds there."""
    pull_through: PullThroughSection | None = None
    """In place of each node's own. None: that stays."""
    signatures: Annotated[tuple[SignatureRule, ...], Field(max_length=SCOPE_LIMIT)] | None = None
    """In place of each node's own. None: those stay."""

    @model_validator(mode="after")
    def _holds_together(self) -> Self:
        for scope in (*self.images, *self.limits):
            unknown = [name for name in scope.groups if name not in self.groups]
            if unknown:
                raise ValueError(f"group {unknown[0]!r} is named and not defined under groups")
        if self.pull_through is not None:
            for rule in self.pull_through.rules:
                _pattern(rule.pattern)
        return self

    def images_for(self, site: str) -> list[DesiredImage]:
        """What that site must hold, the most important first. Of two of one name the first counts: what is
        for some sites stands before what is for all."""
        found: dict[str, DesiredImage] = {}
        for image in self.images:
            if image.covers(site, self.groups):
                found.setdefault(image.name, image)
        return sorted(found.values(), key=lambda image: -image.priority)

    def limits_for(self, site: str) -> Limits | None:
        return next((one for one in self.limits if one.covers(site, self.groups)), None)


def parse_state_untrusted(raw: bytes) -> DesiredState:
    """Raises `InvalidInputError`: the first faults, and where they are."""
    if len(raw) > DOCUMENT_LIMIT:
        raise InvalidInputError(f"a desired state has at most {DOCUMENT_LIMIT} bytes; this has {len(raw)}")
    try:
        return DesiredState.model_validate_json(raw)
    except ValidationError as invalid:
        raise InvalidInputError(f"desired state: {told(invalid)}") from None


def state_of(value: Mapping[str, Any]) -> DesiredState:
    """From what TOML or YAML say. Raises `InvalidInputError`."""
    try:
        return DesiredState.model_validate(value)
    except ValidationError as invalid:
        raise InvalidInputError(f"desired state: {told(invalid)}") from None


def encode_state(state: DesiredState) -> bytes:
    """The same bytes for the same state."""
    return state.model_dump_json(exclude_defaults=True, indent=1).encode()


def told(invalid: ValidationError) -> str:
    """What is wrong, for a person."""
    faults = [
        f"{'.'.join(map(str, fault['loc'])) or 'all of it'}: {fault['msg'].removeprefix('Value error, ')}"
        for fault in invalid.errors(include_url=False, include_context=False)
    ]
    more = f"; and {len(faults) - FAULTS_TOLD} more" if len(faults) > FAULTS_TOLD else ""
    return "; ".join(faults[:FAULTS_TOLD]) + more


def _among(site: str, patterns: Sequence[str]) -> bool:
    return any(Glob(pattern).matches(site) for pattern in patterns)


def _reference(text: str) -> Reference:
    try:
        return Reference.parse_untrusted(text)
    except InvalidInputError as fault:
        raise ValueError(str(fault)) from None


def _pattern(text: str) -> str:
    try:
        return str(Pattern.parse_untrusted(text))
    except InvalidInputError as fault:
        raise ValueError(str(fault)) from None
