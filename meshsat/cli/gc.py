"""`meshsat gc`: have the node let go of what nothing refers to, now."""

from typing import Annotated, Any

import typer

from meshsat.cli.options import ConfigFile, DataDir, Json, settings

PATIENCE = 900.0
"""Seconds for a round: a slow disk with many thousands of blobs takes its time."""
SHOWN = 20
"""Blobs that are listed, the largest."""


def run(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only list what would go, and why; nothing goes.")
    ] = False,
    config: ConfigFile = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Let go of what nothing refers to, and of what has no room."""
    import json

    from meshsat.cli.client import NodeClient

    node = NodeClient(settings(config, data_dir=data_dir).data_dir)
    told = node.post("/api/v1/gc", {"dry_run": dry_run}, PATIENCE)
    if as_json:
        print(json.dumps(told))
    else:
        _show(told)


def _show(told: dict[str, Any]) -> None:
    from meshsat.cli.exits import say
    from meshsat.cli.tables import show_table
    from meshsat.cli.units import size

    if told["refused"] is not None:
        say(f"nothing is collected: {told['refused']}")
    rows = [(one["digest"], size(one["size"]), one["reason"]) for one in told["largest"][:SHOWN]]
    if rows:
        show_table(("DIGEST", "SIZE", "REASON"), rows, right=("SIZE",))
    for image in told["images"]:
        print(f"evicted: {image}")
    would = "would be freed" if told["dry_run"] else "freed"
    print(f"{size(told['freed_bytes'])} {would}: {told['blobs']} blobs, {len(told['images'])} images")
