"""Harbor Satellite's states between the mesh, the uplink and the fleet: what `fleet.harbor_satellite` needs.

Laws: state artifacts travel like any other content, so a site fetches each once; of an image no blob is
fetched here; whatever an artifact or an answer is, what is read of it is bounded; every byte to and from
Ground Control is counted and rationed with the uplink's.
"""

import io
import random
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Self

import httpx
import trio

from meshsat.bundle.compression import expanded_untrusted, is_compressed
from meshsat.bundle.compression import skip as skip_bytes
from meshsat.bundle.place import Stream, read_whole
from meshsat.bundle.tar import members_untrusted
from meshsat.config import Config
from meshsat.errors import ConfigError, InvalidInputError, UnavailableError
from meshsat.fleet.document import DesiredState, encode_state
from meshsat.fleet.harbor_satellite.ports import CredentialSink, Reply, Surroundings, Vitals
from meshsat.fleet.harbor_satellite.shapes import ANSWER_LIMIT, JSON_LIMIT, Place
from meshsat.fleet.harbor_satellite.source import HarborSatellite
from meshsat.fleet_sections import HarborSatelliteSection
from meshsat.manifests import Manifests, sources_of
from meshsat.mesh.service import Mesh
from meshsat.oci.descriptor import Descriptor
from meshsat.oci.digest import Digest
from meshsat.oci.manifest import MANIFEST_LIMIT, Manifest
from meshsat.protocol.gossip import ImageRecord, Key
from meshsat.pull_through import PullThrough
from meshsat.reading import Part
from meshsat.store.store import Store
from meshsat.uplink.answers import parse_retry_after_untrusted
from meshsat.uplink.client import Uplink
from meshsat.uplink.network import WireError

DOCUMENT = "artifacts.json"
LAYER_LIMIT = 4 * 1024 * 1024
"""Bytes of a state artifact's layer."""
MEMBERS_LIMIT = 64
"""Files in it."""
EXPANDED_LIMIT = JSON_LIMIT + 256 * 1024
"""Bytes of it when it is unpacked."""
PATIENCE = 30.0
"""Seconds to hear what a tag means."""
DEADLINE = 60.0
"""Seconds for a whole artifact, and for an exchange with Ground Control."""
DIGEST_AGE = 86400.0
"""Seconds for which an upstream's word that it has a digest is believed."""
TAG_AGE = 20.0
"""The same of what a tag means, where an image is weighed."""
ANSWERS_LIMIT = 16384
TIMEOUTS = (10.0, 20.0)
"""Seconds to connect to Ground Control, and of its silence."""


class SiteArtifacts:
    """`fleet.harbor_satellite.ports.Artifacts` over the mesh."""

    def __init__(self, store: Store, mesh: Mesh, policy: PullThrough, uplink: Uplink | None) -> None:
        self._store = store
        self._mesh = mesh
        self._policy = policy
        self._uplink = uplink
        self._manifests = Manifests(store, mesh, policy, PATIENCE)
        self.spent = 0
        """Bytes of manifests and documents that the site fetched over the WAN since the start, at most: an
        answer that nothing changed counts as the manifest that it is about."""
        self._answers: dict[Key, float] = {}
        """When upstreams gave what they last said."""

    async def resolve(self, place: Place, max_age: float) -> Digest:
        return (await self._resolve(place.registry, place.repository, place.tag, max_age)).digest

    async def document(self, place: Place, digest: Digest) -> bytes:
        with self._in_time(str(place)):
            manifest = await self.manifest(place.registry, place.repository, str(digest))
            layer = sole_layer_untrusted(manifest)
            with self._policy.lifted(place.registry, place.repository):
                await self._bring(layer, place)
            return document_untrusted(await self._store.read(layer.digest, 0, layer.size))

    async def probe(self, place: Place) -> None:
        if self._uplink is None:
            raise UnavailableError("this node does not use its uplink")
        await self._uplink.manifest(place.registry, place.repository, place.tag)

    async def manifest(self, registry: str, repository: str, reference: str) -> Manifest:
        sources = sources_of(registry, repository, manifest=True)
        with self._in_time(f"{registry}/{repository} {reference}"):
            part = None
            if ":" in reference:
                digest = Digest.parse_untrusted(reference)
                size = self._store.blob_size(digest) or self._mesh.machine.held_by_peers(digest)
                part = None if size is None else Part(size, sources)
            if part is None:
                max_age = DIGEST_AGE if ":" in reference else TAG_AGE
                found = await self._resolve(registry, repository, reference, max_age)
                digest, part = found.digest, Part(found.size, sources, found.media_type)
            if part.size > MANIFEST_LIMIT:
                raise InvalidInputError(f"{digest} has {part.size} bytes: too long for a manifest")
            with self._policy.lifted(registry, repository):
                return await self._manifests.bring(digest, part, registry, repository)

    async def _resolve(self, registry: str, repository: str, reference: str, max_age: float) -> ImageRecord:
        with self._policy.lifted(registry, repository):
            record = await self._mesh.resolve(
                registry, repository, reference, max_age=max_age, patience=PATIENCE
            )
        if self._answers.get(record.key) != record.resolved_at:  # an upstream was asked
            while len(self._answers) >= ANSWERS_LIMIT:
                del self._answers[next(iter(self._answers))]
            self._answers[record.key] = record.resolved_at
            self.spent += record.size
        return record

    async def _bring(self, blob: Descriptor, place: Place) -> None:
        if self._store.blob_size(blob.digest) is not None:
            return
        if self._mesh.machine.held_by_peers(blob.digest) is None:
            self.spent += blob.size
        part = Part(blob.size, sources_of(place.registry, place.repository, manifest=False))
        async with aclosing(self._manifests.arrivals({blob.digest: part})) as arrivals:
            async for _held in arrivals:
                pass

    @contextmanager
    def _in_time(self, what: str) -> Iterator[None]:
        try:
            with trio.fail_after(DEADLINE):
                yield
        except trio.TooSlowError:
            raise UnavailableError(f"{what} did not come within {DEADLINE:g} s") from None


def sole_layer_untrusted(manifest: Manifest) -> Descriptor:
    """Of a state artifact. Raises `InvalidInputError`."""
    if manifest.is_index or len(manifest.blobs) != 2:
        raise InvalidInputError("it is no state artifact: an image of one layer")
    layer = manifest.blobs[1]
    if layer.size > LAYER_LIMIT:
        raise InvalidInputError(f"its layer has {layer.size} bytes, where {LAYER_LIMIT} is the limit")
    return layer


def document_untrusted(layer: bytes) -> bytes:
    """The `artifacts.json` in a state artifact's layer. Raises `InvalidInputError`."""
    if len(layer) > LAYER_LIMIT:
        raise InvalidInputError(f"the layer has more than {LAYER_LIMIT} bytes")
    source = io.BytesIO(layer)
    stream = _Bounded(expanded_untrusted(source, layer[:4]) if is_compressed(layer[:4]) else _Plain(source))
    for number, member in enumerate(members_untrusted(stream, lambda count: skip_bytes(stream, count))):
        if member.name == DOCUMENT:
            if member.size > JSON_LIMIT:
                raise InvalidInputError(
                    f"{DOCUMENT} has {member.size} bytes, where {JSON_LIMIT} is the limit"
                )
            return read_whole(member.content, member.size)
        if number >= MEMBERS_LIMIT:
            break
    raise InvalidInputError(f"there is no {DOCUMENT} in it")


class _Plain:
    def __init__(self, source: io.BytesIO) -> None:
        self._source = source

    def readinto(self, buffer: memoryview, /) -> int:
        return self._source.readinto(buffer)


class _Bounded:
    """As much of a stream as a state artifact may have."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._left = EXPANDED_LIMIT

    def readinto(self, buffer: memoryview, /) -> int:
        if not self._left:
            raise InvalidInputError(f"it unpacks to more than {EXPANDED_LIMIT} bytes")
        count = self._stream.readinto(buffer[: self._left])
        self._left -= count
        return count


class ControlLine:
    """`fleet.harbor_satellite.ports.Exchange`. `async with`. Raises `ConfigError`."""

    def __init__(self, uplink: Uplink, section: HarborSatelliteSection, unix: Callable[[], float]) -> None:
        address = (section.ground_control or "").rstrip("/")
        self._address = address
        self._unix = unix
        self._line = uplink.line(_tls(section.ca_file) if address.startswith("https:") else None, 2)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        with trio.CancelScope(shield=True):  # closes sockets, waits for nobody
            await self._line.aclose()

    async def __call__(
        self, method: str, path: str, authorization: str | None = None, content: bytes | None = None
    ) -> Reply:
        headers = {"User-Agent": "meshsat", "Accept": "application/json"}
        if authorization is not None:
            headers["Authorization"] = authorization
        if content is not None:
            headers |= {"Content-Type": "application/json", "Content-Length": str(len(content))}
        url = httpx.URL(self._address + path)
        try:
            with trio.fail_after(DEADLINE):
                async with await self._line.send(method, url, headers, TIMEOUTS, content) as answer:
                    body = await answer.body_untrusted(ANSWER_LIMIT)
                    return Reply(answer.status, body, self._retry_after(answer.headers.get("retry-after")))
        except trio.TooSlowError:
            raise UnavailableError(f"Ground Control did not answer within {DEADLINE:g} s") from None
        except WireError as fault:
            text = str(fault).replace(
                "for this registry in [[uplink.registries]]", "in fleet.harbor_satellite"
            )
            raise UnavailableError(f"Ground Control: {text}") from None

    def _retry_after(self, told: str | None) -> float | None:
        try:
            return parse_retry_after_untrusted(told, self._unix()) if told else None
        except InvalidInputError:
            return None


def _tls(ca_file: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=str(ca_file) if ca_file is not None else None)
    except (OSError, ssl.SSLError) as fault:
        raise ConfigError(
            f"fleet.harbor_satellite.ca_file {ca_file} cannot be used ({fault.strerror or fault}); "
            "it must be a PEM file of certificates"
        ) from None


class MachineVitals:
    """How this machine is; the CPU's use is that since the last call. `proc` is the kernel's file system."""

    def __init__(self, store: Store, proc: Path = Path("/proc")) -> None:
        self._store = store
        self._proc = proc
        self._ticks = (0, 0)

    def __call__(self) -> Vitals:
        images = tuple(
            (row.name, str(row.descriptor.digest), row.size)
            for row in self._store.images()
            if row.tag is not None
        )
        return Vitals(self._memory(), sum(self._store.blobs().values()), self._cpu(), images)

    def _memory(self) -> int:
        try:
            lines = (self._proc / "meminfo").read_text().splitlines()
            kilobytes = {
                name: int(rest.split()[0]) for name, _, rest in (one.partition(":") for one in lines)
            }
            return 1024 * (kilobytes["MemTotal"] - kilobytes["MemAvailable"])
        except (OSError, ValueError, LookupError):
            return 0

    def _cpu(self) -> float:
        try:
            ticks = [int(one) for one in (self._proc / "stat").read_text().split("\n", 1)[0].split()[1:9]]
            idle, total = ticks[3] + ticks[4], sum(ticks)
        except (OSError, ValueError, LookupError):
            return 0.0
        idle_before, total_before = self._ticks
        self._ticks = idle, total
        passed = total - total_before
        return round(100.0 * (1 - (idle - idle_before) / passed), 2) if passed > 0 else 0.0


class SatelliteSource:
    """The source as a part of a node: built before it runs, with its connections closed when it ends."""

    def __init__(
        self,
        config: Config,
        section: HarborSatelliteSection,
        store: Store,
        mesh: Mesh,
        policy: PullThrough,
        uplink: Uplink | None,
        logins: CredentialSink,
        follow: Callable[[int, Digest, DesiredState], None],
    ) -> None:
        """`follow` puts a desired state in force: revision, digest, state. Raises `ConfigError`."""
        artifacts = SiteArtifacts(store, mesh, policy, uplink)
        self._line = None
        if uplink is not None and section.ground_control is not None:
            self._line = ControlLine(uplink, section, time.time)
        around = Surroundings(
            artifacts,
            logins,
            self._line,
            MachineVitals(store),
            nodes=lambda: max(1, len(mesh.machine.roster)),
            spent=lambda: artifacts.spent,
        )
        self.source = HarborSatellite(
            section,
            config.data_dir,
            around,
            lambda state, revision: follow(revision, Digest.of(encode_state(state)), state),
            unix=time.time,
            rng=random.Random(),  # noqa: S311 - jitter
        )

    def problem(self) -> str | None:
        return self.source.problem

    async def run(self) -> None:
        """Run until cancelled."""
        if self._line is None:
            await self.source.run()
            return
        async with self._line:
            await self.source.run()
