"""What the simulated world costs: times in seconds, parts of a byte."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Physics:
    latency: float = 0.0005
    """One way between two nodes of a site."""
    overhead: float = 1.046
    """Bytes on the wire for each of payload: the headers of Ethernet, IP, TCP and TLS, as measured."""
    write_overhead: float = 90.0
    """Bytes that one write of frames costs beside them: the headers of a packet and of a TLS record."""
    handshake: float = 0.003
    """TCP and TLS, until a session stands."""
    dial_timeout: float = 5.0
    """Until a dial of somebody who does not answer is given up."""
    discovery: float = 0.2
    """Until the nodes of a site have sighted one that started."""
    uplink_delay: float = 0.02
    """From a request to the first byte of the upstream's answer."""
    uplink_stall: float = 0.0
    """How long a fetch over an uplink that went down hangs before it fails; 0 is at once."""
    disk_delay: float = 0.0
    """To check and write a chunk, and to publish a blob."""
    grain: float = 0.001
    """Changes of rates within so many seconds are worked out together."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Of the machines, where they differ from what is shipped: fields of `machine.Settings`."""
