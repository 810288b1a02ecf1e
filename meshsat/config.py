"""Every setting and every limit of a node, with its unit. Nothing else in the tree holds one.

Order, strongest first: command line flags, `MESHSAT_*` environment, the TOML file, the defaults here.
Nested keys are joined by two underscores in the environment: `MESHSAT_UPLINK__ENABLED=false`.
Secrets are never values here, only paths of files that hold them.
"""

import ipaddress
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from meshsat.errors import ConfigError, InvalidInputError
from meshsat.fleet_sections import FleetSection
from meshsat.limits import Quota, WanLimits, Window
from meshsat.schedule import parse_window_untrusted
from meshsat.section import Bytes, Port, Seconds, Section, Zone

ANONYMOUS = "anonymous"
"""What access rules call whoever shows no credential."""


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a listener there. Of names, only `localhost` is known to."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


class UpstreamRegistry(Section):
    """How one upstream registry is reached. A registry without an entry is reached by https, anonymously or
    with what the Docker configuration holds for it."""

    host: str
    """`HOST[:PORT]` as it stands in references."""
    plain_http: bool = False
    ca_file: Path | None = None
    """PEM file of the CAs to trust for it, in place of the system's."""
    username: str | None = None
    password_file: Path | None = None


class QuotaSection(Section):
    """Bytes over this node's uplink in a calendar period, both directions, headers included; 0 is no cap."""

    hour: Bytes = 0
    day: Bytes = 0
    month: Bytes = 0
    timezone: Zone = "UTC"
    """Of the zone whose days and months these are."""


class WindowSection(Section):
    """When the uplink may be used: from each moment that `cron` names, for `duration`."""

    cron: str
    """Five fields: minute, hour, day of the month, month, day of the week."""
    duration: Seconds
    timezone: str = "UTC"
    """IANA name of the zone that the expression is meant in."""

    @model_validator(mode="after")
    def _means_something(self) -> Self:
        try:
            parse_window_untrusted(self.cron, self.duration, self.timezone)
        except InvalidInputError as fault:
            raise ValueError(str(fault)) from None
        return self


class UplinkSection(Section):
    enabled: bool = True
    """False: this node never talks to an upstream, whatever it could reach."""
    registries: tuple[UpstreamRegistry, ...] = ()
    rate: Bytes = 0
    """Bytes per second that come over the WAN, headers included; 0 is no cap."""
    quota: QuotaSection = QuotaSection()
    windows: Annotated[tuple[WindowSection, ...], Field(max_length=64)] = ()
    """Open while any of them is. None: always."""
    urgent: Literal["never", "clients"] = "never"
    """What may pass while no window is open: nothing, or what a client reads now. No quota is ever passed."""
    docker_config: Path | None = None
    """Credentials in Docker's format. None: `$REGISTRY_AUTH_FILE`, then `~/.docker/config.json`."""
    connect_timeout: Seconds = 10.0
    stall_timeout: Seconds = 20.0
    """A transfer that brings no byte for so long is broken off and resumed."""
    attempts: Annotated[int, Field(ge=1)] = 5
    """Tries without a byte of progress before a request counts as failed."""
    manifest_limit: Bytes = 4 * 1024 * 1024
    connections: Annotated[int, Field(ge=1, le=256)] = 16
    """The most blob requests at a time to the registries that share a CA; more wait their turn."""
    range_connections: Annotated[int, Field(ge=1, le=64)] = 8
    """The most connections at a time for the ranges of blobs, where more bring more; 1: never more than one
    a blob."""
    backoff: Seconds = 0.25
    """Before the second try; doubled for each further one, up to `backoff_limit`, and jittered."""
    backoff_limit: Seconds = 10.0
    """Also the longest `Retry-After` that a request sits out; a longer one fails it at once."""
    helper_timeout: Seconds = 10.0
    """For a Docker credential helper to answer."""

    @property
    def limits(self) -> WanLimits:
        quota = Quota(**self.quota.model_dump())
        return WanLimits(self.rate, quota, tuple(Window(**one.model_dump()) for one in self.windows))


class MeshSection(Section):
    listen: str = "0.0.0.0"  # noqa: S104 - both planes refuse whoever has no pass
    control_port: Port = 4701
    """py-libp2p: hello, enrolment, gossip."""
    bulk_port: Port = 4702
    """Mutual TLS 1.3: swap sessions."""
    mdns: bool = True
    peers: tuple[str, ...] = ()
    """Static peers, by their control plane: `/ip4/10.0.0.2/tcp/4701/p2p/PEER`."""
    max_peers: Annotated[int, Field(ge=1, le=1024)] = 256
    keepalive: Seconds = 1.0
    """Between two pings while this node waits for something."""
    idle_keepalive: Seconds = 20.0
    """The same while it does not."""
    silence_limit: Seconds = 3.0
    """A peer not heard for so long is gone, counted from when there was a reason to ask it."""
    gossip_interval: Seconds = 30.0
    """Between two rounds of anti-entropy."""
    upload_rate: Bytes = 0
    """Bytes per second to peers; 0 is no cap."""


class PassesSection(Section):
    """Passes of the fleet: what this node gives, where it is an enroller, and what it accepts."""

    lifetime: Annotated[float, Field(ge=1, le=366 * 86400)] = 365.25 * 86400
    """Seconds that a pass lasts which this node issues. It is renewed after two thirds of it."""
    grace: Annotated[float, Field(ge=0, le=90 * 86400)] = 30 * 86400.0
    """Seconds for which a pass is still accepted, and renewed, after it has ended."""
    enrollers: tuple[str, ...] = ()
    """Control addresses `HOST:PORT` of enrollers elsewhere that may renew this node's pass."""


class AccessRule(Section):
    """Grants; nothing is forbidden by a rule. What no rule grants is refused."""

    users: Annotated[tuple[str, ...], Field(min_length=1)]
    """Names of the htpasswd file; `*`: whoever has logged in; `anonymous`: everybody."""
    repositories: Annotated[tuple[str, ...], Field(min_length=1)]
    """Patterns `REGISTRY/REPOSITORY`; what is pushed without a registry's name is `site.internal/...`."""
    actions: Annotated[tuple[Literal["pull", "push", "delete"], ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _writers_have_names(self) -> Self:
        if ANONYMOUS in self.users and set(self.actions) != {"pull"}:
            raise ValueError(
                f"{ANONYMOUS!r} may only pull: push and delete need a credential; name users, or *"
            )
        return self


class RegistryAuth(Section):
    htpasswd: Path
    """Who may log in: Apache's format, bcrypt only (`htpasswd -B`). Not readable or writable by others."""
    scheme: Literal["basic", "bearer"] = "basic"
    """How clients are asked for the password: with each request, or for a token (Docker's flow)."""
    anonymous: bool = False
    """Whether everything may be pulled without a credential."""
    rules: tuple[AccessRule, ...] = ()
    """Who may do what. None: whoever has logged in may do all that `push` and `delete` let."""
    realm: str | None = None
    """`https://HOST[:PORT]` under which clients reach this node, where their `Host` field does not say it."""
    token_ttl: Annotated[float, Field(ge=60, le=3600)] = 300.0
    """Seconds for which a token is good."""


class RegistryTls(Section):
    """The certificate that the registry shows: of files, or made with the fleet's key."""

    certificate: Path | None = None
    """PEM, the certificate first, then those between it and the CA. Read again when it changes."""
    key: Path | None = None
    """PEM, without a passphrase, not readable by all."""
    fleet: bool = False
    """Make one at start, and anew before it ends; on a machine that may enrol others."""
    names: tuple[str, ...] = ()
    """What else clients call this machine, host names or addresses, for the fleet's certificate."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        files = (self.certificate is not None) + (self.key is not None)
        if files != (0 if self.fleet else 2):
            raise ValueError("give both certificate and key, or fleet = true")
        if self.names and not self.fleet:
            raise ValueError("names go with fleet = true; a certificate of files has its own")
        return self


class PullThroughRule(Section):
    pattern: str
    """`REGISTRY/REPOSITORY[:TAG]`, with `*` and `**`."""
    allow: bool = True
    tag_ttl: Annotated[float, Field(ge=0)] | None = None
    """Seconds for which a tag is believed before the upstream is asked again. None: `registry.tag_ttl`."""
    stale: Literal["serve", "refuse"] | None = None
    """What is answered for an older tag when the upstream can't be asked. None: that of the section."""


class SignatureRule(Section):
    pattern: str
    """`REGISTRY/REPOSITORY[:TAG]`, with `*` and `**`; what was pushed to the site is `site.internal/...`."""
    action: Literal["block", "warn", "accept"] = "block"
    """What becomes of an image without enough valid signatures; `accept`: signatures are not looked at."""
    keys: tuple[Path, ...] = ()
    """PEM files of public keys (`cosign.pub`)."""
    threshold: Annotated[int, Field(ge=1)] = 1
    """How many different ones of the keys must have signed."""
    identity: Literal["any", "match"] = "any"
    """`match`: the name in the signature must be that of the repository that the image is in."""
    certificate_identity: str | None = None
    """Who signs without a key of their own: the subject of sigstore's certificate, an address or a URI."""
    certificate_issuer: str | None = None
    """The OIDC issuer that they log in at."""
    trusted_root: Path | None = None
    """sigstore's `trusted_root.json`: whose certificates and logs are believed."""

    @model_validator(mode="after")
    def _keyless_is_whole(self) -> Self:
        told = [self.certificate_identity, self.certificate_issuer, self.trusted_root]
        if any(told) and not all(told):
            raise ValueError("certificate_identity, certificate_issuer and trusted_root go together")
        return self


class PullThroughSection(Section):
    """What may be fetched over the uplink because a client asked for it. What the site holds is served."""

    rules: tuple[PullThroughRule, ...] = ()
    """The first whose pattern matches decides."""
    allow: bool = True
    """For what no rule matches."""
    stale: Literal["serve", "refuse"] = "serve"
    negative_ttl: Annotated[float, Field(ge=0, le=3600)] = 5.0
    """Seconds for which an upstream's "not found" is answered again without asking."""


class RegistrySection(Section):
    listen: str = "127.0.0.1"
    """Beyond loopback only with `tls`, and `push` then only with `auth`."""
    port: Port = 5000
    tls: RegistryTls | None = None
    auth: RegistryAuth | None = None
    upstream: str | None = None
    """The upstream registry meant by a name without one: `/v2/library/pos/...` -> UPSTREAM/library/pos."""
    resolve_timeout: Seconds = 5.0
    """The longest that a client waits to hear whether a manifest can be had."""
    stall_timeout: Seconds = 60.0
    """A blob on its way to a client that gains no byte for so long is cut; clients then resume or retry."""
    tag_ttl: Annotated[float, Field(ge=0)] = 60.0
    """Seconds for which a resolved tag is believed before the upstream is asked again."""
    push: bool = False
    """Whether clients may push. What they push is site content: every node serves it, no upstream has it."""
    delete: bool = False
    """Whether clients may delete site content."""
    pin_pushed: bool = True
    """Whether what is pushed to this node stays until it is deleted."""
    manifest_limit: Annotated[int, Field(ge=1024, le=4 * 1024 * 1024)] = 4 * 1024 * 1024
    """Bytes of the largest manifest that is taken."""
    blob_limit: Annotated[int, Field(ge=1024, le=1 << 40)] = 64 << 30
    """Bytes of the largest blob that is taken."""
    uploads: Annotated[int, Field(ge=1, le=4096)] = 64
    """The most pushes of blobs that may be open at once."""
    upload_timeout: Seconds = 3600.0
    """A push that brings no byte for so long is thrown away."""
    pull_through: PullThroughSection = PullThroughSection()

    @model_validator(mode="after")
    def _safe_beyond_this_machine(self) -> Self:
        if is_loopback(self.listen):
            return self
        if self.tls is None:
            raise ValueError(
                f"listen = {self.listen!r} lets other machines in, and without TLS anybody between could "
                "read and change what they pull; set registry.tls (fleet = true, or certificate and key: "
                "`meshsat certificate` makes them), or listen on 127.0.0.1"
            )
        if (self.push or self.delete) and self.auth is None:
            raise ValueError(
                f"listen = {self.listen!r} with push or delete lets every machine that reaches this one "
                "change the site's content; set registry.auth.htpasswd, or listen on 127.0.0.1"
            )
        return self


class ApiSection(Section):
    listen: str = "127.0.0.1"
    port: Port = 4700
    """`/healthz`, `/readyz`, `/metrics`: read-only. The verbs are on the Unix socket `data_dir`/api.sock."""


class HttpSection(Section):
    """What the clients of the registry, and those of the API, may take."""

    max_connections: Annotated[int, Field(ge=1)] = 2048
    """At once. Beyond it who begins a request and does not go on makes room, then who waits longest for its
    next one."""
    header_limit: Annotated[int, Field(ge=1024)] = 32 * 1024
    """Bytes of a request's line and header fields."""
    header_timeout: Seconds = 10.0
    """From the first byte of a request to the end of its header; for a TLS handshake; the longest silence
    within a body."""
    idle_timeout: Seconds = 75.0
    """How long a connection may wait for its next request."""
    send_timeout: Seconds = 60.0
    """In which a client must take 64 KiB of a response, or bring 64 KiB of a body; slower ones are cut."""
    grace: Seconds = 1.0
    """What a response under way gets to finish when the node stops."""


class AuditSection(Section):
    """Who did what, as JSON lines."""

    enabled: bool = True
    file: Path | None = None
    """None: `data_dir`/audit/audit.jsonl. Older ones have `.1`, `.2`... behind it."""
    max_bytes: Annotated[int, Field(ge=64 * 1024)] = 8 * 1024 * 1024
    """Bytes at which the next file begins."""
    keep: Annotated[int, Field(ge=0, le=1000)] = 9
    """Older files that are kept."""
    syslog: bool = False
    """Whether each line goes to the system's log as well (RFC 5424, /dev/log)."""


class RecordSection(Section):
    file: Path | None = None
    """A new file for the trace of the mesh's brain: a bug report that replays in `sim/`. None: no trace."""
    limit: Annotated[int, Field(ge=65536)] = 256 * 1024 * 1024
    """Bytes at which the recording ends."""


class DiskSection(Section):
    """What the store may take on its disk, and how it is kept right."""

    budget: Bytes = 0
    """Bytes of blobs, of blobs on their way and of pushes under way; 0: as many as the disk has."""
    free: Bytes = 0
    """Bytes that are to stay free on its file system, whoever uses it."""
    high: Annotated[float, Field(gt=0, le=1)] = 0.95
    """Part of the budget above which images are evicted,"""
    low: Annotated[float, Field(gt=0, le=1)] = 0.85
    """down to this part of it."""
    grace: Annotated[float, Field(ge=60)] = 3600.0
    """Seconds for which what nothing refers to stays after it was last pushed, mounted or asked for."""
    gc_interval: Seconds = 3600.0
    """Between two rounds of collection."""
    partial_age: Annotated[float, Field(ge=60)] = 7 * 24 * 3600.0
    """Seconds for which what has come of a blob stays when nobody wants the rest of it."""
    scrub_rate: Bytes = 2 * 1024 * 1024
    """Bytes per second that are read again while nothing is on its way; 0: none are."""
    scrub_interval: Seconds = 30 * 24 * 3600.0
    """Seconds after which a blob is read again."""
    quarantine: Bytes = 256 * 1024 * 1024
    """Bytes of rotten blobs that are kept for whoever asks what went wrong; of them, the newest 64."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.low > self.high:
            raise ValueError("low must not lie above high: eviction begins at high and ends at low")
        return self


class LogSection(Section):
    level: str = "info"
    json_lines: bool = False


class Config(BaseSettings):
    """The whole of it. Build with `load`."""

    model_config = SettingsConfigDict(
        env_prefix="MESHSAT_", env_nested_delimiter="__", frozen=True, extra="forbid"
    )

    data_dir: Path = Path("/var/lib/meshsat")
    name: str | None = None
    """What people call this node; the host's name by default."""
    uplink: UplinkSection = UplinkSection()
    mesh: MeshSection = MeshSection()
    passes: PassesSection = PassesSection()
    registry: RegistrySection = RegistrySection()
    api: ApiSection = ApiSection()
    http: HttpSection = HttpSection()
    fleet: FleetSection = FleetSection()
    record: RecordSection = RecordSection()
    signatures: tuple[SignatureRule, ...] = ()
    """What must be signed; the first rule whose pattern matches decides, and none accepts."""
    audit: AuditSection = AuditSection()
    disk: DiskSection = DiskSection()
    log: LogSection = LogSection()

    @property
    def audit_file(self) -> Path:
        return self.audit.file or self.data_dir / "audit" / "audit.jsonl"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        del dotenv_settings, file_secret_settings
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)

    @classmethod
    def load(cls, file: Path | None = None, **flags: Any) -> Self:
        """Read the TOML `file` (if given), the environment and `flags` (nested dicts, strongest).

        Raises `ConfigError`, one line a fault: which key, what is wrong with it, where it came from.
        """
        loader = type(cls.__name__, (cls,), {"model_config": {**cls.model_config, "toml_file": file}})
        if file is not None and not file.is_file():
            raise ConfigError(f"configuration file {file} does not exist; give another with --config")
        try:
            loaded: Self = loader(**flags)
        except ValidationError as invalid:
            faults = "; ".join(
                f"{'.'.join(map(str, fault['loc'])) or '(top level)'}: "
                f"{fault['msg'].removeprefix('Value error, ')}"
                for fault in invalid.errors()
            )
            where = f"{file}, the environment or the flags" if file else "the environment or the flags"
            raise ConfigError(f"configuration in {where}: {faults}") from None
        except ValueError as malformed:  # TOML syntax
            raise ConfigError(f"configuration file {file} is not valid TOML: {malformed}") from None
        return loaded
