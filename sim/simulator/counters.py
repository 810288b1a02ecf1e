"""What a node has sent and received, in bytes on the wire unless said otherwise."""

from dataclasses import dataclass


@dataclass(slots=True)
class Counters:
    payload_in: int = 0
    """Bytes of chunks, without headers; those of `duplicate` are among them."""
    payload_out: int = 0
    frames_in: float = 0.0
    frames_out: float = 0.0
    gossip_in: float = 0.0
    gossip_out: float = 0.0
    frames: int = 0
    """Number of frames received."""
    duplicate: int = 0
    """Bytes of chunks that came from peers and were here already, or not asked for any more."""
    uplink: int = 0
    """Bytes of whole chunks that came over its own uplink, without headers; see `SimNode.wan_bytes`."""
