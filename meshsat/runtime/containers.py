"""podman, buildah, skopeo and CRI-O: one drop-in in registries.conf.d, which all of them read.

These clients do not tell a mirror which registry a name is of, so it stands in the mirror's path (as
`HOST_PORT` where it has a port: no colon may stand there), and each registry has a table of its own: there is
no "all", and no `*.example.com` either, since that loses the host. Of several tables with one prefix the last
one read stands whole, and of several prefixes the longest one alone counts. So what other files say below our
registries is said again here, with the node as first mirror.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from meshsat.errors import InvalidInputError
from meshsat.oci.reference import registry_as_component
from meshsat.runtime.docker import authority
from meshsat.runtime.formats import parse_toml_untrusted, table, texts
from meshsat.runtime.plans import MARK, Mirror, Origin, Plan, View
from meshsat.runtime.toml_edit import quoted

DROP_IN = "/etc/containers/registries.conf.d/zz-meshsat.conf"
"""Late in the alphabet: the last file has the last word."""
SOURCES = (
    ("/usr/share/containers/registries.conf", "/usr/share/containers/registries.conf.d"),
    ("/etc/containers/registries.conf", "/etc/containers/registries.conf.d"),
)
CERTIFICATES = "/etc/containers/certs.d"
DOCKER_HUB = Origin("docker.io")


@dataclass(frozen=True, slots=True)
class _Table:
    """A `[[registry]]` that some file has."""

    prefix: str
    location: str
    settings: dict[str, Any]
    file: str


def plan(view: View, mirror: Mirror) -> Plan:
    """`Planner` of podman and CRI-O."""
    tables = _tables(view)
    origins = {
        origin.host: origin for origin in (*mirror.origins, *(_named(view, tables) if mirror.every else ()))
    }
    if mirror.every:
        origins.setdefault(DOCKER_HUB.host, DOCKER_HUB)
    notes = [
        "podman and CRI-O want each registry named; those that go to the node: " + ", ".join(sorted(origins))
    ]
    lines = [
        f"# Written by {MARK}. It is written anew by each install: change other files, then run that again."
    ]
    for host, origin in sorted(origins.items()):
        below = {prefix: found for prefix, found in tables.items() if _is_below(prefix, host)}
        if host not in below:
            own = _Table(host, host, {"insecure": True} if origin.plain_http else {}, "")
            if _in_path(host) is None:
                notes.append(f"{host} cannot be named in the path of a mirror: left alone")
                continue
            lines += _rendered(own, mirror)
        for _, found in sorted(below.items()):
            lines += _said_again(found, mirror, notes)
    files = {DROP_IN: ("\n".join(lines) + "\n").encode()}
    if mirror.ca_file is not None:
        files |= authority(view, mirror, CERTIFICATES)
    return Plan(files, tuple(notes), frozenset({DROP_IN}))


def _said_again(found: _Table, mirror: Mirror, notes: list[str]) -> list[str]:
    if found.file.startswith(f"{SOURCES[1][1]}/") and found.file > DROP_IN:
        raise InvalidInputError(
            f"{found.file} is read after {DROP_IN} and would override it for {found.prefix}: rename it,"
            " so that it sorts before, then run this again"
        )
    if found.settings.get("blocked") is True:
        notes.append(f"{found.prefix} is blocked in {found.file}: left so")
        return []
    if _names_node(found, mirror):
        notes.append(f"{found.prefix} has the node as a mirror in {found.file} already: left as it is")
        return []
    if _in_path(found.location) is None:
        notes.append(f"{found.location} cannot be named in the path of a mirror: left as it is")
        return []
    notes.append(
        f"{found.prefix} is set in {found.file}: its settings are repeated in {DROP_IN}, with the node"
        " first; run"
        " install again after you change them"
    )
    return _rendered(found, mirror)


def _rendered(found: _Table, mirror: Mirror) -> list[str]:
    """The table with our node before its mirrors."""
    lines = ["", *([f"# As in {found.file}."] if found.file else []), "[[registry]]"]
    lines += [f"prefix = {quoted(found.prefix)}", f"location = {quoted(found.location)}"]
    for key, value in found.settings.items():
        if key not in ("prefix", "location", "mirror"):
            lines.append(f"{key} = {_scalar(found, key, value)}")
    lines += ["[[registry.mirror]]", f"location = {quoted(f'{mirror.host}/{_in_path(found.location)}')}"]
    lines += ["insecure = true"] if mirror.plain_http else []
    for other in _mirrors(found):
        lines.append("[[registry.mirror]]")
        lines += [f"{key} = {_scalar(found, key, value)}" for key, value in other.items()]
    return lines


def _in_path(location: str) -> str | None:
    """`HOST:PORT/PATH` as it can stand in the path of a mirror."""
    host, slash, path = location.partition("/")
    component = registry_as_component(host)
    return None if component is None else component + slash + path


def _scalar(found: _Table, key: str, value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return quoted(value)
    raise InvalidInputError(f"{found.file}: {key} of {found.prefix} is neither text nor true or false")


def _mirrors(found: _Table) -> list[dict[str, Any]]:
    mirrors = found.settings.get("mirror", [])
    if not isinstance(mirrors, list) or not all(isinstance(one, dict) for one in mirrors):
        raise InvalidInputError(f"{found.file}: mirror of {found.prefix} must be tables, [[registry.mirror]]")
    return mirrors


def _names_node(found: _Table, mirror: Mirror) -> bool:
    places = (str(one.get("location", "")) for one in _mirrors(found))
    return any(place == mirror.host or place.startswith(f"{mirror.host}/") for place in places)


def _is_below(prefix: str, host: str) -> bool:
    return prefix == host or prefix.startswith(f"{host}/")


def _named(view: View, tables: dict[str, _Table]) -> Iterator[Origin]:
    """The registries that the configuration speaks of."""
    for path in _files(view):
        found = parse_toml_untrusted(path, view.read(path) or b"")
        for host in texts(path, "unqualified-search-registries", found.get("unqualified-search-registries")):
            yield Origin(host)
    for one in tables.values():
        host = one.prefix.partition("/")[0]
        if not host.startswith("*"):
            whole = tables.get(host)
            yield Origin(host, whole is not None and whole.settings.get("insecure") is True)


def _tables(view: View) -> dict[str, _Table]:
    """Prefix -> the table that holds for it. Raises `InvalidInputError`."""
    tables: dict[str, _Table] = {}
    for path in _files(view):
        whole = parse_toml_untrusted(path, view.read(path) or b"")
        for setting, kind in (("insecure", "insecure"), ("blocked", "block")):  # version 1 of the format
            old = table(path, whole, "registries", kind).get("registries")
            for host in texts(path, f"registries.{kind}", old):
                tables[host] = _Table(host, host, {setting: True}, path)
        found = whole.get("registry", [])
        if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
            raise InvalidInputError(f"{path}: registry must be tables, [[registry]]")
        for one in found:
            prefix, location = (
                one.get("prefix") or one.get("location"),
                one.get("location") or one.get("prefix"),
            )
            if not isinstance(prefix, str) or not isinstance(location, str):
                raise InvalidInputError(f"{path}: a [[registry]] has neither prefix nor location")
            tables[prefix] = _Table(prefix, location, one, path)
    return tables


def _files(view: View) -> Iterator[str]:
    """Whatever these clients read, weakest first, but our own."""
    for path, directory in SOURCES:
        yield path
        yield from (
            f"{directory}/{name}"
            for name in view.names(directory)
            if name.endswith(".conf") and f"{directory}/{name}" != DROP_IN
        )
