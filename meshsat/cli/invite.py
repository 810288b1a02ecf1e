"""`meshsat invite`: make a join token."""

from pathlib import Path
from typing import Annotated

import typer

from meshsat.cli.audited import audited
from meshsat.cli.exits import say
from meshsat.cli.options import ConfigFile, DataDir, settings


def run(
    expires: Annotated[str, typer.Option(metavar="DURATION", help="How long it is valid.")] = "24h",
    uses: Annotated[int, typer.Option(min=1, help="How many machines may join with it.")] = 1,
    site: Annotated[
        str | None, typer.Option(help="The site that they will belong to (default: this node's).")
    ] = None,
    role: Annotated[
        list[str] | None,
        typer.Option(metavar="ROLE", help="By which desired states name them; may be given again."),
    ] = None,
    enroller: Annotated[
        bool, typer.Option("--enroller", help="They may enrol others as well; only where the root key is.")
    ] = False,
    every_site: Annotated[
        bool, typer.Option("--every-site", help="With --enroller: for all sites, not only their own.")
    ] = False,
    config: ConfigFile = None,
    data_dir: DataDir = None,
) -> None:
    """Print a join token, a secret that lets machines in."""
    import time

    from meshsat.cli.units import parse_duration_untrusted
    from meshsat.errors import ConfigError
    from meshsat.mesh.identity import load, make_token
    from meshsat.trust.passes import ENROLLER, NODE, parse_role_untrusted
    from meshsat.trust.tokens import Grant, short_name

    loaded = settings(config, data_dir=data_dir)
    where = loaded.data_dir
    identity = load(where)
    if every_site and not enroller:
        raise ConfigError("--every-site goes with --enroller")
    with audited(loaded, "token.create", "token") as told:
        if enroller and identity.root_issuer() is None:
            raise ConfigError(
                "only the machine with the fleet's root key can make enrollers; invite from there"
            )
        given = map(parse_role_untrusted, role or ())
        roles = frozenset({NODE, *given, *((ENROLLER,) if enroller else ())})
        now = max(time.time(), identity.member.issued_at)
        until, where_from = now + parse_duration_untrusted(expires), _addresses(where)
        grant = Grant(
            site or identity.member.site, roles, uses, until, where_from, now, every_site=every_site
        )
        token = make_token(identity, grant)
        told.object = f"token {short_name(token)}"
        told.reason = f"{uses} uses, {expires}, as {' '.join(sorted(roles))} at {grant.site}"
    print(token)


def _addresses(data_dir: Path) -> tuple[str, ...]:
    """Where the node can be reached by now: hints, for machines that cannot find it by mDNS."""
    from meshsat.cli.client import NodeClient
    from meshsat.errors import MeshsatError
    from meshsat.trust.tokens import ADDRESSES_LIMIT

    try:
        found = NodeClient(data_dir).get("/api/v1/status")["control_addresses"]
    except MeshsatError:
        say("the node does not run: nobody can join before it does, and the token will not say where it is")
        return ()
    return tuple(found[:ADDRESSES_LIMIT])
