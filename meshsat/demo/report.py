"""What the demo found, as a value, as one JSON object, and as the table that it ends with."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

WAN_LIMIT = 1.02
"""Times the image's size: what the site as a whole may fetch over the WAN."""
WAN_ALLOWANCE = 64 * 1024
"""Bytes on top: request and response headers, which weigh on small images."""


@dataclass(frozen=True, slots=True)
class Result:
    image_bytes: int
    uplink: int
    """Bits per second."""
    wan_bytes: int
    """From the upstream to the site, counted between the two."""
    node_seconds: Mapping[str, float]
    """Until each node had the image whole, counted from the moment at which all were asked."""
    client: str
    """The container client that found every digest to be the upstream's."""
    client_node: str

    @property
    def seconds_last(self) -> float:
        return max(self.node_seconds.values())

    @property
    def limit_seconds(self) -> float:
        """The size over the uplink's rate: nobody can be faster."""
        return 8 * self.image_bytes / self.uplink

    @property
    def ratio(self) -> float:
        return self.seconds_last / self.limit_seconds

    @property
    def ok(self) -> bool:
        """Every node has the image (or there would be no result), and the WAN carried it once."""
        return self.wan_bytes <= WAN_LIMIT * self.image_bytes + WAN_ALLOWANCE

    def as_json(self) -> dict[str, Any]:
        return {
            "nodes": len(self.node_seconds),
            "image_bytes": self.image_bytes,
            "wan_bytes": self.wan_bytes,
            "seconds_last": round(self.seconds_last, 3),
            "limit_seconds": round(self.limit_seconds, 3),
            "ratio": round(self.ratio, 3),
            "client": self.client,
            "ok": self.ok,
            "node_seconds": {name: round(seconds, 3) for name, seconds in self.node_seconds.items()},
        }


def as_table(result: Result) -> Group:
    """The comparison that the demo is about."""
    nodes = len(result.node_seconds)
    megabytes = result.image_bytes / 1e6
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    table.add_column("limit", justify="right")
    table.add_column("meshsat", justify="right", style="green" if result.ok else "red")
    table.add_column("", style="dim")
    table.add_column("each node for itself", justify="right")
    table.add_row(
        "time to the last node",
        f"{result.limit_seconds:.1f} s",
        f"{result.seconds_last:.1f} s",
        f"{result.ratio:.2f} x the limit",
        f"{nodes * result.limit_seconds:.1f} s",
    )
    table.add_row(
        "bytes over the WAN",
        f"{megabytes:.1f} MB",
        f"{result.wan_bytes / 1e6:.1f} MB",
        f"{result.wan_bytes / result.image_bytes:.3f} x the image",
        f"{nodes * megabytes:.1f} MB",
    )
    first = f"{megabytes:.1f} MB to {nodes} nodes over one uplink of {result.uplink / 1e6:g} Mbit/s"
    last = (
        f"{result.client} pulled it from {result.client_node}, which has no uplink:"
        " every digest is the upstream's."
    )
    verdict = "" if result.ok else "\nNOT OK: the WAN carried more than the image once."
    return Group(Text(first, style="bold"), table, Text(last + verdict))
