"""`meshsat images`: what the node holds, and how fresh its knowledge of each tag is."""

from typing import Any

from meshsat.cli.options import ConfigFile, DataDir, Json, settings

COLUMNS = ("REFERENCE", "DIGEST", "SIZE", "HELD", "RESOLVED")


def run(config: ConfigFile = None, data_dir: DataDir = None, as_json: Json = False) -> None:
    """List the images that the node holds, whole or in part."""
    import json
    import time

    from meshsat.cli.client import NodeClient
    from meshsat.cli.tables import show_table

    images = NodeClient(settings(config, data_dir=data_dir).data_dir).get("/api/v1/images")["images"]
    if as_json:
        print(json.dumps(images))
    elif images:
        show_table(COLUMNS, (_row(image, time.time()) for image in images), right=("SIZE", "HELD"))
    else:
        print("no images yet: meshsat pull REFERENCE")


def _row(image: dict[str, Any], now: float) -> tuple[str, ...]:
    from meshsat.cli.units import duration, size

    held = "whole" if image["complete"] else f"{100 * image['have_bytes'] / max(1, image['size']):.0f} %"
    age = f"{duration(max(0.0, now - image['resolved_at']))} ago"
    return image["reference"], image["digest"], size(image["size"]), held, age
