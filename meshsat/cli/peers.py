"""`meshsat peers`: the other nodes that this one knows of."""

from typing import Any

from meshsat.cli.options import ConfigFile, DataDir, Json, settings

COLUMNS = ("NAME", "SITE", "STATE", "PLANE", "UPLINK", "IN", "OUT", "RTT", "ADDRESS", "PEER")


def run(config: ConfigFile = None, data_dir: DataDir = None, as_json: Json = False) -> None:
    """List the peers that the node knows, and what went to and fro."""
    import json

    from meshsat.cli.client import NodeClient
    from meshsat.cli.tables import show_table

    peers = NodeClient(settings(config, data_dir=data_dir).data_dir).get("/api/v1/peers")["peers"]
    if as_json:
        print(json.dumps(peers))
    elif peers:
        show_table(COLUMNS, map(_row, peers), right=("IN", "OUT", "RTT"))
    else:
        print("no peers yet: a node finds others of its fleet by mDNS, or by --peer ADDRESS")


def _row(peer: dict[str, Any]) -> tuple[str, ...]:
    from meshsat.cli.units import size

    return (
        peer["name"],
        peer["site"],
        peer["state"],
        peer["plane"] or "-",
        "yes" if peer["uplink"] else "no",
        size(peer["bytes_in"]),
        size(peer["bytes_out"]),
        "-" if peer["rtt"] is None else f"{1000 * peer['rtt']:.1f} ms",
        peer["addresses"][0] if peer["addresses"] else "-",
        peer["peer"],
    )
