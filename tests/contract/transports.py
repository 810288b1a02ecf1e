"""The transports that the contract suite runs on. A new one is a function here and a line in `TWINS`."""

import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from meshsat.mesh.identity import Identity
from meshsat.mesh.libp2p_transport import Libp2pTransport
from meshsat.mesh.memory_network import MemoryNetwork
from meshsat.mesh.memory_transport import MemoryTransport
from meshsat.mesh.tls_transport import TlsTransport
from meshsat.mesh.transport import Transport
from meshsat.metrics import Metrics
from meshsat.trust.admission import Admission

Make = Callable[[Identity, Sequence[str], Metrics, Admission | None], Transport]


@dataclass
class Twin:
    """One implementation, for one test."""

    make: Make
    """A transport that is not serving yet. The identity has its files."""
    mute: Callable[[], str]
    """The address of somebody who never answers."""
    closing: list[Callable[[], None]] = field(default_factory=list)
    """Called when the test is over."""


def memory_twin() -> Twin:
    network = MemoryNetwork()

    def make(
        identity: Identity, protocols: Sequence[str], metrics: Metrics, admission: Admission | None
    ) -> Transport:
        host = network.add_host(f"host{len(network.hosts)}")
        return MemoryTransport(network, host, identity, protocols, metrics, admission=admission)

    def mute() -> str:
        network.add_host("mute")
        network.silence("mute")
        return "mute:4702"

    return Twin(make, mute)


def tls_twin() -> Twin:
    def make(
        identity: Identity, protocols: Sequence[str], metrics: Metrics, admission: Admission | None
    ) -> Transport:
        return TlsTransport(identity, protocols, metrics, listen="127.0.0.1", admission=admission)

    return tcp_twin(make)


def libp2p_twin() -> Twin:
    def make(
        identity: Identity, protocols: Sequence[str], metrics: Metrics, admission: Admission | None
    ) -> Transport:
        return Libp2pTransport(identity, protocols, metrics, listen="127.0.0.1", admission=admission)

    return tcp_twin(make)


def tcp_twin(make: Make) -> Twin:
    """For every implementation over TCP."""
    listener = socket.create_server(("127.0.0.1", 0))
    return Twin(make, lambda: f"127.0.0.1:{listener.getsockname()[1]}", [listener.close])


TWINS: dict[str, Callable[[], Twin]] = {"libp2p": libp2p_twin, "memory": memory_twin, "tls": tls_twin}
