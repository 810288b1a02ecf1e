"""`meshsat shadow`: what a site would save on the WAN, as a node in shadow has counted it."""

from typing import Annotated, Any

import typer

from meshsat.cli.options import ConfigFile, DataDir, Json, settings

COLUMNS = ("DAY", "SITE", "SATELLITES", "SAVED", "SHADOW")
IMAGES = ("REFERENCE", "DIGEST", "SIZE", "NEW")


def run(
    nodes: Annotated[
        int | None,
        typer.Option(
            "--nodes",
            metavar="N",
            min=1,
            max=999_999,
            help="Compare with N satellites (default: the live nodes).",
        ),
    ] = None,
    config: ConfigFile = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Show what a site would have saved on the WAN."""
    import json

    from meshsat.cli.client import NodeClient
    from meshsat.cli.tables import show_pairs, show_table
    from meshsat.cli.units import size

    asked = "/api/v1/shadow" + (f"?nodes={nodes}" if nodes is not None else "")
    report: dict[str, Any] = NodeClient(settings(config, data_dir=data_dir).data_dir).get(asked)
    if as_json:
        print(json.dumps(report))
        return
    share = f" ({100 * report['saved'] / report['each']:.0f} %)" if report["each"] else ""
    show_pairs(
        [
            ("since", report["since"] or "(nothing is counted yet)"),
            ("satellites", f"{report['nodes']}, each for itself: {size(report['each'])}"),
            ("", f"if they take linux/amd64 alone: {size(report['single'])}"),
            ("a site of meshsat", f"once for all: {size(report['once'])}"),
            ("saved", size(report["saved"]) + share),
            ("this shadow", f"fetched {size(report['own'])} of states and manifests"),
            *(("not weighed", one) for one in report["unknown"]),
        ]
    )
    columns = ("once", "each", "saved", "own")
    days = ([day["day"], *(size(day[column]) for column in columns)] for day in report["days"])
    show_table(COLUMNS, days, right=COLUMNS[1:])
    images = (
        [image["reference"], image["digest"], size(image["size"]), size(image["once"])]
        for image in report["images"]
    )
    show_table(IMAGES, images, right=IMAGES[2:])
