"""What a node shows of itself: its status, its peers and its images, as they are now."""

from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version

import trio
from prometheus_client import Counter

from meshsat.config import Config
from meshsat.mesh.driver import Driver
from meshsat.mesh.identity import Identity
from meshsat.mesh.libp2p_transport import Libp2pTransport
from meshsat.mesh.tls_transport import TlsTransport
from meshsat.metrics import Metrics
from meshsat.oci.digest import Digest
from meshsat.protocol.transfer import Transfer
from meshsat.signatures import Verifier
from meshsat.status import (
    DiskStatus,
    ImageStatus,
    NodeStatus,
    PassStatus,
    PeerStatus,
    StateStatus,
    TransferStatus,
    UplinkStatus,
    WanStatus,
    in_words,
)
from meshsat.store.store import Store
from meshsat.uplink.client import Uplink
from meshsat.uplink.shown import wan_status


class Overview:
    def __init__(
        self,
        config: Config,
        identity: Identity,
        store: Store,
        uplink: Uplink | None,
        driver: Driver,
        planes: tuple[TlsTransport, Libp2pTransport],
        metrics: Metrics,
        verifier: Verifier,
    ) -> None:
        self._config = config
        self._identity = identity
        self._store = store
        self._uplink = uplink
        self._driver = driver
        self._machine = driver.machine
        self._planes = planes
        self._metrics = metrics
        self._verifier = verifier
        self._started = trio.current_time()
        self.disk: Callable[[], DiskStatus] = DiskStatus
        self.member: Callable[[], PassStatus | None] = lambda: None
        self.troubles: list[Callable[[], str | None]] = [verifier.trouble]
        """Each tells what an operator should do something about, in plain words, if there is something."""
        self.state: Callable[[], StateStatus | None] = lambda: None
        self.more_troubles: Callable[[], list[str]] = list
        """The same, of those who may have several."""

    def status(self, registry_address: str | None) -> NodeStatus:
        blobs = self._store.blobs()
        tls, libp2p = self._planes
        return NodeStatus(
            peer=self._machine.me,
            name=self._machine.name,
            fleet=self._identity.member.fleet,
            site=self._identity.member.site,
            version=version("meshsat"),
            uptime=trio.current_time() - self._started,
            wan_bytes_in=_count(self._metrics.wan_in),
            wan_bytes_out=_count(self._metrics.wan_out),
            lan_bytes_in=_count(self._metrics.lan_in),
            lan_bytes_out=_count(self._metrics.lan_out),
            blobs=len(blobs),
            blob_bytes=sum(blobs.values()),
            images=len(self._store.images()),
            peers=len(self._machine.sessions),
            uplink=self._uplink_status(),
            registry_address=registry_address,
            control_addresses=libp2p.addresses,
            bulk_addresses=tls.addresses,
            transfers=tuple(
                TransferStatus(
                    str(transfer.blob),
                    transfer.have_bytes,
                    transfer.size,
                    len(transfer.holders),
                    _trouble(transfer, trio.current_time()),
                )
                for transfer in self._machine.transfers.values()
            ),
            disk=self.disk(),
            member=self.member(),
            state=self.state(),
            problems=tuple(self._problems()),
        )

    def _uplink_status(self) -> UplinkStatus:
        if self._uplink is None:
            return UplinkStatus(enabled=False, up=None)
        now = trio.current_time()
        verdict = self._uplink.meter.allowance.look()
        since, held = self._uplink.failing_since, self._uplink.held_until
        retry_at = max((at for at in (held, self._machine.uplink_retry_at) if at is not None), default=None)
        return UplinkStatus(
            True,
            self._uplink.up,
            self._uplink.last_error,
            self._uplink.meter.allowance.rate,
            failing_for=None if since is None else now - since,
            retry_in=None if retry_at is None else max(0.0, retry_at - now),
            gate=verdict.gate.name.lower(),
            gate_reason=verdict.reason,
            opens_at=verdict.opens_at,
        )

    def wan(self) -> WanStatus:
        return wan_status(self._uplink)

    def _problems(self) -> list[str]:
        problems: list[str] = []
        if not self._machine.sessions:
            problems.append(
                "no peer is connected: are other nodes of this fleet on the LAN, and mDNS let through?"
            )
        if not self._machine.site_has_uplink():
            problems.append("no node of this site that we see has a working uplink: tags may be old")
        uplink = self._uplink_status()
        if uplink.last_error:
            times = in_words(uplink.failing_for, uplink.retry_in)
            problems.append(f"uplink: {uplink.last_error}{times}")
        if uplink.gate_reason and self._uplink is not None:
            problems.append(f"uplink: {self._uplink.meter.allowance.look()}")
        problems += [trouble for ask in self.troubles if (trouble := ask()) is not None]
        problems += self.more_troubles()
        return problems

    def peers(self) -> list[PeerStatus]:
        found: list[PeerStatus] = []
        for peer, known in sorted(self._machine.membership.known.items()):
            session, link = self._machine.sessions.get(peer), self._driver.links.get(peer)
            state = "connected" if session else "dialling" if known.dialling else "known"
            found.append(
                PeerStatus(
                    peer=peer,
                    name=session.name if session else "",
                    site=link.stream.member.site if link else "",
                    state=state,
                    plane=link.plane if link else None,
                    addresses=known.bulk or known.control,
                    uplink=session.uplink if session else False,
                    bytes_in=link.bytes_in if link else 0,
                    bytes_out=link.bytes_out if link else 0,
                    rtt=session.rtt if session else None,
                )
            )
        return found

    def images(self) -> list[ImageStatus]:
        whole: dict[str, ImageStatus] = {}
        for row in self._store.images():
            verdict = self._verdict(row.registry, row.repository, row.descriptor.digest)
            digest = str(row.descriptor.digest)
            whole[row.name] = ImageStatus(
                row.name, digest, row.size, row.size, True, row.published_at, *verdict
            )
        for tag in self._store.all_tags():
            name = f"{tag.registry}/{tag.repository}:{tag.tag}"
            held = whole.get(name)
            if held is not None and held.digest == str(tag.descriptor.digest):
                whole[name] = replace(held, resolved_at=tag.resolved_at)
            else:
                have = self._store.blob_size(tag.descriptor.digest) or 0
                size = tag.descriptor.size
                digest = str(tag.descriptor.digest)
                verdict = self._verdict(tag.registry, tag.repository, tag.descriptor.digest)
                whole[name] = ImageStatus(name, digest, size, have, False, tag.resolved_at, *verdict)
        return [whole[name] for name in sorted(whole)]

    def _verdict(self, registry: str, repository: str, digest: Digest) -> tuple[str | None, str | None]:
        verdict = self._verifier.shown(registry, repository, digest)
        return (None, None) if verdict is None else (verdict.kind, verdict.reason)


def _trouble(transfer: Transfer, now: float) -> str | None:
    """Why our uplink does not bring a blob, for how long, and when it is tried again."""
    if not transfer.problem:
        return None
    times = in_words(now - transfer.problem_since, max(0.0, transfer.retry_at - now))
    return transfer.problem + times


def _count(counter: Counter) -> int:
    """What a counter stands at."""
    samples = (sample for family in counter.collect() for sample in family.samples)
    return int(sum(sample.value for sample in samples if sample.name.endswith("_total")))
