"""Peers that the configuration names by the address of their control plane."""

from collections.abc import Sequence

import trio

from meshsat.errors import ConfigError, InvalidInputError
from meshsat.mesh.discovery import OnFound, Sighting
from meshsat.mesh.interfaces import join_address
from meshsat.mesh.transport import ServeStatus
from meshsat.trust.keys import PeerId, parse_peer_id_untrusted

AGAIN = 30.0
"""Seconds between two reminders; the mesh itself decides when to dial."""
HOST_KINDS = ("ip4", "ip6", "dns", "dns4", "dns6")


def parse_multiaddr(text: str) -> tuple[PeerId, str]:
    """Peer id and `host:port` of a multiaddr. Raises `ConfigError`."""
    parts = text.split("/")
    if (
        len(parts) == 7
        and parts[0] == ""
        and parts[1] in HOST_KINDS
        and (parts[3], parts[5]) == ("tcp", "p2p")
    ):
        try:
            if parts[2] and parts[4].isdecimal() and 0 < int(parts[4]) < 65536:
                return parse_peer_id_untrusted(parts[6]), join_address(parts[2], int(parts[4]))
        except InvalidInputError as wrong:
            raise ConfigError(f"mesh.peers: {text}: {wrong}") from None
    raise ConfigError(f"mesh.peers: {text!r} is not of the form /ip4/10.0.0.2/tcp/4701/p2p/PEER")


class StaticPeers:
    """Raises `ConfigError` where an address is none."""

    def __init__(self, fleet: str, multiaddrs: Sequence[str]) -> None:
        self._fleet = fleet
        self._peers = [parse_multiaddr(text) for text in multiaddrs]

    async def run(self, on_found: OnFound, *, task_status: ServeStatus = trio.TASK_STATUS_IGNORED) -> None:
        task_status.started()
        while True:
            for peer, address in self._peers:
                on_found(Sighting(self._fleet, peer, "", (address,), ()))
            await trio.sleep(AGAIN)
