"""`meshsat init`: make a fleet, and this machine its first member."""

from typing import Annotated

import typer

from meshsat.cli.audited import audited
from meshsat.cli.options import ConfigFile, DataDir, settings


def run(
    fleet: Annotated[str, typer.Argument(metavar="FLEET", help="What the fleet is called, e.g. trains.")],
    site: Annotated[str, typer.Option(help="The site that this machine stands at.")] = "default",
    name: Annotated[
        str | None, typer.Option(help="What people call this node (default: the host's name).")
    ] = None,
    config: ConfigFile = None,
    data_dir: DataDir = None,
) -> None:
    """Make a fleet, with this machine as its first node.

    The fleet's root key stays here; this node can invite others.
    """
    import time

    from meshsat.mesh.identity import identity_dir, init_fleet

    loaded = settings(config, data_dir=data_dir, name=name)
    life = loaded.passes.lifetime
    with audited(loaded, "fleet.create", fleet):
        identity = init_fleet(loaded.data_dir, fleet, site, node_name(loaded.name), time.time(), life)
    at = "" if data_dir is None else f" --data-dir {data_dir}"
    print(f"fleet     {identity.member.fleet}")
    print(f"node      {identity.member.name}  {identity.member.peer}  site {identity.member.site}")
    print(f"root key  {identity_dir(loaded.data_dir) / 'root.key'}  (keep a copy where no node is)")
    print()
    print(f"run this node:       meshsat node{at}")
    print(f"let another one in:  meshsat invite{at}")


def node_name(configured: str | None) -> str:
    """The name set, or the first label of the host's."""
    import socket

    return configured or socket.gethostname().partition(".")[0] or "node"
