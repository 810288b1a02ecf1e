"""The whole of a node's behaviour in the mesh, as one machine: `handle(event, now) -> effects`.

`now` is a monotonic time in seconds; it never goes back. The machine holds no bytes of content, opens
nothing, and never sleeps: `deadline` says when it wants to be called with `TimerExpired`.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from meshsat.oci.digest import Digest
from meshsat.protocol import effects, events, wire
from meshsat.protocol.effects import Effect
from meshsat.protocol.exchange import ENTRIES_COST, Exchange
from meshsat.protocol.gossip import ImageRecord, RecordSet
from meshsat.protocol.keepalive import Keepalive, Verdict
from meshsat.protocol.members import Roster
from meshsat.protocol.membership import Membership
from meshsat.protocol.resolve import Resolver
from meshsat.protocol.rng import Rng
from meshsat.protocol.runs import Runs
from meshsat.protocol.seeking import Seeking
from meshsat.protocol.serving import Serving
from meshsat.protocol.session import Session
from meshsat.protocol.spread import Kind, Spread
from meshsat.protocol.state import State
from meshsat.protocol.transfer import Transfer
from meshsat.protocol.uplinks import Uplinks
from meshsat.trust.keys import PeerId, Verify, verify

BUSY_TICK = 0.1
"""Seconds between two looks at the deadlines while something is on its way."""
IDLE_TICK = 0.5
COSTS: dict[type[wire.Frame], int] = {
    wire.Entries: ENTRIES_COST,
    wire.Compare: 20,
    wire.Find: 20,
    wire.Resolve: 20,
    wire.Summary: 20,
    wire.Uplink: 50,
    wire.Want: 2,
}
"""Frames that make us work or answer at length, in terms of small ones."""
SETTLE_MET = 0.75
"""Seconds after the first session in which the others of a site will have met us too."""


LISTED = 32
"""Blobs told to be held, or no longer, that cost as much as a small frame: a peer that greets may tell of all
its `HOLDS_LIMIT`, and of what it wants, in one burst."""


def _cost(frame: wire.Frame) -> int:
    if isinstance(frame, wire.Want | wire.Unwant):
        return COSTS.get(type(frame), 1) * max(1, len(frame.blobs))
    if isinstance(frame, wire.Holds | wire.Drops):
        return 1 + len(frame.blobs) // LISTED
    return COSTS.get(type(frame), 1)


@dataclass(frozen=True, slots=True)
class Settings:
    me: PeerId
    name: str
    uplink: bool
    """This node may fetch from upstream."""
    uplink_up: bool = True
    """Its uplink is taken to work until it fails; else it must be seen to work first."""
    unix_offset: float = 0.0
    """What to add to the machine's time to have Unix time."""
    keepalive: float = 1.0
    idle_keepalive: float = 20.0
    silence_limit: float = 3.0
    max_sessions: int = 256
    settle: float = 3.0
    """Seconds after the start in which peers may still turn up who hold what our uplink would fetch."""
    gossip_interval: float = 30.0
    """Seconds between two comparings of all records with a peer."""
    negative_age: float = 5.0
    """Seconds for which an upstream's "not found" is answered again without a question."""


class Machine:
    def __init__(
        self, settings: Settings, sign: Callable[[bytes], bytes], rng: Rng, verify: Verify = verify
    ) -> None:
        """`sign` and `verify` belong together: the node's key and Ed25519, or a simulation's cheap twins."""
        self._settings = settings
        self._effects: list[Effect] = []
        self._state = State(settings.me, sign, verify, self._effects.append, rng)
        self._last_tick = float("-inf")
        self._unix_offset, self._clock_right = settings.unix_offset, False
        self._keepalive = Keepalive(
            settings.me, settings.keepalive, settings.idle_keepalive, settings.silence_limit
        )
        self._waiting = False
        self.records = RecordSet()
        self.records.meet(settings.me)
        self.addresses: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
        """Our own control and bulk addresses, as peers are told."""
        self._uplinks = Uplinks(self._state, enabled=settings.uplink, up=settings.uplink_up)
        self._serving = Serving(self._state)
        self._runs = Runs(self._state, self._uplinks)
        self._exchange = Exchange(self._state, self._serving, self._uplinks, self._runs)
        self.roster = Roster()
        self._membership = Membership(
            self._state, rng, self.roster, lambda: self._uplinks.up, max_sessions=settings.max_sessions
        )
        self._seeking = Seeking(self._state, self._membership, self._uplinks)
        self._spread = Spread(
            self._state,
            self._membership,
            self.records,
            self.roster,
            self._unix,
            settings.gossip_interval,
        )
        self._resolver = Resolver(
            self._state,
            self._uplinks,
            self.records,
            self._unix,
            settings.negative_age,
        )

    # --- what the shell may look at ---

    @property
    def me(self) -> PeerId:
        return self._settings.me

    @property
    def name(self) -> str:
        return self._settings.name

    @property
    def silence_limit(self) -> float:
        return self._settings.silence_limit

    @property
    def sessions(self) -> dict[PeerId, Session]:
        return self._state.sessions

    @property
    def transfers(self) -> dict[Digest, Transfer]:
        return self._state.transfers

    @property
    def membership(self) -> Membership:
        return self._membership

    @property
    def uplink_up(self) -> bool:
        return self._uplinks.up

    @property
    def uplink_retry_at(self) -> float | None:
        """When an uplink that is down is tried again; None while it works, or may not be used."""
        return self._uplinks.retry_at if self._uplinks.may_retry else None

    def settled(self, now: float) -> bool:
        """Whether who is there at the start had the time to meet us."""
        return self._state.now is not None and now >= self._state.settled_at

    def site_has_uplink(self) -> bool:
        """Whether some node, this one included, can fetch from upstream now, as far as we know."""
        return bool(self._uplinks.candidates())

    @property
    def large(self) -> bool:
        """Whether the site has more members than have sessions with each other."""
        return self._state.view.large

    def held_by_peers(self, blob: Digest) -> int | None:
        """The size of a blob that connected peers hold whole, as most of them say; None if none does."""
        holds = [session.holds for session in self._state.sessions.values()]
        sizes = Counter(held[blob] for held in holds if blob in held)
        return max(sizes, key=lambda size: sizes[size], default=None)

    def expected(self, peer: PeerId, blob: Digest, index: int) -> tuple[int, bytes] | None:
        """Length and digest of a chunk that this peer was asked for; None if it was not."""
        return self._exchange.expected(peer, blob, index)

    def take_records(self, records: list[ImageRecord]) -> list[ImageRecord]:
        """Merge records that an earlier run left; returns the news among them."""
        return [record for record in records if self.records.merge(record)]

    def deadline(self, now: float) -> float:
        """When to call with `TimerExpired`, at the latest."""
        return max(
            now, min(self._last_tick + (BUSY_TICK if self._busy else IDLE_TICK), self._spread.deadline)
        )

    @property
    def news_at(self) -> float:
        """When to call with `TimerExpired` because of records that are to be told; infinite for none."""
        return self._spread.deadline

    @property
    def _busy(self) -> bool:
        return bool(self._state.transfers) or self._resolver.busy

    # --- events ---

    def handle(self, event: events.Event, now: float) -> list[Effect]:
        if self._state.now is None:
            self._state.settled_at = now + self._settings.settle
        self._state.now = now
        self._dispatch(event, now)
        if self._busy != self._waiting:  # whoever was idle is asked for a word at once
            self._look_after_sessions(now)
        done, self._effects[:] = list(self._effects), []
        return done

    def _dispatch(self, event: events.Event, now: float) -> None:  # noqa: PLR0915 - the table of events
        exchange = self._exchange
        match event:
            case events.FrameReceived():
                self._frame(event.peer, event.frame, now)
            case events.PayloadProgressed():
                session = self._state.sessions.get(event.peer)
                if session is not None:
                    session.last_heard = now
                    session.last_progress = now
            case events.ChunkStored():
                exchange.chunk_stored(event, now)
            case events.ChunkSent():
                self._serving.chunk_sent(event)
            case events.TimerExpired():
                self._tick(now)
            case events.SessionOpened():
                self._opened(event, now)
            case events.SessionClosed():
                self._closed(event.peer, now)
            case events.PeerSighted():
                self._membership.sighted(event.peer, event.control, event.bulk, now)
            case events.DialFailed():
                self._membership.dial_failed(event.peer, now, refused=event.refused)
            case events.TokenUsed():
                self._spread.count_uses((event.use,), now)
            case events.BlobWanted():
                exchange.blob_wanted(event, now)
            case events.BlobUnwanted():
                exchange.blob_unwanted(event, now)
            case events.TransferOpened():
                exchange.transfer_opened(event, now)
            case events.ReaderMoved():
                exchange.reader_moved(event, now)
            case events.ChunkRefused():
                exchange.chunk_refused(event, now)
            case events.BlobPublished():
                exchange.blob_published(event, now)
            case events.BlobMismatched():
                exchange.blob_mismatched(event, now)
            case events.BlobDropped():
                exchange.blob_dropped(event)
            case events.StorageFailed():
                exchange.storage_failed(event, now)
            case events.RecipeLoaded():
                self._serving.recipe_known(event.blob, event.chunks)
            case events.UplinkProgressed():
                self._runs.progressed(event, now)
            case events.UplinkEnded():
                exchange.uplink_ended(event, now)
            case events.UplinkProbed():
                self._uplinks.probed(now, up=event.up)
                exchange.uplinks_changed(now)
            case events.UplinkGated():
                self._runs.gated(event, now)
                exchange.uplinks_changed(now)
            case events.ReferenceWanted():
                self._resolver.wanted(event, now)
            case events.UpstreamAnswered():
                if event.record is not None:
                    self._spread.tell(Kind.IMAGE, event.record.sealed, now)
                self._resolver.upstream_answered(event, now)
            case events.RecordMade():
                if self.records.merge(event.record):
                    self._spread.tell(Kind.IMAGE, event.record.sealed, now)
                    self._effects.append(effects.TellRecord(event.record))
            case events.ItemJudged():
                self._spread.item_judged(event, now)
            case events.ItemDropped():
                self._spread.item_dropped(event)
            case events.ClockSet():
                self._unix_offset, self._clock_right = event.unix_offset, event.right
            case events.PeersRevoked():
                self._revoke(event)

    def _unix(self, now: float) -> float:
        return now + self._unix_offset

    def _revoke(self, event: events.PeersRevoked) -> None:
        self._state.revoked = dict(event.peers)
        self.records.forget(lambda record: not self._state.believes(record))
        for peer in self._state.revoked:
            self._membership.forget(peer)
            session = self._state.sessions.get(peer)
            if session is not None:
                self._state.expel(session, "its pass was revoked")

    def _opened(self, event: events.SessionOpened, now: float) -> None:
        banned = now < self._state.bans.get(event.peer, 0.0)
        if banned or event.peer in self._state.revoked:
            reason = "it misbehaved a short while ago" if banned else "its pass was revoked"
            self._effects.append(effects.Disconnect(event.peer, reason))
            return
        session = Session(
            event.peer, now, dialled=event.dialled, last_heard=now, last_ping=now, frame_credit_at=now
        )
        self._state.sessions[event.peer] = session
        self.records.meet(event.peer)
        self._membership.opened(event.peer, now)
        control, bulk = self.addresses
        clock = max(0, int(self._unix(now))) if self._clock_right else 0
        self._state.send(event.peer, wire.Hello(self._settings.name, self._uplinks.up, control, bulk, clock))

    def _closed(self, peer: PeerId, now: float) -> None:
        session = self._state.sessions.pop(peer, None)
        self._membership.closed(peer, now)
        if session is not None:
            self._exchange.closed(session, now)
            self._resolver.closed(session, now)

    def _frame(self, peer: PeerId, frame: wire.Frame, now: float) -> None:  # noqa: PLR0915 - the table of frames
        session = self._state.sessions.get(peer)
        if session is None or session.expelled:
            return
        session.last_heard = now
        if not session.spend_frame(now, _cost(frame)):
            self._state.expel(session, "it floods us with frames")
            return
        if not session.greeted and not isinstance(frame, wire.Hello):
            self._state.expel(session, "its first frame is no greeting")
            return
        exchange = self._exchange
        match frame:
            case wire.Have():
                exchange.have(session, frame, now)
            case wire.Entries():
                exchange.entries(session, frame, now)
            case wire.Request():
                self._serving.request(session, frame)
            case wire.Cancel():
                self._serving.cancel(session, frame)
            case wire.Ping():
                self._state.send(peer, wire.Pong(frame.token))
            case wire.Pong():
                session.rtt = max(0.0, now - session.last_ping)
            case wire.Hello():
                self._hello(session, frame, now)
            case wire.News() | wire.Compare() | wire.Summary() | wire.Find() | wire.Peers():
                self._gossip(session, frame, now)
            case wire.Uplink():
                self._runs.heard(session, frame, now)
                exchange.uplinks_changed(now)
            case wire.Lease():
                exchange.leased(session, frame, now)
            case wire.Holds():
                exchange.holds(session, frame, now)
            case wire.Drops():
                exchange.drops(session, frame, now)
            case wire.Want():
                exchange.want(session, frame, now)
            case wire.Unwant():
                exchange.unwant(session, frame, now)
            case wire.AskEntries():
                self._serving.ask_entries(session, frame, now)
            case wire.Reject():
                exchange.reject(session, frame, now)
            case wire.Failed():
                exchange.failed(session, frame, now)
            case wire.Resolve():
                self._resolver.asked(session, frame, now)
            case wire.Resolved():
                self._resolver.resolved(session, frame, now)
                self._spread.resolved(session, frame, now)
            case _:
                self._state.expel(session, f"a {type(frame).__name__} frame has no place here")

    def _gossip(self, session: Session, frame: wire.Frame, now: float) -> None:
        match frame:
            case wire.News():
                self._spread.news(session, frame, now)
            case wire.Compare():
                self._spread.compare(session, frame)
            case wire.Summary():
                self._spread.summary(session, frame)
            case wire.Find():
                self._seeking.find(session, frame)
            case wire.Peers():
                self._seeking.peers(session, frame, now)

    def _hello(self, session: Session, frame: wire.Hello, now: float) -> None:
        if session.greeted:
            self._state.expel(session, "it greets twice")
            return
        self._spread.present(self.addresses, now, uplink=self._uplinks.up)
        session.greeted = True
        session.name, session.uplink = frame.name, frame.uplink
        session.control, session.bulk = frame.control, frame.bulk
        session.clock = frame.clock - now if frame.clock else None
        self._state.settled_at = min(self._state.settled_at, now + SETTLE_MET)
        self._membership.sighted(session.peer, frame.control, frame.bulk, now)
        self._spread.greeted(session, now)
        self._exchange.greeted(session, now)

    # --- time ---

    def _tick(self, now: float) -> None:
        late = now - self._last_tick - 2 * IDLE_TICK
        self._last_tick = now
        if 0 < late < float("inf"):  # we slept, not they
            for session in self._state.sessions.values():
                session.pause(late, now)
        self._look_after_sessions(now)
        self._exchange.tick(now)
        self._resolver.tick(now)
        for peer in self._membership.tick(now):
            self._spread.lost(peer, now)
        self._seeking.tick(now)
        self._serving.tell_abundant(now)
        self._serving.tell_far(now)
        self._spread.present(self.addresses, now, uplink=self._uplinks.up)
        self._spread.tick(now)

    def _look_after_sessions(self, now: float) -> None:
        self._waiting = self._busy
        for session in list(self._state.sessions.values()):
            waiting = self._waiting or bool(session.uploads or session.sending)
            match self._keepalive.look(session, now, waiting=waiting):
                case Verdict.GONE:
                    reason = f"it was silent for {self._settings.silence_limit:g} s"
                    self._effects.append(effects.Disconnect(session.peer, reason))
                case Verdict.PING:
                    self._state.send(session.peer, wire.Ping(int(now * 1000) % (1 << 32)))
