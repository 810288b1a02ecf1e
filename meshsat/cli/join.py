"""`meshsat join`: make this machine a member of a fleet, with a token from one of its nodes."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from meshsat.cli.audited import audited
from meshsat.cli.init import node_name
from meshsat.cli.options import ConfigFile, DataDir, settings
from meshsat.errors import ConfigError, DeniedError

if TYPE_CHECKING:
    from meshsat.mesh.discovery import Discovery

READ_LIMIT = 64 * 1024
"""Bytes of stdin or of a file that are read for a token."""


def run(
    token: Annotated[
        str | None, typer.Argument(metavar="TOKEN", help="What `meshsat invite` printed, or - for stdin.")
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option("--token-file", metavar="FILE", help="Read the token from FILE.")
    ] = None,
    peer: Annotated[
        list[str] | None,
        typer.Option(metavar="HOST:PORT", help="Control address of an enroller; may be given again."),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="What people call this node (default: the host's name).")
    ] = None,
    timeout: Annotated[
        str, typer.Option(metavar="DURATION", help="How long to look for an enroller.")
    ] = "30s",
    new_key: Annotated[
        bool, typer.Option("--new-key", help="With another key, where this machine's was revoked.")
    ] = False,
    config: ConfigFile = None,
    data_dir: DataDir = None,
) -> None:
    """Make this machine a member of the fleet that a token is from.

    Any node of the fleet that may enrol others answers: those that --peer names, those that the token names,
    those that mDNS finds. A node that waits for this goes on by itself; none needs to run.
    """
    import trio

    from meshsat.cli.enrolment import Joiner
    from meshsat.cli.units import parse_duration_untrusted
    from meshsat.mesh.enrol import RevokedError
    from meshsat.mesh.identity import accept_pass, begin_switch, is_member, load, node_key, switch
    from meshsat.mesh.pass_files import is_revoked
    from meshsat.trust.tokens import parse_untrusted, short_name

    loaded = settings(config, data_dir=data_dir, name=name)
    where = loaded.data_dir
    text = _read_token(token, token_file)
    read = parse_untrusted(text)
    if is_member(where) and load(where).root != read.root:
        raise ConfigError(
            f"{where} is a member of fleet {load(where).member.fleet}, the token is from {read.fleet};"
            " name another directory with --data-dir"
        )
    new_key = is_member(where) and (new_key or is_revoked(load(where)))
    key = begin_switch(where) if new_key else node_key(where)
    joiner = Joiner(text, key, node_name(loaded.name))
    discovery = _discovery(loaded.mesh.listen, read.fleet) if loaded.mesh.mdns else None
    limit = parse_duration_untrusted(timeout)
    with audited(loaded, "fleet.join", f"{read.fleet} with token {short_name(text)}"):
        try:
            membership = trio.run(joiner.run, (*(peer or ()), *read.grant.addresses), discovery, limit)
        except RevokedError as revoked:
            raise DeniedError(f"{revoked}: give --new-key") from None
        if new_key:
            member = switch(where, membership.chain, membership.enroller).member
        else:
            member = accept_pass(where, membership.root, membership.chain, membership.enroller).member
    print(f"fleet  {member.fleet}")
    print(f"node   {member.name}  {member.peer}  site {member.site}")
    print(f"If no node runs here yet: meshsat node --data-dir {where}")


def _read_token(token: str | None, file: Path | None) -> str:
    """The token from wherever it was put. Raises `ConfigError`."""
    import sys

    if (token is None) == (file is None):
        raise ConfigError("give the token as TOKEN, as - with the token on stdin, or with --token-file")
    if token == "-":  # noqa: S105 - stdin
        return sys.stdin.read(READ_LIMIT).strip()
    if token is not None:
        return token.strip()
    assert file is not None  # noqa: S101 - one of the two was given
    try:
        with file.open(encoding="ascii", errors="replace") as source:
            return source.read(READ_LIMIT).strip()
    except OSError as fault:
        raise ConfigError(f"token file {file} cannot be read: {fault.strerror}") from None


def _discovery(listen: str, fleet: str) -> "Discovery":
    from meshsat.mesh.discovery import MdnsDiscovery

    return MdnsDiscovery(listen, fleet, None)
