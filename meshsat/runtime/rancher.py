"""k3s and rke2: /etc/rancher/*/registries.yaml, from which they write containerd's hosts.toml at each start.

A host with an entry of its own does not take the one of `*`, neither under `mirrors` nor, with credentials or
TLS, under `configs`: so the node comes first for each of them. The registry itself stays the last resort,
unless `disable-default-registry-endpoint` is set. Rewrites change the names that *all* endpoints are asked
for, which a node cannot know of: such entries are left alone. `*` needs a k3s or rke2 of January 2024 or
later.
"""

from typing import Any

from meshsat.runtime.formats import parse_yaml_untrusted, table, texts
from meshsat.runtime.plans import MARK, Mirror, Plan, Planner, View
from meshsat.runtime.yaml_edit import add_config, put_first

EVERY = "*"


def planner(product: str) -> Planner:
    """The plan of `product`: k3s or rke2."""
    file = f"/etc/rancher/{product}/registries.yaml"

    def plan(view: View, mirror: Mirror) -> Plan:
        return _plan(view, mirror, file, product)

    return plan


def _plan(view: View, mirror: Mirror, file: str, product: str) -> Plan:
    data = view.read(file) or b""
    found = parse_yaml_untrusted(file, data)
    mirrors, configs = table(file, found, "mirrors"), table(file, found, "configs")
    notes: list[str] = []
    wanted = [
        host for host in _hosts(mirror, mirrors, configs) if _is_open(file, host, mirrors, mirror, notes)
    ]
    if not data.strip():
        data = f"# Written by {MARK}.\n".encode() + data
    for host in wanted:
        for url in reversed(_so_far(file, host, mirror, mirrors, configs)):
            data = put_first(file, data, [host], url)
    if wanted:
        data = put_first(file, data, wanted, mirror.url)
    if mirror.ca_file is not None:
        data = add_config(file, data, mirror.host, mirror.ca_file)
    if mirror.every:
        notes.append(
            f"the wildcard '*' needs a {product} of January 2024 or later; name registries for an older one"
        )
    settings = f"/etc/rancher/{product}/config.yaml"
    if b"disable-default-registry-endpoint" in (view.read(settings) or b""):
        notes.append(
            f"{settings} speaks of disable-default-registry-endpoint: where that is set, nothing is pulled"
            " while the node does not answer"
        )
    return Plan({file: data}, tuple(notes), frozenset({file}))


def _hosts(mirror: Mirror, mirrors: dict[str, Any], configs: dict[str, Any]) -> list[str]:
    """For whom the node comes first: what is asked for, and with "all" whatever does not take part in `*`."""
    if not mirror.every:
        named = [origin.host for origin in mirror.origins]
    else:  # an entry of its own takes a host away from `*`: only where there has to be one
        named = [EVERY, *mirrors, *configs, *(origin.host for origin in mirror.origins if origin.plain_http)]
    return [host for host in dict.fromkeys(map(str, named)) if host != mirror.host]


def _so_far(
    file: str, host: str, mirror: Mirror, mirrors: dict[str, Any], configs: dict[str, Any]
) -> list[str]:
    """The endpoints that hold for a host without an entry, and would not hold any more once it has one."""
    if host in mirrors or host == EVERY:
        return []
    plain = [origin.server for origin in mirror.origins if origin.plain_http and origin.host == host]
    for_all = (
        [] if host in configs else texts(file, "endpoint of *", table(file, mirrors, EVERY).get("endpoint"))
    )
    return [url for url in for_all if url.rstrip("/") != mirror.url] + plain


def _is_open(file: str, host: str, mirrors: dict[str, Any], mirror: Mirror, notes: list[str]) -> bool:
    """Whether the node is to be put first for `host`."""
    entry = mirrors.get(host)
    if entry is None:
        return True
    settings = table(file, mirrors, host)
    if settings.get("rewrite"):
        notes.append(f"{file}: {host} has rewrites, which hold for every endpoint: left as it is")
        return False
    listed = [url.rstrip("/") for url in texts(file, f"endpoint of {host}", settings.get("endpoint"))]
    if mirror.url in listed:
        if listed[0] != mirror.url:
            notes.append(f"{file}: {host} names {mirror.url}, but not first: left as it is")
        return False
    return True
