"""Revocations: whose pass is worth nothing any more, signed by those who may say so.

A revocation is of a key, for good (whoever had it joins again with a new key and a new token), or of a whole
site: of all passes for it that were issued until then. The root may revoke anybody; an enroller the nodes of
its site (of all, where it may issue for all), no enroller. What the root says of an enroller counts for what
it signed as well: passes and revocations that are dated later, or with `issued` all of them: a thief dates as
it likes.

Laws: what a set of revocations means depends on the set, never on the order in which they came. No date
makes a revocation count less, so no clock that is wrong lets anybody in. Each author has a share of the room,
so that one enroller cannot keep others' words out; the root always has room.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum

import cbor2

from meshsat.cbor import decode_cbor_untrusted
from meshsat.errors import InvalidInputError
from meshsat.trust.envelope import open_untrusted, seal
from meshsat.trust.keys import PeerId, parse_peer_id_untrusted
from meshsat.trust.passes import (
    CERTIFICATE_LIMIT,
    DAY,
    ENROLLER,
    ENROLLER_LIFETIME,
    EVERY_SITE,
    Issuer,
    Pass,
    PassError,
    in_days,
    parse_root_untrusted,
    parse_site_untrusted,
    verify_enroller_untrusted,
)

CONTEXT = "meshsat/revocation/1"
RECORD_LIMIT = 6144
"""Bytes of one, sealed, with its author's certificate."""
REASON_LIMIT = 200
"""Characters."""
LIMIT = 4000
"""Revocations kept; gossip carries 4096 of a kind."""
AUTHOR_LIMIT = 1024
"""Of one enroller: five keys of each node of a large site in two years."""
KEPT_MOST = ENROLLER_LIFETIME + 400 * DAY
"""Seconds for which one may have to be kept: no pass lasts longer, grace and all."""
_TIME_LIMIT = 1 << 40


class Taken(Enum):
    """What became of a revocation that was told."""

    NEWS = 0
    KNOWN = 1
    OUTDATED = 2
    """A later word of the same author is known."""
    NO_ROOM = 3


@dataclass(frozen=True, slots=True)
class Revocation:
    peer: PeerId | None
    """Whose key. None: of the whole site."""
    site: str
    """The site that is revoked; of a key, where it was used, as the author knows."""
    at: float
    """Unix seconds, as `until`."""
    until: float
    """When nobody could hold a pass any more that this is about, as the author knows."""
    reason: str
    issued: bool
    """Of an enroller: all that it issued is void as well."""
    author: PeerId
    scope: str
    """The site for which its author may revoke; `EVERY_SITE`."""
    by_root: bool
    sealed: bytes = field(repr=False)
    """As it travels."""

    @property
    def name(self) -> str:
        """Of two of one name the later counts."""
        return f"{self.peer or ''}/{self.site if self.peer is None else ''}/{self.author}"

    @property
    def version(self) -> tuple[bool, float, bytes]:
        return (self.issued, self.at, self.sealed)

    @property
    def whose(self) -> str:
        return str(self.peer) if self.peer is not None else f"site {self.site}"

    def applies(self, member: Pass) -> bool:
        """Whether the pass is what is revoked, if its author may."""
        if not self.by_root and (ENROLLER in member.roles or self.scope not in (EVERY_SITE, member.site)):
            return False
        if self.peer is None:
            return member.site == self.site and member.issued_at <= self.at
        return member.peer == self.peer

    def in_words(self) -> str:
        by = "the fleet's root" if self.by_root else f"enroller {self.author}"
        return f"revoked on {in_days(self.at)} by {by}{f': {self.reason}' if self.reason else ''}"


def revoke(
    issuer: Issuer,
    root: bytes,
    *,
    peer: PeerId | None,
    site: str,
    at: float,
    until: float,
    reason: str = "",
    issued: bool = False,
) -> Revocation:
    """Sign a revocation. Raises `InvalidInputError` where `issuer` may not, or a field is out of range."""
    fleet = parse_root_untrusted(root).fleet
    payload = cbor2.dumps([fleet, peer or "", site, int(at), int(until), reason, issued])
    certificate = b"" if issuer.certificate == root else issuer.certificate
    return open_revocation_untrusted(cbor2.dumps([seal(issuer.key, CONTEXT, payload), certificate]), root)


def open_revocation_untrusted(data: bytes, root: bytes) -> Revocation:
    """The revocation in these bytes, by somebody of the fleet with this `root` who may revoke that.

    Raises `InvalidInputError`.
    """
    if len(data) > RECORD_LIMIT:
        raise InvalidInputError("a revocation is too large")
    parts = decode_cbor_untrusted(data)
    if type(parts) is not list or [type(part) for part in parts] != [bytes, bytes]:
        raise InvalidInputError("a revocation is an envelope and its author's certificate")
    sealed, certificate = parts
    opened = open_untrusted(sealed, CONTEXT)
    exact = cbor2.dumps([opened.author, opened.payload, opened.signature])
    if exact != sealed or cbor2.dumps(parts) != data or len(certificate) > CERTIFICATE_LIMIT:
        raise InvalidInputError("a revocation is not as its author sealed it")
    fields = decode_cbor_untrusted(opened.payload)
    if type(fields) is not list or [type(one) for one in fields] != [str, str, str, int, int, str, bool]:
        raise InvalidInputError("a revocation does not have its seven fields")
    fleet, peer, site, at, until, reason, issued = fields
    if not 0 <= at < _TIME_LIMIT or not at <= until <= at + KEPT_MOST or len(reason) > REASON_LIMIT:
        raise InvalidInputError("a revocation's fields are out of range")
    if not reason.isprintable():
        raise InvalidInputError("a revocation's reason is a line of text")
    if fleet != parse_root_untrusted(root).fleet:
        raise InvalidInputError("a revocation of another fleet")
    parse_site_untrusted(site)
    try:
        rights = verify_enroller_untrusted(certificate or root, root, None)
    except PassError as fault:
        raise InvalidInputError(f"a revocation by nobody who may: {fault}") from None
    if rights.peer != opened.author:
        raise InvalidInputError("a revocation under another's certificate")
    if not rights.covers(site):
        raise InvalidInputError(f"an enroller of site {rights.site} revokes at another")
    if not rights.is_root and (issued or not rights.issued_at - DAY <= at <= rights.not_after + DAY):
        raise InvalidInputError("a revocation that its author's certificate does not carry")
    return Revocation(
        peer=parse_peer_id_untrusted(peer) if peer else None,
        site=site,
        at=float(at),
        until=float(until),
        reason=reason,
        issued=issued,
        author=opened.author,
        scope=rights.site,
        by_root=rights.is_root,
        sealed=bytes(data),
    )


class Revocations:
    """All that are known; `root` is the fleet's, DER."""

    def __init__(self, root: bytes) -> None:
        self._root = root
        self._by_name: dict[str, Revocation] = {}
        self._by_peer: dict[PeerId, list[Revocation]] = {}
        self._of_sites: dict[str, list[Revocation]] = {}

    def __len__(self) -> int:
        return len(self._by_name)

    def __iter__(self) -> Iterator[Revocation]:
        return iter(list(self._by_name.values()))

    def take_untrusted(self, data: bytes) -> tuple[Revocation, Taken]:
        """Raises `InvalidInputError` for what is none, or by somebody who may not."""
        revocation = open_revocation_untrusted(data, self._root)
        return revocation, self.take(revocation)

    def take(self, revocation: Revocation) -> Taken:
        known = self._by_name.get(revocation.name)
        if known is not None:
            if known.version >= revocation.version:
                return Taken.KNOWN if known.sealed == revocation.sealed else Taken.OUTDATED
            self._drop(known)
        elif not revocation.by_root and not self._has_room(revocation.author):
            return Taken.NO_ROOM
        self._by_name[revocation.name] = revocation
        self._shelf(revocation).append(revocation)
        if len(self._by_name) > LIMIT:
            self._make_room()
        return Taken.NEWS if revocation.name in self._by_name else Taken.NO_ROOM

    def of(self, member: Pass) -> Revocation | None:
        """Why a pass, good in itself, is worth nothing; None where it is not revoked."""
        revoked: list[Revocation] = [
            *self._by_peer.get(member.peer, ()),
            *self._of_sites.get(member.site, ()),
        ]
        for revocation in revoked:
            if revocation.applies(member) and self._counts(revocation):
                return revocation
        return self._of_issuer(member.issuer, member.issued_at) if member.issuer is not None else None

    def of_peer(self, peer: PeerId, site: str) -> Revocation | None:
        """The same of a member of `site` whose pass is not at hand, and who is no enroller."""
        for revocation in self._by_peer.get(peer, ()):
            if revocation.scope in (EVERY_SITE, site) and self._counts(revocation):
                return revocation
        return None

    def of_author(self, author: PeerId, at: float) -> Revocation | None:
        """Why what an enroller signed at that time (a token, say) is worth nothing."""
        return self._of_issuer(author, at)

    def of_site(self, site: str, at: float) -> Revocation | None:
        """Why what was promised for a site at that time is worth nothing."""
        for revocation in self._of_sites.get(site, ()):
            if at <= revocation.at and self._counts(revocation):
                return revocation
        return None

    def forget_old(self, now: float) -> list[str]:
        """Drop what is of no interest any more at `now`, for certain; returns their names."""
        old = [revocation for revocation in self if revocation.until < now]
        for revocation in old:
            self._drop(revocation)
        return [revocation.name for revocation in old]

    def _of_issuer(self, issuer: PeerId, at: float) -> Revocation | None:
        for revocation in self._by_peer.get(issuer, ()):
            if revocation.by_root and (revocation.issued or at > revocation.at):
                return revocation
        return None

    def _counts(self, revocation: Revocation) -> bool:
        return revocation.by_root or self._of_issuer(revocation.author, revocation.at) is None

    def _has_room(self, author: PeerId) -> bool:
        if len(self._by_name) >= LIMIT:
            return False
        return sum(one.author == author for one in self._by_name.values()) < AUTHOR_LIMIT

    def _make_room(self) -> None:
        """The root's words go last, and of them what would end first."""
        least = min(self._by_name.values(), key=lambda one: (one.by_root, one.until, one.sealed))
        self._drop(least)

    def _shelf(self, revocation: Revocation) -> list[Revocation]:
        if revocation.peer is not None:
            return self._by_peer.setdefault(revocation.peer, [])
        return self._of_sites.setdefault(revocation.site, [])

    def _drop(self, revocation: Revocation) -> None:
        del self._by_name[revocation.name]
        self._shelf(revocation).remove(revocation)
