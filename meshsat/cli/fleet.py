"""`meshsat fleet`: who is a member, whose pass is taken back, another key for this node."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from meshsat.cli.options import ConfigFile, DataDir, Json, settings

app = typer.Typer(help="See the fleet's members; revoke one, rotate a key.", no_args_is_help=True)
COLUMNS = ("NAME", "SITE", "ROLES", "STATE", "EXPIRES", "SEEN", "SERIAL", "PEER")


@app.command("members")
def members(config: ConfigFile = None, data_dir: DataDir = None, as_json: Json = False) -> None:
    """List the members that this node has seen since it began, and those that are revoked."""
    import json
    import time

    from meshsat.cli.client import NodeClient
    from meshsat.cli.tables import show_table

    found = NodeClient(settings(config, data_dir=data_dir).data_dir).get("/api/v1/members")["members"]
    if as_json:
        print(json.dumps(found))
    else:
        show_table(COLUMNS, (_row(member, time.time()) for member in found))
        for line in _reasons(found):
            print(line)


@app.command("revoke")
def revoke(
    member: Annotated[
        str | None, typer.Argument(metavar="PEER|NAME", help="Whose pass, by peer id or name.")
    ] = None,
    site: Annotated[
        str | None, typer.Option(help="In place of a member: all passes of this site that there are by now.")
    ] = None,
    reason: Annotated[str, typer.Option(help="A line of text, told to everybody.")] = "",
    with_issued: Annotated[
        bool,
        typer.Option("--with-issued", help="Of an enroller: all passes too that it issued (a stolen key)."),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    config: ConfigFile = None,
    data_dir: DataDir = None,
) -> None:
    """Take a pass back, for good: on an enroller, or where the fleet's root key is."""
    from meshsat.cli.exits import say
    from meshsat.errors import ConfigError

    if (member is None) == (site is None):
        raise ConfigError("name a member (PEER or NAME), or a site with --site")
    where = settings(config, data_dir=data_dir).data_dir
    what = f"member {member}" if member is not None else f"all of site {site}"
    if not yes:
        typer.confirm(f"Revoke {what}? It can't be undone: they join again with a new token.", abort=True)
    body = {"member": member, "site": site, "reason": reason, "issued": with_issued}
    done = _post(where, "/api/v1/revoke", {key: value for key, value in body.items() if value})
    print(f"{done['whose']} {done['text']}")
    say("peers hear of it by gossip within seconds; sites that are cut off when they are reached again")


@app.command("rotate")
def rotate(config: ConfigFile = None, data_dir: DataDir = None) -> None:
    """Give this node another key; the one before is revoked. The node begins anew with it."""
    done = _post(settings(config, data_dir=data_dir).data_dir, "/api/v1/rotate", {})
    print(f"peer  {done['peer']}")


def _post(data_dir: Path, path: str, body: dict[str, Any]) -> dict[str, Any]:
    from meshsat.cli.client import NodeClient

    return next(NodeClient(data_dir).stream(path, body))


def _row(member: dict[str, Any], now: float) -> tuple[str, ...]:
    from meshsat.cli.units import duration

    seen, expires = member["last_seen"], member["expires"]
    left = "-" if expires is None else f"in {duration(expires - now)}" if expires > now else "over"
    return (
        member["name"] or "-",
        member["site"],
        ",".join(member["roles"]) or "-",
        member["state"],
        left,
        "-" if seen is None else f"{duration(max(0.0, now - seen))} ago",
        member["serial"][:12] or "-",
        member["peer"],
    )


def _reasons(found: list[dict[str, Any]]) -> Iterator[str]:
    for member in found:
        if member["why"]:
            yield f"{member['name'] or member['peer']}: {member['why']}"
