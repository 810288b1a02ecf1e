"""What to ask of whom, and when to ask somebody else: the pipelines to the peers that hold what we miss."""

from meshsat.protocol import bitset, effects, scheduler, sparse, wire
from meshsat.protocol.runs import Runs
from meshsat.protocol.session import Session
from meshsat.protocol.state import State
from meshsat.protocol.transfer import Transfer
from meshsat.trust.keys import PeerId

COMING = 2
"""Chunks that our own uplink is about to bring: peers are not asked for them."""
ENTRIES_PATIENCE = 0.5
"""Seconds before another holder is asked for the entries of a recipe."""
ENTRIES_DEADLINE = 3.0
"""Seconds after which chunks whose digest nobody tells count as not held."""


class Asking:
    def __init__(self, state: State, runs: Runs) -> None:
        self._state = state
        self._runs = runs

    def want(self, transfer: Transfer) -> wire.Want:
        """What peers are told of it."""
        first = min(transfer.readers.values(), default=0)
        return wire.Want(((transfer.blob, transfer.size, int(transfer.priority), first),), transfer.sources)

    def tell_want(self, transfer: Transfer, now: float) -> None:
        transfer.wanted_at = now
        want = self.want(transfer)
        for session in self._state.sessions.values():
            if session.greeted:
                self._state.send(session.peer, want)

    def seek_all(self, now: float) -> None:
        for transfer in self._by_priority():
            self.seek(transfer, now)

    def _by_priority(self) -> list[Transfer]:
        return sorted(self._state.transfers.values(), key=lambda one: -one.priority)

    def refill(self, session: Session, now: float) -> None:
        """It brought a chunk: once half of what was asked of it came, ask it for all that it has room for."""
        if len(session.asked) > session.refill_at:
            return
        for transfer in self._by_priority():
            if session.room(transfer.chunk_length, now) <= 0:
                break
            self.fill(transfer, session, now)
        session.refill_at = len(session.asked) // 2

    def seek(self, transfer: Transfer, now: float) -> None:
        """Do all that can be done now to get on with a transfer."""
        if not transfer.opened or transfer.publishing:
            return
        if transfer.complete:
            transfer.publishing = True
            self._runs.stop(transfer)
            self._state.emit(effects.Publish(transfer.blob))
            return
        self._ask_some_entries(transfer, now)
        self.fill_all(transfer, now)
        self._runs.start(transfer, now)

    def fill_all(self, transfer: Transfer, now: float) -> None:
        if not transfer.missing & ~transfer.inflight & transfer.claims.known:
            return  # nothing to ask of anybody
        peers = list(transfer.holders)
        self._state.rng.shuffle(peers)
        for peer in peers:
            self.fill(transfer, self._state.sessions[peer], now)

    def fill(self, transfer: Transfer, session: Session, now: float) -> None:
        """Keep the pipeline to this peer full."""
        held = transfer.holders.get(session.peer, 0)
        if not held & transfer.missing & ~transfer.inflight & transfer.claims.known:
            return  # the usual case, in a site that tells every chunk to everybody
        if not transfer.opened or transfer.publishing:
            return
        room = session.room(transfer.chunk_length, now)
        if room <= 0:
            return
        chosen = self._choose(transfer, session, now, room + COMING)
        asked: list[tuple[int, bytes]] = []
        for index in chosen:
            digest = transfer.claims.digest(index)
            coming = transfer.run is not None and transfer.run.next <= index < transfer.run.next + COMING
            if len(asked) == room:
                break
            if digest is not None and not coming:
                session.ask(transfer.blob, index, transfer.length(index), now)
                transfer.ask(session.peer, index, digest)
                asked.append((index, digest))
        if asked:
            self._state.send(session.peer, wire.Request(transfer.blob, tuple(asked)))

    def _choose(self, transfer: Transfer, session: Session, now: float, limit: int) -> list[int]:
        state = self._state
        if state.view.large:
            patient = state.far(session.peer) and state.has_mates(transfer.blob, 1)
            if patient and (session.asked or not state.starving(now)):
                return []
            if patient:
                return sparse.choose_one(transfer, session.peer, now, state.rng)
            turns = state.view.around(session.peer) if state.has_mates(transfer.blob, 4) else ()
            return sparse.choose(transfer, session.peer, turns, state.me, now, state.rng, limit)
        takers = sorted((*state.wanters(transfer.blob, transfer.size), state.me))
        return scheduler.choose(transfer, session.peer, takers, state.me, now, state.rng, limit)

    def _ask_some_entries(self, transfer: Transfer, now: float) -> None:
        if transfer.claims.known & transfer.missing == transfer.missing:
            return
        peers = list(transfer.holders)
        self._state.rng.shuffle(peers)
        peers.sort(key=transfer.entries_asked_of.__contains__)  # whoever was asked already comes last
        for peer in peers:
            self.ask_entries(transfer, self._state.sessions[peer], now)

    def ask_entries(self, transfer: Transfer, session: Session, now: float) -> None:
        """Ask for the digests that stand between us and what this peer holds, of one holder at a time."""
        unknown = transfer.holders.get(session.peer, 0) & transfer.missing & ~transfer.claims.known
        if not unknown or transfer.claims.is_barred(session.peer):
            return
        if transfer.entries_lacking_since is None:
            transfer.entries_lacking_since = now
        if now - transfer.entries_asked_at > ENTRIES_PATIENCE:
            transfer.entries_asked = 0
        unknown &= ~transfer.entries_asked
        if unknown:
            transfer.entries_asked |= unknown
            transfer.entries_asked_at = now
            transfer.entries_asked_of[session.peer] = None
            bits = bitset.to_bytes(unknown, transfer.cut.count)
            self._state.send(session.peer, wire.AskEntries(transfer.blob, transfer.size, bits))

    def cancel(self, transfer: Transfer, peer: PeerId, index: int) -> None:
        transfer.unask(index)
        session = self._state.sessions.get(peer)
        if session is not None:
            session.unask(transfer.blob, index)
            self._state.send(peer, wire.Cancel(transfer.blob, (index,)))

    def count_holder(self, transfer: Transfer, session: Session, now: float) -> None:
        """Make the transfer see what this session's peer holds of it."""
        if now < session.snubbed_until:
            return
        bits = session.haves.get(transfer.blob, 0)
        if session.holds.get(transfer.blob) == transfer.size:
            bits = transfer.everything
        bits &= ~session.refused.get(transfer.blob, 0)
        if bits:
            transfer.held_by(session.peer, bits)

    def check_entries(self, transfer: Transfer, now: float) -> None:
        """Chunks whose digest a holder does not tell are as good as not held by it."""
        since = transfer.entries_lacking_since
        if since is None:
            return
        untold = {
            peer: bits & transfer.missing & ~transfer.claims.known for peer, bits in transfer.holders.items()
        }
        if not any(untold.values()):
            transfer.entries_lacking_since = None
            transfer.entries_asked_of.clear()
        elif now - since > ENTRIES_DEADLINE:
            transfer.entries_lacking_since = None
            for peer in transfer.entries_asked_of:
                if untold.get(peer) and peer in self._state.sessions:
                    refused = self._state.sessions[peer].refused
                    refused[transfer.blob] = refused.get(transfer.blob, 0) | untold[peer]
                    transfer.lost_by(peer, untold[peer])
            transfer.entries_asked_of.clear()

    def stalled(self, session: Session, now: float) -> None:
        """It was asked and brings nothing: ask others, and leave it alone for a while."""
        session.snub(now)
        for blob, index in list(session.asked):
            transfer = self._state.transfers.get(blob)
            if transfer is not None:
                self.cancel(transfer, session.peer, index)
            session.unask(blob, index)
        for transfer in self._state.transfers.values():
            transfer.lost_by(session.peer)
