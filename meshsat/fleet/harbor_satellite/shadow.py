"""What a site would have saved on the WAN, counted image by image: a ledger without a byte of content.

A satellite fetches an image whole, less the blobs that it holds for other images; so does each of N
satellites at a site. A site of N nodes of ours fetches the same once. What is counted is manifests and blobs
as they are in the registry, without protocol overhead, when an image is first wanted, and again when its tag
moves. Satellites up to v0.0.4 take of an image for several platforms linux/amd64 alone, which is not the
image: that figure stands beside.
Laws: pure; a restart counts nothing twice; what can't be weighed is told, not guessed.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from meshsat.errors import InvalidInputError
from meshsat.fleet.document import IMAGES_LIMIT
from meshsat.oci.digest import Digest
from meshsat.oci.fields import MAX_BLOB_SIZE, take_objects
from meshsat.oci.manifest import Manifest
from meshsat.status import ShadowDay, ShadowImage, ShadowReport

DAYS_LIMIT = 400
"""Days that are remembered."""
BLOBS_LIMIT = 200_000
"""Manifests and blobs of all images together."""
FILE_LIMIT = 64 * 1024 * 1024
FILE = "shadow.json"
_SINGLE = ("linux", "amd64")
_COUNT_LIMIT = 2**63


@dataclass(frozen=True, slots=True)
class Weight:
    """What one image consists of."""

    digest: Digest
    parts: Mapping[Digest, int]
    """Bytes of all its manifests and blobs."""
    single: frozenset[Digest] = frozenset()
    """Those of linux/amd64 alone."""

    @property
    def size(self) -> int:
        return sum(self.parts.values())


@dataclass(slots=True)
class Day:
    """What came anew on one day (UTC). Bytes."""

    once: int = 0
    """Over the WAN, by a site of ours."""
    each: int = 0
    """By as many satellites as there were nodes."""
    single: int = 0
    """By one satellite that takes linux/amd64 alone."""
    own: int = 0
    """That the shadow itself fetched: states and manifests."""
    nodes: int = 0
    """The most nodes."""


@dataclass(slots=True)
class Ledger:
    images: dict[str, Weight] = field(default_factory=dict)
    """Reference without digest -> what it consists of, for what is wanted now."""
    fresh: dict[str, int] = field(default_factory=dict)
    """Reference -> bytes of it that were new."""
    days: dict[str, Day] = field(default_factory=dict)
    unknown: dict[str, str] = field(default_factory=dict)

    def update(self, wanted: Mapping[str, Weight], now: float, nodes: int, own: int) -> None:
        """This is wanted now. `own`: bytes that the shadow fetched since the last time; `now`: Unix time."""
        held = {digest for weight in self.images.values() for digest in weight.parts}
        day = self.days.setdefault(datetime.fromtimestamp(now, UTC).date().isoformat(), Day())
        day.own += own
        day.nodes = max(day.nodes, nodes)
        for name in sorted(wanted):
            weight = wanted[name]
            if name in self.images and self.images[name].digest == weight.digest:
                continue
            new = {digest: size for digest, size in weight.parts.items() if digest not in held}
            held |= new.keys()
            self.fresh[name] = sum(new.values())
            day.once += self.fresh[name]
            day.each += nodes * self.fresh[name]
            day.single += sum(size for digest, size in new.items() if digest in weight.single)
        self.images = dict(wanted)
        self.fresh = {name: count for name, count in self.fresh.items() if name in wanted}
        for old in sorted(self.days)[:-DAYS_LIMIT]:
            del self.days[old]

    def report(self, nodes: int | None, live: int) -> ShadowReport:
        """`nodes`: compare with so many satellites throughout; None: with as many as there were nodes."""
        days = [_counted(name, day, nodes) for name, day in sorted(self.days.items())]
        once, each = sum(one.once for one in days), sum(one.each for one in days)
        return ShadowReport(
            nodes=live if nodes is None else nodes,
            since=days[0].day if days else None,
            once=once,
            each=each,
            single=sum(one.single for one in days),
            own=sum(one.own for one in days),
            saved=each - once,
            images=tuple(
                ShadowImage(name, str(weight.digest), weight.size, self.fresh.get(name, 0))
                for name, weight in sorted(self.images.items())
            ),
            days=tuple(days),
            unknown=tuple(f"{name}: {why}" for name, why in sorted(self.unknown.items())),
        )


def weigh(root: Manifest, children: Mapping[Digest, Manifest]) -> Weight:
    """`children`: all manifests below the root."""
    parts: dict[Digest, int] = {}
    single: set[Digest] = set()
    level = [(root, True)]
    while level:
        manifest, chosen = level.pop()
        inner = {manifest.digest: len(manifest.raw), **{blob.digest: blob.size for blob in manifest.blobs}}
        parts |= inner
        if chosen and not manifest.is_index:
            single |= inner.keys()
        for child in manifest.manifests:
            one = child.platform is not None and (child.platform.os, child.platform.architecture) == _SINGLE
            if child.digest in children and child.digest not in parts:
                level.append((children[child.digest], chosen and one))
    return Weight(root.digest, parts, frozenset(single))


def _counted(name: str, day: Day, nodes: int | None) -> ShadowDay:
    factor = day.nodes if nodes is None else nodes
    each = day.each if nodes is None else nodes * day.once
    return ShadowDay(name, day.once, each, factor * day.single, day.own, factor, each - day.once)


# --- over a restart ---


def encode_ledger(ledger: Ledger) -> bytes:
    images = [
        {
            "reference": name,
            "digest": str(weight.digest),
            "parts": {str(digest): size for digest, size in sorted(weight.parts.items())},
            "single": sorted(str(digest) for digest in weight.single),
            "fresh": ledger.fresh.get(name, 0),
        }
        for name, weight in sorted(ledger.images.items())
    ]
    days = {
        name: [day.once, day.each, day.single, day.own, day.nodes]
        for name, day in sorted(ledger.days.items())
    }
    return json.dumps({"format": 1, "images": images, "days": days}).encode()


def parse_ledger_untrusted(raw: bytes) -> Ledger:
    """Raises `InvalidInputError`."""
    if len(raw) > FILE_LIMIT:
        raise InvalidInputError(f"more than {FILE_LIMIT} bytes")
    try:
        told = json.loads(raw)
    except (ValueError, RecursionError):
        raise InvalidInputError("not JSON") from None
    if not isinstance(told, dict) or told.get("format") != 1:
        raise InvalidInputError("not of this version's format")
    listed, days = take_objects(told, "images"), told.get("days")
    if len(listed) > IMAGES_LIMIT or not isinstance(days, dict) or len(days) > DAYS_LIMIT:
        raise InvalidInputError("too many images or days, or none")
    ledger = Ledger()
    for one in listed:
        name, weight, fresh = _weight(one)
        ledger.images[name], ledger.fresh[name] = weight, fresh
    for name, counts in days.items():
        if not isinstance(counts, list) or len(counts) != 5:
            raise InvalidInputError("a day without its five counts")
        try:
            datetime.strptime(name, "%Y-%m-%d").replace(tzinfo=UTC)
        except ValueError:
            raise InvalidInputError("a day that is none") from None
        ledger.days[name] = Day(*(_count(count, _COUNT_LIMIT) for count in counts))
    return ledger


def _weight(value: object) -> tuple[str, Weight, int]:
    if not isinstance(value, dict) or not isinstance(value.get("parts"), dict):
        raise InvalidInputError("an image without its parts")
    name = value.get("reference")
    if not isinstance(name, str):
        raise InvalidInputError("an image without its name")
    parts = {
        Digest.parse_untrusted(digest): _count(size, MAX_BLOB_SIZE) for digest, size in value["parts"].items()
    }
    single = frozenset(Digest.parse_untrusted(one) for one in take_objects(value, "single"))
    weight = Weight(Digest.parse_untrusted(value.get("digest")), parts, single)
    return name, weight, _count(value.get("fresh"), _COUNT_LIMIT)


def _count(value: Any, limit: int) -> int:
    if type(value) is not int or not 0 <= value <= limit:
        raise InvalidInputError("a count that is none")
    return value
