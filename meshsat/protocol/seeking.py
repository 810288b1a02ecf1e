"""Who holds what I want, at a site too large for everybody to hear everybody: asked of a hub.

A node hears the wants and holdings of its neighbours only; the hubs hear everybody's. Whoever has too few
peers nearby that want the same blob, or gets no further with it, asks a hub, which names holders, and
others that want it too. With these it has sessions on demand, so that those who want a blob are well
connected among themselves, however few they are.
"""

from meshsat.errors import InvalidInputError
from meshsat.oci.digest import Digest
from meshsat.protocol import effects, wire
from meshsat.protocol.events import Fault
from meshsat.protocol.membership import Membership
from meshsat.protocol.session import Session
from meshsat.protocol.state import State
from meshsat.protocol.transfer import Transfer
from meshsat.protocol.uplinks import Uplinks
from meshsat.trust.keys import PeerId, parse_peer_id_untrusted

MATES = 4
"""Near peers that hold a blob or want it too, from which on no others are looked for while it comes."""
PATIENCE = 0.3
"""Seconds for near peers to tell that they want or hold it."""
AGAIN = (2.0, 20.0)
"""Seconds between two questions for one blob; doubles."""
HUNGRY = 3.0
"""Seconds without a chunk after which others are looked for in any case."""
HOLDERS_TOLD = 3
WANTERS_TOLD = 5
FIND_LIMIT = 32
"""Blobs that are looked for at once."""


class Seeking:
    def __init__(self, state: State, membership: Membership, uplinks: Uplinks) -> None:
        self._state = state
        self._membership = membership
        self._uplinks = uplinks
        self._asked: dict[Digest, tuple[float, int, int, float]] = {}
        """Blob -> when to ask next, how often it was asked, chunks that we had then, since when."""

    def tick(self, now: float) -> None:
        transfers = self._state.transfers
        if not self._state.view.large or self._state.me in self._state.view.hubs:
            self._asked.clear()
            return
        for blob in [blob for blob in self._asked if blob not in transfers]:
            del self._asked[blob]
        for transfer in transfers.values():
            if transfer.local and transfer.opened and not transfer.publishing:
                self._seek(transfer, now)

    def _seek(self, transfer: Transfer, now: float) -> None:
        if transfer.blob not in self._asked:
            if len(self._asked) < FIND_LIMIT:
                self._asked[transfer.blob] = (now + PATIENCE, 0, transfer.have, now)
            return
        at, times, have, since = self._asked[transfer.blob]
        if transfer.have != have:
            have, since = transfer.have, now
            self._asked[transfer.blob] = (at, times, have, since)
        if now < at:
            return
        hungry = now - since > HUNGRY
        if not hungry and self.mates(transfer) >= MATES:
            return
        hubs = [peer for peer in self._state.view.hubs if peer in self._state.sessions]
        if hubs:
            hub = sorted(hubs)[self._state.rng.randrange(len(hubs))]
            self._state.send(hub, wire.Find(transfer.blob, transfer.size))
            wait = min(AGAIN[0] * 2.0 ** min(times, 8), AGAIN[1])
            self._asked[transfer.blob] = (now + wait, times + 1, have, since)

    def mates(self, transfer: Transfer) -> int:
        """Near peers that hold the blob or want it too."""
        return sum(
            (transfer.blob in session.holds or transfer.blob in session.wants)
            for peer, session in self._state.sessions.items()
            if not self._state.far(peer)
        )

    def find(self, session: Session, frame: wire.Find) -> None:
        """Somebody asks us, as a hub."""
        holders = [
            one
            for one in self._state.sessions.values()
            if one is not session and one.holds.get(frame.blob) == frame.size
        ]
        wanting = [
            self._state.sessions[peer]
            for peer in self._state.wanters(frame.blob, frame.size)
            if peer != session.peer and peer in self._state.sessions
        ]
        self._state.rng.shuffle(holders)
        self._state.rng.shuffle(wanting)
        named = {one.peer: one for one in (*holders[:HOLDERS_TOLD], *wanting[:WANTERS_TOLD])}
        told = tuple((one.peer, one.control, one.bulk) for one in named.values())
        self._state.send(session.peer, wire.Peers(frame.blob, told))

    def peers(self, session: Session, frame: wire.Peers, now: float) -> None:
        """A hub answers us."""
        transfer = self._state.transfers.get(frame.blob)
        if transfer is None or not transfer.local or session.peer not in self._state.view.hubs:
            return
        if not frame.peers and not transfer.holders and not self._uplinks.candidates():
            message = f"no node of this site holds {frame.blob}, and none has a working uplink"
            self._state.emit(effects.TellFailed(frame.blob, Fault.UNAVAILABLE, message))
        for text, control, bulk in frame.peers:
            try:
                peer = parse_peer_id_untrusted(text)
            except InvalidInputError:
                continue
            if peer != self._state.me and peer not in self._state.view.hubs:
                self._membership.sought(PeerId(peer), control, bulk, now)
