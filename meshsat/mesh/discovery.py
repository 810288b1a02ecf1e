"""Who else is on this LAN, by multicast DNS (RFC 6762, 6763). The only file that imports zeroconf.

What is announced is a hint and proves nothing: who a peer is shows when it is dialled.

Laws: zeroconf runs on threads of its own, and one coalesced wake-up is all that crosses over; whatever it
raises, also where there is no multicast or port 5353 is taken, is logged once and tried again with
back-off; a flood costs at most `MOST` sightings a look, looks are `LOOK` seconds apart, and a cache that
has swollen is thrown away. When the machine's addresses change, the announcement follows within `POLL`
seconds. Closing takes less than a second.

`MemoryDiscovery` is the twin for tests.
"""

import logging
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address
from typing import Protocol

import structlog
import trio
from zeroconf import IPVersion, ServiceBrowser, ServiceInfo, ServiceStateChange, Zeroconf

from meshsat.errors import InvalidInputError
from meshsat.mesh.interfaces import join_address, reachable_addresses
from meshsat.mesh.transport import ServeStatus
from meshsat.trust.keys import PeerId, parse_peer_id_untrusted
from meshsat.trust.passes import parse_site_untrusted

log = structlog.get_logger(__name__)

SERVICE = "_meshsat._tcp.local."
VERSION = b"1"
MOST = 512
"""Sightings that are looked at and remembered; a site has up to 200 nodes."""
LOOK = 0.25
POLL = 10.0
"""Seconds after which everybody still announced is told again, and the machine's addresses are looked at."""
_CACHE_MOST = 8192
"""Names in zeroconf's cache; a node has three."""
_ADDRESSES_MOST = 8
_TTL = 600
"""Seconds, of every record: who asks for the service's names gets the rest along, so all live on together."""
_QUESTIONS, _ANSWER = 2, 200
"""Services a look that are asked for what is missing, and the milliseconds in which they must answer."""
_CLOSING = 0.8
_PAUSE, _PAUSE_MOST = 2.0, 60.0


@dataclass(frozen=True, slots=True)
class Announcement:
    """What a node says of itself."""

    fleet: str
    peer: PeerId
    site: str
    control_port: int
    bulk_port: int


@dataclass(frozen=True, slots=True)
class Sighting:
    """What somebody says of itself. Unproved."""

    fleet: str
    peer: PeerId
    site: str
    control: tuple[str, ...]
    """`host:port` of the control plane."""
    bulk: tuple[str, ...]


OnFound = Callable[[Sighting], None]
"""Called again for whoever is still there every `POLL` seconds. Must not block."""


class Discovery(Protocol):
    async def run(self, on_found: OnFound, *, task_status: ServeStatus = trio.TASK_STATUS_IGNORED) -> None:
        """Announce and look out until cancelled. Raises nothing; does not tell of ourselves."""
        ...


def parse_sighting_untrusted(
    properties: Mapping[bytes, bytes | None], addresses: Sequence[str], port: int
) -> Sighting:
    """A sighting out of a service's TXT, A and SRV records. Raises `InvalidInputError`."""

    def text(key: bytes, most: int) -> str:
        value = properties.get(key)
        if not value or len(value) > most or not all(0x21 <= octet <= 0x7E for octet in value):
            raise InvalidInputError(f"announcement: {key.decode()} is 1 to {most} printable ASCII characters")
        return value.decode("ascii")

    if properties.get(b"v") != VERSION:
        raise InvalidInputError("announcement: of another version")
    bulk = text(b"bulk", 5)
    if not bulk.isdigit() or not 0 < int(bulk) <= 65535 or not 0 < port <= 65535:
        raise InvalidInputError("announcement: ports are 1 to 65535")
    hosts = [host for host in addresses[:_ADDRESSES_MOST] if _is_dialable(host)]
    if not hosts:
        raise InvalidInputError("announcement: without an IPv4 address")
    return Sighting(
        text(b"fleet", 64),
        parse_peer_id_untrusted(text(b"peer", 64)),
        parse_site_untrusted(text(b"site", 63)),
        tuple(join_address(host, port) for host in hosts),
        tuple(join_address(host, int(bulk)) for host in hosts),
    )


def _is_dialable(host: str) -> bool:
    try:
        address = IPv4Address(host)
    except AddressValueError:
        return False
    return not (address.is_multicast or address.is_unspecified or address.is_reserved)


class MdnsDiscovery:
    """`listen` is what the planes are bound to. Without an `announcement` it only looks out.

    Tells of members of `fleet` only; of everybody where that is None.
    """

    def __init__(self, listen: str, fleet: str | None, announcement: Announcement | None) -> None:
        self._listen = listen
        self._fleet = fleet
        self._announcement = announcement

    async def run(self, on_found: OnFound, *, task_status: ServeStatus = trio.TASK_STATUS_IGNORED) -> None:
        task_status.started()
        pause, told = _PAUSE, ""
        while True:
            addresses = reachable_addresses(self._listen)
            session = _Session(addresses, self._announcement)
            try:
                await session.open()
                pause, told = _PAUSE, ""
                await self._look_out(session, on_found)
                log.info("mdns starts again", before=addresses, after=reachable_addresses(self._listen))
                continue
            except Exception as fault:  # noqa: BLE001 - the wall around zeroconf
                reason = f"{type(fault).__name__}: {fault}"
                if reason != told:
                    log.warning("no discovery by mDNS for now", reason=reason, addresses=addresses)
                told = reason
            finally:
                await session.aclose()
            await trio.sleep(pause)
            pause = min(2 * pause, _PAUSE_MOST)

    async def _look_out(self, session: "_Session", on_found: OnFound) -> None:
        """Until the machine's addresses have changed, or the cache has swollen."""
        known: dict[str, Sighting] = {}
        while True:
            repeat = trio.current_time() + POLL
            while trio.current_time() < repeat:
                await self._tell(session, known, on_found)
                await trio.sleep(LOOK)
                with trio.move_on_at(repeat):
                    await session.news.wait()
                session.news = trio.Event()
            known.clear()
            if reachable_addresses(self._listen) != session.addresses or session.is_swollen:
                return

    async def _tell(self, session: "_Session", known: dict[str, Sighting], on_found: OnFound) -> None:
        """Tell what is new since the last look."""
        seen = await trio.to_thread.run_sync(session.look, abandon_on_cancel=True)
        for name, sighting in seen.items():
            ours = self._announcement is not None and sighting.peer == self._announcement.peer
            if known.get(name) == sighting or ours or self._fleet not in (None, sighting.fleet):
                continue
            on_found(sighting)
        known.clear()
        known.update(seen)


class MemoryLan:
    """Where `MemoryDiscovery` announces."""

    def __init__(self) -> None:
        self._lookouts: dict[PeerId, tuple[Sighting, OnFound]] = {}

    def join(self, sighting: Sighting, on_found: OnFound) -> None:
        for other, tell in list(self._lookouts.values()):
            if other.fleet == sighting.fleet and other.peer != sighting.peer:
                tell(sighting)
                on_found(other)
        self._lookouts[sighting.peer] = (sighting, on_found)

    def leave(self, peer: PeerId) -> None:
        self._lookouts.pop(peer, None)


class MemoryDiscovery:
    def __init__(self, lan: MemoryLan, sighting: Sighting) -> None:
        self._lan = lan
        self._sighting = sighting

    async def run(self, on_found: OnFound, *, task_status: ServeStatus = trio.TASK_STATUS_IGNORED) -> None:
        task_status.started()
        try:
            while True:
                self._lan.join(self._sighting, on_found)
                await trio.sleep(POLL)
        finally:
            self._lan.leave(self._sighting.peer)


class _Session:
    """One life of zeroconf, on fixed addresses. All but `news` runs on threads that may block."""

    def __init__(self, addresses: tuple[str, ...], announcement: Announcement | None) -> None:
        self.addresses = addresses
        self.news = trio.Event()
        self._announcement = announcement
        self._token = trio.lowlevel.current_trio_token()
        self._lock = threading.Lock()
        self._zeroconf: Zeroconf | None = None
        self._opening = True
        self._closed = False
        self._news_pending = False

    async def open(self) -> None:
        """Raises anything. Cancelled, it leaves the rest to the thread, which then closes what it opened."""
        await trio.to_thread.run_sync(self._open, abandon_on_cancel=True)

    async def aclose(self) -> None:
        """Say goodbye, within `_CLOSING` seconds; the thread goes on by itself where that is not enough."""
        with trio.CancelScope(deadline=trio.current_time() + _CLOSING, shield=True):
            await trio.to_thread.run_sync(self._close, abandon_on_cancel=True)

    @property
    def is_swollen(self) -> bool:
        return self._zeroconf is not None and len(self._zeroconf.cache.names()) > _CACHE_MOST

    def look(self) -> dict[str, Sighting]:
        """Everybody announced now, by the service's name. Of whom a record is missing, a few are asked."""
        zeroconf = self._zeroconf
        seen: dict[str, Sighting] = {}
        questions = 0
        if zeroconf is None:
            return seen
        for pointer in zeroconf.cache.entries_with_name(SERVICE)[:MOST]:
            name = getattr(pointer, "alias", "")
            if not name.endswith(f".{SERVICE}"):
                continue
            info = ServiceInfo(SERVICE, name)
            if not info.load_from_cache(zeroconf):
                questions += 1
                if questions > _QUESTIONS or not info.request(zeroconf, _ANSWER):
                    continue
            try:
                seen[name] = parse_sighting_untrusted(
                    info.properties, info.parsed_addresses(IPVersion.V4Only), info.port or 0
                )
            except InvalidInputError as fault:
                log.debug("announcement ignored", name=name[:80], reason=str(fault))
        return seen

    def _open(self) -> None:
        try:
            self._announce()
        finally:
            # Closed while it was opening, when zeroconf bears no second thread: the closing was left to us.
            with self._lock:
                self._opening = False
                closed = self._closed
            if closed and self._zeroconf is not None:
                self._zeroconf.close()

    def _announce(self) -> None:
        logging.getLogger("zeroconf").setLevel(logging.CRITICAL + 1)  # what it raises is told by us
        zeroconf = Zeroconf(interfaces=list(self.addresses), ip_version=IPVersion.V4Only)
        self._zeroconf = zeroconf
        if not self._closed:
            ServiceBrowser(zeroconf, SERVICE, handlers=[self._changed])
            if self._announcement is not None:
                # Where a clone or a liar has our name we take another; it is the peer id that counts.
                service = _service(self._announcement, self.addresses)
                zeroconf.register_service(service, allow_name_change=True)

    def _close(self) -> None:
        with self._lock:
            self._closed = True
            opening = self._opening
        if not opening and self._zeroconf is not None:
            self._zeroconf.close()

    def _changed(
        self, zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange
    ) -> None:
        """On zeroconf's thread, for every change: at most one wake-up is under way at any time."""
        del zeroconf, service_type, name, state_change
        with self._lock:
            if self._news_pending or self._closed:
                return
            self._news_pending = True
        try:
            self._token.run_sync_soon(self._wake)
        except trio.RunFinishedError:
            return

    def _wake(self) -> None:
        self._news_pending = False
        self.news.set()


def _service(announcement: Announcement, addresses: Sequence[str]) -> ServiceInfo:
    properties = {
        b"v": VERSION,
        b"fleet": announcement.fleet.encode(),
        b"peer": announcement.peer.encode(),
        b"site": announcement.site.encode(),
        b"bulk": str(announcement.bulk_port).encode(),
    }
    return ServiceInfo(
        SERVICE,
        f"{announcement.peer}.{SERVICE}",
        port=announcement.control_port,
        addresses=[socket.inet_aton(address) for address in addresses],
        properties=properties,
        host_ttl=_TTL,
        other_ttl=_TTL,
        server=f"{announcement.peer}.local.",
    )
