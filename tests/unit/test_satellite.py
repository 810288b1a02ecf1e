"""State artifacts over a site in memory, the line to Ground Control over real sockets, and what is hostile."""

import gzip
import io
import ssl
import tarfile
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from meshsat.config import PullThroughRule, PullThroughSection, UplinkSection
from meshsat.errors import ConfigError, InvalidInputError, NotFoundError, UnavailableError
from meshsat.fleet.harbor_satellite.shapes import JSON_LIMIT, Place
from meshsat.fleet_sections import HarborSatelliteSection
from meshsat.metrics import Metrics
from meshsat.oci.digest import Digest
from meshsat.oci.manifest import parse_manifest_untrusted
from meshsat.pull_through import PullThrough
from meshsat.registry.content import Name
from meshsat.satellite import (
    EXPANDED_LIMIT,
    LAYER_LIMIT,
    MEMBERS_LIMIT,
    ControlLine,
    MachineVitals,
    SiteArtifacts,
    document_untrusted,
    sole_layer_untrusted,
)
from meshsat.store.store import Store
from meshsat.uplink.client import Uplink
from tests.certificates import PrivateCA
from tests.harbor_satellite import (
    DOCKER_MANIFEST,
    GroundControlStub,
    StateArtifact,
    digest_of,
    layer_of,
    state_artifact,
)
from tests.images import Image, build_image
from tests.mesh.full_node import FullNode, full_site, hold

PLACE = Place("up.example", "satellite/group-state/tills/state")
DOCUMENT = b'{"group": "tills", "artifacts": []}'


def as_image(made: StateArtifact) -> Image:
    blobs = {digest_of(made.config): made.config, digest_of(made.layer): made.layer}
    return Image(made.digest, {made.digest: made.manifest}, blobs, {made.digest: DOCKER_MANIFEST})


def put(node: FullNode, document: bytes) -> None:
    hold(
        node.site.upstream,
        as_image(state_artifact(document)),
        PLACE.tag,
        Name(PLACE.registry, PLACE.repository),
    )


def artifacts_of(node: FullNode, policy: PullThrough | None = None) -> SiteArtifacts:
    return SiteArtifacts(node.store, node.node.mesh, policy or PullThrough(PullThroughSection(), 60.0), None)


async def read(artifacts: SiteArtifacts, max_age: float = 30.0) -> bytes:
    return await artifacts.document(PLACE, await artifacts.resolve(PLACE, max_age))


async def test_a_site_asks_once_however_many_of_its_nodes_follow(autojump_clock: MockClock) -> None:
    async with full_site("up", "dark", "dim") as nodes:
        put(nodes[0], DOCUMENT)
        for node in nodes:
            assert await read(artifacts_of(node)) == DOCUMENT
        asked = [one for one in nodes[0].site.upstream.requests if "latest" in one]
        assert len(asked) == 1
        await trio.sleep(31)
        put(nodes[0], b'{"group": "other"}')
        for node in reversed(nodes):
            assert await read(artifacts_of(node)) == b'{"group": "other"}'
        assert len([one for one in nodes[0].site.upstream.requests if "latest" in one]) == 2


async def test_the_operators_word_is_past_the_nodes_own_rules(autojump_clock: MockClock) -> None:
    shut = PullThrough(PullThroughSection(rules=(PullThroughRule(pattern="**", allow=False),)), 60.0)
    async with full_site("up", policies={"up": shut}) as (node,):
        put(node, DOCUMENT)
        assert await read(artifacts_of(node, shut)) == DOCUMENT


async def test_of_an_image_the_manifests_come_and_no_blob(autojump_clock: MockClock) -> None:
    image = build_image([b"layer" * 1000], ["linux/amd64", "linux/arm64"])
    async with full_site("up", "dark") as (up, dark):
        hold(up.site.upstream, image, "42")
        artifacts = artifacts_of(dark)
        root = await artifacts.manifest("up.example", "library/pos", "42")
        assert root.raw == image.raw
        for child in root.manifests:
            assert (
                await artifacts.manifest("up.example", "library/pos", str(child.digest))
            ).digest == child.digest
        again = await artifacts.manifest("up.example", "library/pos", str(root.digest))
        assert again.raw == image.raw
        held = {str(digest) for digest in dark.store.blobs()}
        assert held == set(image.manifests)
        assert sum(map(len, image.manifests.values())) <= artifacts.spent < image.size
        with pytest.raises(NotFoundError):
            await artifacts.manifest("up.example", "library/none", "42")


async def test_nothing_waits_for_ever(autojump_clock: MockClock) -> None:
    async with full_site("dark") as (node,):
        with pytest.raises(UnavailableError):
            await artifacts_of(node).resolve(PLACE, 30.0)
        with pytest.raises(UnavailableError):
            await artifacts_of(node).document(PLACE, Digest.of(b"x"))
        with pytest.raises(UnavailableError):
            await artifacts_of(node).probe(PLACE)


# Artifacts.


def layer(*members: tuple[str, bytes], kind: bytes = tarfile.REGTYPE) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size, member.type = len(data) if kind == tarfile.REGTYPE else 0, kind
            archive.addfile(member, io.BytesIO(data))
    return packed.getvalue()


@pytest.mark.parametrize("name", ["artifacts.json", "./artifacts.json"])
@pytest.mark.parametrize("packed", [True, False])
def test_the_document_of_a_layer(name: str, packed: bool) -> None:
    plain = layer(("other", b"x" * 1000), (name, DOCUMENT))
    assert document_untrusted(gzip.compress(plain) if packed else plain) == DOCUMENT
    assert document_untrusted(layer_of(DOCUMENT)) == DOCUMENT


@pytest.mark.parametrize(
    "broken",
    [
        b"",
        b"\x1f\x8b",
        b"\x1f\x8b" + b"\0" * 100,
        b"\x28\xb5\x2f\xfd" + b"\xff" * 100,
        layer(("artifacts.json.bak", DOCUMENT)),
        layer(("../artifacts.json", DOCUMENT)),
        layer(("artifacts.json", b""), kind=tarfile.SYMTYPE),
        layer(("artifacts.json", DOCUMENT))[:540],
        gzip.compress(layer(("artifacts.json", DOCUMENT)))[:-20],
        layer(*((f"file{number}", b"") for number in range(MEMBERS_LIMIT + 2)), ("artifacts.json", DOCUMENT)),
        gzip.compress(layer(("big", bytes(EXPANDED_LIMIT + 1024)), ("artifacts.json", DOCUMENT))),
        gzip.compress(layer(("artifacts.json", bytes(JSON_LIMIT + 1)))),
        gzip.compress(bytes(64 * 1024 * 1024)),
        bytes(LAYER_LIMIT + 1),
    ],
)
def test_a_hostile_layer_is_refused(broken: bytes) -> None:
    with pytest.raises(InvalidInputError):
        document_untrusted(broken)


def test_what_is_no_state_artifact() -> None:
    def refused(image: Image) -> None:
        with pytest.raises(InvalidInputError):
            sole_layer_untrusted(parse_manifest_untrusted(image.raw, image.media_type))

    made = state_artifact(DOCUMENT)
    assert sole_layer_untrusted(parse_manifest_untrusted(made.manifest)).size == len(made.layer)
    refused(build_image([b"one", b"two"]))
    refused(build_image([]))
    refused(build_image([b"one"], ["linux/amd64", "linux/arm64"]))
    refused(build_image([bytes(LAYER_LIMIT + 1)]))


# Ground Control.


def section(url: str, **settings: Any) -> HarborSatelliteSection:
    return HarborSatelliteSection(ground_control=url, plain_http=True, token_file=Path("token"), **settings)


async def test_an_exchange_is_counted_with_the_uplinks_bytes() -> None:
    metrics = Metrics()
    with GroundControlStub("http://harbor.example", "till-7", "0123456789abcdef") as control:
        control.faults = [(429, {"Retry-After": "7"})]
        async with (
            Uplink(UplinkSection(), metrics) as uplink,
            ControlLine(uplink, section(control.url + "/"), lambda: 0.0) as line,
        ):
            first = await line("GET", "/satellites/ztr/0123456789abcdef")
            assert (first.status, first.retry_after) == (429, 7.0)
            reply = await line("GET", "/satellites/ztr/0123456789abcdef")
            assert (reply.status, reply.retry_after) == (200, None)
            assert b"secret-of-registration" in reply.body
            assert "secret-of-registration" not in repr(reply)
            posted = await line("POST", "/satellites/sync", "Basic x", b"{}")
            assert posted.status == 401
    assert control.asked[0] == ("GET", "/satellites/ztr/0123456789abcdef")
    assert (metrics.registry.get_sample_value("meshsat_wan_received_bytes_total") or 0) > 300


async def test_what_cannot_be_reached_is_told_without_the_path() -> None:
    async with Uplink(UplinkSection(), Metrics()) as uplink:
        with trio.socket.socket() as unused:
            await unused.bind(("127.0.0.1", 0))
            url = f"http://127.0.0.1:{unused.getsockname()[1]}"
            async with ControlLine(uplink, section(url), lambda: 0.0) as line:
                with pytest.raises(UnavailableError, match="Ground Control") as fault:
                    await line("GET", "/satellites/ztr/0123456789abcdef")
    assert "0123456789abcdef" not in str(fault.value)


async def test_its_certificate_is_checked_by_its_own_authority(tmp_path: Path) -> None:
    ca = PrivateCA(tmp_path)
    context: ssl.SSLContext = ca.server_context("127.0.0.1")
    with GroundControlStub("http://harbor.example", "till-7", "0123456789abcdef") as control:
        control._server.socket = context.wrap_socket(control._server.socket, server_side=True)
        url = control.url.replace("http:", "https:")
        async with Uplink(UplinkSection(), Metrics()) as uplink:
            async with ControlLine(uplink, section(url, ca_file=ca.ca_file), lambda: 0.0) as line:
                assert (await line("GET", "/satellites/ztr/0123456789abcdef")).status == 200
            async with ControlLine(uplink, section(url), lambda: 0.0) as line:
                with pytest.raises(UnavailableError, match=r"not trusted.*fleet\.harbor_satellite"):
                    await line("GET", "/satellites/ztr/0123456789abcdef")
            with pytest.raises(ConfigError, match="ca_file"):
                ControlLine(uplink, section(url, ca_file=tmp_path / "none.pem"), lambda: 0.0)


# This machine.


async def test_how_this_machine_is(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 1000 kB\nMemFree: 1 kB\nMemAvailable: 400 kB\n")
    (tmp_path / "stat").write_text("cpu 10 0 10 80 0 0 0 0 0 0\n")
    async with await Store.open(tmp_path / "store") as store:
        vitals = MachineVitals(store, tmp_path)
        assert (vitals().memory_used, vitals().storage_used, vitals().images) == (614400, 0, ())
        (tmp_path / "stat").write_text("cpu 60 0 10 130 0 0 0 0 0 0\n")
        assert vitals().cpu_percent == 50.0
        assert vitals().cpu_percent == 0.0
        (tmp_path / "stat").write_text("nonsense")
        (tmp_path / "meminfo").write_text("")
        assert (vitals().cpu_percent, vitals().memory_used) == (0.0, 0)
