"""The exchange of blobs: from a want to a whole blob, chunk by chunk, from peers and the uplink.

It keeps the transfers, and what peers tell of the blobs in them. `asking` fills the pipelines, `runs` says
what our uplink fetches, `uplinks` who else has one, `claims` keeps who told which digest, `serving` gives to
others. A peer that lies, stalls or floods loses its session or its turn here, and nothing else is lost.
"""

from meshsat.oci.digest import Digest
from meshsat.protocol import effects, events, scheduler, wire
from meshsat.protocol.asking import Asking
from meshsat.protocol.events import Fault, Priority
from meshsat.protocol.runs import PERMANENT, Runs, mismatch_backoff
from meshsat.protocol.serving import Serving
from meshsat.protocol.session import HOLDS_LIMIT, WANTS_LIMIT, Session
from meshsat.protocol.state import State, Wanted
from meshsat.protocol.transfer import Transfer
from meshsat.protocol.uplinks import Uplinks
from meshsat.protocol.wire import Source
from meshsat.trust.keys import PeerId

SOURCES_LIMIT = 16
SOURCES_OF_ONE = 4
"""Places to fetch from that one peer may name, so that it can not crowd out the others'."""
HELP_LIMIT = 128
"""Transfers at once that only peers want of us; an image has no more layers."""
UNSERVED = 5.0
"""Seconds after which what nobody gives us is wanted anew, so that an uplink fetches it."""
ENTRIES_COST = 4
"""What entries cost us that are no news, in terms of small frames: a signature is checked."""
WRONG_RECIPE = "whoever holds it under this digest holds other bytes, and no uplink can bring the right ones"
WRONG_UPSTREAM = "the upstream delivers other bytes under this digest; ask its operator"
FORGIVE = 60.0
"""Seconds between two rounds in which what peers rejected may be asked of them again."""


def _merged(known: tuple[Source, ...], more: tuple[Source, ...]) -> tuple[Source, ...]:
    return known if known == more else tuple(dict.fromkeys((*known, *more)))[:SOURCES_LIMIT]


class Exchange:
    def __init__(self, state: State, serving: Serving, uplinks: Uplinks, runs: Runs) -> None:
        self._state = state
        self._asking = Asking(state, runs)
        self._serving = serving
        self._uplinks = uplinks
        self._runs = runs
        self._forgive_at = FORGIVE

    # --- wants of this node ---

    def blob_wanted(self, event: events.BlobWanted, now: float) -> None:
        if event.blob in self._state.held:
            return
        transfer = self._transfer(event.blob, event.size, event.sources, now)
        before = transfer.priority
        transfer.wanted_by_us(event.priority, 1)
        if transfer.priority != before:
            self._asking.tell_want(transfer, now)
        self._asking.seek(transfer, now)

    def blob_unwanted(self, event: events.BlobUnwanted, now: float) -> None:
        transfer = self._state.transfers.get(event.blob)
        if transfer is None:
            return
        before = transfer.priority
        transfer.wanted_by_us(event.priority, -1)
        self._retire(transfer, now)
        if transfer.blob in self._state.transfers and transfer.priority != before:
            self._asking.tell_want(transfer, now)

    def reader_moved(self, event: events.ReaderMoved, now: float) -> None:
        transfer = self._state.transfers.get(event.blob)
        if transfer is None:
            return
        if event.offset is None:
            transfer.readers.pop(event.reader, None)
            return
        index = min(event.offset // transfer.cut.chunk_length, transfer.cut.count)
        if transfer.readers.get(event.reader) == index:
            return
        before = transfer.readers.get(event.reader, 0)
        transfer.readers[event.reader] = index
        if not before <= index <= before + scheduler.READER_WINDOW // transfer.cut.chunk_length:
            self._asking.tell_want(transfer, now)
        self._runs.turn(transfer, index)
        self._asking.seek(transfer, now)

    def _transfer(self, blob: Digest, size: int, sources: tuple[Source, ...], now: float) -> Transfer:
        transfer = self._state.transfers.get(blob)
        if transfer is not None and transfer.size != size and not transfer.local:
            self._end(transfer)  # a peer's word for the size, against our own
            transfer = None
        if transfer is None:
            transfer = self._state.transfers[blob] = Transfer(blob, size)
            transfer.began_at = now
            for session in self._state.sessions.values():
                self._asking.count_holder(transfer, session, now)
            self._state.emit(effects.OpenTransfer(blob, size))
        transfer.sources = _merged(sources, transfer.sources)
        return transfer

    def transfer_opened(self, event: events.TransferOpened, now: float) -> None:
        transfer = self._state.transfers.get(event.blob)
        if transfer is None:
            self._state.emit(effects.CloseTransfer(event.blob))
            return
        if transfer.opened:
            return
        transfer.opened = True
        for index, digest in event.held:
            if 0 <= index < transfer.cut.count:
                transfer.stored(index, digest, None)
        if transfer.have:
            for peer in self._state.wanters(transfer.blob, transfer.size):
                self._serving.tell_progress(transfer, peer)
        self._asking.seek(transfer, now)

    def _retire(self, transfer: Transfer, now: float) -> None:
        """End the transfer if neither this node nor the site wants it of us."""
        if transfer.local or transfer.publishing:
            return
        demanded = self._state.demanded(transfer.blob, transfer.size)
        if demanded and (transfer.have or self._runs.may_help(transfer.blob, transfer.size, now)):
            return
        self._end(transfer)
        self._runs.start_waiting(now)

    def _end(self, transfer: Transfer) -> None:
        self._runs.stop(transfer)
        for index, peer in list(transfer.asked_of.items()):
            self._asking.cancel(transfer, peer, index)
        self._state.transfers.pop(transfer.blob, None)
        for peer in self._state.sessions:
            self._state.send(peer, wire.Unwant((transfer.blob,)))
        self._state.emit(effects.CloseTransfer(transfer.blob))

    # --- sessions come and go ---

    def greeted(self, session: Session, now: float) -> None:
        self._serving.tell_held(session)
        for transfer in self._state.transfers.values():
            self._state.send(session.peer, self._asking.want(transfer))
        self._runs.greet(session)
        self.uplinks_changed(now)

    def closed(self, session: Session, now: float) -> None:
        """The session is already off the table."""
        self._serving.closed(session)
        self._uplinks.closed(session.peer, now)
        for blob in list(session.wants):
            self._state.drop_wanter(session, blob)
        for blob, index in session.asked:
            transfer = self._state.transfers.get(blob)
            if transfer is not None:
                transfer.unask(index)
        for transfer in self._state.transfers.values():
            transfer.lost_by(session.peer)
        for transfer in list(self._state.transfers.values()):
            self._retire(transfer, now)
        self.uplinks_changed(now)

    def uplinks_changed(self, now: float) -> None:
        """Leases may be in other hands: ours among them."""
        self._serve_wants(now)
        self._asking.seek_all(now)

    def leased(self, session: Session, frame: wire.Lease, now: float) -> None:
        """A peer's uplink began with something of this blob, got on with it, or ended."""
        if not self._runs.leased(session, frame, now):
            return
        transfer = self._state.transfers.get(frame.blob)
        if transfer is not None:
            self._asking.seek(transfer, now)
            return
        for size in {
            one.wants[frame.blob] for one in self._state.sessions.values() if frame.blob in one.wants
        }:
            self._serve_want(frame.blob, size, self._state.wanted[frame.blob, size], now)

    # --- what peers tell ---

    def holds(self, session: Session, frame: wire.Holds, now: float) -> None:
        news = sum(blob not in session.holds for blob, _ in frame.blobs)
        if len(session.holds) + news > HOLDS_LIMIT:
            self._state.expel(session, f"it says it holds more than {HOLDS_LIMIT} blobs")
            return
        for blob, size in frame.blobs:
            session.holds[blob] = size
            session.haves.pop(blob, None)
            session.refused.pop(blob, None)
            wanted = blob in session.wants
            if wanted:
                self._state.drop_wanter(session, blob)
            transfer = self._state.transfers.get(blob)
            if transfer is not None:
                self._holder_changed(transfer, session, now)
                if wanted:
                    self._retire(transfer, now)

    def drops(self, session: Session, frame: wire.Drops, now: float) -> None:
        for blob in frame.blobs:
            session.holds.pop(blob, None)
            transfer = self._state.transfers.get(blob)
            if transfer is not None:
                transfer.lost_by(session.peer)
                self._asking.seek(transfer, now)

    def have(self, session: Session, frame: wire.Have, now: float) -> None:
        transfer = self._state.transfers.get(frame.blob)
        if transfer is None or len(frame.bits) > (transfer.cut.count + 7) // 8:
            return
        bits = int.from_bytes(frame.bits, "little") & transfer.everything
        before = session.haves.get(frame.blob, 0)
        session.haves[frame.blob] = before | bits
        self._uplinks.had(session.peer, frame.blob, bits & ~before, now)
        credited = transfer.credited.get(session.peer, 0)
        if bits & ~credited:
            transfer.credited[session.peer] = credited | bits
            session.earn_frame()
        self._holder_changed(transfer, session, now)

    def _holder_changed(self, transfer: Transfer, session: Session, now: float) -> None:
        self._asking.count_holder(transfer, session, now)
        self._asking.ask_entries(transfer, session, now)
        self._asking.fill(transfer, session, now)

    def want(self, session: Session, frame: wire.Want, now: float) -> None:
        news = sum(blob not in session.wants for blob, *_ in frame.blobs)
        if len(session.wants) + news > WANTS_LIMIT:
            self._state.expel(session, f"it wants more than {WANTS_LIMIT} blobs at once")
            return
        for wish in frame.blobs:
            self._wanted(session, wish, frame.sources[:SOURCES_OF_ONE], now)

    def _wanted(self, session: Session, wish: wire.Wish, sources: tuple[Source, ...], now: float) -> None:
        blob, size, priority, first = wish
        news = blob not in session.wants
        wanted = self._state.add_wanter(session, wish, now)
        wanted.sources = _merged(wanted.sources, sources)
        transfer = self._state.transfers.get(blob)
        if transfer is not None and transfer.size == size:
            transfer.sources = _merged(transfer.sources, sources)
            if transfer.have and news:
                self._serving.tell_progress(transfer, session.peer)
            if priority == Priority.READER:
                self._runs.turn(transfer, min(first, transfer.cut.count))
                self._asking.seek(transfer, now)
            self._retire(transfer, now)  # it may only be helping now
        self._serve_want(blob, size, wanted, now)

    def _serve_wants(self, now: float) -> None:
        if self._uplinks.up:
            for (blob, size), wanted in list(self._state.wanted.items()):
                self._serve_want(blob, size, wanted, now)

    def _serve_want(self, blob: Digest, size: int, wanted: Wanted, now: float) -> None:
        """Take part if it is our uplink that fetches what a peer wants."""
        if not self._uplinks.up or now < wanted.retry_at:
            return
        if blob in self._state.held or blob in self._state.transfers:
            return
        if not wanted.sources or not self._state.demanded(blob, size):
            return
        holders = (session.holds.get(blob) == size for session in self._state.sessions.values())
        if not wanted.repeated and any(holders):
            return
        if sum(not transfer.local for transfer in self._state.transfers.values()) >= HELP_LIMIT:
            return
        if self._runs.may_help(blob, size, now):
            transfer = self._transfer(blob, size, wanted.sources, now)
            self._asking.tell_want(transfer, now)

    def unwant(self, session: Session, frame: wire.Unwant, now: float) -> None:
        for blob in frame.blobs:
            self._state.drop_wanter(session, blob)
            session.haves.pop(blob, None)  # of a transfer that is over
            transfer = self._state.transfers.get(blob)
            if transfer is not None:
                if blob not in session.holds:
                    transfer.lost_by(session.peer)
                self._retire(transfer, now)

    def entries(self, session: Session, frame: wire.Entries, now: float) -> None:
        transfer = self._state.transfers.get(frame.blob)
        if transfer is None or frame.author == self._state.me:
            return
        if transfer.claims.kept(frame):
            session.earn_frame(ENTRIES_COST - 1)
            return
        message = wire.entries_message(frame.blob, frame.first, frame.digests)
        if not self._state.verify(PeerId(frame.author), frame.signature, message):
            self._state.expel(session, "it passed on entries with a wrong signature")
            return
        fresh = transfer.claims.learn(frame, direct=frame.author == session.peer)
        if fresh:
            session.earn_frame(ENTRIES_COST)
            transfer.learned(fresh, now)
            self._asking.fill_all(transfer, now)

    def failed(self, session: Session, frame: wire.Failed, now: float) -> None:
        """A peer's uplink can't bring what we want: tell that, or try our own."""
        transfer = self._state.transfers.get(frame.blob)
        if transfer is None or not transfer.local or frame.fault not in set(Fault):
            return
        if self._uplinks.up:
            if frame.fault != Fault.UNAVAILABLE:  # that is no matter of this blob, and told by `Uplink`
                transfer.unable.add(session.peer)
                self._asking.seek(transfer, now)
        elif self._uplinks.leader(transfer) in (session.peer, None):
            message = f"{session.name or session.peer}: {frame.message}"
            self._state.emit(effects.TellFailed(frame.blob, Fault(frame.fault), message))

    # --- chunks ---

    def expected(self, peer: PeerId, blob: Digest, index: int) -> tuple[int, bytes] | None:
        """Length and digest of a chunk that this peer was asked for; None if it was not."""
        session, transfer = self._state.sessions.get(peer), self._state.transfers.get(blob)
        if session is None or transfer is None or (blob, index) not in session.asked:
            return None
        return transfer.length(index), transfer.asked_under[index]

    def reject(self, session: Session, frame: wire.Reject, now: float) -> None:
        if session.unask(frame.blob, frame.index) is None:
            return
        transfer = self._state.transfers.get(frame.blob)
        if transfer is None:
            return
        transfer.unask(frame.index)
        if not transfer.claims.dispute(frame.index):
            bit = 1 << frame.index
            session.refused[frame.blob] = session.refused.get(frame.blob, 0) | bit
            transfer.lost_by(session.peer, bit)
        self._asking.seek(transfer, now)

    def chunk_stored(self, event: events.ChunkStored, now: float) -> None:
        transfer = self._state.transfers.get(event.blob)
        session = None if event.source is None else self._state.sessions.get(event.source)
        if session is not None:
            session.delivered(event.blob, event.index, now)
        if transfer is None:
            return
        entry = None
        if event.source is None and not transfer.self_evident:
            entry = self._state.entry(transfer.blob, event.index, event.digest)
            transfer.claims.learn(entry)
        if not transfer.have >> event.index & 1:
            asked = transfer.asked_of.get(event.index)
            if asked is not None and asked != event.source:
                self._asking.cancel(transfer, asked, event.index)
            author = None if event.source is None else transfer.claims.author(event.index, event.digest)
            transfer.stored(event.index, event.digest, author)
            if transfer.cut.count > 1:  # else the whole blob is told in a moment
                self._serving.tell_chunk(transfer, event.index, entry)
        if event.source is None:
            if not transfer.self_evident:
                self._serving.sum_up(transfer, event.index)
            self._runs.advanced(transfer, event.index, now)
        if session is not None and not transfer.complete:
            self._asking.fill(transfer, session, now)
        else:
            self._asking.seek(transfer, now)
        if session is not None:
            self._asking.refill(session, now)

    def chunk_refused(self, event: events.ChunkRefused, now: float) -> None:
        session = self._state.sessions.get(event.source)
        if session is not None:
            session.unask(event.blob, event.index)
            self._state.expel(session, f"it sent wrong bytes as chunk {event.index} of {event.blob}")
        transfer = self._state.transfers.get(event.blob)
        if transfer is not None:
            transfer.unask(event.index)
            self._asking.seek(transfer, now)

    # --- whole blobs ---

    def blob_published(self, event: events.BlobPublished, now: float) -> None:
        fresh = event.blob not in self._state.held
        self._state.held[event.blob] = event.size
        transfer = self._state.transfers.pop(event.blob, None)
        if transfer is not None:
            self._runs.stop(transfer)
            for index, peer in list(transfer.asked_of.items()):
                self._asking.cancel(transfer, peer, index)
            if transfer.complete:
                self._proven(transfer)
        told = wire.Holds(((event.blob, event.size),)) if fresh else wire.Unwant((event.blob,))
        for session in self._state.sessions.values():
            if session.greeted and (fresh or transfer is not None):
                self._state.send(session.peer, told)
        self._runs.start_waiting(now)

    def _proven(self, transfer: Transfer) -> None:
        if transfer.self_evident:
            return
        chunks = tuple(transfer.digests[index] for index in range(transfer.cut.count))
        transfer.claims.prove(chunks)
        self._serving.recipe_known(transfer.blob, chunks)
        for liar in transfer.claims.liars():
            session = self._state.sessions.get(liar)
            if session is not None:
                self._state.expel(session, f"it told a wrong recipe of {transfer.blob}")

    def blob_dropped(self, event: events.BlobDropped) -> None:
        if self._state.held.pop(event.blob, None) is not None:
            self._serving.dropped(event.blob)
            for peer in self._state.sessions:
                self._state.send(peer, wire.Drops((event.blob,)))

    def blob_mismatched(self, event: events.BlobMismatched, now: float) -> None:
        """The recipe was wrong: doubt whose word it stood on, and with nobody to doubt, the upstream."""
        transfer = self._state.transfers.get(event.blob)
        if transfer is None:
            return
        transfer.publishing = False
        for session in self._state.sessions.values():
            session.refused.pop(event.blob, None)
        authors = [
            author for author in dict.fromkeys(transfer.stands_on.values()) if author != self._state.me
        ]
        if authors:
            transfer.doubted = True
            transfer.claims.accuse(authors)
            for author in authors:
                self._state.emit(effects.ForgetChunks(event.blob, transfer.forget(author)))
            if transfer.claims.hopeless() and not self._uplinks.candidates():
                self._runs.tell_failed(transfer, Fault.WRONG_BYTES, f"{event.blob}: {WRONG_RECIPE}")
            self._retire(transfer, now)
            if event.blob in self._state.transfers:
                self._asking.seek(transfer, now)
            return
        self._state.emit(effects.ForgetChunks(event.blob, transfer.forget_all()))
        transfer.claims.forget_authors()
        transfer.mismatches += 1
        transfer.retry_at = now + mismatch_backoff(transfer.mismatches)
        self._runs.tell_failed(transfer, Fault.WRONG_BYTES, f"{event.blob}: {WRONG_UPSTREAM}")
        if not transfer.local or not transfer.cut.count:  # an empty one would be as wrong again at once
            self._give_up(transfer, transfer.retry_at)
            self._serve_wants(now)

    def _give_up(self, transfer: Transfer, until: float) -> None:
        """Help nobody to this blob for a while: it is not to be had."""
        wanted = self._state.wanted.get((transfer.blob, transfer.size))
        if wanted is not None:
            wanted.retry_at = until
        self._end(transfer)

    def storage_failed(self, event: events.StorageFailed, now: float) -> None:
        transfer = self._state.transfers.get(event.blob)
        if transfer is not None:
            transfer.publishing = False
            if self._uplinks.leads_any(transfer.blob, transfer.size):
                self._runs.tell_failed(transfer, Fault.STORAGE, event.message)
                self._runs.step_aside(now)
            elif transfer.local:
                self._state.emit(effects.TellFailed(event.blob, Fault.STORAGE, event.message))
            self._give_up(transfer, now + PERMANENT)

    def uplink_ended(self, event: events.UplinkEnded, now: float) -> None:
        transfer = self._state.transfers.get(event.blob)
        if transfer is None:
            return
        self._runs.ended(transfer, event, now)
        if event.fault in (Fault.NOT_FOUND, Fault.DENIED, Fault.WRONG_BYTES) and not transfer.local:
            self._give_up(transfer, now + PERMANENT)
        self._asking.seek(transfer, now)
        self._runs.start_waiting(now)

    # --- time ---

    def tick(self, now: float) -> None:
        """Deadlines, second tries, forgiveness."""
        self._uplinks.retry(now)
        self._uplinks.check(now)
        self._runs.tick(now)
        for session in list(self._state.sessions.values()):
            if session.asked and session.stalled(now):
                self._asking.stalled(session, now)
            elif session.stalls and now >= session.snubbed_until:
                for transfer in self._state.transfers.values():
                    self._asking.count_holder(transfer, session, now)
        for transfer in self._state.transfers.values():
            self._asking.check_entries(transfer, now)
            unserved = transfer.local and transfer.levels[0] & transfer.missing
            if unserved and now - transfer.wanted_at > UNSERVED:
                self._asking.tell_want(transfer, now)
        if now >= self._forgive_at:
            self._forgive_at = now + FORGIVE
            for session in self._state.sessions.values():
                session.refused.clear()
                for transfer in self._state.transfers.values():
                    self._asking.count_holder(transfer, session, now)
            for transfer in self._state.transfers.values():
                if transfer.claims.hopeless():
                    transfer.claims.forget_authors()
        self._serve_wants(now)
        self._asking.seek_all(now)
