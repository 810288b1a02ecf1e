"""The reference pages tell the truth: every verb, flag and setting is there, with its unit and default."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
from pydantic import BaseModel

from meshsat.cli.main import app
from meshsat.config import (
    AccessRule,
    Config,
    PullThroughRule,
    RegistryAuth,
    RegistryTls,
    SignatureRule,
    UpstreamRegistry,
    WindowSection,
)
from meshsat.fleet_sections import HarborSatelliteSection

REFERENCE = Path(__file__).parent.parent / "docs" / "reference"
_group: Any = typer.main.get_command(app)


def _verbs(group: Any, *above: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command, those in groups by both words."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _verbs(command, *above, name)
        else:
            yield (*above, name), command


VERBS: dict[str, Any] = {" ".join(path): command for path, command in _verbs(_group)}


def section(verb: str) -> str:
    """What docs/reference/cli.md says about `verb`."""
    found = re.search(rf"^## `meshsat {verb}`$(.*?)(^## |\Z)", cli(), re.MULTILINE | re.DOTALL)
    assert found, f"cli.md has no section on `meshsat {verb}`"
    return found[1]


def cli() -> str:
    return (REFERENCE / "cli.md").read_text()


def flags(verb: str) -> set[str]:
    """Long flags of `verb`, as the parser knows them."""
    return {
        flag
        for parameter in VERBS[verb].params
        for flag in (*parameter.opts, *parameter.secondary_opts)
        if flag.startswith("--") and flag != "--help"
    }


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_every_flag_is_documented_and_nothing_else_is(verb: str) -> None:
    rows = "\n".join(line for line in section(verb).splitlines() if line.startswith("| `--"))
    told = set(re.findall(r"`(--[a-z-]+)", "\n".join(row.split(" | ")[0] for row in rows.splitlines())))
    assert told == flags(verb)


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_every_argument_is_documented(verb: str) -> None:
    for parameter in VERBS[verb].params:
        if parameter.param_type_name == "argument":
            assert f"`meshsat {verb} {parameter.metavar}`" in section(verb)


def test_no_verb_is_documented_that_is_not_there() -> None:
    assert set(re.findall(r"^## `meshsat ([\w ]+)`$", cli(), re.MULTILINE)) == set(VERBS)


def fields(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting and its default, sections opened."""
    for name, info in model.model_fields.items():
        if isinstance(info.default, BaseModel):
            yield from fields(type(info.default), f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", "required" if info.is_required() else info.default


SETTINGS = dict(
    [
        *fields(Config),
        *fields(UpstreamRegistry, "uplink.registries."),
        *fields(WindowSection, "uplink.windows."),
        *fields(RegistryTls, "registry.tls."),
        *fields(RegistryAuth, "registry.auth."),
        *fields(AccessRule, "registry.auth.rules."),
        *fields(PullThroughRule, "registry.pull_through.rules."),
        *fields(SignatureRule, "signatures."),
        *fields(HarborSatelliteSection, "fleet.harbor_satellite."),
    ]
)


def told_settings() -> dict[str, tuple[str, str, str]]:
    """Setting -> unit, default and meaning, as docs/reference/config.md has them."""
    rows = re.findall(
        r"^\| `([\w.]+)` \| ([^|]*) \| ([^|]*) \| (.*) \|$",
        (REFERENCE / "config.md").read_text(),
        re.MULTILINE,
    )
    return {name: (unit, default, meaning) for name, unit, default, meaning in rows}


def as_told(default: Any) -> str:
    """A default as the page writes it: like TOML, without quotes."""
    match default:
        case "required":
            return "required"
        case None:
            return "none"
        case bool():
            return f"`{str(default).lower()}`"
        case tuple():
            return f"`{list(default)}`"
        case _:
            return f"`{default}`"


def test_every_setting_is_documented_and_nothing_else_is() -> None:
    assert told_settings().keys() == SETTINGS.keys()


@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_a_setting_has_its_unit_its_default_and_a_meaning(name: str) -> None:
    unit, default, meaning = told_settings()[name]
    assert unit.strip()
    assert default == as_told(SETTINGS[name])
    assert len(meaning) > 3
