"""What a node believes of its fleet's desired state: roots, one after the other, and the newest head.

On the lines of TUF's client (theupdateframework specification 1.0, section 5; python-tuf's trusted set), with
two documents in place of four; what differs, and why, is in docs/decisions/0030-desired-state-and-tuf.md.

Laws: pure. Nothing that is refused changes anything. Roots come without gaps; the first is signed by the
fleet's key, whose certificate every member has; each next one by the root before it and by itself. A head
is signed by the keys of the root that it names and of the newest root, and its version goes up. What the
newest root does not trust any more holds nobody back: that is how a fleet comes back from keys that were
stolen and signed the highest of all versions.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from meshsat.errors import InvalidInputError
from meshsat.trust.dsse import ENVELOPE_LIMIT, Signed, encode_signed, only_valid, parse_signed_untrusted
from meshsat.trust.keys import PeerId, Verify, verify
from meshsat.trust.state_documents import (
    Document,
    Head,
    Refused,
    Role,
    Root,
    StateError,
    document_untrusted,
    moment_text,
)

HEADS_KEPT = 10
"""Heads remembered, the one in force among them: what one can go back to."""
EVER = float("-inf")
"""As `now`: no expiry is looked at."""


class Taken(Enum):
    NEWS = "news"
    KNOWN = "known"
    FULLER = "fuller"
    """Known, and now with more signatures."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A document that was accepted, and as what it is passed on."""

    document: Document
    sealed: bytes
    payload: bytes
    signers: frozenset[PeerId]


class TrustedState:
    """`fleet`: the fleet's id. `anchor`: the key in the fleet's root certificate. `grace` in seconds: for how
    long what has expired is still taken."""

    def __init__(self, fleet: str, anchor: PeerId, grace: float, check: Verify = verify) -> None:
        self._fleet = fleet
        self._anchor = anchor
        self._grace = grace
        self._check = check
        self._log: list[Entry] = []
        self.spared: Head | None = None
        """A head that is not forgotten, however many come after it: the one in force."""

    # --- what is believed ---

    @property
    def log(self) -> list[Entry]:
        """All that was accepted and still matters, in that order: `restore_untrusted` makes it again."""
        return list(self._log)

    @property
    def roots(self) -> list[Root]:
        return [entry.document for entry in self._log if isinstance(entry.document, Root)]

    @property
    def root(self) -> Root | None:
        """The newest."""
        return next(iter(self.roots[-1:]), None)

    @property
    def heads(self) -> list[Head]:
        """In the order in which they were accepted."""
        return [entry.document for entry in self._log if isinstance(entry.document, Head)]

    @property
    def head(self) -> Head | None:
        """The last accepted."""
        return next(iter(self.heads[-1:]), None)

    def trusts(self, head: Head) -> bool:
        """Whether the newest root still stands behind a head that was accepted."""
        return any(entry.document == head for entry in self._trusted_heads())

    @property
    def floor(self) -> int:
        """The version below which no head is taken."""
        return max((entry.document.version for entry in self._trusted_heads()), default=0)

    def sealed(self, document: Document) -> bytes:
        """The envelope of one that was accepted."""
        return next(entry.sealed for entry in self._log if entry.document == document)

    def _trusted_heads(self) -> list[Entry]:
        root = self.root
        if root is None:
            return []
        return [
            entry
            for entry in self._log
            if isinstance(entry.document, Head) and root.state.met_by(entry.signers)
        ]

    # --- what is taken in ---

    def update_untrusted(self, raw: bytes, now: float) -> tuple[Taken, Entry]:
        """Take in an envelope, whatever it holds. `now` in Unix seconds. Raises `StateError`."""
        signed, document = _opened(raw)
        if document.fleet != self._fleet:
            raise StateError(
                Refused.FOREIGN, f"it is of the fleet {document.fleet!r}; this is {self._fleet!r}"
            )
        if isinstance(document, Root):
            return self._update_root(document, signed)
        return self._update_head(document, signed, now)

    def update_root_untrusted(self, raw: bytes) -> tuple[Taken, Entry]:
        """As `update_untrusted`, where only a root will do."""
        if not isinstance(_opened(raw)[1], Root):
            raise StateError(Refused.MALFORMED, "this is a head in the place of a root")
        return self.update_untrusted(raw, EVER)

    def update_head_untrusted(self, raw: bytes, now: float) -> tuple[Taken, Entry]:
        """As `update_untrusted`, where only a head will do."""
        if not isinstance(_opened(raw)[1], Head):
            raise StateError(Refused.MALFORMED, "this is a root in the place of a head")
        return self.update_untrusted(raw, now)

    def restore_untrusted(self, envelopes: Iterable[bytes]) -> list[StateError]:
        """Take in what an earlier run accepted, in that order. Returns what of it was damaged."""
        damaged: list[StateError] = []
        for raw in envelopes:
            try:
                self.update_untrusted(raw, EVER)
            except StateError as fault:
                damaged.append(fault)
        return damaged

    def _update_root(self, root: Root, signed: Signed) -> tuple[Taken, Entry]:
        roots = self.roots
        if root.version > len(roots) + 1:
            raise StateError(Refused.GAP, f"root {root.version} came, and root {len(roots) + 1} is not known")
        # Expiry is not looked at here: on the way to the newest root expired ones are passed (TUF 5.3).
        asked = [root.root]
        if root.version == 1:
            asked.append(Role(frozenset({self._anchor}), 1))
        else:
            asked.append(roots[root.version - 2].root)
        entry = self._verified(root, signed, asked, f"root {root.version}")
        if root.version <= len(roots):
            return self._known(entry)
        self._log.append(entry)
        return Taken.NEWS, entry

    def _update_head(self, head: Head, signed: Signed, now: float) -> tuple[Taken, Entry]:
        roots = self.roots
        what = f"revision {head.version}"
        if head.root > len(roots):
            raise StateError(Refused.GAP, f"{what} goes by root {head.root}, which is not known yet")
        entry = self._verified(head, signed, [roots[head.root - 1].state], what)
        if not roots[-1].state.met_by(entry.signers):
            raise StateError(
                Refused.REVOKED,
                f"{what} is signed by keys of root {head.root}; too few of them count in root {len(roots)}",
            )
        if head.version <= self.floor:
            return self._known(entry)
        for named, expires in ((what, head.expires), (f"root {len(roots)}", roots[-1].expires)):
            if now > expires + self._grace:
                raise StateError(
                    Refused.EXPIRED,
                    f"{named} has expired on {moment_text(expires)}, and is not taken any more",
                )
        self._log.append(entry)
        heads = [one for one in self._log if isinstance(one.document, Head)]
        if len(heads) > HEADS_KEPT:
            self._log.remove(next(one for one in heads if one.document != self.spared))
        return Taken.NEWS, entry

    def _verified(self, document: Document, signed: Signed, roles: list[Role], what: str) -> Entry:
        """Raises `StateError` unless each of `roles` has signed."""
        valid = only_valid(signed, frozenset().union(*(role.keys for role in roles)), self._check)
        signers = frozenset(key for key, _ in valid.signatures)
        for role in roles:
            count = len(role.keys & signers)
            if not count:
                raise StateError(Refused.FORGED, f"{what} is signed by no key that may sign it")
            if count < role.threshold:
                raise StateError(
                    Refused.THRESHOLD, f"{what} is signed by {count} keys; it takes {role.threshold}"
                )
        return Entry(document, encode_signed(valid), signed.payload, signers)

    def _known(self, entry: Entry) -> tuple[Taken, Entry]:
        """One of a version that is known, or below. Raises `StateError` where it is not what is known."""
        kind = type(entry.document)
        for index, known in enumerate(self._log):
            if known.payload == entry.payload and type(known.document) is kind:
                if (len(entry.signers), known.sealed) > (len(known.signers), entry.sealed):
                    self._log[index] = entry  # of two equally full ones, all nodes keep the same
                    return Taken.FULLER, entry
                return Taken.KNOWN, known
        version = entry.document.version
        what = "root" if kind is Root else "revision"
        rivals = self._trusted_heads() if kind is Head else self._log
        if any(one.document.version == version and type(one.document) is kind for one in rivals):
            raise StateError(
                Refused.CONFLICT,
                f"two different documents are signed as {what} {version}; the first stays: "
                "whoever signs must publish the next version",
            )
        raise StateError(Refused.ROLLBACK, f"{what} {version} is older than {what} {self.floor}, which holds")


def _opened(raw: bytes) -> tuple[Signed, Document]:
    if len(raw) > ENVELOPE_LIMIT:
        raise StateError(Refused.TOO_LARGE, f"an envelope has at most {ENVELOPE_LIMIT} bytes")
    try:
        signed = parse_signed_untrusted(raw)
    except InvalidInputError as fault:
        raise StateError(Refused.MALFORMED, str(fault)) from None
    return signed, document_untrusted(signed)
