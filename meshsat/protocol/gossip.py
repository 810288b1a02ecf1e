"""What tags mean: the records that spread by gossip, and the set of them that every node keeps the same.

A record says what a tag meant when an upstream was last asked, or when it was pushed. It is sealed by its
author, so it may come from anybody. Of site content (registry `site.internal`) there is also one for each
manifest, under its digest. One of size 0 says that the tag or manifest was deleted. Of two records for one
tag the younger wins, then the larger digest, then the larger bytes: an order that every node computes alike,
whatever came first. How records travel is `spread`'s matter.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import cbor2

from meshsat.cbor import decode_cbor_untrusted
from meshsat.errors import InvalidInputError
from meshsat.oci.digest import Digest
from meshsat.oci.reference import SITE, parse_repository_untrusted, parse_tag_untrusted
from meshsat.protocol.sums import Sums, leaf_key, leaf_version
from meshsat.shares import Shares
from meshsat.trust import envelope
from meshsat.trust.keys import PeerId, Signer, Verify, verify

CONTEXT = "meshsat/image-record/1"
RECORD_LIMIT = 4096
"""Bytes of one sealed record."""
RECORDS_LIMIT = 65_536
"""Tags that a node knows of."""
AUTHOR_LIMIT = 16_384
"""Of one author's upstream tags, and of one author's site content."""
CLOCK_SKEW = 300.0
"""Seconds that another node's clock may be ahead of ours before its records are refused."""
MET_LIMIT = 4096
"""Members whose records count as their own."""
STRANGERS = ""
"""The author of all that others told."""


class FutureRecordError(InvalidInputError):
    """Dated after our own clock: one of the two clocks is wrong, and nobody need have lied."""


Key = tuple[str, str, str]
"""Registry, repository, tag (or digest, for a record that answers a question by digest)."""


@dataclass(frozen=True, slots=True)
class ImageRecord:
    registry: str
    repository: str
    reference: str
    """A tag; or a digest, in answers and of site content."""
    media_type: str
    digest: Digest
    size: int
    """Bytes of the manifest; 0: deleted."""
    resolved_at: float
    """Unix time at which the upstream said so, or at which it was pushed or deleted."""
    author: PeerId
    sealed: bytes
    """The signed bytes, as they travel."""

    @property
    def key(self) -> Key:
        return (self.registry, self.repository, self.reference)

    @property
    def is_gone(self) -> bool:
        return self.size == 0

    @property
    def version(self) -> tuple[float, str, bytes]:
        return (self.resolved_at, str(self.digest), self.sealed)


def seal(
    key: Signer,
    *,
    registry: str,
    repository: str,
    reference: str,
    media_type: str,
    digest: Digest,
    size: int,
    resolved_at: float,
) -> ImageRecord:
    payload = cbor2.dumps([registry, repository, reference, media_type, str(digest), size, resolved_at])
    sealed = envelope.seal(key, CONTEXT, payload)
    return ImageRecord(
        registry, repository, reference, media_type, digest, size, resolved_at, key.peer_id, sealed
    )


def open_record_untrusted(sealed: bytes, now: float, check: Verify = verify) -> ImageRecord:
    """The record in a sealed envelope, its signature checked by `check`. `now` is Unix time.

    Raises `InvalidInputError`, of which `FutureRecordError` is one.
    """
    if len(sealed) > RECORD_LIMIT:
        raise InvalidInputError("an image record is too large")
    opened = envelope.open_untrusted(sealed, CONTEXT, check)
    if cbor2.dumps([opened.author, opened.payload, opened.signature]) != sealed:
        raise InvalidInputError("an image record is not as its author sealed it")
    items = decode_cbor_untrusted(opened.payload)
    if type(items) is not list or [type(item) for item in items] != [str, str, str, str, str, int, float]:
        raise InvalidInputError("an image record does not have its seven fields")
    registry, repository, reference, media_type, digest, size, resolved_at = items
    if not registry or len(registry) > 255 or len(media_type) > 255 or not 0 <= size < 1 << 32:
        raise InvalidInputError("an image record's fields are out of range")
    if not 0 <= resolved_at < float("inf"):
        raise InvalidInputError("an image record has no date")
    parse_repository_untrusted(repository)
    if ":" in reference:
        if Digest.parse_untrusted(reference) != Digest.parse_untrusted(digest):
            raise InvalidInputError("an image record names one digest and means another")
    else:
        parse_tag_untrusted(reference)
    meaning = Digest.parse_untrusted(digest)
    if resolved_at > now + CLOCK_SKEW:
        raise FutureRecordError("an image record is from the future: check the clocks of the site")
    return ImageRecord(
        registry,
        repository,
        reference,
        media_type,
        meaning,
        size,
        resolved_at,
        opened.author,
        bytes(sealed),
    )


class RecordSet:
    """The youngest record of each tag; at most `limit` tags, and `share` of one author's upstream tags and of
    its site content. The ones resolved longest ago go first: an author's with more than a share, else of all.

    A record proves its author's key, not that the key has a pass. So all authors that this node never met
    count as one: whoever makes up keys displaces what strangers told, and nothing that a member did.
    """

    def __init__(self, limit: int = RECORDS_LIMIT, share: int = AUTHOR_LIMIT) -> None:
        self.sums = Sums()
        self._records: dict[Key, ImageRecord] = {}
        self._keys: dict[bytes, Key] = {}
        self._shares: Shares[Key] = Shares(limit, share)
        self._met: dict[PeerId, None] = {}

    def meet(self, peer: PeerId) -> None:
        """It has a pass: there was a session with it, or it is this node."""
        self._met[peer] = None
        if len(self._met) > MET_LIMIT:
            del self._met[next(iter(self._met))]

    def has_met(self, peer: PeerId) -> bool:
        return peer in self._met

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[ImageRecord]:
        return iter(self._records.values())

    def get(self, key: Key) -> ImageRecord | None:
        return self._records.get(key)

    def merge(self, record: ImageRecord) -> bool:
        """Take the record in if it is news. Commutative, associative, idempotent up to the limits."""
        known = self._records.get(record.key)
        if known is not None and known.version >= record.version:
            return False
        key = leaf_key(*record.key)
        self._records[record.key] = record
        self._keys[key] = record.key
        self.sums.put(key, leaf_version(record.sealed))
        author = record.author if record.author in self._met else STRANGERS
        gone = self._shares.put(record.key, record.version, (author, record.registry == SITE))
        if gone is not None:
            self._drop(gone)
        return gone != record.key

    def forget(self, doubted: Callable[[ImageRecord], bool]) -> None:
        """Take out the records that are doubted."""
        for key in [key for key, record in self._records.items() if doubted(record)]:
            self._shares.drop(key)
            self._drop(key)

    def _drop(self, key: Key) -> None:
        leaf = leaf_key(*key)
        del self._records[key], self._keys[leaf]
        self.sums.drop(leaf)

    def item(self, key: bytes) -> bytes | None:
        """The record of that leaf (`sums`), as it travels."""
        found = self._keys.get(key)
        return None if found is None else self._records[found].sealed
