"""A link between two namespaces: a veth pair, shaped in both directions, counted, cut and mended.

Laws: the rate is a token bucket (tc-tbf(8)) at the sending end of each direction; a bucket no smaller than
the largest GSO packet (64 KiB) lets those pass whole, so that a single TCP flow gets more than 95 % of the
rate. Bytes are counted by the kernel after the bucket: what was sent, not what was wanted.
"""

import json
from dataclasses import dataclass
from typing import Any

from sim.namespaces import Namespace, run

BURST_BYTES = 128 * 1024
"""Two GSO packets: while one is on its way, the next can wait for its tokens."""
QUEUE_MS = 100
"""The longest that a packet waits at the bucket; past that, it is dropped, as by a modem."""


@dataclass(frozen=True, slots=True)
class End:
    namespace: Namespace
    device: str

    @property
    def spec(self) -> str:
        return f"{self.namespace.name}:{self.device}"


@dataclass(frozen=True, slots=True)
class Traffic:
    """What went one way since the link was made."""

    bytes: int
    """As the interface counts: a GSO packet's headers once."""
    packets: int
    wire_bytes: int
    """As the bucket counts: each segment with its Ethernet, IP and TCP headers."""
    drops: int


class Link:
    """`near` is the node's end, `far` the network's (the bridge, the WAN)."""

    def __init__(self, near: End, far: End, mbit: float) -> None:
        self.near = near
        self.far = far
        near.namespace.ip(
            f"link add {near.device} type veth peer name {far.device} netns {far.namespace.name}",
            f"link set {near.device} up",
        )
        far.namespace.ip(f"link set {far.device} up")
        self.shape(mbit)

    def shape(self, mbit: float, far_mbit: float | None = None) -> None:
        """Set the rate in Mbit/s from near to far, and back (the same, if not said). Works under way."""
        for end, rate in ((self.near, mbit), (self.far, far_mbit or mbit)):
            bucket = f"rate {int(rate * 1e6)}bit burst {BURST_BYTES} latency {QUEUE_MS}ms"
            _tc(end, f"qdisc replace dev {end.device} root handle 1: tbf {bucket}")

    def down(self) -> None:
        """Pull the plug: at the far end, so that the near one loses its carrier but keeps its routes."""
        self.far.namespace.ip(f"link set {self.far.device} down")

    def up(self) -> None:
        self.far.namespace.ip(f"link set {self.far.device} up")

    def sent(self) -> Traffic:
        """From near to far."""
        return _traffic(self.near)

    def received(self) -> Traffic:
        """From far to near."""
        return _traffic(self.far)


def _tc(end: End, command: str) -> None:
    run(("tc", "-n", end.namespace.name, *command.split()))


def _traffic(end: End) -> Traffic:
    name = end.namespace.name
    link: dict[str, Any] = json.loads(run(("ip", "-n", name, "-s", "-j", "link", "show", "dev", end.device)))[
        0
    ]
    bucket: dict[str, Any] = json.loads(
        run(("tc", "-n", name, "-s", "-j", "qdisc", "show", "dev", end.device))
    )[0]
    sent = link["stats64"]["tx"]
    return Traffic(sent["bytes"], sent["packets"], bucket["bytes"], bucket["drops"])
