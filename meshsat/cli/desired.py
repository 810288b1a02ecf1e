"""`meshsat desired`: what the desired state wants of this site, and how far its nodes are."""

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from meshsat.cli.options import ConfigFile, DataDir, Json, settings

COLUMNS = ("REFERENCE", "DIGEST", "HELD BY", "ACTIVE ON", "STATE")


def run(
    config: ConfigFile = None,
    data_dir: DataDir = None,
    nodes: Annotated[bool, typer.Option("--nodes", help="A line for each image on each node.")] = False,
    as_json: Json = False,
) -> None:
    """Show what is desired of this site, and how far its nodes are."""
    import json

    from meshsat.cli.client import NodeClient
    from meshsat.cli.tables import show_table

    desired = NodeClient(settings(config, data_dir=data_dir).data_dir).get("/api/v1/desired")
    if as_json:
        print(json.dumps(desired))
    elif not desired["images"]:
        print("nothing is desired of this site")
    elif nodes:
        columns = ("REFERENCE", "NODE", "STATE", "ACTIVE", "FAULT")
        show_table(columns, (row for image in desired["images"] for row in _node_rows(image)))
    else:
        print(f"revision {desired['version']}")
        show_table(COLUMNS, map(_row, desired["images"]), right=("HELD BY", "ACTIVE ON"))


def _row(image: dict[str, Any]) -> tuple[str, ...]:
    nodes = image["nodes"]
    whole = sum(node["stage"] == "whole" for node in nodes)
    wanted = len(nodes) if image["copies"] == "all" else min(len(nodes), image["copies"])
    active = sum(node["active"] for node in nodes)
    target = (image["target"] or "(not known yet)")[:19]
    return image["reference"], target, f"{whole}/{wanted}", f"{active}/{len(nodes)}", _state(image)


def _state(image: dict[str, Any]) -> str:
    own = image["nodes"][0]
    words = _stage(own)
    if own["fault"] and own["stage"] != "whole":
        words += f": {own['fault']}"
    elif own["stage"] == "whole" and not own["active"]:
        words += ", not active yet"
    return words + (", LATE" if image["late"] else "")


def _stage(node: dict[str, Any]) -> str:
    stage: str = node["stage"]
    return stage if node["percent"] is None else f"{stage} {node['percent']} %"


def _node_rows(image: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    for node in image["nodes"]:
        active = "yes" if node["active"] else "no"
        yield image["reference"], node["name"], _stage(node), active, node["fault"] or ""
