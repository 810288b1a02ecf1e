"""The desired state as this node holds it: judged, kept, its body fetched, put in force, passed on.

Documents come by gossip (`judge`) or any other way (`offer`); all go through `trust.trusted_state`. What is
accepted travels on by gossip; the body is a blob like others, which a node that has it gives to its peers.

Laws: what is in force was accepted, its body is here and is readable; it is written down before anybody acts
on it, unless the disk does not take it, which is told and tried again. It stays in force until the next one
is, whatever expires meanwhile. What a peer passed on costs it the session only where it could have known.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import structlog
import trio

from meshsat.errors import InvalidInputError, MeshsatError, NotFoundError, StorageError
from meshsat.fleet.document import DesiredState, parse_state_untrusted
from meshsat.fleet.keeping import Keeping, Kept
from meshsat.fleet.refusals import Refusals
from meshsat.fleet.state_file import StateFile
from meshsat.oci.digest import Digest
from meshsat.protocol.events import Event, ItemDropped, ItemJudged, Judgement
from meshsat.protocol.spread import Kind
from meshsat.status import StateStatus
from meshsat.store.disk import Threads
from meshsat.trust.dsse import parse_signed_untrusted
from meshsat.trust.keys import PeerId, Verify, verify
from meshsat.trust.passes import DAY
from meshsat.trust.state_documents import (
    Document,
    Head,
    Refused,
    Root,
    StateError,
    check_body_untrusted,
    document_untrusted,
    moment_text,
)
from meshsat.trust.trusted_state import Entry, Taken, TrustedState

log = structlog.get_logger(__name__)

RETRY = 1.0
"""Seconds after which a body that could not be had is looked for again; doubled each time, and jittered."""
RETRY_LIMIT = 60.0
SAVE_AGAIN = 30.0
"""Seconds after which a disk that did not take something is tried again."""
WAITING_OF_ONE = 64
"""Documents of one peer that are held back until what they build on is here."""
WAITING = 256
ROOT_WARNING = 30 * DAY
"""Seconds before its end when a root is complained of."""
HEAD_NAME = "state"

_WRONG = {Refused.MALFORMED, Refused.TOO_LARGE, Refused.FOREIGN, Refused.FORGED, Refused.THRESHOLD}
"""No honest node passes these on: it judges before it does."""
_OUTDATED = {Refused.ROLLBACK, Refused.REVOKED, Refused.CONFLICT}


@dataclass(frozen=True, slots=True)
class Accepted:
    """A desired state that is in force."""

    version: int
    """The revision."""
    issued: int
    """Unix seconds, as `expires`."""
    expires: int
    digest: Digest
    """Of its body."""
    state: DesiredState


class Bodies(Protocol):
    """Where the bodies of states are had from, and given from."""

    async def fetch(self, digest: Digest, size: int) -> bytes:
        """From wherever it is. Raises a `MeshsatError`."""

    async def keep(self, digest: Digest, body: bytes) -> None:
        """So that peers get it here, in place of the one kept before. Raises a `MeshsatError`."""


@dataclass(frozen=True, slots=True)
class Settings:
    fleet: str
    """The fleet's id."""
    anchor: PeerId
    """The key in the fleet's root certificate."""
    grace: float
    """Seconds for which what has expired is still taken."""


class States:
    """`directory`: DATA/fleet. `feed`: the driver's. `unix` gives Unix time, as well as this node knows it.

    `on_accepted` is called with what is put in force, and at the start with what is.
    """

    def __init__(
        self,
        directory: Path,
        settings: Settings,
        bodies: Bodies,
        feed: Callable[[Event], None],
        unix: Callable[[], float],
        rng: random.Random,
        *,
        threads: Threads | None = None,
        check: Verify = verify,
    ) -> None:
        """Raises `StorageError` where the directory can't be read."""
        self.on_accepted: Callable[[Accepted], None] = lambda _accepted: None
        self.in_force: Accepted | None = None
        self.refusals = Refusals(unix)
        self._keeping = Keeping(directory)
        self._bodies = bodies
        self._feed = feed
        self._unix = unix
        self._rng = rng
        self._threads = threads or Threads(1)
        self._trusted = TrustedState(settings.fleet, settings.anchor, settings.grace, check)
        self._head: Head | None = None
        """The head of what is in force."""
        self._sources: dict[Head, str] = {}
        """How those came that were accepted in this run."""
        self._given: tuple[Digest, bytes] | None = None
        """A body that came along with its head."""
        self._waiting: dict[PeerId, list[bytes]] = {}
        self._changed = trio.Event()
        self._moved = trio.Event()
        """Something was put in force, or found not to be readable."""
        self._pending_problem: str | None = None
        self._disk_problem: str | None = None
        self._conflict: str | None = None
        self._unreadable: Head | None = None
        self._unsaved: tuple[Digest, bytes] | None = None
        """A body that is not on the disk yet."""
        self._unshared: tuple[Digest, bytes] | None = None
        """One that peers do not get from here yet."""
        self._share_problem: str | None = None
        self._written: tuple[list[bytes], int | None] | None = None
        """What is, in both copies."""
        self._load(lambda: TrustedState(settings.fleet, settings.anchor, settings.grace, check))

    def _load(self, make: Callable[[], TrustedState]) -> None:
        copies: list[tuple[list[StateError], TrustedState, Kept]] = []
        for kept in self._keeping.load():
            trusted = make()
            copies.append((trusted.restore_untrusted(kept.envelopes), trusted, kept))
        if not copies:
            return
        copies.sort(key=lambda one: len(one[0]))  # the younger stands first among equals
        damaged, self._trusted, kept = copies[0]
        if damaged:
            log.warning("the trusted state is damaged on the disk", faults=[str(one) for one in damaged])
        for _, _, other in copies[1:]:
            self._trusted.restore_untrusted(other.envelopes)  # whatever only it still has
        envelopes = [entry.sealed for entry in self._trusted.log]
        if [(list(one.envelopes), one.in_force) for _, _, one in copies] == [(envelopes, kept.in_force)] * 2:
            self._written = envelopes, kept.in_force
        head = _head_untrusted(kept.envelopes, kept.in_force)
        body = self._keeping.body(head.digest) if head in self._trusted.heads and head is not None else None
        if head is None or body is None:
            return
        try:
            self.in_force = _accepted(head, parse_state_untrusted(body))
        except InvalidInputError as older:
            log.warning("the desired state that was in force can't be read any more", problem=str(older))
        else:
            self._head = self._trusted.spared = head

    # --- in ---

    def judge(self, data: bytes, source: PeerId) -> ItemJudged:
        """What a record is worth that a peer passed on (`mesh.driver.Judge`)."""
        try:
            taken, entry = self._trusted.update_untrusted(data, self._unix())
        except StateError as fault:
            return self._refused(data, source, fault)
        self._took(taken, entry, f"gossip from {source}")
        judgement = Judgement.KNOWN if taken is Taken.KNOWN else Judgement.NEWS
        if isinstance(entry.document, Head) and entry.document != self._trusted.head:
            judgement = Judgement.OUTDATED
        return ItemJudged(Kind.STATE, _name(entry.document), entry.sealed, source, judgement)

    def _refused(self, data: bytes, source: PeerId, fault: StateError) -> ItemJudged:
        judgement = Judgement.LATER
        if fault.reason in _WRONG:
            judgement = Judgement.WRONG
        elif fault.reason in _OUTDATED:
            judgement = Judgement.OUTDATED
        if fault.reason is Refused.GAP:
            self._hold_back(data, source)
        elif fault.reason not in {Refused.ROLLBACK, Refused.REVOKED}:  # so an honest one does that was away
            self.refusals.refuse(data, f"gossip from {source}", fault)
        if fault.reason is Refused.CONFLICT:
            self._conflict = str(fault)
        return ItemJudged(Kind.STATE, HEAD_NAME, data, source, judgement, str(fault))

    def _hold_back(self, data: bytes, source: PeerId) -> None:
        held = self._waiting.setdefault(source, [])
        if data not in held and len(held) < WAITING_OF_ONE:
            held.append(data)
        while sum(map(len, self._waiting.values())) > WAITING:
            del self._waiting[next(iter(self._waiting))]

    async def offer(self, file: StateFile, source: str) -> int | None:
        """Take in what came in another way than gossip, all of it or, from the first document on that is
        refused, no more. Returns the revision that is accepted now.

        Raises `InvalidInputError` (`StateError` where a rule forbids it).
        """
        await trio.lowlevel.checkpoint()
        if file.body is not None:
            head = None if file.head is None else _head_untrusted((file.head,), 0)
            if head is None:
                raise InvalidInputError("state file: a body without a head that says whose it is")
            check_body_untrusted(head, file.body)
            parse_state_untrusted(file.body)
        for raw in (*file.roots, *(() if file.head is None else (file.head,))):
            try:
                taken, entry = self._update_untrusted(raw)
            except StateError as fault:
                self.refusals.refuse(raw, source, fault)
                raise
            if file.body is not None and entry.document == self._trusted.head != self._head:
                self._given = entry.document.digest, file.body
                self._changed.set()
            self._took(taken, entry, source)
            if taken is not Taken.KNOWN:
                self._feed(_news(entry))
        return self._trusted.head.version if self._trusted.head is not None else None

    def _update_untrusted(self, raw: bytes) -> tuple[Taken, Entry]:
        """Here an older head is refused, even one that is known. Raises `StateError`."""
        taken, entry = self._trusted.update_untrusted(raw, self._unix())
        document, newest = entry.document, self._trusted.head
        if isinstance(document, Head) and newest is not None and document != newest:
            raise StateError(
                Refused.ROLLBACK,
                f"revision {document.version} is older than revision {newest.version}, which holds",
            )
        return taken, entry

    def _took(self, taken: Taken, entry: Entry, source: str) -> None:
        if taken is Taken.KNOWN:
            return
        document = entry.document
        self._changed.set()
        if taken is Taken.FULLER:
            return
        if isinstance(document, Head):
            self._sources = {document: source, **dict(list(self._sources.items())[:1])}
            self._conflict = None
            log.info("a desired state is announced", revision=document.version, source=source)
            return
        log.info("who may sign desired states", root=document.version, source=source)
        head = self._trusted.head
        if head is not None and not self._trusted.trusts(head):
            self._feed(ItemDropped(Kind.STATE, HEAD_NAME))
        waiting, self._waiting = self._waiting, {}
        for peer, held in waiting.items():
            for raw in held:
                self._feed(self.judge(raw, peer))  # what is accepted in here looks at the rest again

    # --- putting in force ---

    async def run(self) -> None:
        """Run until cancelled."""
        for entry in self._trusted.log:
            document = entry.document
            if isinstance(document, Root) or (
                document == self._trusted.head and self._trusted.trusts(document)
            ):
                self._feed(_news(entry))
        if self._head is not None and self.in_force is not None:
            self.on_accepted(self.in_force)
            body = await self._threads.run(self._keeping.body, self._head.digest)
            if body is not None:
                self._unshared = self._head.digest, body
        while True:
            self._changed = trio.Event()
            await self._write_down()
            await self._share()
            async with trio.open_nursery() as nursery:
                head = self._trusted.head
                if head not in (None, self._head, self._unreadable):
                    nursery.start_soon(self._bring, head)
                again = self._disk_problem is not None or self._unshared is not None
                with trio.move_on_after(SAVE_AGAIN if again else float("inf")):
                    await self._changed.wait()
                nursery.cancel_scope.cancel()

    async def _bring(self, head: Head) -> None:
        """Have the body here, and put it in force."""
        wait = RETRY
        while True:
            try:
                body = await self._body_of(head)
                break
            except MeshsatError as fault:
                self._pending_problem = str(fault)
                log.info("the desired state's body is not to be had", revision=head.version, why=str(fault))
            await trio.sleep(wait * self._rng.uniform(0.75, 1.25))
            wait = min(2 * wait, RETRY_LIMIT)
        try:
            state = parse_state_untrusted(body)
        except InvalidInputError as fault:
            self._unreadable = head
            self._pending_problem = f"{fault}; if that is a word of a later version, update meshsat"
            log.warning("a signed desired state can't be read", revision=head.version, problem=str(fault))
            self._tell_moved()
            return
        with trio.CancelScope(shield=True):  # short, and whatever comes next builds on it
            await self._put_in_force(head, state, body)

    async def _body_of(self, head: Head) -> bytes:
        if self._given is not None and self._given[0] == head.digest:
            return self._given[1]
        body = await self._threads.run(self._keeping.body, head.digest)
        if body is None:
            body = await self._bodies.fetch(head.digest, head.size)
            check_body_untrusted(head, body)
        return body

    async def _put_in_force(self, head: Head, state: DesiredState, body: bytes) -> None:
        self._head = self._trusted.spared = head
        self._unsaved = self._unshared = head.digest, body
        await self._write_down()
        await self._share()
        self._given, self._pending_problem = None, None
        self.in_force = _accepted(head, state)
        log.info("a desired state is in force", revision=head.version, digest=str(head.digest))
        self.on_accepted(self.in_force)
        self._tell_moved()
        if self._disk_problem is not None or self._unshared is not None:
            self._changed.set()  # what is left undone is tried again

    def _tell_moved(self) -> None:
        self._moved.set()
        self._moved = trio.Event()

    async def _share(self) -> None:
        if self._unshared is None:
            return
        try:
            await self._bodies.keep(*self._unshared)
        except MeshsatError as fault:
            if self._share_problem != str(fault):
                log.warning("peers do not get the desired state from here", problem=str(fault))
            self._share_problem = str(fault)
        else:
            self._unshared = self._share_problem = None

    async def _write_down(self) -> None:
        """What is on the disk already is not written again."""
        entries = self._trusted.log
        documents = [entry.document for entry in entries]
        wanted = (
            [entry.sealed for entry in entries],
            (documents.index(self._head) if self._head is not None and self._head in documents else None),
        )
        try:
            if self._unsaved is not None:
                await self._threads.run(self._keeping.put_body, *self._unsaved)
                self._unsaved = None
            if wanted != self._written and entries:
                await self._threads.run(self._keeping.save, *wanted)
                self._written = wanted
                heads = [one.digest for one in documents if isinstance(one, Head)]
                await self._threads.run(self._keeping.keep_only, heads)
        except StorageError as full:
            if self._disk_problem is None:
                log.warning("what is known of the desired state can't be written down", problem=str(full))
            self._disk_problem = str(full)
        else:
            self._disk_problem = None

    # --- out ---

    async def settled(self, patience: float) -> None:
        """Returns when what was accepted last is in force or can't be, after `patience` seconds at most."""
        await trio.lowlevel.checkpoint()
        with trio.move_on_after(patience):
            while self._is_due():
                await self._moved.wait()

    def _is_due(self) -> bool:
        head, held = self._trusted.head, self.in_force
        if head is None or head == self._unreadable:
            return False
        return held is None or (held.version, held.digest) != (head.version, head.digest)

    async def file(self, revision: int | None = None) -> StateFile:
        """All that it takes to believe what is in force, or an earlier revision. Raises `NotFoundError`."""
        roots = tuple(self._trusted.sealed(root) for root in self._trusted.roots)
        if revision is None and self._head is None:
            await trio.lowlevel.checkpoint()
            return StateFile(roots)
        head = self._head
        if revision is not None:
            head = next((one for one in reversed(self._trusted.heads) if one.version == revision), None)
        body = None if head is None else await self._threads.run(self._keeping.body, head.digest)
        if head is None or body is None:
            kept = ", ".join(str(one.version) for one in self._trusted.heads) or "none"
            raise NotFoundError(f"revision {revision} is not kept here; accepted lately: {kept}")
        return StateFile(roots, self._trusted.sealed(head), body)

    @property
    def next_version(self) -> int:
        """Of a head that would be accepted."""
        return self._trusted.floor + 1

    def status(self) -> StateStatus:
        head, root, newest = self._head, self._trusted.root, self._trusted.head
        pending = newest if newest != head else None
        return StateStatus(
            revision=head.version if head else None,
            digest=str(head.digest) if head else None,
            issued=head.issued if head else None,
            expires=head.expires if head else None,
            expired=head is not None and self._unix() > head.expires,
            source=self._sources.get(head) if head else None,
            revoked=head is not None and not self._trusted.trusts(head),
            root=root.version if root else None,
            root_expires=root.expires if root else None,
            keys=tuple(sorted(root.state.keys)) if root else (),
            threshold=root.state.threshold if root else None,
            pending=pending.version if pending else None,
            pending_problem=self._pending_problem if pending else None,
            revisions=tuple(one.version for one in self._trusted.heads),
            refused=self.refusals.count,
            refusals=self.refusals.last,
        )

    def problems(self) -> list[str]:
        """What an operator should do something about."""
        now, status = self._unix(), self.status()
        told: list[str] = []
        if status.expired:
            told.append(
                f"the desired state (revision {status.revision}) has expired on "
                f"{moment_text(int(status.expires or 0))} and stays in force: publish a new one, "
                "or find out who keeps it from this site"
            )
        if status.root_expires is not None and now > status.root_expires - ROOT_WARNING:
            told.append(
                f"root {status.root} expires on {moment_text(int(status.root_expires))}; after that no new "
                "desired state is taken: publish the next root (`meshsat state root change`)"
            )
        if status.revoked and status.pending is None:
            told.append(f"keys that signed revision {status.revision} do not count any more: publish it anew")
        if status.pending_problem:
            told.append(f"revision {status.pending} is announced and not in force: {status.pending_problem}")
        told += [problem for problem in (self._conflict, self._disk_problem) if problem]
        return told


def _name(document: Document) -> str:
    return f"root/{document.version}" if isinstance(document, Root) else HEAD_NAME


def _news(entry: Entry) -> ItemJudged:
    """As a record of this node's own."""
    return ItemJudged(Kind.STATE, _name(entry.document), entry.sealed, None, Judgement.NEWS)


def _head_untrusted(envelopes: tuple[bytes, ...], index: int | None) -> Head | None:
    """Which head one of them says to be; None where it is none."""
    if index is None or index >= len(envelopes):
        return None
    try:
        document = document_untrusted(parse_signed_untrusted(envelopes[index]))
    except InvalidInputError:
        return None
    return document if isinstance(document, Head) else None


def _accepted(head: Head, state: DesiredState) -> Accepted:
    return Accepted(head.version, head.issued, head.expires, head.digest, state)
