"""A node: the one place that builds every part and runs them, and knows the order in which they stop."""

import os
import random
import socket
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version

import structlog
import trio

from meshsat.audit.event import NODE, SUCCESS, Audit, NoAudit
from meshsat.audit.opening import open_log
from meshsat.config import Config, MeshSection
from meshsat.errors import DeniedError
from meshsat.fetch import Fetcher
from meshsat.following import Around, Following
from meshsat.http.asgi import App, Receive, Scope, Send
from meshsat.http.server import Bind, TcpBind, UnixBind, serve_app
from meshsat.http.tls import Files, ServerTls, Source
from meshsat.means import Means
from meshsat.mesh import identity as identities
from meshsat.mesh.certificates import CA_FILE, FleetCertificate
from meshsat.mesh.discovery import Announcement, Discovery, MdnsDiscovery
from meshsat.mesh.driver import Driver
from meshsat.mesh.identity import Identity
from meshsat.mesh.libp2p_transport import Libp2pTransport, Limits
from meshsat.mesh.muxer import Limits as MuxerLimits
from meshsat.mesh.outcomes import told_to
from meshsat.mesh.passes import Passes
from meshsat.mesh.service import Mesh
from meshsat.mesh.static_peers import StaticPeers
from meshsat.mesh.tls_transport import TlsTransport
from meshsat.mesh.trace_file import TraceFile
from meshsat.metrics import Metrics
from meshsat.oci.digest import Digest
from meshsat.oci.reference import SITE, Reference
from meshsat.overview import Overview
from meshsat.planning import Planned, read_state_untrusted
from meshsat.protocol import events
from meshsat.protocol.gossip import ImageRecord
from meshsat.protocol.machine import Machine, Settings
from meshsat.protocol.recording import RecordedMachine
from meshsat.protocol.wire import PROTOCOL as SWAP
from meshsat.pull_through import PullThrough
from meshsat.records import RecordKeeper, from_store_untrusted
from meshsat.registry.access import Access
from meshsat.registry.app import OPERATOR, create_registry
from meshsat.reload import Reloaded, Reloader
from meshsat.repair import Repair
from meshsat.signature_policy import SignaturePolicy, read_key, rules_of
from meshsat.signatures import Verifier
from meshsat.site_content import SiteContent, Tagged
from meshsat.state_sources import StateSources
from meshsat.status import (
    DesiredStatus,
    ImageStatus,
    NodeStatus,
    PeerStatus,
    SatelliteStatus,
    ShadowReport,
    WanStatus,
)
from meshsat.store.store import Store
from meshsat.store.uploads import UploadLimits
from meshsat.trust.keys import PeerId
from meshsat.upkeep.task import Collected, Upkeep
from meshsat.uplink.client import Uplink
from meshsat.upstream_gate import UpstreamGate
from meshsat.vault.vault import Vault
from meshsat.web.api import create_api, create_public_api
from meshsat.web.view import PullEvent

log = structlog.get_logger(__name__)

API_SOCKET = "api.sock"


@dataclass(frozen=True, slots=True)
class Listening:
    """Where a node that is up can be reached."""

    registry: str
    api: str
    control: tuple[str, ...]
    bulk: tuple[str, ...]


async def run_node(
    config: Config,
    *,
    reloader: Reloader | None = None,
    task_status: trio.TaskStatus[Listening] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run until cancelled. `reloader` None: the configuration is read once. Raises a `MeshsatError` for what
    keeps it from starting."""
    identity = identities.load(config.data_dir)
    async with AsyncExitStack() as stack:
        pushes = config.registry
        limits = UploadLimits(pushes.uploads, pushes.upload_timeout, pushes.blob_limit)
        store = await stack.enter_async_context(await Store.open(config.data_dir, uploads=limits))
        metrics = Metrics()
        vault = Vault(config.data_dir)
        uplink = None
        if config.uplink.enabled:
            uplink = await stack.enter_async_context(
                Uplink(config.uplink, metrics, vault=vault, directory=config.data_dir)
            )
        trace = None
        if config.record.file is not None:
            trace = TraceFile(config.record.file, config.record.limit)
            stack.callback(trace.close)
        while True:
            await Node(config, identity, store, uplink, metrics, trace, vault, reloader).run(task_status)
            # It has another key: all that is built on that begins anew, what is held stays.
            identity, trace, task_status = identities.load(config.data_dir), None, trio.TASK_STATUS_IGNORED
            if reloader is not None:
                config = reloader.config
                reloader.live.clear()


class Node:
    """The parts of one node, and what its API shows of them (web/view.py)."""

    def __init__(
        self,
        config: Config,
        identity: Identity,
        store: Store,
        uplink: Uplink | None,
        metrics: Metrics,
        trace: TraceFile | None = None,
        vault: Vault | None = None,
        reloader: Reloader | None = None,
    ) -> None:
        self.metrics = metrics
        self.vault = vault or Vault(config.data_dir)
        self._audit_log = open_log(config)
        self.audit: Audit = self._audit_log or NoAudit()
        self._config = config
        self._identity = identity
        self._store = store
        self._uplink = uplink
        self._listening: Listening | None = None
        self._access = Access(config.registry, audit=self.audit)
        self.passes = Passes(config.data_dir, identity, config.passes, tell=told_to(self.audit))
        now, site = self.passes.now, identity.member.site
        self._tls = self._make_tls()
        self._machine = self._make_machine(trace)
        self._machine.take_records(from_store_untrusted(store, now()))
        store.is_member = lambda author: self._machine.records.has_met(PeerId(author))
        self._planes = self._make_planes(config.mesh)
        tls, libp2p = self._planes
        policy = PullThrough(config.registry.pull_through, config.registry.tag_ttl)
        self.signature_policy = SignaturePolicy(rules_of(config.signatures, read_key))
        verifier = Verifier(store, self.signature_policy)
        gate = None
        if uplink is not None:
            gate = UpstreamGate(uplink, store, identity.key, now, policy, verifier)
        self._driver = Driver(
            self._machine, store, gate, [tls, libp2p], metrics, config.uplink.range_connections
        )
        if gate is not None:
            gate.on_stored = self._driver.stored
            gate.on_record = lambda record: self._driver.feed(events.RecordMade(record))
        if uplink is not None:
            uplink.on_gate = lambda told: self._driver.feed(events.UplinkGated(told.gate, str(told)))
        self._reloader = reloader
        self._keeper = RecordKeeper(store)
        self._driver.on_record = self._heard
        self.passes.attach(self._driver, self._planes, _chance())
        self._mesh = Mesh(
            self._machine, self._driver, self._planes, self._discoveries, self.passes.ledger, site=site
        )
        self._fetcher = Fetcher(
            store,
            self._mesh,
            now,
            upstream=config.registry.upstream,
            policy=policy,
            resolve_timeout=config.registry.resolve_timeout,
            verifier=verifier,
        )
        self._upkeep = Upkeep(
            store,
            config.disk,
            metrics,
            held_elsewhere=self._mesh.kept_elsewhere,
            wanted=self._mesh.wanted,
            unix=now,
            chance=_chance().random,
        )
        self._repair = Repair(store, self._mesh, self._fetcher, policy.allows)
        self._upkeep.on_rotten = self._repair.want
        store.removal.on_dropped = self._dropped
        self._driver.on_served = store.ages.use
        self._site = SiteContent(
            store, self._mesh, self._fetcher, identity.key, now, pin=config.registry.pin_pushed
        )
        means = Means(config, site, policy, self.signature_policy, self._upkeep, uplink)
        if reloader is not None:
            reloader.live += means.live()
        self._following = Following(
            Around(
                config,
                identity,
                store,
                self._mesh,
                self._fetcher,
                policy,
                uplink,
                self._upkeep,
                means,
                self.vault,
                self.audit,
                metrics,
                now,
                _chance,
                self.passes.standing.clock.signed,
            )
        )
        self._overview = self._make_overview(verifier)

    def _make_overview(self, verifier: Verifier) -> Overview:
        config, uplink, reloader = self._config, self._uplink, self._reloader
        overview = Overview(
            config, self._identity, self._store, uplink, self._driver, self._planes, self.metrics, verifier
        )
        overview.state = self._following.states.status
        overview.disk = self._upkeep.status
        overview.troubles += [
            self._upkeep.trouble,
            lambda: self._tls.problem if self._tls is not None else None,
            lambda: self._access.problem,
            lambda: "; ".join((uplink.problems if uplink else []) + self.vault.problems()) or None,
            lambda: self._audit_log.problem if self._audit_log is not None else None,
            lambda: uplink.meter.books.problem if uplink is not None else None,
            lambda: reloader.problem() if reloader is not None else None,
            *self.passes.troubles(),
        ]
        overview.more_troubles = self._following.problems
        overview.member = self.passes.status
        return overview

    def _dropped(self, blob: Digest) -> None:
        self._driver.dropped(blob)
        self._following.reconciler.dropped(blob)

    def _heard(self, record: ImageRecord) -> None:
        (self._site.heard if record.registry == SITE else self._keeper.keep)(record)

    def _make_tls(self) -> ServerTls | None:
        """The registry's. Raises `ConfigError`."""
        section = self._config.registry.tls
        if section is None:
            return None
        source: Source
        if section.certificate is not None and section.key is not None:
            source = Files(section.certificate, section.key)
        else:
            file = self._config.data_dir / CA_FILE
            source = FleetCertificate(self._identity, section.names, file, now=time.time)
        return ServerTls(source, time.time)  # clients judge it by their clocks: this machine's, as a rule

    def _make_machine(self, trace: TraceFile | None) -> Machine:
        config, identity = self._config, self._identity
        settings = Settings(
            identity.key.peer_id,
            config.name or identity.member.name or socket.gethostname(),
            uplink=self._uplink is not None,
            uplink_up=not config.uplink.registries,  # without one there is nothing to probe
            unix_offset=self.passes.now() - trio.current_time(),
            keepalive=config.mesh.keepalive,
            idle_keepalive=config.mesh.idle_keepalive,
            silence_limit=config.mesh.silence_limit,
            max_sessions=config.mesh.max_peers,
            gossip_interval=config.mesh.gossip_interval,
            negative_age=config.registry.pull_through.negative_ttl,
        )
        seed = os.urandom(16)
        if trace is None:
            return Machine(settings, identity.key.sign, _chance(seed))
        return RecordedMachine(
            settings, identity.key.sign, _chance(seed), trace.tell, seed=seed, version=version("meshsat")
        )

    def _make_planes(self, mesh: MeshSection) -> tuple[TlsTransport, Libp2pTransport]:
        return (
            TlsTransport(
                self._identity,
                (SWAP,),
                self.metrics,
                listen=mesh.listen,
                port=mesh.bulk_port,
                audit=self.audit,
                admission=self.passes.standing.admission,
            ),
            Libp2pTransport(
                self._identity,
                (SWAP,),
                self.metrics,
                listen=mesh.listen,
                port=mesh.control_port,
                limits=Limits(muxer=MuxerLimits(keepalive=mesh.keepalive, silence=mesh.silence_limit)),
                admission=self.passes.standing.admission,
                enrol_handler=self.passes.enroller.answer if self.passes.enroller is not None else None,
                audit=self.audit,
            ),
        )

    def _discoveries(self) -> Sequence[Discovery]:
        mesh, member = self._config.mesh, self._identity.member
        found: list[Discovery] = []
        if mesh.peers:
            found.append(StaticPeers(member.fleet, mesh.peers))
        if mesh.mdns:
            bulk, control = (_port_of(plane.addresses) for plane in self._planes)
            announcement = Announcement(member.fleet, member.peer, member.site, control, bulk)
            found.append(MdnsDiscovery(mesh.listen, member.fleet, announcement))
        return found

    async def run(self, task_status: trio.TaskStatus[Listening]) -> None:
        """Mesh first, then the servers. Cancelled, they end together; the store, the caller's, ends last."""
        async with trio.open_nursery() as parts:
            if self._audit_log is not None:
                parts.start_soon(self._audit_log.run)
            if self._uplink is not None:
                parts.start_soon(self._uplink.run)
            if self._reloader is not None:
                parts.start_soon(self._reloader.run)
            await parts.start(self._mesh.run)
            parts.start_soon(self.passes.run, parts.cancel_scope)
            parts.start_soon(self._keeper.run)
            parts.start_soon(self._fetcher.run)
            parts.start_soon(self._site.run)
            parts.start_soon(self._following.run)
            parts.start_soon(self._store.uploads.run)
            parts.start_soon(self._repair.run)
            parts.start_soon(self._upkeep.run)
            async with trio.open_nursery() as servers:
                listen = self._config.registry
                registry = create_registry(
                    self._fetcher,
                    self.metrics,
                    listen,
                    intake=self._site,
                    access=self._access,
                    audit=self.audit,
                )
                for_operator = create_registry(
                    self._fetcher, self.metrics, listen, intake=self._site, rights=OPERATOR, audit=self.audit
                )
                context = None
                if self._tls is not None:
                    parts.start_soon(self._tls.run)
                    context = self._tls.context
                (registry_address,) = await self._serve(
                    servers, registry, TcpBind(listen.listen, listen.port, context)
                )
                api = self._config.api
                (api_address,) = await self._serve(
                    servers, create_public_api(self), TcpBind(api.listen, api.port)
                )
                own = create_own(create_api(self), for_operator)
                await self._serve(servers, own, UnixBind(self._config.data_dir / API_SOCKET))
                tls, libp2p = self._planes
                self._listening = Listening(registry_address, api_address, libp2p.addresses, tls.addresses)
                self._say_hello()
                self.audit.record("node.start", actor=NODE, object=self._machine.name, outcome=SUCCESS)
                task_status.started(self._listening)

    async def _serve(self, servers: trio.Nursery, app: App, bind: Bind) -> list[str]:
        bound: list[str] = await servers.start(partial(serve_app, app, [bind], self._config.http))
        return bound

    def _say_hello(self) -> None:
        log.info(
            "node is up",
            name=self._machine.name,
            peer=self._machine.me,
            fleet=self._identity.member.fleet,
            site=self._identity.member.site,
            registry=self._listening.registry if self._listening else None,
            uplink=self._uplink is not None,
        )

    # --- what the API shows (web/view.py) ---

    def ready(self) -> tuple[bool, str]:
        if self._listening is None:
            return False, "the node is starting"
        if not self._machine.settled(trio.current_time()):
            return False, "the node is meeting its peers"
        return True, ""

    def status(self) -> NodeStatus:
        return self._overview.status(self._listening.registry if self._listening is not None else None)

    def peers(self) -> list[PeerStatus]:
        return self._overview.peers()

    @property
    def desired_state(self) -> StateSources:
        return self._following.states

    def desired(self) -> DesiredStatus:
        return self._following.reconciler.overview()

    def images(self) -> list[ImageStatus]:
        return self._overview.images()

    def satellite(self) -> SatelliteStatus | None:
        return self._following.satellite()

    def shadow(self, nodes: int | None) -> ShadowReport | None:
        return self._following.shadow(nodes)

    def wan(self) -> WanStatus:
        return self._overview.wan()

    def plan(self, raw: bytes) -> AsyncGenerator[Planned, None]:
        return self._following.planning.plan(read_state_untrusted(raw))

    async def reload(self) -> Reloaded:
        if self._reloader is None:
            raise DeniedError("this node was started with a configuration that can't be read again")
        return await self._reloader.reload()

    def pull(self, reference: str, *, pin: bool) -> AsyncGenerator[PullEvent, None]:
        return self._fetcher.pull(reference, pin=pin)

    async def tag(self, reference: Reference, digest: Digest, resolved_at: float | None) -> Tagged:
        return await self._site.tag(reference, digest, resolved_at)

    def holds(self, digest: Digest) -> bool:
        self._store.ages.claim(digest)  # whoever asks goes on to rely on it
        return self._store.blob_size(digest) is not None

    async def gc(self, *, dry_run: bool) -> Collected:
        return await self._upkeep.gc(dry_run=dry_run)

    async def invite(self, *, uses: int, valid_seconds: float) -> str:
        await trio.lowlevel.checkpoint()
        return self.passes.invite(self._planes[1].addresses, uses, valid_seconds)


def create_own(api: App, registry: App) -> App:
    """What the node's own user gets on the Unix socket: the verbs, and the registry with every right."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        path: bytes = scope["raw_path"]
        one = registry if path == b"/v2" or path.startswith(b"/v2/") else api
        await one(scope, receive, send)

    return app


def _chance(seed: bytes | None = None) -> random.Random:
    return random.Random(seed or os.urandom(16))  # noqa: S311 - spreads load, keeps no secret


def _port_of(addresses: Sequence[str]) -> int:
    return int(addresses[0].rpartition(":")[2]) if addresses else 0
