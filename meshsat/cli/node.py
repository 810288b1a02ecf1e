"""`meshsat node`: run a node in the foreground."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from meshsat.cli.options import ConfigFile, DataDir, settings


def run(
    config: ConfigFile = None,
    data_dir: DataDir = None,
    name: Annotated[
        str | None, typer.Option(help="What people call this node (default: the host's name).")
    ] = None,
    upstream: Annotated[
        str | None, typer.Option(metavar="HOST[:PORT]", help="Upstream registry of names without one.")
    ] = None,
    uplink: Annotated[
        bool | None,
        typer.Option("--uplink/--no-uplink", help="Whether this node may talk to upstream registries."),
    ] = None,
    uplink_rate: Annotated[
        int | None, typer.Option(metavar="BYTES", help="Cap on the uplink, bytes per second; 0 is none.")
    ] = None,
    peer: Annotated[
        list[str] | None, typer.Option(metavar="ADDR", help="Address of another node; may be given again.")
    ] = None,
    mdns: Annotated[
        bool | None, typer.Option("--mdns/--no-mdns", help="Whether to find peers by mDNS.")
    ] = None,
    listen: Annotated[
        str | None, typer.Option(metavar="ADDR", help="Address for peers to connect to.")
    ] = None,
    control_port: Annotated[
        int | None, typer.Option(metavar="PORT", help="TCP port of the control plane.")
    ] = None,
    bulk_port: Annotated[int | None, typer.Option(metavar="PORT", help="TCP port of the bulk plane.")] = None,
    registry_listen: Annotated[
        str | None, typer.Option(metavar="ADDR", help="Address of the embedded registry.")
    ] = None,
    registry_port: Annotated[
        int | None, typer.Option(metavar="PORT", help="TCP port of the embedded registry.")
    ] = None,
    api_port: Annotated[
        int | None, typer.Option(metavar="PORT", help="TCP port of /healthz, /readyz and /metrics.")
    ] = None,
    record: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Record a trace for bug reports into this new file."),
    ] = None,
    shadow: Annotated[
        bool | None,
        typer.Option(
            "--shadow", help="Follow Harbor Satellite's states in shadow: count, and fetch nothing."
        ),
    ] = None,
    log_level: Annotated[
        str | None, typer.Option(metavar="LEVEL", help="debug, info, warning or error.")
    ] = None,
    log_json: Annotated[bool | None, typer.Option("--log-json", help="Log JSON lines.")] = None,
) -> None:
    """Run a node in the foreground until SIGTERM or Ctrl-C."""
    load = partial(
        settings,
        config,
        data_dir=data_dir and Path(data_dir),
        name=name,
        uplink={"enabled": uplink, "rate": uplink_rate},
        mesh={
            "listen": listen,
            "control_port": control_port,
            "bulk_port": bulk_port,
            "mdns": mdns,
            "peers": peer or None,
        },
        registry={"upstream": upstream, "listen": registry_listen, "port": registry_port},
        api={"port": api_port},
        fleet={"harbor_satellite": {"shadow": shadow}},
        record={"file": record},
        log={"level": log_level, "json_lines": log_json},
    )
    loaded = load()
    _load_without_finery()
    from meshsat.cli import logs
    from meshsat.cli.core_dumps import forbid_core_dumps
    from meshsat.cli.foreground import end_quietly_while_starting, run_foreground

    end_quietly_while_starting()
    forbid_core_dumps()
    logs.configure(loaded.log)
    from meshsat.mesh.identity import is_member
    from meshsat.node import run_node
    from meshsat.reload import Live, Reloader

    level = Live(("log.level",), lambda new: logs.prepare_level(new.log))
    reloader = Reloader(loaded, load, [level])
    raise typer.Exit(run_foreground(loaded, partial(run_node, reloader=reloader), is_member))


def _load_without_finery() -> None:
    """Load two libraries without what they draw with on terminals, and a node never does: rich, for
    tracebacks, and the command line that httpx has. It is 4 MiB for as long as the node runs."""
    import sys
    from importlib import import_module

    spared = [name for name in ("rich", "click") if name not in sys.modules]
    for name in spared:
        sys.modules[name] = None  # type: ignore[assignment]  # which makes its import fail
    try:
        for name in ("structlog", "httpx"):
            import_module(name)
    finally:
        for name in spared:
            del sys.modules[name]
