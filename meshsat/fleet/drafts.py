"""Roots and heads in the making: drafted, signed by one after the other, and how far that is.

Law: pure. A signer signs only what its key may sign; nothing here decides what is believed
(`trust.trusted_state`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from meshsat.errors import InvalidInputError
from meshsat.fleet.document import DesiredState, encode_state
from meshsat.fleet.state_file import StateFile
from meshsat.oci.digest import Digest
from meshsat.trust.dsse import Signed, encode_signed, only_valid, parse_signed_untrusted, sign
from meshsat.trust.keys import PeerId, Signer
from meshsat.trust.state_documents import (
    LIFE_LIMIT,
    Document,
    Head,
    Role,
    Root,
    document_untrusted,
    unsigned,
)
from meshsat.trust.trusted_state import EVER, TrustedState


@dataclass(frozen=True, slots=True)
class Asked:
    """A role that has to sign a document, and who has."""

    name: str
    """For a person."""
    role: Role
    signers: frozenset[PeerId]

    @property
    def met(self) -> bool:
        return self.role.met_by(self.signers)


@dataclass(frozen=True, slots=True)
class Standing:
    document: Document
    asked: tuple[Asked, ...]

    @property
    def name(self) -> str:
        kind = "root" if isinstance(self.document, Root) else "revision"
        return f"{kind} {self.document.version}"

    @property
    def complete(self) -> bool:
        return all(asked.met for asked in self.asked)

    def missing(self) -> str:
        """In words, who has still to sign."""
        return "; ".join(
            f"{asked.role.threshold - len(asked.signers)} more of {asked.name}: "
            + ", ".join(sorted(asked.role.keys - asked.signers))
            for asked in self.asked
            if not asked.met
        )


def first_root(fleet: str, root: Role, state: Role, now: float, life: float) -> StateFile:
    """`life` in seconds, `now` in Unix seconds. Raises `InvalidInputError`."""
    return StateFile((_drafted(Root(fleet, 1, int(now), int(now + life), root, state)),))


def next_root(file: StateFile, root: Role, state: Role, now: float, life: float) -> StateFile:
    """After the last one in the file. Raises `InvalidInputError`."""
    last = newest_root(file)
    following = Root(last.fleet, last.version + 1, int(now), int(now + life), root, state)
    return StateFile((*file.roots, _drafted(following)))


def draft(file: StateFile, state: DesiredState, version: int, now: float, life: float) -> StateFile:
    """A state to be signed under the roots of the file. Raises `InvalidInputError`."""
    root = newest_root(file)
    body = encode_state(state)
    head = Head(root.fleet, version, root.version, int(now), int(now + life), Digest.of(body), len(body))
    return StateFile(file.roots, _drafted(head), body)


def newest_root(file: StateFile) -> Root:
    """As the file says, unverified. Raises `InvalidInputError`."""
    roots = _roots(file)
    if not roots:
        raise InvalidInputError("there is no root in it, which says who may sign")
    return roots[-1][0]


def signed(file: StateFile, key: Signer, anchor: PeerId | None) -> tuple[StateFile, list[str]]:
    """With this key's signature on all in it that the key may sign and has not, and what that is.

    `anchor`: the fleet's root key, where it is known. Raises `InvalidInputError`.
    """
    done: list[str] = []
    roots = list(file.roots)
    for standing in standings(file, anchor):
        asks = [asked for asked in standing.asked if key.peer_id in asked.role.keys]
        if not asks or all(key.peer_id in asked.signers for asked in asks):
            continue
        document = standing.document
        if isinstance(document, Root):
            if document.version < len(roots) and standing.complete:
                continue  # what holds already needs no more
            roots[document.version - 1] = _countersigned(roots[document.version - 1], key)
        else:
            file = replace(file, head=_countersigned(file.head or b"", key))
        done.append(standing.name)
    return replace(file, roots=tuple(roots)), done


def standings(file: StateFile, anchor: PeerId | None) -> list[Standing]:
    """Of each document in the file, who has signed and who has to. Raises `InvalidInputError`."""
    found: list[Standing] = []
    before: Root | None = None
    roots = _roots(file)
    for root, envelope in roots:
        if root.version != len(found) + 1:
            raise InvalidInputError(f"root {root.version} stands where root {len(found) + 1} belongs")
        asked = [(f"root {root.version}'s own root keys", root.root)]
        if before is not None:
            asked.insert(0, (f"root {before.version}'s root keys", before.root))
        elif anchor is not None:
            asked.insert(0, ("the fleet's root key", Role(frozenset({anchor}), 1)))
        found.append(Standing(root, tuple(_asked(envelope, asked))))
        before = root
    if file.head is not None:
        envelope = parse_signed_untrusted(file.head)
        head = document_untrusted(envelope)
        if not isinstance(head, Head) or not 1 <= head.root <= len(roots):
            raise InvalidInputError("the root that its head was signed under is not in it")
        role = roots[head.root - 1][0].state
        asked = [(f"root {head.root}'s state keys", role)]
        if head.root < len(roots):
            asked.append((f"root {len(roots)}'s state keys", roots[-1][0].state))
        found.append(Standing(head, tuple(_asked(envelope, asked, role))))
    return found


def check_complete(file: StateFile, fleet: str, anchor: PeerId) -> None:
    """Whether nodes of the fleet that know nothing yet would take all of it. Raises `InvalidInputError`."""
    for standing in standings(file, anchor):
        if not standing.complete:
            raise InvalidInputError(
                f"{standing.name} is not signed by enough: {standing.missing()}; sign with "
                "`meshsat state sign`"
            )
    trusted = TrustedState(fleet, anchor, 0.0)
    for raw in (*file.roots, *(() if file.head is None else (file.head,))):
        trusted.update_untrusted(raw, EVER)


def _asked(envelope: Signed, asked: Sequence[tuple[str, Role]], among: Role | None = None) -> Iterator[Asked]:
    """`among`: no others' signatures count."""
    for name, role in asked:
        keys = role.keys if among is None else role.keys & among.keys
        signers = frozenset(key for key, _ in only_valid(envelope, keys).signatures)
        yield Asked(name, role, signers)


def _roots(file: StateFile) -> list[tuple[Root, Signed]]:
    found: list[tuple[Root, Signed]] = []
    for raw in file.roots:
        envelope = parse_signed_untrusted(raw)
        root = document_untrusted(envelope)
        if not isinstance(root, Root):
            raise InvalidInputError("there is a head among its roots")
        found.append((root, envelope))
    return found


def _drafted(document: Document) -> bytes:
    """Raises `InvalidInputError` where it would be refused."""
    if document.expires - document.issued > LIFE_LIMIT:
        raise InvalidInputError(f"nothing is good for longer than {LIFE_LIMIT / 86400:.0f} days")
    envelope = unsigned(document)
    document_untrusted(envelope)
    return encode_signed(envelope)


def _countersigned(raw: bytes, key: Signer) -> bytes:
    return encode_signed(sign(parse_signed_untrusted(raw), key))
