"""Who belongs to the site, by the members' own words: the records by which members learn of each other.

A member record is sealed by the member itself: where it can be reached, and whether its uplink works. It
is sealed anew only when that changes, with a higher incarnation, so an idle site has nothing to tell,
however large it is. Whoever can reach a member no more says that it is gone (SWIM: Das, Gupta and
Motivala, 2002); a member that hears that of itself answers with a higher incarnation, which outdoes it.
What is gone is remembered for a while, so that an old record does not bring it back.

A record proves who wrote it, not that the writer has a pass: that is seen when a session is opened. Until
then it is a name and an address, and of those there is a limit.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import cbor2

from meshsat.cbor import decode_cbor_untrusted
from meshsat.errors import InvalidInputError
from meshsat.protocol.sums import Sums, leaf_key, leaf_version
from meshsat.trust import envelope
from meshsat.trust.keys import PeerId, Signer, Verify, parse_peer_id_untrusted, verify

CONTEXT = "meshsat/member-record/1"
RECORD_LIMIT = 4096
"""Bytes of one sealed record."""
MEMBERS_LIMIT = 1024
GONE_KEPT = 900.0
"""Seconds for which it is remembered that a member is gone."""
_ADDRESSES_LIMIT = 16
_ADDRESS_LIMIT = 255
_INCARNATION_LIMIT = 1 << 62


@dataclass(frozen=True, slots=True)
class MemberRecord:
    peer: PeerId
    incarnation: int
    """Milliseconds of Unix time at which it was sealed, or one more than what was known before."""
    control: tuple[str, ...]
    bulk: tuple[str, ...]
    uplink: bool
    """Its uplink works."""
    sealed: bytes

    @property
    def version(self) -> tuple[int, bytes]:
        return (self.incarnation, self.sealed)


def seal_member(
    key: Signer, incarnation: int, control: tuple[str, ...], bulk: tuple[str, ...], *, uplink: bool
) -> MemberRecord:
    payload = cbor2.dumps([incarnation, list(control), list(bulk), uplink])
    sealed = envelope.seal(key, CONTEXT, payload)
    return MemberRecord(key.peer_id, incarnation, control, bulk, uplink, sealed)


def open_member_untrusted(sealed: bytes, check: Verify = verify) -> MemberRecord:
    """The record in a sealed envelope, its signature checked by `check`. Raises `InvalidInputError`."""
    if len(sealed) > RECORD_LIMIT:
        raise InvalidInputError("a member record is too large")
    opened = envelope.open_untrusted(sealed, CONTEXT, check)
    if cbor2.dumps([opened.author, opened.payload, opened.signature]) != sealed:
        raise InvalidInputError("a member record is not as its author sealed it")
    items = decode_cbor_untrusted(opened.payload)
    if type(items) is not list or [type(item) for item in items] != [int, list, list, bool]:
        raise InvalidInputError("a member record does not have its four fields")
    incarnation, control, bulk, uplink = items
    if not 0 <= incarnation < _INCARNATION_LIMIT:
        raise InvalidInputError("a member's incarnation is out of range")
    return MemberRecord(
        opened.author, incarnation, _addresses(control), _addresses(bulk), uplink, bytes(sealed)
    )


def _addresses(value: list[Any]) -> tuple[str, ...]:
    if len(value) > _ADDRESSES_LIMIT or any(
        type(one) is not str or len(one) > _ADDRESS_LIMIT for one in value
    ):
        raise InvalidInputError("a member's addresses are a few short texts")
    return tuple(value)


@dataclass(frozen=True, slots=True)
class Gone:
    """Somebody's word that this incarnation of a member can't be reached any more."""

    peer: PeerId
    incarnation: int

    def encode(self) -> bytes:
        return cbor2.dumps([self.peer, self.incarnation])


def decode_gone_untrusted(data: bytes) -> Gone:
    """Raises `InvalidInputError`."""
    items = decode_cbor_untrusted(data)
    if type(items) is not list or [type(item) for item in items] != [str, int]:
        raise InvalidInputError("who is gone is told by peer id and incarnation")
    if not 0 <= items[1] < _INCARNATION_LIMIT:
        raise InvalidInputError("a member's incarnation is out of range")
    return Gone(parse_peer_id_untrusted(items[0]), items[1])


class Roster:
    """The youngest record of each member that is not gone, our own included."""

    def __init__(self, limit: int = MEMBERS_LIMIT) -> None:
        self._limit = limit
        self.sums = Sums()
        self._members: dict[PeerId, MemberRecord] = {}
        self._keys: dict[bytes, PeerId] = {}
        self._gone: dict[PeerId, tuple[int, float]] = {}

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[MemberRecord]:
        return iter(self._members.values())

    def get(self, peer: PeerId) -> MemberRecord | None:
        return self._members.get(peer)

    def gone(self, peer: PeerId) -> Gone | None:
        buried = self._gone.get(peer)
        return None if buried is None else Gone(peer, buried[0])

    def merge(self, record: MemberRecord) -> bool:
        """Take the record in if it is news."""
        known = self._members.get(record.peer)
        if known is not None and known.version >= record.version:
            return False
        if record.incarnation <= self._gone.get(record.peer, (-1, 0.0))[0]:
            return False
        if known is None and len(self._members) >= self._limit:
            return False
        self._gone.pop(record.peer, None)
        key = leaf_key(record.peer)
        self._members[record.peer] = record
        self._keys[key] = record.peer
        self.sums.put(key, leaf_version(record.sealed))
        return True

    def bury(self, gone: Gone, now: float) -> bool:
        """Take out a member that is gone; True if that was news."""
        known = self._members.get(gone.peer)
        if known is None or known.incarnation > gone.incarnation:
            return False  # nobody knows it, or it is back
        self.forget(gone.peer)
        self._gone[gone.peer] = (known.incarnation, now + GONE_KEPT)  # nobody's word makes it higher
        return True

    def forget(self, peer: PeerId) -> None:
        if self._members.pop(peer, None) is not None:
            key = leaf_key(peer)
            del self._keys[key]
            self.sums.drop(key)

    def item(self, key: bytes) -> bytes | None:
        peer = self._keys.get(key)
        return None if peer is None else self._members[peer].sealed

    def buried(self, key: bytes) -> Gone | None:
        """Who is gone of that key."""
        return next((Gone(peer, gone[0]) for peer, gone in self._gone.items() if leaf_key(peer) == key), None)

    def tick(self, now: float) -> None:
        self._gone = {peer: gone for peer, gone in self._gone.items() if gone[1] > now}
