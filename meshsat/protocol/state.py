"""What the parts of the machine share: sessions, blobs held, blobs on their way, blobs that peers want."""

from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf

from meshsat.oci.digest import Digest
from meshsat.protocol import effects, graph, wire
from meshsat.protocol.events import Priority
from meshsat.protocol.gossip import ImageRecord
from meshsat.protocol.rng import Rng
from meshsat.protocol.session import Session
from meshsat.protocol.transfer import Transfer
from meshsat.protocol.wire import Source
from meshsat.trust.keys import PeerId, Verify

BAN = (60.0, 3600.0)
"""Seconds for which a peer that broke the rules is not spoken to; doubles with each time."""


STARVING = 2.0
"""Seconds without a chunk after which far peers are asked for some."""
FEW_WANTERS = 8
"""Peers that want a blob up to which even the far ones hear of each chunk at once."""


@dataclass(slots=True)
class Wanted:
    """A blob that peers want of the site."""

    sources: tuple[Source, ...] = ()
    since: float = 0.0
    """When the first of them wanted it."""
    wanters: dict[PeerId, int] = field(default_factory=dict)
    """Peer -> its priority."""
    first: dict[PeerId, int] = field(default_factory=dict)
    """Peer -> the chunk that it needs first, where that is not the blob's first."""
    repeated: bool = False
    """A wanter asked again: whoever says it holds the blob does not give it."""
    retry_at: float = 0.0
    """Not before this time do we ask upstream for it again."""


@dataclass(frozen=True, slots=True)
class View:
    """Who is whose neighbour at a site too large for a full mesh (`graph`)."""

    large: bool = False
    neighbours: frozenset[PeerId] = frozenset()
    """Ours, on the rings."""
    hubs: frozenset[PeerId] = frozenset()
    """Those who have a session with everybody; we may be one."""
    members: tuple[PeerId, ...] = ()
    """All of the site, in order."""

    def around(self, peer: PeerId) -> tuple[PeerId, ...]:
        """Another member's neighbours, in the order that each node sees."""
        return graph.around(peer, self.members)


@dataclass(slots=True)
class State:
    me: PeerId
    sign: Callable[[bytes], bytes]
    verify: Verify
    emit: Callable[[effects.Effect], None]
    rng: Rng
    now: float | None = None
    """The machine's time; None before the first event."""
    settled_at: float = 0.0
    sessions: dict[PeerId, Session] = field(default_factory=dict)
    held: dict[Digest, int] = field(default_factory=dict)
    """Whole blobs of this node, with sizes."""
    transfers: dict[Digest, Transfer] = field(default_factory=dict)
    wanted: dict[tuple[Digest, int], Wanted] = field(default_factory=dict)
    """By digest and size: a liar's size is another blob."""
    view: View = field(default_factory=View)
    bans: dict[PeerId, float] = field(default_factory=dict)
    """Until when a peer is not spoken to."""
    revoked: dict[PeerId, float] = field(default_factory=dict)
    """Who is no member any more, and since when (Unix time) its records do not count."""
    _offences: dict[PeerId, int] = field(default_factory=dict)

    def believes(self, record: ImageRecord) -> bool:
        """Whether its author was a member when it wrote the record."""
        return record.resolved_at <= self.revoked.get(record.author, inf)

    def send(self, peer: PeerId, frame: wire.Frame) -> None:
        self.emit(effects.Send(peer, frame))

    def far(self, peer: PeerId) -> bool:
        """Whether our session with this peer is there only because one of us is a hub of a large site: blobs
        come and go by nearer ones, where there are any."""
        view = self.view
        return view.large and peer not in view.neighbours and (peer in view.hubs or self.me in view.hubs)

    def has_mates(self, blob: Digest, least: int) -> bool:
        """Whether so many near peers want the blob or hold it."""
        for peer, session in self.sessions.items():
            if (blob in session.wants or blob in session.holds) and not self.far(peer):
                least -= 1
                if not least:
                    return True
        return False

    def starving(self, now: float) -> bool:
        """Whether nothing has come for a while."""
        return all(now - session.last_payload > STARVING for session in self.sessions.values())

    def hearers(self, blob: Digest, size: int) -> list[PeerId]:
        """Peers that want to hear of every chunk of this blob at once: the far ones only while they are
        few."""
        wanters = self.wanters(blob, size)
        if not self.view.large or len(wanters) <= FEW_WANTERS:
            return wanters
        return [peer for peer in wanters if not self.far(peer)]

    def gossip_with(self) -> list[PeerId]:
        """The few peers to whom news is pushed."""
        greeted = [peer for peer, session in self.sessions.items() if session.greeted]
        return graph.ring_neighbours(self.me, greeted, graph.GOSSIP_RINGS)

    def expel(self, session: Session, reason: str) -> None:
        """End the session of a peer that broke the rules, and don't speak to it for a while."""
        if session.expelled:
            return
        session.expelled = True
        offences = self._offences.get(session.peer, 0)
        self._offences[session.peer] = offences + 1
        self.bans[session.peer] = (self.now or 0.0) + min(BAN[0] * 2.0 ** min(offences, 16), BAN[1])
        self.emit(effects.Disconnect(session.peer, reason))

    def add_wanter(self, session: Session, wish: wire.Wish, now: float) -> Wanted:
        """A peer wants a blob, or wants it in another way than before."""
        blob, size, priority, first = wish
        if session.wants.get(blob, size) != size:
            self.drop_wanter(session, blob)
        session.wants[blob] = size
        wanted = self.wanted.get((blob, size))
        if wanted is None:
            wanted = self.wanted[blob, size] = Wanted(since=now)
        told = (wanted.wanters.get(session.peer), wanted.first.pop(session.peer, first))
        wanted.repeated |= told == (priority, first)
        wanted.wanters[session.peer] = priority
        if priority == Priority.READER:
            wanted.first[session.peer] = first
        return wanted

    def drop_wanter(self, session: Session, blob: Digest) -> None:
        """A peer wants a blob no longer."""
        size = session.wants.pop(blob, None)
        wanted = None if size is None else self.wanted.get((blob, size))
        if size is not None and wanted is not None:
            wanted.wanters.pop(session.peer, None)
            wanted.first.pop(session.peer, None)
            if not wanted.wanters:
                del self.wanted[blob, size]

    def wanters(self, blob: Digest, size: int) -> list[PeerId]:
        """Peers that want to hear of every chunk of this blob."""
        wanted = self.wanted.get((blob, size))
        return [] if wanted is None else list(wanted.wanters)

    def demanded(self, blob: Digest, size: int) -> bool:
        """Whether some peer wants the blob for itself, and not only helps others to it."""
        wanted = self.wanted.get((blob, size))
        return wanted is not None and any(level > Priority.FOLLOW for level in wanted.wanters.values())

    def needed_first(self, transfer: Transfer) -> int:
        """The chunk from which on the uplink should fetch: where somebody reads."""
        wanted = self.wanted.get((transfer.blob, transfer.size))
        remote = [] if wanted is None else list(wanted.first.values())
        return min((*transfer.readers.values(), *remote), default=0)

    def entry(self, blob: Digest, first: int, digests: bytes) -> wire.Entries:
        """Our own word for these chunks."""
        signature = self.sign(wire.entries_message(blob, first, digests))
        return wire.Entries(blob, self.me, first, digests, signature)
