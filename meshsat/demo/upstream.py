"""The upstream registry of the demo: Debian's docker-registry where it is installed, else one of our own.

Ours serves the demo's image from memory and nothing else; only the demo uses it. Either listens on loopback,
on a port that the system chose.
"""

import json
import re
import shutil
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

import httpx
import trio

from meshsat.config import RegistrySection
from meshsat.demo.image import REPOSITORY, TAG, Image
from meshsat.demo.place import Child, DemoError, Place
from meshsat.http.server import TcpBind, serve_app
from meshsat.metrics import Metrics
from meshsat.oci.descriptor import Descriptor
from meshsat.oci.digest import Digest
from meshsat.registry.app import create_registry
from meshsat.registry.content import BlobReader, Name, Served

PROGRAM = "docker-registry"
START_LIMIT = 15.0
"""Seconds."""
PUSH_LIMIT = 30.0
"""Seconds for one blob. It goes to this machine's own disk."""
READ = 1 << 20
"""Bytes."""
LISTENING = re.compile(r"listening on (127\.0\.0\.1):([0-9]+)")


class Upstream(Protocol):
    """A registry that runs, empty until it is filled."""

    @property
    def what(self) -> str:
        """The program, for the report."""

    @property
    def host(self) -> str: ...

    @property
    def port(self) -> int: ...

    async def fill(self, image: Image) -> None:
        """From now on it holds `image`. Raises `DemoError`."""


async def start_upstream(place: Place, nursery: trio.Nursery) -> Upstream:
    """Raises `DemoError`."""
    program = shutil.which(PROGRAM)
    return await (_start_own(nursery) if program is None else _start_debian(place, nursery, program))


@dataclass(frozen=True, slots=True)
class _DebianRegistry:
    host: str
    port: int
    what: str = PROGRAM

    async def fill(self, image: Image) -> None:
        await push(f"http://{self.host}:{self.port}", image)


async def _start_debian(place: Place, nursery: trio.Nursery, program: str) -> _DebianRegistry:
    settings = place.directory / "upstream.yml"
    settings.write_text(
        json.dumps(  # which is YAML
            {
                "version": "0.1",
                "log": {"level": "info", "formatter": "text", "accesslog": {"disabled": True}},
                "storage": {
                    "filesystem": {"rootdirectory": str(place.directory / "upstream")},
                    "maintenance": {"uploadpurging": {"enabled": False}},
                },
                "http": {"addr": "127.0.0.1:0", "secret": "only for this demo"},
            }
        )
    )
    child = place.start("upstream", [program, "serve", str(settings)])
    nursery.start_soon(child.must_run)
    return _DebianRegistry(*await _address(child))


async def _address(child: Child) -> tuple[str, int]:
    """Where it says that it listens."""
    with trio.move_on_after(START_LIMIT):
        while True:
            if found := LISTENING.search(child.log.read_text(errors="replace")):
                return found[1], int(found[2])
            await trio.sleep(0.05)
    raise DemoError(f"{child.name} did not start within {START_LIMIT:.0f} s", child.tail())


async def push(url: str, image: Image) -> None:
    """Put `image` into the registry at `url` (distribution-spec, end-4a, 6 and 7a). Raises `DemoError`."""
    try:
        async with httpx.AsyncClient(base_url=url, timeout=PUSH_LIMIT, trust_env=False) as http:
            for digest, data in image.blobs.items():
                session = _created(await http.post(f"/v2/{REPOSITORY}/blobs/uploads/"))
                place = httpx.URL(session.headers["Location"]).copy_merge_params({"digest": str(digest)})
                octets = {"Content-Type": "application/octet-stream"}
                _created(await http.put(place, content=data, headers=octets))
            for digest, (media_type, raw) in image.manifests.items():
                name = f"/v2/{REPOSITORY}/manifests/{TAG if digest == image.index else digest}"
                _created(await http.put(name, content=raw, headers={"Content-Type": media_type}))
    except httpx.HTTPError as fault:
        raise DemoError(f"the upstream could not be filled: {fault!r}") from None


def _created(answer: httpx.Response) -> httpx.Response:
    if answer.status_code not in (201, 202):
        raise DemoError(f"the upstream answered {answer.status_code} to a push: {answer.text[:200]}")
    return answer


async def _start_own(nursery: trio.Nursery) -> "OwnRegistry":
    registry = OwnRegistry()
    app = create_registry(registry, Metrics(), RegistrySection())
    addresses: list[str] = await nursery.start(serve_app, app, [TcpBind("127.0.0.1", 0)])
    registry.host, _, port = addresses[0].rpartition(":")
    registry.port = int(port)
    return registry


class OwnRegistry:
    """`meshsat.registry.content.Content`: one image, from memory."""

    what = "the demo's own registry (no docker-registry here)"

    def __init__(self) -> None:
        self.host = ""
        self.port = 0
        self._manifests: Mapping[Digest, tuple[str, bytes]] = {}
        self._blobs: Mapping[Digest, bytes] = {}
        self._tags: dict[str, Digest] = {}

    async def fill(self, image: Image) -> None:
        self._manifests, self._blobs = image.manifests, image.blobs
        self._tags = {TAG: image.index}

    def manifest_at_hand(self, name: Name, reference: str | Digest) -> Served | None:
        """Nothing is told before it is asked for."""

    async def manifest(self, name: Name, reference: str | Digest, *, unsigned: bool = False) -> Served | None:
        del unsigned
        digest = self._tags.get(reference) if isinstance(reference, str) else reference
        if name.repository != REPOSITORY or digest is None or digest not in self._manifests:
            return None
        media_type, raw = self._manifests[digest]
        return Served(raw, media_type, digest)

    async def open_blob(self, name: Name, digest: Digest) -> BlobReader | None:
        data = self._blobs.get(digest)
        return _BytesReader(data) if data is not None and name.repository == REPOSITORY else None

    async def belongs(self, _name: Name, blob: Digest) -> bool:
        return blob in self._blobs

    async def tags(self, name: Name) -> list[str] | None:
        return list(self._tags) if name.repository == REPOSITORY else None

    async def referrers(self, _name: Name, _subject: Digest) -> list[Descriptor]:
        return []

    async def repositories(self) -> list[str]:
        return [REPOSITORY]


class _BytesReader:
    path = None

    def __init__(self, data: bytes) -> None:
        self._data = data

    @property
    def size(self) -> int:
        return len(self._data)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        _kind: type[BaseException] | None,
        _fault: BaseException | None,
        _where: TracebackType | None,
    ) -> None:
        return None

    async def stream(self, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        for offset in range(start, stop, READ):
            yield self._data[offset : min(offset + READ, stop)]
