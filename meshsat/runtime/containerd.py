"""containerd, 1.x and 2.x: `certs.d/*/hosts.toml`, and the `config_path` that makes its CRI plugin read them.

hosts.toml is read at each pull; config.toml at start only. `ctr` reads hosts.toml with `--hosts-dir`, nerdctl
by itself. Inline `registry.mirrors` and `registry.configs.*.tls`, which containerd refuses beside a
`config_path`, are moved into hosts.toml and stay in config.toml as comments. `registry.configs.*.auth` is not
touched.
"""

import posixpath
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any

from meshsat.errors import InvalidInputError
from meshsat.runtime.formats import parse_toml_untrusted, table, texts
from meshsat.runtime.hosts_toml import EVERY, Fresh, Trust, docker_layout, put_first, server_of
from meshsat.runtime.plans import MARK, Mirror, Origin, Plan, View
from meshsat.runtime.toml_edit import Keys, comment_out, set_text

FILE = "/etc/containerd/config.toml"
HOSTS = "/etc/containerd/certs.d"
OLDEST, OLD, NEW = "cri", "io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images"
"""The plugin with the registry settings: of configuration version 1, 2 and 3."""
PLUGIN = {1: OLDEST, 2: OLD, 3: NEW}
IMPORTS_LIMIT = 100
FRESH_CONFIG = b"version = 2\n"
"""containerd 1.x and 2.x both read it; without a configuration, their defaults hold otherwise."""


@dataclass(frozen=True, slots=True)
class _File:
    path: str
    data: bytes
    tables: dict[str, Any]
    plugin: str
    """The name that this file's version has for the plugin."""

    @property
    def registry(self) -> dict[str, Any]:
        return table(self.path, self.tables, "plugins", self.plugin, "registry")

    @property
    def keys(self) -> Keys:
        return ("plugins", self.plugin, "registry")

    @property
    def has_plugin(self) -> bool:
        return self.plugin in table(self.path, self.tables, "plugins")


def plan(view: View, mirror: Mirror) -> Plan:
    """`Planner` of containerd."""
    configs = list(_configs(view))
    notes: list[str] = []
    with_path = [file for file in configs if file.registry.get("config_path")]
    roots = _roots(with_path[-1]) if with_path else [HOSTS]
    inline = _inline(configs)
    off = {OLDEST, OLD, NEW} & set(texts(FILE, "disabled_plugins", configs[0].tables.get("disabled_plugins")))
    if off:
        notes.append(
            f"{FILE} disables {', '.join(sorted(off))}: what remains are clients that read {roots[0]}"
            " themselves,"
            " such as nerdctl, and ctr with --hosts-dir"
        )
    files = dict(_hosts(view, mirror, roots, inline, notes))
    for file in configs:
        data = file.data
        gone = list(_refused(file))
        if gone:
            data = comment_out(file.path, data, gone, f"{MARK}: moved to {roots[0]}/*/hosts.toml")
            notes.append(
                f"{file.path}: registry.mirrors and registry.configs.*.tls moved to hosts.toml in {roots[0]}:"
                " containerd refuses them beside config_path"
            )
        if not with_path and file is _owner(configs) and not off:
            data = set_text(file.path, data, (*file.keys, "config_path"), HOSTS)
        if data != file.data:
            files[file.path] = data
    settings = frozenset(file.path for file in configs)
    if len(roots) > 1:
        notes.append(
            f"config_path names several directories ({':'.join(roots)}); containerd takes a registry from"
            " the first"
            " that has it"
        )
    return Plan(files, tuple(notes), settings)


def _configs(view: View) -> Iterator[_File]:
    """config.toml and what it imports, weakest first: an import overrides the file that names it."""
    main = view.read(FILE)
    data = FRESH_CONFIG if main is None or not main.strip() else main
    first = _parsed(FILE, data, None)
    yield first
    count = 0
    for pattern in texts(FILE, "imports", first.tables.get("imports")):
        place = posixpath.join(posixpath.dirname(FILE), pattern)
        directory, name = posixpath.split(place)
        for found in view.names(directory):
            path = f"{directory}/{found}"
            if fnmatch(found, name) and path != FILE and (imported := view.read(path)) is not None:
                count += 1
                if count > IMPORTS_LIMIT:
                    raise InvalidInputError(f"{FILE} imports more than {IMPORTS_LIMIT} files")
                yield _parsed(path, imported, first)


def _parsed(path: str, data: bytes, first: _File | None) -> _File:
    tables = parse_toml_untrusted(path, data)
    version = tables.get("version")
    if version is None:
        return _File(path, data, tables, OLDEST if first is None else first.plugin)
    plugin = PLUGIN.get(version) if isinstance(version, int) else None
    if plugin is None:
        known = ", ".join(map(str, PLUGIN))
        raise InvalidInputError(
            f"{path}: version {version!r} is none that is known here ({known}); update meshsat"
        )
    return _File(path, data, tables, plugin)


def _owner(configs: list[_File]) -> _File:
    """Where `config_path` belongs:
    the last file that speaks of the plugin, since it may override the others whole.
    """
    speaking = [file for file in configs if file.has_plugin]
    return speaking[-1] if speaking else configs[0]


def _roots(file: _File) -> list[str]:
    path = file.registry["config_path"]
    if not isinstance(path, str) or not all(part.startswith("/") for part in path.split(":") if part):
        raise InvalidInputError(f"{file.path}: config_path must be absolute directories, not {path!r}")
    return [posixpath.normpath(part) for part in path.split(":") if part]


def _refused(file: _File) -> Iterator[Keys]:
    """The tables that containerd refuses beside a `config_path`."""
    if table(file.path, file.registry, "mirrors"):
        yield (*file.keys, "mirrors")
    for host, settings in table(file.path, file.registry, "configs").items():
        if isinstance(settings, dict) and settings.get("tls"):
            yield (*file.keys, "configs", host, "tls")


def _inline(configs: list[_File]) -> dict[str, Fresh]:
    """Directory -> the hosts.toml that says what inline settings said;
    of several files the last is believed.
    """
    endpoints: dict[str, list[str]] = {}
    trusts: dict[str, Trust] = {}
    for file in configs:
        for host, settings in table(file.path, file.registry, "mirrors").items():
            if not isinstance(settings, dict):
                raise InvalidInputError(f"{file.path}: registry.mirrors.{host} must be a table")
            named = texts(file.path, f"registry.mirrors.{host}.endpoint", settings.get("endpoint"))
            endpoints[host] = [url if "://" in url else f"https://{url}" for url in named]
        for host, settings in table(file.path, file.registry, "configs").items():
            if isinstance(settings, dict) and isinstance(tls := settings.get("tls"), dict) and tls:
                trusts[host] = _trust(tls)
    fresh = {}
    for host in {*endpoints, *trusts}:
        directory = EVERY if host == "*" else host
        server = server_of(directory)
        others = endpoints.get(host, [])
        if others and others[-1].rstrip("/") == server:
            others = others[:-1]  # it comes last anyhow
        fresh[directory] = Fresh(server, trusts.get(host, Trust()), others, trusts)
    return fresh


def _trust(tls: dict[str, Any]) -> Trust:
    ca, cert, key = (tls.get(name) or "" for name in ("ca_file", "cert_file", "key_file"))
    pairs = ((str(cert), str(key)),) if cert and key else ()
    return Trust((str(ca),) if ca else (), pairs, tls.get("insecure_skip_verify") is True)


def _hosts(
    view: View, mirror: Mirror, roots: list[str], inline: dict[str, Fresh], notes: list[str]
) -> Iterator[tuple[str, bytes]]:
    """hosts.toml files: those that are there, with our node first; those that are wanted."""
    there = {
        root: [name for name in view.names(root) if _is_directory(view, f"{root}/{name}")] for root in roots
    }
    named = [origin for origin in mirror.origins if origin.plain_http or not mirror.every]
    wanted: dict[str, Fresh | bytes] = {
        origin.host: _as_for_all(view, roots) or _fresh(origin) for origin in named
    }
    wanted |= inline
    if mirror.every:
        wanted.setdefault(EVERY, Fresh())
    chosen = {_directory(origin) for origin in mirror.origins}
    for root in roots:
        for name in there[root]:
            if name in inline:
                notes.append(
                    f"{root}/{name} and config.toml both name mirrors of {name}: those in {root} are kept"
                )
            if mirror.every or name in chosen or name in wanted:
                path = f"{root}/{name}/hosts.toml"
                changed, note = _changed(view, path, name, mirror)
                notes += [note] if note else []
                yield path, changed
    for name, fresh in sorted(wanted.items()):
        if not any(name in there[root] or _port_form(name) in there[root] for root in roots):
            root = _root_for_every(roots, there) if name == EVERY else roots[0]
            path = f"{root}/{name}/hosts.toml"
            yield (
                path,
                fresh.render(mirror) if isinstance(fresh, Fresh) else put_first(path, fresh, mirror)[0],
            )


def _fresh(origin: Origin) -> Fresh:
    return Fresh(origin.server)


def _as_for_all(view: View, roots: list[str]) -> bytes | None:
    """What holds for a registry without a directory so far, and would not hold any more once it has one."""
    found = (view.read(f"{root}/{EVERY}/hosts.toml") for root in roots)
    return next((data for data in found if data is not None and data.strip()), None)


def _changed(view: View, path: str, name: str, mirror: Mirror) -> tuple[bytes, str | None]:
    data = view.read(path)
    if data is not None and data.strip():
        return put_first(path, data, mirror)
    return Fresh(server_of(name), docker_layout(view.names(posixpath.dirname(path)))).render(mirror), None


def _is_directory(view: View, path: str) -> bool:
    """What certs.d holds for a registry is a directory, if an empty one; a file there means nothing."""
    return view.read(path) is None


def _directory(origin: Origin) -> str:
    return _port_form(origin.host)


def _port_form(host: str) -> str:
    """`HOST_PORT_`, the other form of a directory for `HOST:PORT`."""
    name, colon, port = host.rpartition(":")
    return f"{name}_{port}_" if colon else host


def _root_for_every(roots: list[str], there: dict[str, list[str]]) -> str:
    """The first directory that hides no registry of a later one:
    `_default` wins over all that come after it.
    """
    return next(
        root for number, root in enumerate(roots) if not any(there[later] for later in roots[number + 1 :])
    )
