"""One registry's hosts.toml of containerd: our node before the hosts that are there.

containerd tries the hosts in the order in which they stand, then `server`. Without a `server` that is the
registry named in the reference itself, which makes `_default/hosts.toml`, the file for all registries without
one of their own, fall back as well. A directory without hosts.toml may hold certificates in Docker's layout;
once there is a hosts.toml these are read no more, so they are named in it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from meshsat.errors import InvalidInputError
from meshsat.runtime.formats import parse_toml_untrusted, table
from meshsat.runtime.plans import DOCKER_HUB_SERVER, MARK, Mirror
from meshsat.runtime.toml_edit import insert_before_tables, quoted

EVERY = "_default"
"""The directory whose hosts.toml holds for registries without a directory."""
CAPABILITIES = '  capabilities = ["pull", "resolve"]'


@dataclass(frozen=True, slots=True)
class Trust:
    """How a host's TLS is checked, and how we show who we are."""

    ca: tuple[str, ...] = ()
    client: tuple[tuple[str, str], ...] = ()
    skip_verify: bool = False

    def lines(self, indent: str = "") -> list[str]:
        lines = []
        if self.ca:
            lines.append(f"{indent}ca = [{', '.join(map(quoted, self.ca))}]")
        if self.client:
            pairs = ", ".join(f"[{quoted(cert)}, {quoted(key)}]" for cert, key in self.client)
            lines.append(f"{indent}client = [{pairs}]")
        if self.skip_verify:
            lines.append(f"{indent}skip_verify = true")
        return lines


@dataclass(frozen=True, slots=True)
class Fresh:
    """A hosts.toml that is not there yet: what it says beside our node."""

    server: str | None = None
    trust: Trust = Trust()
    endpoints: Sequence[str] = ()
    """Mirrors that were configured elsewhere, in order."""
    trusts: Mapping[str, Trust] = field(default_factory=dict)
    """`HOST[:PORT]` -> what was configured for it elsewhere."""

    def render(self, mirror: Mirror) -> bytes:
        lines = [f"# Written by {MARK}."]
        if self.server is not None:
            lines.append(f"server = {quoted(self.server)}")
        lines += [*self.trust.lines(), "", *ours(mirror)]
        for endpoint in self.endpoints:
            scheme, _, rest = endpoint.partition("://")
            host, slash, path = rest.partition("/")
            lines += ["", f"[host.{quoted(endpoint)}]", CAPABILITIES]
            lines += self.trusts.get(host, Trust()).lines("  ") if scheme == "https" else []
            lines += ["  override_path = true"] if slash and path else []
        return ("\n".join(lines) + "\n").encode()


def ours(mirror: Mirror) -> list[str]:
    """The table of our node."""
    lines = [f"[host.{quoted(mirror.url)}]  # {MARK}", CAPABILITIES]
    return lines + ([f"  ca = {quoted(mirror.ca_file)}"] if mirror.ca_file is not None else [])


def server_of(directory: str) -> str | None:
    """The registry that a directory of certs.d is for; None where it is for all.

    `HOST_PORT_` is `HOST:PORT`.
    """
    if directory == EVERY:
        return None
    head, underscore, port = directory.removesuffix("_").rpartition("_")
    host = f"{head}:{port}" if directory.endswith("_") and underscore and port.isdigit() else directory
    return DOCKER_HUB_SERVER if host == "docker.io" else f"https://{host}"


def put_first(path: str, data: bytes, mirror: Mirror) -> tuple[bytes, str | None]:
    """hosts.toml with our node before the hosts in it, and what the operator should know of it.

    Raises `InvalidInputError`.
    """
    hosts = table(path, parse_toml_untrusted(path, data), "host")
    names = [name.rstrip("/") for name in hosts]
    if mirror.url in names:
        late = names[0] != mirror.url
        return data, f"{path} names {mirror.url}, but not first: left as it is" if late else None
    changed = insert_before_tables(path, data, ours(mirror))
    found = parse_toml_untrusted(path, changed)
    if list(table(path, found, "host")) != [mirror.url, *hosts] or _rest(found, mirror) != _rest(
        parse_toml_untrusted(path, data), mirror
    ):
        raise InvalidInputError(
            f"{path}: written so that a host cannot be put first safely; put [host.{quoted(mirror.url)}] with"
            ' capabilities = ["pull", "resolve"] first yourself'
        )
    return changed, None


def _rest(found: dict[str, Any], mirror: Mirror) -> dict[str, Any]:
    """All that is not ours."""
    hosts = {name: value for name, value in found.get("host", {}).items() if name != mirror.url}
    return {**found, "host": hosts}


def docker_layout(names: Sequence[str]) -> Trust:
    """What the certificates in a directory mean:
    `*.crt` authorities, `NAME.cert` with `NAME.key` client pairs.
    """
    ca = tuple(name for name in names if name.endswith(".crt"))
    pairs = ((name, f"{name.removesuffix('.cert')}.key") for name in names if name.endswith(".cert"))
    return Trust(ca, tuple((cert, key) for cert, key in pairs if key in names))
