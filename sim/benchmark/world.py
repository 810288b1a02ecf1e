"""What is measured: how large a site, how fast its links, how much payload, and who has it beforehand.

The limit of a run is what no distributor can beat: cold, every byte crosses the uplink once; warm, every
byte enters each node's LAN link once. Headers are not counted; with them 1.046 times the limit is the floor.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Self

HEADERS = 1.046
"""A 1514-byte frame's bytes beside the TCP payload in it: the least last / limit that can be."""


class Case(StrEnum):
    COLD = "cold"
    """Only the upstream has the payload; all nodes ask in the same instant; one of them has an uplink."""
    WARM = "warm"
    """One node holds it, the WAN is cut; all the others ask in the same instant."""


@dataclass(frozen=True, slots=True, order=True)
class World:
    nodes: int
    uplink_mbit: float
    lan_mbit: float
    """Of each node, each direction."""
    megabytes: int
    """10^6 bytes of payload: random bytes in one file, or in one layer of an image."""

    @property
    def size(self) -> int:
        return self.megabytes * 10**6

    def limit_seconds(self, case: Case) -> float:
        return self.megabytes * 8 / (self.uplink_mbit if case is Case.COLD else self.lan_mbit)

    def scaled(self, part: float) -> "World":
        """The same site with a part of the payload, 1 MB at least."""
        return World(self.nodes, self.uplink_mbit, self.lan_mbit, max(1, round(self.megabytes * part)))

    @classmethod
    def parse(cls, text: str) -> Self:
        """`NODES:UPLINK:LAN:MB`, e.g. 8:25:100:100. Raises `ValueError`."""
        try:
            nodes, uplink, lan, megabytes = text.split(":")
            world = cls(int(nodes), float(uplink), float(lan), int(megabytes))
        except ValueError:
            raise ValueError(f"{text!r} is not NODES:UPLINK:LAN:MB, e.g. 8:25:100:100") from None
        if world.nodes < 2 or min(world.uplink_mbit, world.lan_mbit, world.megabytes) <= 0:
            raise ValueError(f"{text!r}: two nodes at least, rates and payload above 0")
        return world

    def __str__(self) -> str:
        return f"N={self.nodes}, LAN/uplink {self.rates}, {self.megabytes} MB"

    @property
    def rates(self) -> str:
        return f"{self.lan_mbit:g}/{self.uplink_mbit:g} Mbit/s"


WORLDS = (World(4, 50, 200, 200), World(8, 25, 100, 100), World(16, 12.5, 50, 50))
"""Those that the promises are made for."""
