"""`meshsat plan`: what it would take to hold what a state or a list of references asks for."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from meshsat.cli.options import ConfigFile, DataDir, Json, settings

if TYPE_CHECKING:
    from meshsat.fleet.document import DesiredState

COLUMNS = ("REFERENCE", "SIZE", "WAN", "LAN", "STARTS", "FINISHES", "REFUSED")


def run(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="A state (.toml, .yaml, .json, .state), or references, one a line."
        ),
    ],
    config: ConfigFile = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Tell what a state would take: bytes, time, disk."""
    import json

    from meshsat.cli.client import NodeClient
    from meshsat.cli.exits import FAILED
    from meshsat.errors import MeshsatError
    from meshsat.fleet.document import encode_state

    body = json.loads(encode_state(read_state_untrusted(file)))
    last: dict[str, Any] = {}
    for last in NodeClient(settings(config, data_dir=data_dir).data_dir).stream("/api/v1/plan", body):
        if last["event"] == "error":
            raise MeshsatError(str(last["message"]))
    plan = last.get("plan")
    if plan is None:
        raise MeshsatError("the node told no plan; see its log")
    if as_json:
        print(json.dumps({**plan, "manifest_bytes": last["manifest_bytes"]}))
    else:
        _show(plan, last["manifest_bytes"])
    if plan["refusals"]:
        raise typer.Exit(FAILED)


def read_state_untrusted(file: Path) -> "DesiredState":
    """Raises `InvalidInputError`, `ConfigError`."""
    from meshsat.cli.state_place import StatePlace, read_bounded
    from meshsat.errors import InvalidInputError
    from meshsat.fleet.authoring import is_authored, parse_authored_untrusted
    from meshsat.fleet.document import DOCUMENT_LIMIT, parse_state_untrusted, state_of

    if file.suffix == ".state":
        body = StatePlace.read(file).body
        if body is None:
            raise InvalidInputError(f"{file} holds no desired state, but roots alone")
        return parse_state_untrusted(body)
    raw = read_bounded(file, DOCUMENT_LIMIT)
    if is_authored(file.name) or file.suffix == ".json":  # which is YAML
        return parse_authored_untrusted(str(file), raw).state
    try:
        return state_of({"images": [{"reference": line} for line in _references(raw.decode())]})
    except UnicodeDecodeError:
        raise InvalidInputError(f"{file} is no text") from None


def _references(text: str) -> Iterator[str]:
    for line in text.splitlines():
        reference = line.partition("#")[0].strip()
        if reference:
            yield reference


def _show(plan: dict[str, Any], manifest_bytes: int) -> None:
    from meshsat.cli.tables import show_pairs, show_table
    from meshsat.cli.units import moment, size

    show_table(COLUMNS, map(_row, plan["images"]), right=COLUMNS[1:4])
    pairs = [
        ("WAN", f"{size(plan['wan_bytes'])} of content, and headers"),
        ("LAN", size(plan["lan_bytes"])),
        ("finishes", moment(plan["finishes_at"]) if plan["finishes_at"] is not None else "-"),
    ]
    for node in plan["nodes"]:
        if node["need"]:
            room = f", {size(node['room'])} can be had" if node["room"] is not None else ""
            pairs.append(("disk", f"{node['name']}: {size(node['need'])} more{room}"))
    pairs.append(("planning", f"{size(manifest_bytes)} over the WAN, for manifests"))
    pairs += [("note", note) for note in plan["notes"]]
    pairs += [("refused", refusal) for refusal in plan["refusals"]]
    show_pairs(pairs)


def _row(image: dict[str, Any]) -> tuple[str, ...]:
    from meshsat.cli.units import moment, size

    times = (moment(at) if at is not None else "-" for at in (image["starts_at"], image["finishes_at"]))
    counts = (size(image[key]) for key in ("size", "wan_bytes", "lan_bytes"))
    return image["reference"], *counts, *times, "yes" if image["refusals"] else "no"
