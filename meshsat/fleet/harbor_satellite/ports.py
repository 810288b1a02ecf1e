"""What following Harbor Satellite's states needs of the rest of the node: interfaces where they are used."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from meshsat.fleet.document import DesiredState
from meshsat.fleet.harbor_satellite.shapes import Place
from meshsat.oci.digest import Digest
from meshsat.oci.manifest import Manifest


class Artifacts(Protocol):
    """Where state artifacts come from: over the mesh, so that a site asks once. All raise `MeshsatError`s."""

    async def resolve(self, place: Place, max_age: float) -> Digest:
        """What the tag means, as it was at most `max_age` seconds ago."""
        ...

    async def document(self, place: Place, digest: Digest) -> bytes:
        """The `artifacts.json` of the artifact of that digest."""
        ...

    async def probe(self, place: Place) -> None:
        """Ask the registry itself for it, over this node's own uplink and with its login."""
        ...

    async def manifest(self, registry: str, repository: str, reference: str) -> Manifest:
        """Of an image: no blob of it is fetched."""
        ...


class Offer(Protocol):
    """Who is given the desired state. `revision` grows by one with each."""

    def __call__(self, state: DesiredState, revision: int) -> None: ...


class Login(Protocol):
    @property
    def username(self) -> str: ...

    @property
    def secret(self) -> str: ...


class CredentialSink(Protocol):
    """Where logins to registries are kept, and the uplink finds them. Blocking; raises `MeshsatError`s."""

    def put(self, registry: str, username: str, secret: str) -> None: ...

    def get(self, registry: str) -> Login | None: ...


@dataclass(frozen=True, slots=True)
class Reply:
    """What Ground Control answered."""

    status: int
    body: bytes = field(repr=False)
    retry_after: float | None = None
    """Seconds."""


class Exchange(Protocol):
    async def __call__(
        self, method: str, path: str, authorization: str | None = None, content: bytes | None = None
    ) -> Reply:
        """One request to Ground Control; `path` may hold a secret and is told to nobody.

        Raises `UnavailableError` where it cannot be reached."""
        ...


@dataclass(frozen=True, slots=True)
class Vitals:
    """How this machine is, for Ground Control."""

    memory_used: int = 0
    """Bytes."""
    storage_used: int = 0
    """Bytes."""
    cpu_percent: float = 0.0
    images: tuple[tuple[str, str, int], ...] = ()
    """Those that are held whole: `HOST/REPOSITORY:TAG`, digest, bytes."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the source needs of the node."""

    artifacts: Artifacts
    logins: CredentialSink
    exchange: Exchange | None
    """None: this node may not talk to Ground Control, or is not told where that is."""
    vitals: Callable[[], Vitals]
    nodes: Callable[[], int]
    """Live nodes of the site."""
    spent: Callable[[], int]
    """Bytes of states and manifests fetched for it since the start."""
