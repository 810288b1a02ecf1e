"""What a node tells about itself: the snapshot that the CLI, the API and the dashboard show."""

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class UplinkStatus:
    enabled: bool
    up: bool | None
    """None: not tried yet."""
    last_error: str | None = None
    rate: int = 0
    """Bytes per second; 0 is no cap."""
    failing_for: float | None = None
    """Seconds since `last_error` began to keep it from working."""
    retry_in: float | None = None
    """Seconds until it is tried again; None: it works, or a try is on."""
    gate: str = "open"
    """What this node's limits let pass: open, urgent or shut."""
    gate_reason: str = ""
    """Why it is not open."""
    opens_at: float | None = None
    """Unix seconds at which it opens; None: it is open, or nobody can tell."""


@dataclass(frozen=True, slots=True)
class QuotaStatus:
    period: str
    """hour, day or month."""
    cap: int
    spent: int
    left: int
    """Bytes, as `cap` and `spent`."""
    ends_at: float
    """Unix seconds."""
    timezone: str


@dataclass(frozen=True, slots=True)
class WanRow:
    """Bytes of packets over the uplink for one image and purpose."""

    image: str
    """`REGISTRY/REPOSITORY`, or `other`."""
    purpose: str
    """manifest, blob, size, token or probe."""
    bytes_in: int
    bytes_out: int
    day: int
    """Both directions, this calendar day; so `month`."""
    month: int


@dataclass(frozen=True, slots=True)
class WanStatus:
    enabled: bool
    gate: str = "shut"
    """open, urgent (only what a client reads now) or shut."""
    reason: str = ""
    """Why it is not open."""
    opens_at: float | None = None
    """Unix seconds; None: it is open, or nobody can tell."""
    rate: int = 0
    """Bytes per second allowed; 0 is no cap."""
    measured_rate: int = 0
    """Bytes per second that came while blobs were brought; 0: not known."""
    quotas: tuple[QuotaStatus, ...] = ()
    since: float | None = None
    """Unix seconds since when `rows` count."""
    rows: tuple[WanRow, ...] = ()
    """The most costly first."""


@dataclass(frozen=True, slots=True)
class PeerStatus:
    peer: str
    name: str
    site: str
    state: str
    """connected, dialling, known or refused."""
    plane: str | None
    """tls or libp2p; None when not connected."""
    addresses: tuple[str, ...]
    uplink: bool
    bytes_in: int
    bytes_out: int
    rtt: float | None
    """Seconds."""


@dataclass(frozen=True, slots=True)
class MemberStatus:
    """A member of the fleet, as this node knows it; of one that was never seen here only some fields."""

    peer: str
    name: str = ""
    site: str = ""
    roles: tuple[str, ...] = ()
    serial: str = ""
    """Of its pass, hexadecimal."""
    expires: float | None = None
    """Unix seconds, as `last_seen`."""
    last_seen: float | None = None
    state: str = "active"
    """active, expiring, expired or revoked."""
    why: str = ""
    """Of one that is revoked: when, by whom, for what."""


@dataclass(frozen=True, slots=True)
class PassStatus:
    serial: str
    """Hexadecimal."""
    expires: float
    """Unix seconds, as the other times."""
    state: str
    """active, expiring, expired or revoked."""
    renew_at: float
    """When the next pass is asked for."""
    roles: tuple[str, ...] = ()
    tried_at: float | None = None
    """When it was last asked for; None: not since this node began."""
    fault: str | None = None
    """Why that came to nothing."""
    revoked: str | None = None
    """When, by whom, for what."""
    certificate_expires: float | None = None
    """When the right to enrol others ends; None where there is none."""
    revocations: int = 0
    """Known of others."""
    time: float = 0.0
    """What this node takes the time to be."""
    time_source: str = ""
    """Whose word that is: this machine's clock, the clocks of other members, what is known to have passed."""


@dataclass(frozen=True, slots=True)
class TransferStatus:
    blob: str
    have_bytes: int
    total_bytes: int
    sources: int
    error: str | None = None


@dataclass(frozen=True, slots=True)
class ImageStatus:
    reference: str
    digest: str
    size: int
    """Bytes of all blobs and manifests behind it."""
    have_bytes: int
    complete: bool
    resolved_at: float
    """Unix time at which an upstream last said so."""
    signature: str | None = None
    """verified, warned or refused; None: no rule asks for signatures, or nobody asked for the image since the
    node began."""
    signature_reason: str | None = None


@dataclass(frozen=True, slots=True)
class StageStatus:
    """How far one node is with one desired image."""

    peer: str
    name: str
    stage: str
    """unknown, waiting, fetching, failed, full, elsewhere, whole; behind: it follows another state."""
    active: bool
    """The tag means the new there."""
    percent: int | None = None
    """Of its bytes, while it is fetched."""
    fault: str | None = None


@dataclass(frozen=True, slots=True)
class DesiredImageStatus:
    reference: str
    target: str | None
    """Digest that the tag is to mean; None: not known yet."""
    active: str | None
    """Digest that it means on this node."""
    before: tuple[str, ...]
    """Digests kept for the way back, the latest first."""
    copies: int | str
    priority: int
    deadline: float | None
    """Unix seconds."""
    late: bool
    """The deadline is over, and this node lacks it."""
    nodes: tuple[StageStatus, ...]
    """This node first."""


@dataclass(frozen=True, slots=True)
class DesiredStatus:
    version: int
    """Revision of the state in force; 0: there is none."""
    images: tuple[DesiredImageStatus, ...]


@dataclass(frozen=True, slots=True)
class DiskStatus:
    used: int = 0
    """Bytes of blobs, of all blobs on their way, of pushes under way and of what is quarantined."""
    budget: int = 0
    """Bytes; 0 is no cap."""
    low: int = 0
    """Bytes down to which images are evicted,"""
    high: int = 0
    """once there are more than these."""
    available: int = 0
    """Bytes that the file system still takes."""
    evicted_images: int = 0
    """This and all that follows: since the node started."""
    evicted_bytes: int = 0
    collected_blobs: int = 0
    """That nothing referred to any more."""
    collected_bytes: int = 0
    last_gc: float | None = None
    """Unix time of the last round of collection that came to its end."""
    last_gc_freed: int = 0
    gc_refused: str | None = None
    """Why nothing was collected in the last round, if so."""
    intake_stopped: str | None = None
    """Why nothing more is taken in, if so."""
    scrubbed_bytes: int = 0
    scrub_due: int = 0
    """Blobs that are to be read again now."""
    scrub_oldest: float | None = None
    """Unix time before which nothing was found right that was not since."""
    rotten: int = 0
    """Blobs whose bytes proved wrong, or were gone."""
    quarantined: int = 0
    """Files that are kept of those."""


@dataclass(frozen=True, slots=True)
class StateRefusal:
    """A document about the desired state that was not accepted."""

    at: float
    """Unix time."""
    source: str
    reason: str
    """In a word or two."""
    message: str


@dataclass(frozen=True, slots=True)
class StateStatus:
    """The desired state: what is in force, who may sign, what is on its way. Times are Unix times."""

    revision: int | None
    """In force here; None: none yet."""
    digest: str | None
    issued: float | None
    expires: float | None
    expired: bool
    """It stays in force, and may be held back by somebody: a younger one should have come."""
    source: str | None
    """How it came; None: it was here when the node started."""
    revoked: bool
    """Keys that signed it do not count any more; it stays in force until a new one comes."""
    root: int | None
    """The version of the newest root."""
    root_expires: float | None
    keys: tuple[str, ...]
    """Who may sign desired states."""
    threshold: int | None
    """How many of them it takes."""
    pending: int | None
    """A revision that was announced and is not in force yet."""
    pending_problem: str | None
    revisions: tuple[int, ...]
    """What was accepted lately, in that order."""
    refused: int
    """Documents, since the node started."""
    refusals: tuple[StateRefusal, ...]
    """The last of them."""
    sources: dict[str, str | None] = field(default_factory=dict)
    """Where it is looked for besides the mesh, each with what is wrong with it."""


@dataclass(frozen=True, slots=True)
class NodeStatus:
    peer: str
    name: str
    fleet: str | None
    site: str | None
    version: str
    uptime: float
    wan_bytes_in: int
    wan_bytes_out: int
    lan_bytes_in: int
    lan_bytes_out: int
    blobs: int
    blob_bytes: int
    images: int
    peers: int
    uplink: UplinkStatus
    registry_address: str | None
    control_addresses: tuple[str, ...] = ()
    bulk_addresses: tuple[str, ...] = ()
    transfers: tuple[TransferStatus, ...] = ()
    disk: DiskStatus = field(default_factory=DiskStatus)
    member: PassStatus | None = None
    """This node's own pass, and what it goes by."""
    state: StateStatus | None = None
    problems: tuple[str, ...] = field(default=())
    """What an operator should do something about, in plain words."""


@dataclass(frozen=True, slots=True)
class SatelliteGroup:
    """One group of Harbor Satellite's that this node follows."""

    reference: str
    digest: str | None
    """Of what is known of it; None: nothing is."""
    artifacts: int
    fetched_at: float | None
    """Unix seconds."""
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class SatelliteStatus:
    """Harbor Satellite's states, as this node follows them."""

    name: str | None
    state: str | None
    """Where the root state is; None: not registered yet."""
    shadow: bool
    in_force: bool
    """Whether what they say is this node's desired state."""
    version: str | None
    """Of what they say; None: nothing is known."""
    state_digest: str | None
    config_digest: str | None
    registered_at: float | None
    """Unix seconds."""
    checked_at: float | None
    """Unix seconds of the last look that found the root state."""
    poll: float
    """Seconds between two looks."""
    groups: tuple[SatelliteGroup, ...] = ()
    images: tuple[str, ...] = ()
    """What is wanted."""
    passed_over: tuple[str, ...] = ()
    """Settings of the satellite that mean nothing here."""
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ShadowImage:
    """An image that is wanted, as the shadow counts it."""

    reference: str
    digest: str
    size: int
    """Bytes of all of it."""
    once: int
    """Bytes of it that were new to the site."""


@dataclass(frozen=True, slots=True)
class ShadowDay:
    """What was new on one day (UTC). Bytes, as in `ShadowReport`."""

    day: str
    once: int
    each: int
    single: int
    own: int
    nodes: int
    saved: int


@dataclass(frozen=True, slots=True)
class ShadowReport:
    """What the mesh would have saved on the WAN. Bytes of manifests and blobs."""

    nodes: int
    """How many satellites are compared with: as asked for, or the live nodes of the site now."""
    since: str | None
    """The first day that was counted."""
    once: int
    """Over the WAN by a site of ours, once for all nodes."""
    each: int
    """Over the WAN by the satellites, each for itself."""
    single: int
    """The same by satellites that take linux/amd64 alone of an image for several platforms."""
    own: int
    """That the shadow itself fetched: states and manifests."""
    saved: int
    """`each` less `once`."""
    images: tuple[ShadowImage, ...] = ()
    days: tuple[ShadowDay, ...] = ()
    unknown: tuple[str, ...] = ()
    """Images that could not be weighed, and why."""


def in_words(failing_for: float | None, retry_in: float | None) -> str:
    """` (for 12 s; next try in 30 s)`: what belongs behind an error; nothing where nothing is known."""
    known = [] if failing_for is None else [f"for {failing_for:.0f} s"]
    if retry_in is not None:
        known.append(f"next try in {retry_in:.0f} s")
    return f" ({'; '.join(known)})" if known else ""


def as_json(snapshot: Any) -> dict[str, Any]:
    """The JSON object of one snapshot dataclass: its fields, by name."""
    return asdict(snapshot)
