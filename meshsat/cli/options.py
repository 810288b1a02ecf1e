"""Flags that several verbs share, and how they become a `Config`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from meshsat.config import Config

ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", envvar="MESHSAT_CONFIG", metavar="FILE", help="TOML file with the settings."),
]
DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir", metavar="DIR", help="Where the node keeps everything (default: /var/lib/meshsat)."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="JSON on stdout, for programs.")]


def settings(file: Path | None, **flags: Any) -> "Config":
    """The configuration with `flags` (nested dicts) on top; a flag that is None was not given.

    Raises `ConfigError`.
    """
    from meshsat.config import Config

    return Config.load(file, **_given(flags))


def _given(flags: dict[str, Any]) -> dict[str, Any]:
    given = {key: _given(value) if isinstance(value, dict) else value for key, value in flags.items()}
    return {key: value for key, value in given.items() if value is not None and value != {}}
