"""`meshsat runtime`: have the container runtimes of this host pull through the node, and take that back."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from meshsat.cli.options import ConfigFile, DataDir, Json, settings

if TYPE_CHECKING:
    from meshsat.config import Config
    from meshsat.runtime.apply import Outcome
    from meshsat.runtime.catalog import Runtime
    from meshsat.runtime.detect import Found
    from meshsat.runtime.plans import Mirror
    from meshsat.runtime.states import Standing

app = typer.Typer(
    help="Have container runtimes pull through the node, or not any more.",
    short_help="Have container runtimes pull through the node.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)
Names = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[RUNTIME]...",
        help="containerd, k3s, rke2, podman, cri-o, docker (default: those that are found).",
        show_default=False,
    ),
]
NodeUrl = Annotated[
    str | None, typer.Option(metavar="URL", help="The node's registry (default: the one configured here).")
]
Root = Annotated[
    Path, typer.Option("--root", metavar="DIR", help="Work on the tree of an image, not on this host.")
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Show what would change as a diff, and change nothing.")
]
Restart = Annotated[
    bool,
    typer.Option("--restart", help="Restart or reload the runtimes that have to read their files again."),
]


class Host:
    """What a verb works on."""

    def __init__(self, root: Path, config: "Config") -> None:
        import time

        from meshsat.runtime.apply import Applier
        from meshsat.runtime.disk import Disk
        from meshsat.runtime.record import Records

        self.root = root.absolute()
        self.disk: Disk = Disk(self.root)
        self.records: Records = Records(self.disk, str(config.data_dir.absolute() / "runtime"))
        self.applier: Applier = Applier(self.disk, self.records, time.time)

    @property
    def is_this_host(self) -> bool:
        return self.root == Path("/")

    def require_right_to_change(self, restart: bool) -> None:
        import os

        from meshsat.errors import ConfigError, DeniedError

        if restart and not self.is_this_host:
            raise ConfigError("--restart is for this host: what is in the tree of --root does not run")
        if not self.root.is_dir():
            raise ConfigError(f"--root {self.root} is no directory")
        if self.is_this_host and os.geteuid() != 0:
            raise DeniedError(
                "the runtimes' configuration is root's: run this as root (or see it with --dry-run)"
            )


@app.command("detect")
def detect(root: Root = Path("/"), as_json: Json = False) -> None:
    """Show which runtimes are here."""
    import json
    from dataclasses import asdict

    from meshsat.cli.tables import show_table
    from meshsat.runtime.detect import detect as find
    from meshsat.runtime.disk import Disk

    found = find(Disk(root.absolute()))
    if as_json:
        print(json.dumps([asdict(one) for one in found]))
        return
    rows = (
        [one.name, one.version or "", "yes" if one.running else "no", " ".join(one.where)] for one in found
    )
    show_table(("RUNTIME", "VERSION", "RUNNING", "FOUND BY"), rows)


@app.command("install")
def install(
    runtimes: Names = None,
    node: NodeUrl = None,
    ca_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="PEM file of the authority of an https node.")
    ] = None,
    registry: Annotated[
        list[str] | None,
        typer.Option(
            metavar="HOST[:PORT]", help="Only for this registry; may be given again (default: for all)."
        ),
    ] = None,
    root: Root = Path("/"),
    dry_run: DryRun = False,
    restart: Restart = False,
    config: ConfigFile = None,
    data_dir: DataDir = None,
) -> None:
    """Have runtimes pull through the node, and from the original registry where it does not answer."""
    loaded = settings(config, data_dir=data_dir)
    mirror = _mirror(loaded, node, ca_file, registry or [])
    host = Host(root, loaded)
    chosen = _chosen(host, runtimes)

    def one(place: str, names: list[str]) -> "Outcome":
        return host.applier.install(place, names, mirror, dry=dry_run)

    failed = _each(host, chosen, one, dry_run, restart)
    if host.is_this_host and not dry_run:
        _warn_of_a_silent_node(mirror.url)
    raise typer.Exit(failed)


@app.command("uninstall")
def uninstall(
    runtimes: Names = None,
    root: Root = Path("/"),
    dry_run: DryRun = False,
    restart: Restart = False,
    config: ConfigFile = None,
    data_dir: DataDir = None,
) -> None:
    """Take away what `install` wrote: files are what they were, but for edits made since."""
    from meshsat.runtime.catalog import RUNTIMES, runtime_untrusted

    host = Host(root, settings(config, data_dir=data_dir))
    chosen = [runtime_untrusted(name) for name in runtimes] if runtimes else list(RUNTIMES)

    def one(place: str, names: list[str]) -> "Outcome":
        return host.applier.uninstall(place, names, dry=dry_run)

    raise typer.Exit(_each(host, chosen, one, dry_run, restart, quiet=not runtimes))


@app.command("status")
def status(
    runtimes: Names = None,
    node: NodeUrl = None,
    root: Root = Path("/"),
    as_json: Json = False,
    config: ConfigFile = None,
    data_dir: DataDir = None,
) -> None:
    """Show how it stands with each runtime, and whether the node answers."""
    import json
    from dataclasses import asdict

    from meshsat.cli.tables import show_table
    from meshsat.runtime.catalog import RUNTIMES, runtime_untrusted
    from meshsat.runtime.detect import detect as find
    from meshsat.runtime.plans import parse_node_url_untrusted
    from meshsat.runtime.probe import why_not
    from meshsat.runtime.states import standing

    loaded = settings(config, data_dir=data_dir)
    host = Host(root, loaded)
    url = parse_node_url_untrusted(node) if node else _own_url(loaded)
    silent = why_not(url)
    found = {one.name: one for one in find(host.disk)}
    chosen = [runtime_untrusted(name) for name in runtimes] if runtimes else list(RUNTIMES)
    stand = {one.name: standing(one, host.disk, host.records, host.applier) for one in chosen}
    if as_json:
        told = [
            {"name": name, "found": asdict(found[name]) if name in found else None, **asdict(one)}
            for name, one in stand.items()
        ]
        print(json.dumps({"node": url, "answers": silent is None, "why": silent, "runtimes": told}))
        return
    show_table(
        ("RUNTIME", "VERSION", "STATE", "NODE", "TO DO"), (_row(n, found.get(n), s) for n, s in stand.items())
    )
    print(f"node {url}: {'answers' if silent is None else silent}")


def _row(name: str, found: "Found | None", one: "Standing") -> list[str]:
    from meshsat.runtime.catalog import runtime_untrusted
    from meshsat.runtime.waking import command

    wake = runtime_untrusted(name).wake
    todo = [one.why] if one.why else []
    todo += [f"run: {command(wake)}"] if one.wake_pending and wake else []
    version = "not found" if found is None else found.version or "found"
    return [name, version, str(one.state), one.node or "", "; ".join(todo)]


def _mirror(config: "Config", node: str | None, ca_file: Path | None, registries: list[str]) -> "Mirror":
    from meshsat.errors import ConfigError
    from meshsat.mesh.certificates import CA_FILE
    from meshsat.oci.reference import parse_registry_untrusted
    from meshsat.runtime.plans import Mirror, Origin, parse_node_url_untrusted

    url = parse_node_url_untrusted(node) if node else _own_url(config)
    if ca_file is None and node is None and config.registry.tls is not None and config.registry.tls.fleet:
        ca_file = config.data_dir / CA_FILE
    if ca_file is not None and not url.startswith("https:"):
        raise ConfigError(f"--ca-file is for an https node, and {url} is none")
    plain = {one.host for one in config.uplink.registries if one.plain_http}
    known = [*((config.registry.upstream,) if config.registry.upstream else ()), *(
        one.host for one in config.uplink.registries
    )]  # fmt: skip
    hosts = [parse_registry_untrusted(host) for host in registries] or known
    origins = tuple(Origin(host, host in plain) for host in dict.fromkeys(hosts))
    authority = str(ca_file.absolute()) if ca_file else None
    return Mirror(url, origins, not registries, authority, config.registry.upstream)


def _own_url(config: "Config") -> str:
    """Where the node that is configured here serves its registry."""
    listen = config.registry.listen
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "": "127.0.0.1"}.get(listen)  # noqa: S104 - compared, not bound
    scheme = "http" if config.registry.tls is None else "https"
    return f"{scheme}://{host or (f'[{listen}]' if ':' in listen else listen)}:{config.registry.port}"


def _chosen(host: Host, names: list[str] | None) -> "list[Runtime]":
    from meshsat.cli.exits import say
    from meshsat.errors import NotFoundError
    from meshsat.runtime.catalog import NAMES, runtime_untrusted
    from meshsat.runtime.detect import detect as find

    found = [one.name for one in find(host.disk)]
    if names:
        chosen = [runtime_untrusted(name) for name in dict.fromkeys(names)]
        for one in chosen:
            if one.name not in found:
                say(f"{one.name} is not found here; its files are written all the same")
        return chosen
    if not found:
        raise NotFoundError(f"no container runtime is found here; name one of: {', '.join(NAMES)}")
    return [runtime_untrusted(name) for name in found]


def _each(
    host: Host,
    chosen: "list[Runtime]",
    one: "Callable[[str, list[str]], Outcome]",
    dry_run: bool,
    restart: bool,
    quiet: bool = False,
) -> int:
    """Do `one` for each place of the runtimes `chosen`, and tell.

    A place that fails does not hold up the others.
    """
    from contextlib import nullcontext

    from meshsat.cli.exits import OK, exit_code, say
    from meshsat.errors import MeshsatError

    places: dict[str, list[str]] = {}
    for runtime in chosen:
        places.setdefault(runtime.place, []).append(runtime.name)
    if not dry_run:
        host.require_right_to_change(restart)
    worst = OK
    with nullcontext() if dry_run else host.records.locked():
        for place, names in places.items():
            try:
                outcome = one(place, names)
                for line in _told(names, outcome, dry_run, quiet):
                    print(line)
                if not dry_run:
                    _wake(host, place, outcome, restart)
            except MeshsatError as fault:
                say(f"{', '.join(names)}: {fault}")
                worst = max(worst, exit_code(fault))
    return worst


def _told(names: list[str], outcome: "Outcome", dry_run: bool, quiet: bool) -> "Iterator[str]":
    from meshsat.runtime.diffs import diff, summary

    if quiet and not outcome.changes and not outcome.notes:
        return
    yield f"{', '.join(names)}: {'an interrupted run is repaired; ' if outcome.repaired else ''}" + (
        "nothing to change" if not outcome.changes else "would change" if dry_run else "changed"
    )
    for change in outcome.changes:
        if dry_run:
            yield from diff(change)
        else:
            yield f"  {summary(change)}"
    for note in outcome.notes:
        yield f"  note: {note}"


def _wake(host: Host, place: str, outcome: "Outcome", restart: bool) -> None:
    from meshsat.runtime.catalog import runtime_untrusted
    from meshsat.runtime.waking import command, wake_up

    for name in outcome.waking if host.is_this_host else ():
        wake = runtime_untrusted(name).wake
        if wake is None:
            continue
        if not restart:
            print(f"  to do: {command(wake)} (or run this with --restart)")
            continue
        unit = wake_up(wake)
        print(f"  {wake.action}: {unit}" if unit else f"  {name} does not run: nothing to {wake.action}")
        host.applier.forget_waking(place, name)


def _warn_of_a_silent_node(url: str) -> None:
    from meshsat.cli.exits import say
    from meshsat.runtime.probe import why_not

    if (why := why_not(url)) is not None:
        say(f"the node at {url} {why}: until it answers, pulls go to the original registries")
