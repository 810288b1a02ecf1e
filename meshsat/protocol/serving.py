"""What we give to peers: which blobs we hold, the entries of their recipes, their chunks."""

from meshsat.chunking.cut import FIXED_1, Cut
from meshsat.chunking.recipe import self_evident
from meshsat.oci.digest import Digest
from meshsat.protocol import bitset, effects, events, wire
from meshsat.protocol.claims import in_batches
from meshsat.protocol.session import UPLOAD_QUEUE, Session
from meshsat.protocol.state import State
from meshsat.protocol.transfer import Transfer
from meshsat.trust.keys import PeerId

SENDING = (2, 512 << 10)
"""Chunks of one peer that the driver has in hand at once, or more of them up to so many bytes."""
SUM = 64
"""Chunks of our own uplink after which their entries are told in one."""
MANY_HEARERS = 4
"""Peers that want a blob up to which all hear of each chunk at once."""
ABUNDANT = 2
"""Holders from which on a chunk is abundant: whoever lacks it knows where to have it."""
ABUNDANT_PACE = 0.5
"""Seconds between two frames of haves of abundant chunks."""
FAR_PACE = 1.0
"""Seconds between two frames of haves to a far peer."""
RECIPES = 64
"""Recipes of whole blobs kept at hand."""


class Serving:
    def __init__(self, state: State) -> None:
        self._state = state
        self._recipes: dict[Digest, tuple[bytes, ...]] = {}
        self._abundant: dict[Digest, int] = {}
        """Abundant chunks that came and are not told yet."""
        self._abundant_at = float("-inf")
        self._far_at = float("-inf")
        self._far_told: dict[Digest, int] = {}
        self._askers: dict[Digest, dict[PeerId, int]] = {}
        """Who waits for a recipe that is being read, and for which entries of it."""

    def tell_held(self, session: Session) -> None:
        """All that we hold whole, to a peer that is new."""
        blobs = tuple(self._state.held.items())
        for start in range(0, len(blobs), wire.LIST_LIMIT):
            self._state.send(session.peer, wire.Holds(blobs[start : start + wire.LIST_LIMIT]))

    def closed(self, session: Session) -> None:
        for askers in self._askers.values():
            askers.pop(session.peer, None)
        self._askers = {blob: askers for blob, askers in self._askers.items() if askers}

    def dropped(self, blob: Digest) -> None:
        self._recipes.pop(blob, None)

    # --- recipes ---

    def ask_entries(self, session: Session, frame: wire.AskEntries, now: float) -> None:
        cut = Cut(FIXED_1, frame.size)
        if len(frame.bits) > (cut.count + 7) // 8:
            return
        bits = int.from_bytes(frame.bits, "little") & bitset.full(cut.count)
        if not session.spend_entries(bits.bit_count(), now):
            return  # it asks another, or again
        if self._state.held.get(frame.blob) == frame.size:
            chunks = self._recipe(frame.blob)
            if chunks is not None:
                self._tell_recipe(frame.blob, chunks, session.peer, bits)
            else:
                self._load(frame.blob, session.peer, bits)
            return
        transfer = self._state.transfers.get(frame.blob)
        if transfer is not None:
            self._give_word(transfer, bits & transfer.have & ~transfer.claims.known)
            self.tell_entries(transfer, session.peer, bits)

    def _give_word(self, transfer: Transfer, bits: int) -> None:
        """What an earlier run left stood on a forgotten word: it is ours when nobody else gives one."""
        for start, stop in in_batches(bits):
            digests = b"".join(transfer.digests[index] for index in range(start, stop))
            transfer.claims.learn(self._state.entry(transfer.blob, start, digests))

    def tell_entries(self, transfer: Transfer, peer: PeerId, bits: int) -> None:
        """The authors' own words, as they were signed."""
        for entries in transfer.claims.batches(bits):
            self._state.send(peer, entries)

    def sum_up(self, transfer: Transfer, index: int) -> None:
        """What was told chunk by chunk is told once more in one frame, which others keep and pass on."""
        if (index + 1) % SUM and index + 1 != transfer.cut.count:
            return
        first, digests = transfer.claims.run_of(self._state.me, index - index % SUM, index)
        if first == index:
            return
        entries = self._state.entry(transfer.blob, first, digests)
        transfer.claims.learn(entries)
        for peer in self._state.hearers(transfer.blob, transfer.size):
            if transfer.blob not in self._state.sessions[peer].holds:
                self._state.send(peer, entries)

    def tell_progress(self, transfer: Transfer, peer: PeerId) -> None:
        self.tell_entries(transfer, peer, transfer.have)
        bits = bitset.to_bytes(transfer.have, transfer.cut.count)
        self._state.send(peer, wire.Have(transfer.blob, bits))

    def tell_chunk(self, transfer: Transfer, index: int, entry: wire.Entries | None) -> None:
        """A chunk more: to those who want it and lack it; where many do, an abundant one with others."""
        bit = 1 << index
        hearers = self._state.hearers(transfer.blob, transfer.size)
        if entry is None and len(hearers) > MANY_HEARERS and transfer.copies(index) >= ABUNDANT:
            self._abundant[transfer.blob] = self._abundant.get(transfer.blob, 0) | bit
            return
        for peer in hearers:
            self._tell_have(transfer.blob, peer, bit, entry)

    def tell_abundant(self, now: float) -> None:
        """The abundant chunks that came since, in one frame."""
        if not self._abundant or now < self._abundant_at:
            return
        self._abundant_at = now + ABUNDANT_PACE
        abundant, self._abundant = self._abundant, {}
        for blob, bits in abundant.items():
            transfer = self._state.transfers.get(blob)
            if transfer is None:
                continue
            for peer in self._state.hearers(blob, transfer.size):
                self._tell_have(blob, peer, bits & transfer.have)  # some may be forgotten since

    def _tell_have(self, blob: Digest, peer: PeerId, bits: int, entry: wire.Entries | None = None) -> None:
        """Of these chunks, those that the peer is not known to hold."""
        session = self._state.sessions[peer]
        news = bits & ~session.haves.get(blob, 0)
        if news and blob not in session.holds:
            if entry is not None:
                self._state.send(peer, entry)
            self._state.send(peer, wire.Have(blob, bitset.to_bytes(news, news.bit_length())))

    def tell_far(self, now: float) -> None:
        """What came since: to far peers that want it, in one frame a second."""
        if not self._state.view.large or now < self._far_at:
            return
        self._far_at = now + FAR_PACE
        for transfer in self._state.transfers.values():
            if transfer.have == self._far_told.get(transfer.blob, 0):
                continue
            self._far_told[transfer.blob] = transfer.have
            have = wire.Have(transfer.blob, bitset.to_bytes(transfer.have, transfer.cut.count))
            near = set(self._state.hearers(transfer.blob, transfer.size))
            for peer in self._state.wanters(transfer.blob, transfer.size):
                if peer not in near and transfer.blob not in self._state.sessions[peer].holds:
                    self._state.send(peer, have)
        self._far_told = {
            blob: bits for blob, bits in self._far_told.items() if blob in self._state.transfers
        }

    def recipe_known(self, blob: Digest, chunks: tuple[bytes, ...]) -> None:
        while len(self._recipes) >= RECIPES:
            del self._recipes[next(iter(self._recipes))]
        self._recipes[blob] = chunks
        for peer, bits in self._askers.pop(blob, {}).items():
            self._tell_recipe(blob, chunks, peer, bits)
        for session in self._state.sessions.values():
            self._upload(session)

    def _recipe(self, blob: Digest) -> tuple[bytes, ...] | None:
        """The chunks of a blob that we hold whole; None: they have to be read first."""
        chunks = self._recipes.get(blob)
        return self_evident(blob, self._state.held[blob]) if chunks is None else chunks

    def _load(self, blob: Digest, peer: PeerId, bits: int) -> None:
        """Read the recipe; once for each peer that waits for it, however often it asks."""
        askers = self._askers.setdefault(blob, {})
        if peer not in askers:
            self._state.emit(effects.LoadRecipe(blob))
        askers[peer] = askers.get(peer, 0) | bits

    def _tell_recipe(self, blob: Digest, chunks: tuple[bytes, ...], peer: PeerId, bits: int) -> None:
        for start, stop in in_batches(bits & bitset.full(len(chunks))):
            self._state.send(peer, self._state.entry(blob, start, b"".join(chunks[start:stop])))

    # --- chunks ---

    def request(self, session: Session, frame: wire.Request) -> None:
        if len(session.uploads) + len(frame.chunks) > UPLOAD_QUEUE:
            self._state.expel(session, f"it asks for more than {UPLOAD_QUEUE} chunks at once")
            return
        for index, digest in frame.chunks:
            session.uploads[frame.blob, index] = digest
        self._upload(session)

    def _has(self, blob: Digest, index: int, digest: bytes) -> bool | None:
        """Whether we have a chunk of this digest there; None: the recipe has to be read to tell."""
        if blob in self._state.held:
            chunks = self._recipe(blob)
            return None if chunks is None else index < len(chunks) and chunks[index] == digest
        transfer = self._state.transfers.get(blob)
        return transfer is not None and transfer.digests.get(index) == digest

    def _length(self, blob: Digest, index: int) -> int:
        transfer = self._state.transfers.get(blob)
        cut = Cut(FIXED_1, self._state.held[blob]) if transfer is None else transfer.cut
        return cut.span(index)[1]

    def cancel(self, session: Session, frame: wire.Cancel) -> None:
        for index in frame.indexes:
            session.uploads.pop((frame.blob, index), None)

    def chunk_sent(self, event: events.ChunkSent) -> None:
        session = self._state.sessions.get(event.peer)
        if session is None:
            return
        session.sending.pop((event.blob, event.index), None)
        if event.failed:
            self._state.send(event.peer, wire.Reject(event.blob, event.index))
        self._upload(session)

    def _upload(self, session: Session) -> None:
        """What it asked for first goes first, but for chunks whose digest we have to look up."""
        for (blob, index), digest in list(session.uploads.items()):
            if len(session.sending) >= SENDING[0] and sum(session.sending.values()) >= SENDING[1]:
                return
            if (blob, index) in session.sending:
                continue  # asked for once more while it is on its way: it goes again after that, if at all
            has = self._has(blob, index, digest)
            if has is None:
                self._load(blob, session.peer, 0)
                continue
            del session.uploads[blob, index]
            if has:
                length = self._length(blob, index)
                session.sending[blob, index] = length
                self._state.emit(effects.SendChunk(session.peer, blob, index, length))
            else:
                self._state.send(session.peer, wire.Reject(blob, index))
