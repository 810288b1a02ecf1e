"""What the node's API shows and does: the interface that node.py implements.

Laws: the snapshots are cheap and never wait. Whoever stops iterating over `pull` withdraws its interest.
"""

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

from meshsat.audit.event import Audit
from meshsat.metrics import Metrics
from meshsat.oci.digest import Digest
from meshsat.oci.reference import Reference
from meshsat.reload import Reloaded
from meshsat.status import (
    DesiredStatus,
    ImageStatus,
    MemberStatus,
    NodeStatus,
    PeerStatus,
    SatelliteStatus,
    ShadowReport,
    StateStatus,
    WanStatus,
)
from meshsat.vault.vault import Vault


@dataclass(frozen=True, slots=True)
class PullEvent:
    """One line of a pull's progress. The last is `done` or `error`."""

    event: Literal["progress", "done", "error"]
    reference: str
    have_bytes: int = 0
    """Of all manifests and blobs behind the reference, held here by now, verified."""
    total_bytes: int = 0
    """0 as long as it is not known."""
    digest: str | None = None
    """What the reference means, as soon as that is known."""
    message: str | None = None
    """What went wrong, for a person (`error`)."""
    code: str | None = None
    """What went wrong, for a program (`error`): invalid, denied, not_found, unavailable, failed."""


class TagAnswer(Protocol):
    """What became of a tag that was told."""

    @property
    def taken(self) -> bool:
        """False: what is known of it is younger."""

    @property
    def resolved_at(self) -> float:
        """Of what is known of it now."""


class PlanStep(Protocol):
    """A plan as it comes about: a dataclass, of which `plan` is the last one's."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def plan(self) -> object | None: ...


class SweptAnswer(Protocol):
    @property
    def blobs(self) -> Mapping[Digest, tuple[int, str]]:
        """Bytes, and why."""

    @property
    def images(self) -> Sequence[str]:
        """Of these, the images that were evicted."""

    @property
    def partials(self) -> int:
        """Bytes of blobs on their way that nobody wants."""

    @property
    def freed(self) -> int:
        """Bytes in all."""


class CollectedAnswer(Protocol):
    """What a round of collection let go of, or would."""

    @property
    def swept(self) -> SweptAnswer: ...

    @property
    def refused(self) -> str | None:
        """Why nothing was collected."""


class RevokedAnswer(Protocol):
    """A revocation that was told."""

    @property
    def whose(self) -> str: ...

    def in_words(self) -> str: ...


class PassesView(Protocol):
    def members(self) -> Sequence[MemberStatus]:
        """The fleet's members that were seen here, and those that are revoked."""

    def revoke(self, who: str | None, site: str | None, reason: str, *, issued: bool) -> RevokedAnswer:
        """Take back the pass of a member (peer id or name) or of a whole site.

        Raises `DeniedError` where this node may not, `InvalidInputError`.
        """

    async def rotate(self) -> str:
        """Change this node's key; returns the new peer id. Raises a `MeshsatError`."""


class StateView(Protocol):
    """The desired state, as a node holds it."""

    def status(self) -> StateStatus: ...

    @property
    def next_revision(self) -> int:
        """The lowest that would be taken next."""

    async def offer_untrusted(self, raw: bytes) -> int | None:
        """Take in a state file; returns the revision that holds then. Raises `InvalidInputError`."""

    async def file(self, revision: int | None) -> bytes:
        """What is in force as a state file, or an earlier revision. Raises `NotFoundError`."""


class NodeView(Protocol):
    @property
    def desired_state(self) -> StateView: ...

    @property
    def metrics(self) -> Metrics: ...

    @property
    def passes(self) -> PassesView: ...

    @property
    def vault(self) -> Vault: ...

    @property
    def audit(self) -> Audit: ...

    def status(self) -> NodeStatus: ...

    def peers(self) -> Sequence[PeerStatus]: ...

    def images(self) -> Sequence[ImageStatus]: ...

    def desired(self) -> DesiredStatus: ...

    def satellite(self) -> SatelliteStatus | None:
        """Harbor Satellite's states, where this node follows them."""

    def shadow(self, nodes: int | None) -> ShadowReport | None:
        """What the mesh would save, where this node is a shadow. `nodes`: beside so many satellites."""

    def ready(self) -> tuple[bool, str]:
        """Whether the node serves; if not, why, in plain words."""

    def pull(self, reference: str, *, pin: bool) -> AsyncGenerator[PullEvent, None]:
        """Bring the image here. `reference` was checked for its form.

        Raises a `MeshsatError` where it cannot go on; gives `progress` at least once a second.
        """

    async def tag(self, reference: Reference, digest: Digest, resolved_at: float | None) -> TagAnswer:
        """Have a tag mean a manifest that is held, as of `resolved_at` (Unix seconds; None: now).

        Raises `NotFoundError`, `InvalidInputError`.
        """

    def holds(self, digest: Digest) -> bool:
        """Whether the manifest or blob is on this node's disk, whole."""

    def wan(self) -> WanStatus: ...

    def plan(self, raw: bytes) -> AsyncGenerator[PlanStep, None]:
        """What it would take to hold what a desired state wants of this site; a step at least once a second.

        Raises `InvalidInputError` at once for bytes that are none."""

    async def reload(self) -> Reloaded:
        """Read the configuration again. Raises `ConfigError`, and changes nothing then."""

    async def gc(self, *, dry_run: bool) -> CollectedAnswer:
        """A round of collection and eviction now; `dry_run`: only what it would do. Raises `StorageError`."""

    async def invite(self, *, uses: int, valid_seconds: float) -> str:
        """A join token. Raises `DeniedError` where this node is no enroller."""
