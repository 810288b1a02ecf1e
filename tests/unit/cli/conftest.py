"""The command line in this process, against a node that is its API alone, on a real Unix socket."""

import logging
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import structlog
import trio

from meshsat.cli.foreground import ENDING
from meshsat.cli.logs import NOISY
from meshsat.cli.main import main
from meshsat.errors import ConfigError, MeshsatError
from meshsat.fleet.state_file import encode_state_file, parse_state_file_untrusted
from meshsat.fleet.states import Settings, States
from meshsat.http.server import UnixBind, serve_app
from meshsat.mesh.identity import Identity, is_member, load
from meshsat.metrics import Metrics
from meshsat.oci.digest import Digest
from meshsat.oci.reference import Reference
from meshsat.planning import Planned
from meshsat.reload import Reloaded
from meshsat.status import (
    DesiredStatus,
    DiskStatus,
    ImageStatus,
    MemberStatus,
    NodeStatus,
    PeerStatus,
    SatelliteStatus,
    ShadowReport,
    StateStatus,
    TransferStatus,
    UplinkStatus,
    WanStatus,
)
from meshsat.trust.passes import DAY, parse_root_untrusted, root_peer
from meshsat.upkeep.sweep import Swept
from meshsat.upkeep.task import Collected
from meshsat.vault.vault import Vault
from meshsat.web.api import create_api
from meshsat.web.view import PullEvent, StateView
from tests.recorded import Recorded
from tests.states import Bodies

PEER = "12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp"
DIGEST = "sha256:" + "ab" * 32


def make_status() -> NodeStatus:
    return NodeStatus(
        peer=PEER,
        name="coach-7",
        fleet="trains-0123",
        site="train-1",
        version="0.1.0",
        uptime=3725.0,
        wan_bytes_in=40_100_000,
        wan_bytes_out=1_234,
        lan_bytes_in=0,
        lan_bytes_out=160_000_000,
        blobs=6,
        blob_bytes=40_000_000,
        images=1,
        peers=4,
        uplink=UplinkStatus(enabled=True, up=False, last_error="connection refused", rate=2_500_000),
        registry_address="127.0.0.1:5000",
        control_addresses=("10.0.0.7:4701",),
        transfers=(TransferStatus("sha256:" + "cd" * 32, 5_000_000, 20_000_000, 3),),
        disk=DiskStatus(
            used=40_000_000,
            budget=50_000_000,
            available=7_000_000,
            evicted_images=2,
            evicted_bytes=9_000_000,
            collected_bytes=1_000,
            scrubbed_bytes=5_000,
            scrub_due=3,
            rotten=1,
        ),
        problems=("the disk is 97 % full",),
    )


@dataclass
class HeldState:
    """What `meshsat.state_sources` adds, as far as verbs see it."""

    states: States

    def status(self) -> StateStatus:
        return self.states.status()

    @property
    def next_revision(self) -> int:
        return self.states.next_version

    async def offer_untrusted(self, raw: bytes) -> int | None:
        revision = await self.states.offer(parse_state_file_untrusted(raw), "the operator")
        await self.states.settled(5.0)
        return revision

    async def file(self, revision: int | None) -> bytes:
        return encode_state_file(await self.states.file(revision))


@dataclass
class FakeNode:
    """`meshsat.web.view.NodeView`, saying what a test tells it to."""

    data_dir: Path
    events: list[PullEvent | MeshsatError] = field(default_factory=list)
    peer_list: list[PeerStatus] = field(default_factory=list)
    wanted: DesiredStatus = field(default_factory=lambda: DesiredStatus(0, ()))
    image_list: list[ImageStatus] = field(default_factory=list)
    pulled: list[tuple[str, bool]] = field(default_factory=list)
    invited: list[tuple[int, float]] = field(default_factory=list)
    followed: SatelliteStatus | None = None
    counted: ShadowReport | None = None
    compared: list[int | None] = field(default_factory=list)
    wan_status: WanStatus = field(default_factory=lambda: WanStatus(enabled=False))
    reloaded: Reloaded | None = None
    steps: list[Planned | MeshsatError] = field(default_factory=list)
    planned: list[bytes] = field(default_factory=list)
    revoked: list[tuple[str | None, str | None, str, bool]] = field(default_factory=list)
    metrics: Metrics = field(default_factory=Metrics)
    states: States | None = None
    audit: Recorded = field(default_factory=Recorded)

    @property
    def vault(self) -> Vault:
        return Vault(self.data_dir, {})

    def status(self) -> NodeStatus:
        return make_status()

    def peers(self) -> Sequence[PeerStatus]:
        return self.peer_list

    def wan(self) -> WanStatus:
        return self.wan_status

    async def plan(self, raw: bytes) -> AsyncGenerator[Planned, None]:
        self.planned.append(raw)
        for step in self.steps:
            if isinstance(step, MeshsatError):
                raise step
            yield step

    async def reload(self) -> Reloaded:
        if self.reloaded is None:
            raise ConfigError("configuration in meshsat.toml: uplink.rate: must be a number")
        return self.reloaded

    def desired(self) -> DesiredStatus:
        return self.wanted

    def satellite(self) -> SatelliteStatus | None:
        return self.followed

    def shadow(self, nodes: int | None) -> ShadowReport | None:
        self.compared.append(nodes)
        return self.counted

    def images(self) -> Sequence[ImageStatus]:
        return self.image_list

    def ready(self) -> tuple[bool, str]:
        return True, ""

    async def pull(self, reference: str, *, pin: bool) -> AsyncGenerator[PullEvent, None]:
        self.pulled.append((reference, pin))
        for event in self.events:
            if isinstance(event, MeshsatError):
                raise event
            yield event

    def holds(self, digest: Digest) -> bool:
        raise AssertionError("no verb of these tests asks")

    async def tag(self, reference: Reference, digest: Digest, resolved_at: float | None) -> Any:
        raise AssertionError("no verb of these tests tags")

    async def gc(self, *, dry_run: bool) -> Collected:
        swept = Swept({Digest.of(b"old"): (3_000_000, "nothing refers to it")}, ["reg.test/pos:1"])
        return Collected(swept, "cannot be known" if dry_run else None)

    @property
    def passes(self) -> "FakeNode":
        return self

    def members(self) -> list[MemberStatus]:
        return [MEMBER]

    def revoke(self, who: str | None, site: str | None, reason: str, *, issued: bool) -> Any:
        self.revoked.append((who, site, reason, issued))
        return Revoked(who or f"site {site}")

    async def rotate(self) -> str:
        return "12D3KooWnext"

    @property
    def desired_state(self) -> StateView:
        assert self.states is not None
        return HeldState(self.states)

    async def invite(self, *, uses: int, valid_seconds: float) -> str:
        self.invited.append((uses, valid_seconds))
        return "meshsat-join-0"


@dataclass(frozen=True, slots=True)
class Revoked:
    whose: str

    def in_words(self) -> str:
        return "revoked on 2027-01-15 by the fleet's root"


@dataclass(frozen=True, slots=True)
class Ended:
    code: int
    out: str
    err: str


Meshsat = Callable[..., Ended]
MEMBER = MemberStatus("12D3KooWother", "till-2", "berlin", ("node",), "1f", 2e9, 1e9, "active")


def states_of(identity: Identity, data_dir: Path) -> States:
    """As a node that is a member has them."""
    fleet = parse_root_untrusted(identity.root).fleet
    mine = Settings(fleet, root_peer(identity.root), 30 * DAY)
    return States(data_dir / "fleet", mine, Bodies(), lambda _event: None, time.time, random.Random(1))


@pytest.fixture
def short_dir() -> Iterator[Path]:
    """A temporary directory whose path leaves room for a Unix socket's."""
    path = Path(tempfile.mkdtemp(prefix="meshsat-cli-", dir="/tmp"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def node(short_dir: Path) -> Iterator[FakeNode]:
    """A node that answers on `short_dir`/api.sock, in a thread of its own."""
    fake = FakeNode(short_dir)
    up = threading.Event()
    stop: list[Callable[[], None]] = []

    async def serve() -> None:
        async with trio.open_nursery() as nursery:
            token = trio.lowlevel.current_trio_token()
            await nursery.start(serve_app, create_api(fake), [UnixBind(short_dir / "api.sock")])
            if is_member(short_dir):
                fake.states = states_of(load(short_dir), short_dir)
                nursery.start_soon(fake.states.run)
            stop.append(lambda: token.run_sync_soon(nursery.cancel_scope.cancel))
            up.set()

    thread = threading.Thread(target=trio.run, args=(serve,))
    thread.start()
    assert up.wait(10)
    yield fake
    stop[0]()
    thread.join(10)
    assert not thread.is_alive()


@pytest.fixture(autouse=True)
def process_as_before() -> Iterator[None]:
    """A command sets up logging and signals for its whole process, which here is pytest's."""
    signals = {number: signal.getsignal(number) for number in ENDING}
    root = logging.getLogger()
    noisy = [logging.getLogger(name) for name in NOISY]
    before = [(logger, logger.handlers[:], logger.level, logger.propagate) for logger in (root, *noisy)]
    for logger in noisy:
        logger.setLevel(logging.NOTSET)  # whoever imported py-libp2p before has set it
    yield
    for number, handler in signals.items():
        signal.signal(number, handler)
    for logger, handlers, level, propagate in before:
        logger.handlers[:] = handlers
        logger.setLevel(level)
        logger.propagate = propagate
    logging.captureWarnings(capture=False)
    structlog.reset_defaults()


@pytest.fixture
def meshsat(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Meshsat:
    """Run a command line to its end."""
    for name in ("MESHSAT_CONFIG", "MESHSAT_DATA_DIR", "MESHSAT_NAME"):
        monkeypatch.delenv(name, raising=False)

    def run(*arguments: str | Path) -> Ended:
        monkeypatch.setattr(sys, "argv", ["meshsat", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        shown = capsys.readouterr()
        assert isinstance(end.value.code, int)
        return Ended(end.value.code, shown.out, shown.err)

    return run
