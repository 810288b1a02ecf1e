"""What we give to peers: which blobs we hold, the entries of their recipes, their chunks."""

from meshsat.chunking.cut import FIXED_1, Cut
from meshsat.oci.digest import Digest
from meshsat.protocol import bitset, effects, events, wire
from meshsat.protocol.claims import in_batches
from meshsat.protocol.session import UPLOAD_QUEUE, Session
from meshsat.protocol.state import State
from meshsat.protocol.transfer import Transfer
from meshsat.trust.keys import PeerId

SENDING = 2
"""Chunks of one peer that the driver has in hand at once."""
RECIPES = 64
"""Recipes of whole blobs kept at hand."""


class Serving:
    def __init__(self, state: State) -> None:
        self._state = state
        self._recipes: dict[Digest, tuple[bytes, ...]] = {}
        self._askers: dict[Digest, dict[PeerId, int]] = {}

    def tell_held(self, session: Session) -> None:
        """All that we hold whole, to a peer that is new."""
        blobs = tuple(self._state.held.items())
        for start in range(0, len(blobs), wire.LIST_LIMIT):
            self._state.send(session.peer, wire.Holds(blobs[start : start + wire.LIST_LIMIT]))

    def closed(self, session: Session) -> None:
        for askers in self._askers.values():
            askers.pop(session.peer, None)

    def dropped(self, blob: Digest) -> None:
        self._recipes.pop(blob, None)

    # --- recipes ---

    def ask_entries(self, session: Session, frame: wire.AskEntries) -> None:
        cut = Cut(FIXED_1, frame.size)
        if len(frame.bits) > (cut.count + 7) // 8:
            return
        bits = int.from_bytes(frame.bits, "little") & bitset.full(cut.count)
        if self._state.held.get(frame.blob) == frame.size:
            chunks = self._recipes.get(frame.blob)
            if chunks is not None:
                self._tell_recipe(frame.blob, chunks, session.peer, bits)
            else:
                self._askers.setdefault(frame.blob, {})[session.peer] = bits
                self._state.emit(effects.LoadRecipe(frame.blob))
            return
        transfer = self._state.transfers.get(frame.blob)
        if transfer is not None:
            self.tell_entries(transfer, session.peer, bits)

    def tell_entries(self, transfer: Transfer, peer: PeerId, bits: int) -> None:
        """The authors' own words, as they were signed."""
        for entries in transfer.claims.batches(bits):
            self._state.send(peer, entries)

    def recipe_known(self, blob: Digest, chunks: tuple[bytes, ...]) -> None:
        while len(self._recipes) >= RECIPES:
            del self._recipes[next(iter(self._recipes))]
        self._recipes[blob] = chunks
        for peer, bits in self._askers.pop(blob, {}).items():
            self._tell_recipe(blob, chunks, peer, bits)

    def _tell_recipe(self, blob: Digest, chunks: tuple[bytes, ...], peer: PeerId, bits: int) -> None:
        for start, stop in in_batches(bits & bitset.full(len(chunks))):
            self._state.send(peer, self._state.entry(blob, start, b"".join(chunks[start:stop])))

    # --- chunks ---

    def request(self, session: Session, frame: wire.Request) -> None:
        if len(session.uploads) + len(frame.chunks) > UPLOAD_QUEUE:
            self._state.expel(session, f"it asks for more than {UPLOAD_QUEUE} chunks at once")
            return
        for index, digest in frame.chunks:
            if self._has(frame.blob, index, digest):
                session.uploads[frame.blob, index] = None
            else:
                self._state.send(session.peer, wire.Reject(frame.blob, index))
        self._upload(session)

    def _has(self, blob: Digest, index: int, digest: bytes) -> bool:
        size = self._state.held.get(blob)
        if size is not None:
            chunks = self._recipes.get(blob)
            if chunks is not None:
                return index < len(chunks) and chunks[index] == digest
            return index < Cut(FIXED_1, size).count
        transfer = self._state.transfers.get(blob)
        return (
            transfer is not None
            and bool(transfer.have >> index & 1)
            and transfer.claims.digest(index) == digest
        )

    def cancel(self, session: Session, frame: wire.Cancel) -> None:
        for index in frame.indexes:
            session.uploads.pop((frame.blob, index), None)

    def chunk_sent(self, event: events.ChunkSent) -> None:
        session = self._state.sessions.get(event.peer)
        if session is None:
            return
        session.sending -= 1
        if event.failed:
            self._state.send(event.peer, wire.Reject(event.blob, event.index))
        self._upload(session)

    def _upload(self, session: Session) -> None:
        while session.uploads and session.sending < SENDING:
            (blob, index), _ = session.uploads.popitem(last=False)
            session.sending += 1
            self._state.emit(effects.SendChunk(session.peer, blob, index))
