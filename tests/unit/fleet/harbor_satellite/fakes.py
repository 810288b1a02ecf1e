"""The rest of a node, as far as Harbor Satellite's source sees it: a registry in memory, an answering machine."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import trio

from meshsat.errors import MeshsatError, NotFoundError
from meshsat.fleet.document import DesiredState
from meshsat.fleet.harbor_satellite.ports import Reply, Surroundings, Vitals
from meshsat.fleet.harbor_satellite.shapes import Place
from meshsat.oci.digest import Digest
from meshsat.oci.manifest import Manifest, parse_manifest_untrusted
from meshsat.store.disk import Threads
from tests.images import Image

HARBOR = "harbor.example"
ROOT = Place(HARBOR, "satellite/satellite-state/till-7/state")
CONFIG = Place(HARBOR, "satellite/config-state/default/state")
INLINE = Threads(0)


def group_place(name: str) -> Place:
    return Place(HARBOR, f"satellite/group-state/{name}/state")


class FakeArtifacts:
    def __init__(self) -> None:
        self.documents: dict[Place, bytes] = {}
        self.faults: dict[Place, MeshsatError] = {}
        self.asked: list[str] = []
        self.fetched: list[Place] = []
        self.ages: list[float] = []
        self.images: dict[str, Image] = {}
        self.probes: list[Place] = []

    async def resolve(self, place: Place, max_age: float) -> Digest:
        await trio.sleep(0.01)
        self.ages.append(max_age)
        self.asked.append(str(place))
        return Digest.of(self._held(place))

    async def document(self, place: Place, digest: Digest) -> bytes:
        await trio.sleep(0.01)
        self.fetched.append(place)
        raw = self._held(place)
        assert digest.matches(raw)
        return raw

    async def probe(self, place: Place) -> None:
        self.probes.append(place)
        self._held(place)

    async def manifest(self, registry: str, repository: str, reference: str) -> Manifest:
        await trio.sleep(0.01)
        self.asked.append(f"{repository} {reference}")
        for name, image in self.images.items():
            if name == f"{registry}/{repository}:{reference}":
                return parse_manifest_untrusted(image.raw, image.media_type)
            if name.startswith(f"{registry}/{repository}:") and reference in image.manifests:
                return parse_manifest_untrusted(image.manifests[reference], image.media_types[reference])
        raise NotFoundError(f"no {repository} {reference}")

    def _held(self, place: Place) -> bytes:
        if place in self.faults:
            raise self.faults[place]
        if place not in self.documents:
            raise NotFoundError(f"no {place}")
        return self.documents[place]


@dataclass
class Login:
    username: str
    secret: str


class FakeLogins:
    def __init__(self) -> None:
        self.kept: dict[str, Login] = {}
        self.fault: MeshsatError | None = None

    def put(self, registry: str, username: str, secret: str) -> None:
        if self.fault is not None:
            raise self.fault
        self.kept[registry] = Login(username, secret)

    def get(self, registry: str) -> Login | None:
        return self.kept.get(registry)


@dataclass
class FakeExchange:
    """Ground Control: `answer` makes a reply of method and path, or raises."""

    answer: Callable[[str, str, str | None, bytes | None], Reply]
    asked: list[tuple[str, str, str | None, bytes | None]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)

    async def __call__(
        self, method: str, path: str, authorization: str | None = None, content: bytes | None = None
    ) -> Reply:
        await trio.sleep(0.01)
        self.asked.append((method, path, authorization, content))
        self.times.append(trio.current_time())
        return self.answer(method, path, authorization, content)


class Offers:
    def __init__(self) -> None:
        self.all: list[tuple[list[str], int]] = []

    def __call__(self, state: DesiredState, revision: int) -> None:
        self.all.append(([image.reference for image in state.images], revision))

    @property
    def last(self) -> list[str]:
        return self.all[-1][0]


def surroundings(
    artifacts: FakeArtifacts, logins: FakeLogins, exchange: Any = None, nodes: int = 4
) -> Surroundings:
    return Surroundings(
        artifacts,
        logins,
        exchange,
        lambda: Vitals(1, 2, 3.0),
        lambda: nodes,
        lambda: 100 * len(artifacts.asked),
    )
