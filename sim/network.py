"""The network of a site: hosts on one LAN, some of them with a line of their own to the WAN.

    wan namespace  203.0.113.1 ──uplink (tbf)── n0 ─┐
                                                 n1 ─┤ lan (tbf)   sw namespace: one bridge
                                                 n2 ─┘             10.77.0.0/16

Laws: a host without an uplink has no route but the LAN's; the upstream has one address, the same from every
uplink; multicast floods the bridge, as in a plain switch. Knows no meshsat: any program runs on it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sim.links import End, Link
from sim.namespaces import Namespace, Run

UPSTREAM_ADDRESS = "203.0.113.1"
"""TEST-NET-3 (RFC 5737): an address that is nobody's."""
MAX_HOSTS = 200


@dataclass(frozen=True, slots=True)
class Plan:
    """What to lay out. Rates in Mbit/s, each the same in both directions."""

    hosts: int = 4
    uplinked: int = 1
    """The first so many hosts have a line to the WAN."""
    uplink_mbit: float = 50.0
    lan_mbit: float = 200.0
    congestion: str | None = None
    """TCP congestion control of every route, e.g. cubic; None: the kernel's own default."""

    def __post_init__(self) -> None:
        if not 0 < self.hosts <= MAX_HOSTS or not 0 <= self.uplinked <= self.hosts:
            raise ValueError(f"1 to {MAX_HOSTS} hosts, of which at most all are uplinked: {self}")
        if self.uplink_mbit <= 0 or self.lan_mbit <= 0:
            raise ValueError(f"rates are above 0 Mbit/s: {self}")


def uplink_addresses(number: int) -> tuple[str, str]:
    """Of the ends of uplink `number`: the WAN's, the host's."""
    return f"10.78.{number}.1", f"10.78.{number}.2"


@dataclass(frozen=True, slots=True)
class Host:
    """One machine of the site."""

    name: str
    namespace: Namespace
    address: str
    """On the LAN."""
    lan: Link
    uplink: Link | None


class Network:
    def __init__(self, owner: Run, plan: Plan) -> None:
        self.plan = plan
        self.wan = owner.namespace("wan")
        self.wan.ip(f"addr add {UPSTREAM_ADDRESS}/32 dev lo")
        self.switch = owner.namespace("sw")
        # Without snooping, multicast floods: mDNS works without an IGMP querier, as in an unmanaged switch.
        self.switch.ip("link add lan type bridge stp_state 0 mcast_snooping 0", "link set lan up")
        self.hosts = [self._host(owner.namespace, number) for number in range(plan.hosts)]

    def _host(self, namespace: Callable[[str], Namespace], number: int) -> Host:
        name = f"n{number}"
        here = namespace(name)
        address = f"10.77.0.{10 + number}"
        via = f" congctl {self.plan.congestion}" if self.plan.congestion else ""
        lan = Link(End(here, "lan"), End(self.switch, f"p{number}"), self.plan.lan_mbit)
        self.switch.ip(f"link set p{number} master lan")
        here.ip(
            f"addr add {address}/16 dev lan",
            f"route replace 10.77.0.0/16 dev lan src {address}{via}",
            "route add 224.0.0.0/4 dev lan",
        )
        uplink = self._uplink(here, number, via) if number < self.plan.uplinked else None
        return Host(name, here, address, lan, uplink)

    def _uplink(self, host: Namespace, number: int, via: str) -> Link:
        link = Link(End(host, "wan"), End(self.wan, f"w{number}"), self.plan.uplink_mbit)
        there, here = uplink_addresses(number)
        self.wan.ip(
            f"addr add {there}/30 dev w{number}", f"route replace 10.78.{number}.0/30 dev w{number}{via}"
        )
        host.ip(f"addr add {here}/30 dev wan", f"route add default via {there} dev wan{via}")
        return link

    def cut(self, hosts: Sequence[Host]) -> None:
        """Part the LAN: these hosts reach each other and nobody else, the others likewise."""
        self.switch.ip("link add apart type bridge stp_state 0 mcast_snooping 0", "link set apart up")
        self.switch.ip(*(f"link set {host.lan.far.device} master apart" for host in hosts))

    def heal(self) -> None:
        """Make it one LAN again."""
        self.switch.ip(
            *(f"link set {host.lan.far.device} master lan" for host in self.hosts), "link del apart"
        )

    @property
    def uplinks(self) -> list[Link]:
        return [host.uplink for host in self.hosts if host.uplink]

    def wan_bytes(self) -> int:
        """What the WAN sent to the site, over all uplinks, as the interfaces count."""
        return sum(link.received().bytes for link in self.uplinks)

    def wan_wire_bytes(self) -> int:
        """The same with every segment's headers."""
        return sum(link.received().wire_bytes for link in self.uplinks)

    def wan_bytes_out(self) -> int:
        """What the site sent to the WAN."""
        return sum(link.sent().bytes for link in self.uplinks)
