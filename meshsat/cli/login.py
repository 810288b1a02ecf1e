"""`meshsat login`: keep a login to an upstream registry, sealed."""

from typing import Annotated

import typer

from meshsat.cli.options import ConfigFile, DataDir, settings

Registry = Annotated[str, typer.Argument(metavar="REGISTRY", help="HOST[:PORT], as in references.")]


def run(
    registry: Registry,
    username: Annotated[str, typer.Option("--username", "-u", metavar="NAME", help="Whose login it is.")],
    password_stdin: Annotated[
        bool, typer.Option("--password-stdin", help="Read the password from stdin, not from the terminal.")
    ] = False,
    config: ConfigFile = None,
    data_dir: DataDir = None,
) -> None:
    """Keep a login to an upstream registry, encrypted.

    The key is this machine's. The node uses it from its next request on; it need not run.
    """
    from meshsat.cli.secret_place import secret_place

    place = secret_place(settings(config, data_dir=data_dir))
    source = place.login(registry, username, _password(registry, username, stdin=password_stdin))
    print(f"{registry}  {username}  (sealed with: {source})")


def _password(registry: str, username: str, *, stdin: bool) -> str:
    """Raises `ConfigError`."""
    import getpass
    import sys

    from meshsat.errors import ConfigError
    from meshsat.vault.vault import SECRET_LIMIT

    if stdin:
        text = sys.stdin.read(SECRET_LIMIT + 3)
        return text.removesuffix("\n").removesuffix("\r")
    if not sys.stdin.isatty():
        raise ConfigError("there is no terminal to ask for the password on: give it with --password-stdin")
    return getpass.getpass(f"Password of {username} at {registry}: ")
